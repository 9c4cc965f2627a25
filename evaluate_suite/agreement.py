"""Agreement of two orders: of documents by scorers, of recipes by models of two sizes.

Shapes: N documents, R recipes, in the same order for all; B resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import kendalltau, rankdata

from evaluate_suite.bootstrap import RESAMPLES
from pipeline_steps.errors import InvalidCut


# From which resampled recipes make an interval. Intervals held a planted truth 93 times in 100 for 4 samplers at 2
# rates, 95 to 98 times for 8, 12 and 22 samplers, and 65 times for 2 samplers at 4 rates
_RECIPES, _CLUSTERS = 8, 4


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


@dataclass(frozen=True)
class SizeAgreement:
    """The agreement of two sizes of model about the order of recipes.

    Attributes:
        recipes: how many both sizes were trained on.
        accuracy: decision accuracy, the share of pairs of recipes that both order alike, ties half.
        interval: ends of its 95 % interval for other recipes; None for few recipes.
        decided: pairs whose order the larger size decides.
        decided_accuracy: decision accuracy over those; None if there are none.
        tau: Kendall's tau-b; None if all scores of one size are the same.
        tau_interval: ends of its 95 % interval; None for few recipes.
        p: how often an order that knows nothing does as well; for few recipes only.
    """

    recipes: int
    accuracy: float
    interval: tuple[float, float] | None
    decided: int
    decided_accuracy: float | None
    tau: float | None
    tau_interval: tuple[float, float] | None
    p: float | None


def decision_accuracy(small_R: np.ndarray, large_R: np.ndarray, of_RR: np.ndarray | None = None) -> float:
    """Return the share of pairs of recipes that two sizes order alike; a tie in either is worth one half.

    Args:
        small_R: scores of the smaller models, oriented alike.
        large_R: of the larger ones.
        of_RR: bool [R, R], symmetric, the pairs that count; all unless given.

    Raises:
        InvalidCut: there is no pair, or the recipes are not the same.
    """
    if len(small_R) != len(large_R):
        raise InvalidCut(f"{len(small_R)} and {len(large_R)} recipes: decision accuracy needs the same ones")
    pairs_RR = np.tri(len(small_R), k=-1, dtype=bool) if of_RR is None else np.tril(of_RR, k=-1)
    if not pairs_RR.any():
        raise InvalidCut(f"{len(small_R)} recipes, none of their pairs counts: decision accuracy needs a pair")
    same_RR = _signs(small_R) * _signs(large_R)
    return float((1 + same_RR[pairs_RR]).mean() / 2)


def size_agreement(
    small_R: np.ndarray, large_R: np.ndarray, cluster_R: np.ndarray, decided_RR: np.ndarray, seed: int = 0
) -> SizeAgreement:
    """Compare the orders of recipes that models of two sizes give.

    Args:
        small_R: scores of the smaller models, mean over seeds, oriented so that higher is better.
        large_R: of the larger ones.
        cluster_R: int64 [R], number of each recipe's sampler. Rates of one sampler share documents: they are drawn,
            and dealt out, together.
        decided_RR: bool [R, R], the pairs whose order the larger size decides.
        seed: of the draws.

    The interval draws clusters with replacement, and counts no pair of a recipe with itself. Seeds are not drawn
    anew: their noise is in the scores already.

    Raises:
        InvalidCut: there are fewer than two recipes, or not the same.
    """
    accuracy = decision_accuracy(small_R, large_R)
    rng = np.random.default_rng(seed)
    interval = tau_interval = p = None
    if len(cluster_R) < _RECIPES or len(np.unique(cluster_R)) < _CLUSTERS:
        dealt_BR = small_R[_dealt_clusters(cluster_R, rng)]
        same_B = np.einsum("bij,ij->b", _signs(dealt_BR), _signs(large_R))
        observed = float((_signs(small_R) * _signs(large_R)).sum())
        p = float((1 + (same_B >= observed).sum()) / (1 + RESAMPLES))
    else:
        interval, tau_interval = _resampled_agreement(_signs(small_R), _signs(large_R), cluster_R, rng)
    try:
        tau: float | None = kendall_tau(small_R, large_R)
    except InvalidCut:
        tau = None
    decided = int(np.tril(decided_RR, k=-1).sum())
    of_decided = decision_accuracy(small_R, large_R, decided_RR) if decided else None
    return SizeAgreement(len(small_R), accuracy, interval, decided, of_decided, tau, tau_interval, p)


def _signs(score_R: np.ndarray) -> np.ndarray:
    """Return the sign of each difference, float64 [..., R, R]."""
    signs: np.ndarray = np.sign(score_R[..., :, None] - score_R[..., None, :])
    return signs


def _resampled_agreement(
    small_RR: np.ndarray, large_RR: np.ndarray, cluster_R: np.ndarray, rng: np.random.Generator
) -> tuple[tuple[float, float] | None, tuple[float, float] | None]:
    """Return the ends of the 95 % intervals of decision accuracy and tau-b over clusters drawn with replacement."""
    names, number_R = np.unique(cluster_R, return_inverse=True)
    weight_BR = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), RESAMPLES)[:, number_R].astype(float)

    def pairs(count_RR: np.ndarray) -> np.ndarray:
        summed: np.ndarray = np.einsum("bi,ij,bj->b", weight_BR, count_RR, weight_BR, optimize=True)
        return summed

    same_B, all_B = pairs(small_RR * large_RR), pairs(1.0 - np.eye(len(cluster_R)))
    untied_B = np.sqrt(pairs(small_RR**2) * pairs(large_RR**2))
    accuracy_B = (1 + same_B[all_B > 0] / all_B[all_B > 0]) / 2
    tau_B = same_B[untied_B > 0] / untied_B[untied_B > 0]
    return _middle(accuracy_B), _middle(tau_B)


def _middle(drawn_B: np.ndarray) -> tuple[float, float] | None:
    """Return the ends of the middle 95 % of what was drawn."""
    if not drawn_B.size:
        return None
    low, high = np.quantile(drawn_B, [0.025, 0.975])
    return float(low), float(high)


def _dealt_clusters(cluster_R: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return orders of the recipes, int64 [B, R], in which whole clusters of one size have changed places."""
    dealt_BR = np.tile(np.arange(len(cluster_R)), (RESAMPLES, 1))
    members = [np.flatnonzero(cluster_R == number) for number in np.unique(cluster_R)]
    for size in sorted({len(one) for one in members}):
        block_Cn = np.stack([one for one in members if len(one) == size])
        order_BC = rng.permuted(np.tile(np.arange(len(block_Cn)), (RESAMPLES, 1)), axis=1)
        dealt_BR[:, block_Cn.ravel()] = block_Cn[order_BC].reshape(RESAMPLES, -1)
    return dealt_BR
