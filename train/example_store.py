"""Tokenised pairs of input and target, of any length: what a model is fine-tuned on.

Shapes: N examples, B of a batch, I and T tokens of its longest input and target.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import islice
from typing import Any

import numpy as np
import xxhash
from datatrove.utils.logging import logger

from pipeline_steps.errors import InvalidCut, StoreDamaged
from pipeline_steps.numerics.keys import mix
from pipeline_steps.stores.files import load_tensors, save_tensors
from train.tokenizers import PAD, TextEncoder


_PIECE = 4096  # examples tokenised at a time
_MULTIPLE = 8  # rows are padded to a multiple of this: tensor cores, NVIDIA deep learning performance guide
_ORDERS = 0xF7  # any constant: orders must not follow other numbers drawn from the same seed


@dataclass(frozen=True, eq=False)
class ExampleStore:
    """N pairs, in the order they were given.

    Attributes:
        inputs: int32, ids of all inputs one after the other, each with its EOS.
        input_start_N1: int64 [N + 1], where each begins.
        targets: int32, of all targets.
        target_start_N1: int64 [N + 1].
        made: what it was made from, as JSON types.
    """

    inputs: np.ndarray
    input_start_N1: np.ndarray
    targets: np.ndarray
    target_start_N1: np.ndarray
    made: dict[str, Any]

    @classmethod
    def make(
        cls, pairs: Iterable[tuple[str, str]], encoder: TextEncoder, most: tuple[int, int], made: dict[str, Any]
    ) -> ExampleStore:
        """Tokenise texts; of what is longer than `most` = (input, target) tokens, EOS included, the end is lost.

        Raises:
            InvalidCut: there are none.
        """
        sides: tuple[list[np.ndarray], list[np.ndarray]] = [], []
        lengths: tuple[list[int], list[int]] = [], []
        waiting = iter(pairs)
        while piece := list(islice(waiting, _PIECE)):
            for side in (0, 1):
                rows = _tokenise([pair[side] for pair in piece], encoder, most[side])
                sides[side].append(np.concatenate(rows))
                lengths[side].extend(map(len, rows))
        if not lengths[0]:
            raise InvalidCut("there is not one example to fine-tune on: give data with training splits")
        starts = [np.concatenate([[0], np.cumsum(some)]).astype(np.int64) for some in lengths]
        return cls(np.concatenate(sides[0]), starts[0], np.concatenate(sides[1]), starts[1], made)

    @classmethod
    def find(cls, path: str, made: dict[str, Any]) -> ExampleStore | None:
        """Return what `save` wrote, if it was made from these things; None if not, or (with a warning) if damaged."""
        try:
            tensors, header, _ = load_tensors(path)
        except FileNotFoundError:
            return None
        except StoreDamaged as error:
            logger.warning(f"{error} (made again now)")
            return None
        return cls(**tensors, made=header) if header == made else None

    def save(self, path: str) -> None:
        """Write one file, atomically."""
        save_tensors(path, self._arrays(), self.made)

    @cached_property
    def digest(self) -> str:
        """Digest of all ids."""
        digest = xxhash.xxh3_128()
        for array in self._arrays().values():
            digest.update(array.tobytes())
        return digest.hexdigest()

    def __len__(self) -> int:
        """N."""
        return len(self.input_start_N1) - 1

    def shown(self, sample_B: np.ndarray, seed: int) -> np.ndarray:
        """Int64 [B]: the example that each sample of a run shows; every one once before any twice, in a new order."""
        epoch_B, place_B = np.divmod(sample_B, len(self))
        found = np.empty(len(sample_B), dtype=np.int64)
        for epoch in np.unique(epoch_B).tolist():
            here = epoch_B == epoch
            found[here] = _order(len(self), epoch, seed)[place_B[here]]
        return found

    def rows(self, example_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets of some examples, int32 [B, I] and [B, T], padded on the right."""
        return (
            _padded(self.inputs, self.input_start_N1, example_B),
            _padded(self.targets, self.target_start_N1, example_B),
        )

    def lengths(self, example_B: np.ndarray) -> tuple[int, int]:
        """Tokens of the inputs and of the targets of some examples."""
        starts = self.input_start_N1, self.target_start_N1
        inputs, targets = (int((start[example_B + 1] - start[example_B]).sum()) for start in starts)
        return inputs, targets

    def _arrays(self) -> dict[str, np.ndarray]:
        names = ("inputs", "input_start_N1", "targets", "target_start_N1")
        return {name: getattr(self, name) for name in names}


@lru_cache(maxsize=4)  # a batch may show the end of one epoch and the beginning of the next
def _order(count: int, epoch: int, seed: int) -> np.ndarray:
    keys = mix(mix(np.arange(count, dtype=np.uint64), seed ^ _ORDERS), epoch)
    return np.argsort(keys, kind="stable")


def _tokenise(texts: list[str], encoder: TextEncoder, most: int) -> list[np.ndarray]:
    """Int32 ids of each text with its EOS."""
    return [np.append(ids[: most - 1], encoder.eos).astype(np.int32) for ids in encoder.encode(texts)]


def _padded(ids: np.ndarray, start_N1: np.ndarray, example_B: np.ndarray) -> np.ndarray:
    longest = int((start_N1[example_B + 1] - start_N1[example_B]).max())
    rows = np.full((len(example_B), -(-longest // _MULTIPLE) * _MULTIPLE), PAD, dtype=np.int32)
    for row, example in zip(rows, example_B.tolist(), strict=True):
        start, end = start_N1[example], start_N1[example + 1]
        row[: end - start] = ids[start:end]
    return rows
