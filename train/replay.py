"""Which tokens sample i of a run shows: any selection, replayed for as long as the run lasts.

The selected documents, one after the other with nothing between them, form a ring of T tokens. A document that is
selected several times is there as often: the ring is made of layers, of which layer j holds the documents that are
selected j times or more, in corpus order, so copies stand far from each other. Epoch e cuts the ring into
W = T // L windows, starting at a place of its own, and shows them in an order of its own: sample i is window
permutation_e(i mod W) of epoch e = i // W. Every window is shown once before any is shown again; the T mod L tokens
an epoch leaves out differ from epoch to epoch. All is a function of (seed, i): the same for any number of processes,
and the state of a run is one integer. Shapes: B samples, L tokens of a window.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numba import njit

from pipeline_steps.errors import InvalidCut
from pipeline_steps.stores.selection import Selection
from train.token_store import TokenStore


_ROUNDS = 4  # Luby & Rackoff, SIAM J. Comput. 1988: four Feistel rounds make a strong pseudorandom permutation
_U = np.uint64
# splitmix64: Steele, Lea & Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014
_GAMMA, _MIX1, _MIX2 = _U(0x9E3779B97F4A7C15), _U(0xBF58476D1CE4E5B9), _U(0x94D049BB133111EB)
_EPOCHS, _STARTS = 0xE9, 0x57  # any constants: orders must not follow other numbers drawn from the same seed


@njit(forceinline=True)
def mix(value: np.uint64, seed: np.uint64) -> np.uint64:
    """Return `pipeline_steps.numerics.keys.mix` of one uint64."""
    x = _U(value) + _GAMMA * (_U(seed) + _U(1))
    x = (x ^ (x >> _U(30))) * _MIX1
    x = (x ^ (x >> _U(27))) * _MIX2
    return x ^ (x >> _U(31))


@njit(forceinline=True)
def uniform(value: np.uint64, seed: np.uint64) -> float:
    """Return `pipeline_steps.numerics.keys.uniform` of one uint64."""
    return (np.float64(mix(value, seed) >> _U(11)) + 0.5) * 2.0**-53


class Replay:
    """The windows of the selected documents of a store, by sample.

    Args:
        store: the tokenised corpus.
        selection: documents to show; None for all.
        raw_length: L, tokens of a window before corruption.
        seed: of order and starting places.

    Attributes:
        documents: how many are selected, each counted once.
        tokens: T, all copies counted.
        windows: W, windows of an epoch.

    Raises:
        StoreMismatch: the selection was made for another corpus.
        InvalidCut: the selected documents hold less than one window.
    """

    def __init__(self, store: TokenStore, selection: Selection | None, raw_length: int, seed: int) -> None:
        if selection is not None:
            selection = selection.in_order(store.corpus_digest, lambda: store.keys(), str(store.path))
        self.store, self.raw_length, self.seed = store, raw_length, seed
        self.documents = store.documents if selection is None else selection.documents
        starts, shifts, self.tokens = _layers(store, selection)
        self.windows = self.tokens // raw_length
        if self.windows == 0:
            raise InvalidCut(
                f"the selection holds {self.tokens:,} tokens in {self.documents:,} documents of {store.path}, less "
                f"than one window of {raw_length}: select more, or train with a shorter input length"
            )
        self._run_start, self._run_shift = starts, shifts

    def epoch(self, samples: int) -> float:
        """Return how many repetitions of the selection so many samples amount to."""
        return samples / self.windows

    def batch(self, sample_B: np.ndarray) -> np.ndarray:
        """Return the raw windows int32 [B, L] of samples."""
        sample = np.asarray(sample_B, dtype=np.int64)
        raw = np.empty((len(sample), self.raw_length), dtype=np.int32)
        ring = (self.windows, self.tokens, self.raw_length, _U(self.seed))
        pieces = np.empty((4 * len(sample), 4), dtype=np.int64)
        if (needed := _find_pieces(sample, ring, self._run_start, self._run_shift, pieces)) > len(pieces):
            pieces = np.empty((needed, 4), dtype=np.int64)
            _find_pieces(sample, ring, self._run_start, self._run_shift, pieces)
        for row, at, position, length in pieces[:needed].tolist():
            self.store.copy(position, raw[row, at : at + length])
        return raw

    def order(self, sample_B: np.ndarray) -> np.ndarray:
        """Return int64 [B], the number of each sample's window in its epoch: a permutation of W windows per epoch."""
        return _windows(np.asarray(sample_B, dtype=np.int64), self.windows, _U(self.seed))


