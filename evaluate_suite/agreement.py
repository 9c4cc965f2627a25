"""How alike scorers are: by their scores, by what they select, by what becomes of it.

Shapes: N documents, in the same order for all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import kendalltau, rankdata

from pipeline_steps.errors import InvalidCut


def kendall_tau(score_N: np.ndarray, other_N: np.ndarray) -> float:
    """Kendall's tau-b, exact, ties corrected; half a million documents take a tenth of a second.

    Raises:
        InvalidCut: the scores are not of the same documents, or all alike.
    """
    if len(score_N) != len(other_N) or len(score_N) < 2:
        raise InvalidCut(f"{len(score_N):,} and {len(other_N):,} scores: tau needs the same documents, two at least")
    tau = float(kendalltau(score_N, other_N).statistic)
    if np.isnan(tau):
        raise InvalidCut("all scores of one scorer are the same: there is no order to compare")
    return tau


def kendall_tau_matrix(scores: Mapping[str, np.ndarray]) -> np.ndarray:
    """Tau of every pair of scorers, float64 [S, S], symmetric (the paper's Fig. 7)."""
    names = list(scores)
    tau = np.eye(len(names))
    for i in range(len(names)):
        for j in range(i):
            tau[i, j] = tau[j, i] = kendall_tau(scores[names[i]], scores[names[j]])
    return tau


def overlap(mask_N: np.ndarray, other_N: np.ndarray) -> float:
    """Documents in both selections per document of the smaller one; what is expected of independent ones is the
    larger one's rate."""
    if len(mask_N) != len(other_N):
        raise InvalidCut(
            f"selections of {len(mask_N):,} and {len(other_N):,} documents: they are of different corpora"
        )
    smaller = min(int(mask_N.sum()), int(other_N.sum()))
    if smaller == 0:
        raise InvalidCut("one of the selections is empty: there is nothing to overlap with")
    return float((mask_N & other_N).sum() / smaller)


def rank_change(smaller: Mapping[str, Sequence[float]], larger: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """How many ranks each scorer rises from small to large models, mean over tasks (the paper's Fig. 6).

    Args:
        smaller: scores of models of the smaller size by scorer, one per task, higher is better.
        larger: of the larger size, the same scorers and tasks.

    Raises:
        InvalidCut: other scorers or tasks.
    """
    names = list(smaller)
    if set(names) != set(larger) or len({len(scores) for scores in [*smaller.values(), *larger.values()]}) != 1:
        raise InvalidCut("rank change needs the same scorers and tasks for both sizes of models")
    ranks = [
        rankdata(np.array([scores[name] for name in names], dtype=float), axis=0).mean(axis=1)
        for scores in (smaller, larger)
    ]
    return {name: float(rank) for name, rank in zip(names, ranks[1] - ranks[0], strict=True)}


def speed_up(
    steps: Sequence[int], values: Sequence[float], full_value: float, lower_is_better: bool = False
) -> float | None:
    """Share of training a selection saves: 1 - t / T, where t is when it does as well as everything does at the end T.

    Between two measurements the value is taken to be on a straight line. None if it never does as well.
    """
    sign = -1.0 if lower_is_better else 1.0
    value, wanted = sign * np.asarray(values, dtype=float), sign * full_value
    reached = np.flatnonzero(value >= wanted)
    if not len(reached):
        return None
    first = int(reached[0])
    if first == 0:
        return 1.0 - steps[0] / steps[-1]
    share = (wanted - value[first - 1]) / (value[first] - value[first - 1])
    return float(1.0 - (steps[first - 1] + share * (steps[first] - steps[first - 1])) / steps[-1])
