"""The distribution of a score over a corpus of any size: exact quantiles in two passes and constant memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline_steps.numerics.priority import order_code


Array = np.ndarray
_LOW_BITS = 16


@dataclass(frozen=True)
class Summary:
    """Of N scores.

    Attributes:
        documents: N.
        mean: arithmetic mean.
        deviation: population standard deviation.
        quantiles: for each fraction asked for, the smallest score that at least this fraction of documents reach.
        edges: float64 [B + 1], of equal bins from the lowest to the highest score.
        counts: int64 [B], documents in each.
    """

    documents: int
    mean: float
    deviation: float
    quantiles: dict[float, float]
    edges: Array
    counts: Array


def summarise(read: Callable[[], Iterator[Array]], fractions: Sequence[float], bins: int = 24) -> Summary:
    """Summarise float32 scores that `read` gives in pieces, as often as it is called.

    Raises:
        ValueError: there are none.
    """
    high, total, squares, low_score, high_score = np.zeros(1 << 16, dtype=np.int64), 0.0, 0.0, np.inf, -np.inf
    for score_N in read():
        if score_N.size:
            high += np.bincount(order_code(score_N) >> np.uint32(_LOW_BITS), minlength=high.size)
            total += score_N.sum(dtype=np.float64)
            squares += np.square(score_N, dtype=np.float64).sum()
            low_score, high_score = min(low_score, score_N.min()), max(high_score, score_N.max())
    documents = int(high.sum())
    if not documents:
        raise ValueError("no scores")
    ranks = [max(int(np.ceil(fraction * documents)), 1) for fraction in fractions]
    below = np.concatenate([[0], np.cumsum(high)])
    cells = [int(np.searchsorted(below[1:], rank)) for rank in ranks]
    low = {cell: np.zeros(1 << _LOW_BITS, dtype=np.int64) for cell in cells}
    edges = np.linspace(low_score, high_score, bins + 1)
    counts = np.zeros(bins, dtype=np.int64)
    for score_N in read():
        code = order_code(score_N)
        for cell, counter in low.items():
            inside = code[(code >> np.uint32(_LOW_BITS)) == cell]
            counter += np.bincount(inside & np.uint32((1 << _LOW_BITS) - 1), minlength=counter.size)
        place = np.searchsorted(edges, score_N, side="right") - 1
        counts += np.bincount(np.clip(place, 0, bins - 1), minlength=bins)
    found = {
        fraction: _score(cell << _LOW_BITS | int(np.searchsorted(np.cumsum(low[cell]), rank - below[cell])))
        for fraction, cell, rank in zip(fractions, cells, ranks, strict=True)
    }
    mean = total / documents
    return Summary(documents, mean, float(np.sqrt(max(squares / documents - mean**2, 0))), found, edges, counts)


def _score(code: int) -> float:
    """The float32 that `order_code` makes this code of."""
    bits = code ^ (1 << 31) if code >> 31 else code ^ 0xFFFFFFFF
    return float(np.uint32(bits).view(np.float32))