@njit(nogil=True, cache=True)
def _windows(sample_B: np.ndarray, windows: int, seed: np.uint64) -> np.ndarray:
    """Permute 0 .. W - 1 for every epoch: a Feistel network on 2h bits is walked until it lands below W."""
    half = _U(1)
    while (_U(1) << (half + half)) < _U(windows):
        half += _U(1)
    low = (_U(1) << half) - _U(1)
    found = np.empty(len(sample_B), dtype=np.int64)
    for number in range(len(sample_B)):
        key = mix(sample_B[number] // windows, seed ^ _U(_EPOCHS))
        value = _U(sample_B[number] % windows)
        while True:
            left, right = value >> half, value & low
            for round in range(_ROUNDS):
                left, right = right, left ^ (mix(right ^ key, _U(round)) & low)
            value = (left << half) | right
            if value < _U(windows):
                break
        found[number] = np.int64(value)
    return found


@njit(nogil=True, cache=True)
def _find_pieces(
    sample_B: np.ndarray,
    ring: tuple[int, int, int, np.uint64],
    run_start: np.ndarray,
    run_shift: np.ndarray,
    pieces: np.ndarray,
) -> int:
    """Write what windows are made of into `pieces`: (row, place in the row, position in the store, tokens).

    Returns how many pieces there are; those that do not fit are only counted.
    """
    windows, tokens, raw_length, seed = ring
    window_B = _windows(sample_B, windows, seed)
    count = 0
    for row in range(len(sample_B)):
        start = mix(sample_B[row] // windows, seed ^ _U(_STARTS)) % _U(tokens)
        place = (np.int64(start) + window_B[row] * raw_length) % tokens
        run = np.searchsorted(run_start, place, side="right") - 1
        at = 0
        while at < raw_length:
            end = run_start[run + 1] if run + 1 < len(run_start) else tokens
            length = min(end - place, raw_length - at)
            if count < len(pieces):
                pieces[count] = (row, at, place + run_shift[run], length)
            count, at, place = count + 1, at + length, place + length
            run += 1
            if place == tokens:
                place, run = 0, 0
    return count


def _layers(store: TokenStore, selection: Selection | None) -> tuple[np.ndarray, np.ndarray, int]:
    """Return what `_runs` returns, of all layers: 16 bytes a run of each."""
    starts, shifts, ring = [np.empty(0, np.int64)], [np.empty(0, np.int64)], 0
    for layer in range(1, 2 if selection is None else selection.most + 1):
        mask = None if selection is None else selection.counts >= layer
        start, shift, ring = _runs(store.lengths_by_source(), mask, ring)
        starts.append(start)
        shifts.append(shift)
    return np.concatenate(starts), np.concatenate(shifts), ring


def _runs(
    lengths_by_source: Iterable[np.ndarray], mask: np.ndarray | None, ring: int = 0
) -> tuple[np.ndarray, np.ndarray, int]:
    """Find runs of neighbouring documents of a layer, whose ring is `ring` tokens long before it.

    Returns where each run begins in the ring and how far from there it stands in the store, int64 [runs] each, and
    how long the ring is then. Documents without tokens belong to no run. It takes a source at a time: a crawl has
    hundreds of millions of documents.
    """
    starts, shifts = [], []
    documents, position, last_shift = 0, 0, -ring - 1  # the last is none of a document's: it would begin at -1
    for length in lengths_by_source:
        begin = position + np.cumsum(length) - length
        kept = length > 0
        if mask is not None:
            kept &= mask[documents : documents + len(length)]
        place = ring + np.cumsum(length[kept]) - length[kept]
        shift = begin[kept] - place
        first = np.diff(shift, prepend=last_shift) != 0
        starts.append(place[first])
        shifts.append(shift[first])
        last_shift = int(shift[-1]) if len(shift) else last_shift
        documents, position, ring = (
            documents + len(length),
            position + int(length.sum()),
            ring + int(length[kept].sum()),
        )
    return np.concatenate(starts), np.concatenate(shifts), ring
