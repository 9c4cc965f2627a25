"""How large the differences between recipes are beside the differences between trainings of one recipe.

A *recipe* is what a model was trained on: a sampler at a rate. A *run* is one training of it, with one seed. All
functions are pure; scores are oriented, so that higher is better. Noise is always that *within* recipes: a standard
deviation over the runs of all recipes together holds the signal too, and makes every task look alike.

`difference_interval` is the project's only way to say whether two recipes differ: reports, tables and figures call
nothing better or worse without it.

Shapes: R recipes, K seeds (NaN where a recipe lacks one), S checkpoints, N runs, T tests.
docs/decide.md explains each number. Sources: Heineman et al. 2025, "Signal and Noise" (arXiv 2508.13144); Searle,
Casella & McCulloch 1992, "Variance Components", Ch. 3; Montgomery 2017, "Design and Analysis of Experiments", Ch. 4 on
blocks; Phipson & Smyth 2010 on p-values of permutations; Holm 1979.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.stats import norm, t


LEVEL = 0.05  # of every test, and 1 - the confidence of every interval
LINE = 5  # last checkpoints whose scatter stands in for seeds, as in the scripts of signal-and-noise for small models
_PERMUTATIONS = 9_999  # least p 1e-4: Holm's correction over all 111 tasks can still reach the level
_ROUNDING = 1e-9  # relative: sums of the same numbers in another order are equal


@dataclass(frozen=True)
class Noise:
    """How much a score changes from one training of a recipe to the next.

    Attributes:
        sd: standard deviation of one run, in the score's unit; NaN if it is not known.
        freedom: degrees of freedom that it was estimated from.
        source: "seeds" of these runs; "level", a level of `noise_levels`; "checkpoints" of single runs, which
            understate it; "" if none were measured.
        measured: what a level was measured on, in words.
    """

    sd: float
    freedom: int
    source: str
    measured: str = ""

    @property
    def decides(self) -> bool:
        """Return whether this is the noise between trainings, against which differences can be held.

        It is not if trainings do not differ at all: they are copies, or scores are too coarse to show the noise.
        """
        return self.source in ("seeds", "level") and self.sd > 0

    @property
    def normal_sd(self) -> float:
        """The standard deviation of the normal distribution that has Student's 95 % interval; NaN if not decisive."""
        return (
            self.sd * float(t.ppf(1 - LEVEL / 2, self.freedom) / norm.ppf(1 - LEVEL / 2)) if self.decides else math.nan
        )


UNKNOWN = Noise(math.nan, 0, "")


def seed_noise(value_RK: np.ndarray) -> Noise:
    """Return the standard deviation over seeds within recipes, pooled over recipes; unknown with one seed each."""
    runs_R = np.isfinite(value_RK).sum(axis=1)
    freedom = int((runs_R[runs_R > 0] - 1).sum())
    if not freedom:
        return UNKNOWN
    repeated_RK = value_RK[runs_R > 1]
    squares = np.nansum((repeated_RK - np.nanmean(repeated_RK, axis=1, keepdims=True)) ** 2)
    return Noise(_root(squares / freedom, repeated_RK), freedom, "seeds")


def paired_noise(value_RK: np.ndarray) -> Noise:
    """Return the standard deviation of one run in differences between recipes that were trained with the same seeds.

    It is the residual of recipes x seeds (randomised blocks): what a seed does to all recipes alike falls out of their
    differences, and what it does to them in opposite directions counts. Of two recipes, `difference_interval` is then
    the paired t interval. Where a recipe lacks a seed, it is `seed_noise`.
    """
    R, K = value_RK.shape
    if min(R, K) < 2 or not np.isfinite(value_RK).all():
        return seed_noise(value_RK)
    rest_RK = value_RK - value_RK.mean(axis=1, keepdims=True) - value_RK.mean(axis=0) + value_RK.mean()
    freedom = (R - 1) * (K - 1)
    return Noise(_root(np.square(rest_RK).sum() / freedom, value_RK), freedom, "seeds")


def _root(variance: float, value_RK: np.ndarray) -> float:
    """Return a standard deviation, 0 if it is no more than the rounding of the values."""
    sd = float(variance**0.5)
    return sd if sd > _ROUNDING * float(np.nanmax(np.abs(value_RK))) else 0.0


