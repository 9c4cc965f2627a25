"""How evenly a selection covers a corpus: entropy over clusters, and the discrepancy between weighted samples.

Shapes: N documents, K clusters, R rows of a sketch.
"""

from __future__ import annotations

import numpy as np


Array = np.ndarray


def entropy(count_K: Array) -> float:
    """Entropy in nats of documents over clusters."""
    share = count_K[count_K > 0] / count_K.sum()
    return float(-(share * np.log(share)).sum())


def attainable_entropy(available_K: Array, documents: int) -> float:
    """The largest entropy of so many documents out of the clusters: as even as the small ones allow."""
    sizes = np.sort(available_K[available_K > 0]).astype(float)
    if documents >= sizes.sum():
        return entropy(sizes)
    # Fill all clusters to one level; those that are smaller give all they have
    given = np.concatenate([[0.0], np.cumsum(sizes)[:-1]])
    level = (documents - given) / np.arange(len(sizes), 0, -1)
    first = int(np.argmax(level <= sizes))
    return entropy(np.where(np.arange(len(sizes)) < first, sizes, level[first]))


def discrepancy(code_RN: Array, one_N: Array, other_N: Array) -> float:
    """Kernel distance (maximum mean discrepancy) of two weightings of the same points, 0 where they agree.

    The kernel is that of the codes' hash (Gretton et al., JMLR 2012): two points are as alike as they share buckets.
    Weights are scaled to sum 1, so what folding into buckets adds cancels out.
    """
    difference_N = one_N / one_N.sum() - other_N / other_N.sum()
    square = sum(float((np.bincount(code_N, weights=difference_N) ** 2).sum()) for code_N in code_RN)
    return (square / len(code_RN)) ** 0.5
