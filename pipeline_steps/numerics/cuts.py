"""Every selection rule is one number per document, its priority: keep the k largest.

A priority depends on (score, document key, seed) only, never on rank, shard or order, so for one seed the selection
at a smaller rate is a subset of the selection at a larger one. Shapes: N documents. Paper: Sec. 3.3, Alg. 1-2.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from pipeline_steps.errors import InvalidCut
from pipeline_steps.numerics.keys import mix, uniform


Mode = Literal["top", "bottom", "random", "ips", "direct"]
MODES: tuple[str, ...] = get_args(Mode)
# Any constants: ties, uniform samples and weighted samples of one seed must not follow each other
_TIES, _WEIGHTED = 0x71E5, 0x1B5


def priority(mode: Mode, score_N: np.ndarray, key_N: np.ndarray, seed: int = 0) -> np.ndarray:
    """Float64 priorities; the k largest are the selection.

    top, bottom: the score, or its negative (Alg. 1).
    random: uniform in the document's key; `score_N` is not looked at.
    ips: inverse propensity sampling for scores that are log densities. Gumbel noise minus the score: the k largest
        are k draws without replacement, each in proportion to exp(-score). Alg. 2 prints p = S / sum(S), but the
        method's name, Sec. 3.2 and Thm. A.2 need the inverse; `direct` draws in proportion to exp(+score).
    """
    if mode == "top":
        return score_N.astype(np.float64)
    if mode == "bottom":
        return -score_N.astype(np.float64)
    if mode == "random":
        return uniform(key_N, seed)
    if mode in ("ips", "direct"):
        gumbel = -np.log(-np.log(uniform(key_N, seed ^ _WEIGHTED)))
        return gumbel - score_N if mode == "ips" else gumbel + score_N
    raise InvalidCut(f"no selection mode {mode!r}: choose one of {', '.join(MODES)}")


def keep_largest(priority_N: np.ndarray, key_N: np.ndarray, k: int, seed: int = 0) -> np.ndarray:
    """Bool mask [N] of exactly the k documents with the largest priority, in linear time.

    Ties go by a hash of the key; documents that are identical to the byte go by their place in the corpus.
    """
    if not 0 <= k <= priority_N.size:
        raise InvalidCut(f"asked to keep {k:,} of {priority_N.size:,} documents")
    if k in (0, priority_N.size):
        return np.full(priority_N.size, k > 0)
    threshold = np.partition(priority_N, -k)[-k]
    mask = priority_N > threshold
    tied = np.flatnonzero(priority_N == threshold)
    order = np.argsort(mix(key_N[tied], seed ^ _TIES), kind="stable")
    mask[tied[order[: k - int(mask.sum())]]] = True
    return mask


def documents_within(
    budget: int, priority_N: np.ndarray, key_N: np.ndarray, tokens_N: np.ndarray, seed: int = 0
) -> int:
    """How many documents, taken in the order of `keep_largest`, fit into a budget of tokens."""
    order = np.lexsort((mix(key_N, seed ^ _TIES), -priority_N))
    return int(np.searchsorted(np.cumsum(tokens_N[order], dtype=np.int64), budget, side="right"))
