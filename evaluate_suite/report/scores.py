"""The score of a measure over seeds, its interval, and how far it lies from a baseline's.

Shapes: R recipes, K seeds (NaN where a recipe lacks one), N held-out windows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from evaluate_suite.noise import UNKNOWN, Noise, difference_interval, half_width, paired_noise
from evaluate_suite.normalised import LOWER_IS_BETTER
from evaluate_suite.recipe_scores import oriented
from evaluate_suite.registry import SUITES
from evaluate_suite.results import BITS


Z95 = 1.959964  # 97.5 % quantile of the normal distribution


@dataclass(frozen=True)
class Score:
    """One measure of one checkpoint.

    Attributes:
        value: mean over seeds.
        stderr: standard error over the examples measured on, mean over seeds, which share them.
        low: lower end of the 95 % confidence interval: over examples and trainings where `noise` is known, else over
            examples only.
        high: upper end.
        by_seed: the values.
        noise: between trainings, as `recipe_scores.oriented` turns scores; known of last checkpoints only.
    """

    value: float
    stderr: float
    low: float
    high: float
    by_seed: Mapping[int, float]
    noise: Noise = UNKNOWN

    @property
    def seeds(self) -> int:
        """The number of seeds."""
        return len(self.by_seed)


@dataclass(frozen=True)
class Difference:
    """A score minus a baseline's, turned so that higher is better; of perplexities in nats.

    Attributes:
        gain: difference of the means over seeds.
        low: lower end of the 95 % interval for other seeds, and other windows where the losses of each are at hand;
            endless if the noise is not known.
        high: upper end.
    """

    gain: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """1 if the score is better than the baseline's, -1 if it is worse, 0 if they cannot be told apart."""
        return int(self.low > 0) - int(self.high < 0)


def is_perplexity(measure: str) -> bool:
    """Return whether a measure is a perplexity, whose noise is a factor."""
    return metric_of(measure) == "perplexity"


def metric_of(measure: str) -> str:
    """Return the metric that a measure is counted in; of an average over tasks, its own name."""
    return measure if measure in BITS or (measure in SUITES and measure not in LOWER_IS_BETTER) else "perplexity"


def over_seeds(seeds: Sequence[Mapping[str, Score]]) -> dict[str, Score]:
    """Average over seeds each measure that at least one of them has."""
    pooled = {}
    for measure in sorted(set().union(*seeds)):
        scores = [one[measure] for one in seeds if measure in one]
        pooled[measure] = scores[0] if len(scores) == 1 else _pool(scores)
    return pooled


def table(scores: Iterable[Score], measure: str) -> np.ndarray:
    """Return oriented values by recipe and seed, float64 [R, K]; NaN of runs that are not there or have diverged."""
    rows, metric = list(scores), metric_of(measure)
    seeds = sorted(set().union(*(score.by_seed for score in rows)))
    value_RK = np.array([[oriented(s.by_seed.get(k, np.nan), metric) for k in seeds] for s in rows])
    return np.where(np.isfinite(value_RK), value_RK, np.nan)


def with_noise(score: Score, measure: str, noise: Noise) -> Score:
    """Return a score whose interval holds the noise between trainings; the same if that is not known."""
    if not noise.decides:
        return score
    factor = is_perplexity(measure)
    stderr = np.nan_to_num(score.stderr / (score.value if factor else 1.0))  # NaN: a single example
    reach = float(half_width(noise, noise.sd / score.seeds**0.5, stderr))
    with np.errstate(over="ignore"):  # two seeds may leave the upper end open
        low, high = (score.value * np.exp([-reach, reach])) if factor else (score.value - reach, score.value + reach)
    return replace(score, low=float(low), high=float(high), noise=noise)


def differences(
    scores: Mapping[str, Score],
    baseline: str,
    measure: str,
    pooled: Iterable[Score] = (),
    nll: Mapping[str, np.ndarray] | None = None,
) -> tuple[dict[str, Difference], Noise]:
    """Compare every score with a baseline's, and say with which noise.

    All intervals hold at once in 95 of 100 studies. Recipes of which a run has diverged are not compared: the mean of
    the other seeds is not theirs.

    Args:
        scores: by name; the baseline's is among them.
        baseline: its name.
        measure: whose scores they are.
        pooled: scores of further recipes of the same model, which tell of the same noise.
        nll: by name, losses of the same windows, mean over seeds, float64 [N]. Without them, differences are those on
            these examples and no others: all models met the same ones, so errors over examples do not add up.
    """
    value_RK = table([*scores.values(), *pooled], measure)
    noise = paired_noise(value_RK)
    noise = noise if noise.source else scores[baseline].noise
    means = {name: float(np.nansum(row_K)) / scores[name].seeds for name, row_K in zip(scores, value_RK, strict=False)}
    whole = {
        name for name, row_K in zip(scores, value_RK, strict=False) if np.isfinite(row_K).sum() == scores[name].seeds
    }
    other, found = scores[baseline], dict[str, Difference]()
    for name, score in scores.items():
        if name == baseline or not {name, baseline} <= whole:
            continue
        gap_N = nll[name] - nll[baseline] if nll else np.zeros(0)
        stderr = float(gap_N.std(ddof=1) / gap_N.size**0.5) if gap_N.size > 1 else 0.0
        gain = means[name] - means[baseline]
        runs = np.array(score.seeds), np.array(other.seeds)
        low, high = difference_interval(np.array(gain), noise, *runs, stderr, len(scores) - 1)
        found[name] = Difference(gain, float(low), float(high))
    return found, noise


def _pool(scores: Sequence[Score]) -> Score:
    """Average seeds. They share the examples, so the error over examples does not shrink with their number."""
    value, stderr = (float(np.mean(values)) for values in zip(*((s.value, s.stderr) for s in scores), strict=True))
    by_seed = {seed: one for score in scores for seed, one in score.by_seed.items()}
    return Score(value, stderr, value - Z95 * stderr, value + Z95 * stderr, by_seed)
