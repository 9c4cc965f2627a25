"""Statistics of scores and selections: quantiles, agreement of two scores, and how evenly a selection covers a corpus.

Shapes: N documents, K clusters, R rows of a sketch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline_steps.numerics.priority import order_code


Array = np.ndarray
_LOW_BITS = 16


@dataclass(frozen=True)
class Summary:
    """The distribution of N scores."""

    documents: int  # N
    mean: float
    deviation: float  # of the population
    quantiles: dict[float, float]  # the smallest score that at least a fraction of the documents reach
    edges: Array  # float64 [B + 1], of equal bins from the lowest to the highest score
    counts: Array  # int64 [B], documents in each bin


def summarise(read: Callable[[], Iterator[Array]], fractions: Sequence[float], bins: int = 24) -> Summary:
    """Summarise float32 scores that `read` gives in pieces, as often as it is called, in constant memory."""
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
    """Return the float32 that `order_code` makes this code of."""
    bits = code ^ (1 << 31) if code >> 31 else code ^ 0xFFFFFFFF
    return float(np.uint32(bits).view(np.float32))


def entropy(count_K: Array) -> float:
    """Return the entropy, in nats, of documents over clusters."""
    share = count_K[count_K > 0] / count_K.sum()
    return float(-(share * np.log(share)).sum())


def attainable_entropy(available_K: Array, documents: int) -> float:
    """Return the largest entropy of so many documents out of the clusters: as even as the small ones allow."""
    sizes = np.sort(available_K[available_K > 0]).astype(float)
    if documents >= sizes.sum():
        return entropy(sizes)
    # Fill all clusters to one level; those that are smaller give all they have
    given = np.concatenate([[0.0], np.cumsum(sizes)[:-1]])
    level = (documents - given) / np.arange(len(sizes), 0, -1)
    first = int(np.argmax(level <= sizes))
    return entropy(np.where(np.arange(len(sizes)) < first, sizes, level[first]))


def discrepancy(code_RN: Array, one_N: Array, other_N: Array) -> float:
    """Return the kernel distance (maximum mean discrepancy) of two weightings of the same points, 0 where they agree.

    The kernel is that of the codes' hash (Gretton et al., JMLR 2012): two points are as alike as they share buckets.
    Weights are scaled to sum 1, so what folding into buckets adds cancels out.
    """
    difference_N = one_N / one_N.sum() - other_N / other_N.sum()
    square = sum(float((np.bincount(code_N, weights=difference_N) ** 2).sum()) for code_N in code_RN)
    return (square / len(code_RN)) ** 0.5


def auc(score_N: Array, positive_N: Array) -> float:
    """Return the probability that a positive scores above a negative; ties count half."""
    positives = int(positive_N.sum())
    negatives = positive_N.size - positives
    return float(
        (_ranks(score_N)[positive_N.astype(bool)].sum() - positives * (positives + 1) / 2) / (positives * negatives)
    )


def spearman(a_N: Array, b_N: Array) -> float:
    """Return the rank correlation; ties share their mean rank."""
    return float(np.corrcoef(_ranks(a_N), _ranks(b_N))[0, 1])


def _ranks(value_N: Array) -> Array:
    _, place, count = np.unique(value_N, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]