def checkpoint_noise(value_RS: np.ndarray, step_S: np.ndarray) -> Noise:
    """Return the standard deviation of single runs' last checkpoints around a straight line through them.

    Checkpoints of one run share its seed, and after a decay of the learning rate they hardly differ: true noise is
    larger. Unknown with fewer than three checkpoints.
    """
    R, S = value_RS.shape
    if S < 3 or not R:
        return UNKNOWN
    design_S2 = np.stack([np.ones(S), (step_S - np.mean(step_S)) / np.ptp(step_S)], axis=1)
    rest_SR = value_RS.T - design_S2 @ np.linalg.lstsq(design_S2, value_RS.T, rcond=None)[0]
    freedom = R * (S - 2)
    return Noise(float((np.square(rest_SR).sum() / freedom) ** 0.5), freedom, "checkpoints")


def spread(mean_R: np.ndarray, runs_R: np.ndarray, noise: Noise) -> float:
    """Return the standard deviation between recipes once seeds are averaged out: sqrt(max(0, var(m) - sd² / K)).

    NaN if the noise is not known. K is the harmonic mean of the recipes' numbers of runs.
    """
    rest = float(np.var(mean_R, ddof=1)) - noise.sd**2 * float(np.mean(1 / runs_R))
    return math.sqrt(max(0.0, rest)) if np.isfinite(rest) else math.nan


def reliability(mean_R: np.ndarray, runs_R: np.ndarray, noise: Noise) -> float:
    """Return the share of the variance between the recipes' means that is not noise, 0 to 1; NaN if unknown."""
    between = spread(mean_R, runs_R, noise) ** 2
    total = between + noise.sd**2 * float(np.mean(1 / runs_R))
    return between / total if total else 0.0


def snr(mean_R: np.ndarray, noise: Noise) -> float:
    """Return the range of the recipes' means over the noise of one run; NaN if the noise is not known.

    Infinite where runs of a recipe do not differ but recipes do, 0 where nothing differs.
    """
    reach = float(np.ptp(mean_R))
    return reach / noise.sd if noise.sd else math.inf if reach else 0.0


def snr_of_equals(runs_R: np.ndarray) -> float:
    """Return the ratio of `snr` that recipes show on average that do not differ at all.

    It is the expected range of R standard normal numbers, the integral of 1 - F^R - (1 - F)^R (Tippett 1925), over
    the root of the number of seeds.
    """
    x = np.linspace(-8, 8, 4001)
    below = norm.cdf(x)
    reach = np.trapezoid(1 - below ** len(runs_R) - (1 - below) ** len(runs_R), x)
    return float(reach * np.mean(1 / runs_R) ** 0.5)


def expected_accuracy(share: float) -> float:
    """Return the share of pairs that these means rank as endless seeds would, for a reliability.

    It is 1/2 + arcsin(sqrt(reliability)) / pi for normal recipes and noise (Sheppard's orthant probability).
    """
    return 0.5 + math.asin(math.sqrt(share)) / math.pi


def permutation_p(value_N: np.ndarray, recipe_N: np.ndarray, seed: int = 0, draws: int = _PERMUTATIONS) -> float:
    """Return how often recipes dealt out at random to the same runs differ as much as the true recipes do.

    The statistic is the sum of squares between recipes, which orders deals as F does. If recipes do not differ, p is
    uniform; it is never 0.

    Args:
        value_N: float64 [N], scores of runs, in an order that does not depend on the caller's.
        recipe_N: int64 [N], number of each run's recipe.
        seed: of the deals.
        draws: deals.
    """
    centred_N = value_N - value_N.mean()
    one_hot_NR = (recipe_N[:, None] == np.unique(recipe_N)).astype(np.float64)
    total = float(np.square(centred_N).sum())

    def between(deal_BN: np.ndarray) -> np.ndarray:
        squares: np.ndarray = ((deal_BN @ one_hot_NR) ** 2 / one_hot_NR.sum(axis=0)).sum(axis=1)
        return squares

    as_much = between(centred_N[_deals(len(value_N), seed, draws)]) >= between(centred_N[None]) - _ROUNDING * total
    return float((1 + as_much.sum()) / (1 + draws))


