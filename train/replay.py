"""Which tokens sample i of a run shows: any selection, replayed for as long as the run lasts.

The selected documents, one after the other with nothing between them, form a ring of T tokens. Epoch e cuts it into
W = T // L windows, starting at a place of its own, and shows them in an order of its own: sample i is window
permutation_e(i mod W) of epoch e = i // W. Every window is shown once before any is shown again; the T mod L tokens
an epoch leaves out differ from epoch to epoch. All is a function of (seed, i): the same for any number of processes,
and the state of a run is one integer. Shapes: B samples, L tokens of a window.
"""

from __future__ import annotations

import numpy as np

from pipeline_steps.errors import InvalidCut
from pipeline_steps.numerics.keys import mix
from pipeline_steps.selection import Selection
from train.token_store import TokenStore


_ROUNDS = 4  # Luby & Rackoff, SIAM J. Comput. 1988: four Feistel rounds make a strong pseudorandom permutation
_EPOCHS, _STARTS = 0xE9, 0x57  # any constants: orders must not follow other numbers drawn from the same seed


class Replay:
    """Windows of the selected documents of a store.

    Args:
        store: the tokenised corpus.
        selection: documents to show; None for all.
        raw_length: L, tokens of a window before corruption.
        seed: of order and starting places.

    Attributes:
        documents: how many are selected.
        tokens: T.
        windows: W, windows of an epoch.

    Raises:
        StoreMismatch: the selection was made for another corpus.
        InvalidCut: the selected documents hold less than one window.
    """

    def __init__(self, store: TokenStore, selection: Selection | None, raw_length: int, seed: int) -> None:
        mask = np.ones(store.documents, dtype=bool)
        if selection is not None:
            selection.check_corpus(store.corpus_digest, str(store.path))
            mask = selection.mask
        self.store, self.raw_length, self.seed = store, raw_length, seed
        self.documents = int(mask.sum())
        self.tokens = int(store.lengths[mask].sum())
        self.windows = self.tokens // raw_length
        if self.windows == 0:
            raise InvalidCut(
                f"the selection holds {self.tokens:,} tokens in {self.documents:,} documents of {store.path}, less "
                f"than one window of {raw_length}: select more, or train with a shorter input length"
            )
        self._run_start, self._run_shift = _runs(store.lengths, mask)

    def epoch(self, samples: int) -> float:
        """Repetitions of the selection that `samples` samples amount to."""
        return samples / self.windows

    def batch(self, sample_B: np.ndarray) -> np.ndarray:
        """Raw windows int32 [B, L] of the given samples."""
        sample = np.asarray(sample_B, dtype=np.int64)
        epoch = sample // self.windows
        window = self._permuted(sample % self.windows, epoch)
        start = mix(epoch.astype(np.uint64), self.seed ^ _STARTS) % np.uint64(self.tokens)
        first = start.astype(np.int64) + window * self.raw_length
        place = (first[:, None] + np.arange(self.raw_length)) % self.tokens
        run = np.searchsorted(self._run_start, place, side="right") - 1
        return self.store.take(place + self._run_shift[run])

    def _permuted(self, position: np.ndarray, epoch: np.ndarray) -> np.ndarray:
        """A permutation of 0 .. W - 1 for every epoch: a Feistel network on 2h bits, walked until it lands below W."""
        half = np.uint64(max(1, ((self.windows - 1).bit_length() + 1) // 2))
        low = np.uint64((1 << int(half)) - 1)
        key = mix(epoch.astype(np.uint64), self.seed ^ _EPOCHS)
        value = position.astype(np.uint64)
        outside = np.ones(value.shape, dtype=bool)
        while outside.any():
            left, right = value[outside] >> half, value[outside] & low
            for round in range(_ROUNDS):
                left, right = right, left ^ (mix(right ^ key[outside], round) & low)
            value[outside] = (left << half) | right
            outside = value >= np.uint64(self.windows)
        return value.astype(np.int64)


def _runs(lengths: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Runs of neighbouring selected documents: where each begins in the ring, and how far to its place in the store.

    Documents without tokens belong to no run.
    """
    begins = np.cumsum(lengths) - lengths
    filled = mask & (lengths > 0)
    begin, length = begins[filled], lengths[filled]
    first = np.ones(len(begin), dtype=bool)
    first[1:] = begin[1:] != begin[:-1] + length[:-1]
    ring = np.cumsum(length) - length
    return ring[first], (begin - ring)[first]