def least_p(runs_R: np.ndarray, draws: int = _PERMUTATIONS) -> float:
    """Return the smallest p that `permutation_p` can give: few runs have few deals, whatever their scores are."""
    swaps = sum(math.lgamma(count + 1) for count in Counter(runs_R.tolist()).values())  # of recipes of as many runs
    deals = math.lgamma(runs_R.sum() + 1) - sum(math.lgamma(runs + 1) for runs in runs_R.tolist())
    return max(math.exp(swaps - deals), 1 / (1 + draws))


def holm(p_T: np.ndarray) -> np.ndarray:
    """Return p-values corrected for the number of tests: rejecting those below 5 % errs once in 20 studies."""
    order_T = np.argsort(p_T, kind="stable")
    stepped = np.maximum.accumulate(p_T[order_T] * np.arange(len(p_T), 0, -1))
    corrected_T = np.empty(len(p_T))
    corrected_T[order_T] = np.minimum(1.0, stepped)
    return corrected_T


def difference_interval(
    difference: np.ndarray,
    noise: Noise,
    runs: np.ndarray,
    other_runs: np.ndarray,
    stderr: np.ndarray | float = 0.0,
    comparisons: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """Return both ends of the 95 % intervals of differences between recipes' means, for other seeds.

    Args:
        difference: float64, of any shape.
        noise: of one run, of `paired_noise` or of a level.
        runs: of the first recipes, of a shape that broadcasts.
        other_runs: of the second.
        stderr: standard error of a difference over questions or windows, paired if both models met the same ones
            (`bootstrap.mean_interval` of the differences); 0 asks about these questions and no others.
        comparisons: intervals that shall all hold at once in 95 of 100 studies (Bonferroni).

    Intervals are endless if the noise between trainings is not known.
    """
    if not noise.decides:
        return np.full_like(difference, -np.inf), np.full_like(difference, np.inf)
    reach = half_width(noise, noise.sd * np.sqrt(1 / runs + 1 / other_runs), stderr, comparisons)
    return difference - reach, difference + reach


def half_width(
    noise: Noise, seeds: np.ndarray | float, stderr: np.ndarray | float, comparisons: int = 1
) -> np.ndarray | float:
    """Return half the width of 95 % intervals that hold two errors: over seeds, and over questions or windows.

    The halves of each alone add as squares (MOVER, Zou & Donner 2008). Student's quantile counts how well the noise
    between trainings is known; questions are many, so that theirs is the normal one.
    """
    tail = 1 - LEVEL / (2 * comparisons)
    both: np.ndarray | float = np.hypot(t.ppf(tail, noise.freedom) * seeds, norm.ppf(tail) * stderr)
    return both


def compare_pairs(mean_R: np.ndarray, runs_R: np.ndarray, noise: Noise) -> np.ndarray:
    """Return int64 [R, R]: 1 where the row's recipe is better than the column's, -1 worse, 0 undecided.

    Noise that is not between trainings decides nothing: that of checkpoints is too small.
    """
    ends = difference_interval(mean_R[:, None] - mean_R, noise, runs_R[:, None], runs_R)
    return (ends[0] > 0).astype(np.int64) - (ends[1] < 0)


def above_chance(mean_R: np.ndarray, runs_R: np.ndarray, stderr_R: np.ndarray, noise: Noise, chance: float) -> int:
    """Count the recipes that are better than guessing by two standard errors, of questions and of seeds.

    Questions are the same for all seeds, so that their error does not shrink with them.
    """
    seeds_R = np.zeros(len(mean_R)) if math.isnan(noise.sd) else noise.sd / np.sqrt(runs_R)
    return int((mean_R - chance > 2 * np.hypot(np.nan_to_num(stderr_R), seeds_R)).sum())


@lru_cache(maxsize=4)
def _deals(n: int, seed: int, draws: int) -> np.ndarray:
    """Return orders of n runs, int64 [B, N]: the same for all tests of as many runs."""
    return np.random.default_rng(seed).permuted(np.tile(np.arange(n), (draws, 1)), axis=1)
