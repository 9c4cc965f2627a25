"""The paper's two ways to put one number on a model's scores in many suites: over-scaling and effective model size.

Both compare a model trained on a selection with models trained on everything: *over-scaling* (v1, Sec. 4.3) asks how
much of the step to the next larger model it has gained, *effective model size* (the extended version) how large a
model trained on everything would have to be to do as well. Scores are one number per suite; pure functions of them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import isotonic_regression

from evaluate_suite.bootstrap import RESAMPLES
from evaluate_suite.recipe_scores import lower_is_better
from pipeline_steps.errors import InvalidCut


Scores = Mapping[str, float]
LOWER_IS_BETTER = frozenset({"c4_perplexity", "hq_perplexity"})
_BEYOND = 4.0  # a size is extrapolated to a quarter of the smallest reference and four times the largest


@dataclass(frozen=True)
class Normalised:
    """A number and where it comes from.

    Attributes:
        value: over-scaling in percent, or effective parameters.
        low: lower end of the 95 % confidence interval.
        high: upper end.
        terms: the same number from each suite alone.
        left_out: suites that say nothing, and why.
        censored: suites whose value lies beyond what the references can tell, "above" or "below".
    """

    value: float
    low: float
    high: float
    terms: dict[str, float]
    left_out: dict[str, str]
    censored: dict[str, str]


def over_scaling(
    model: Scores, reference: Scores, larger: Scores, noise: Mapping[str, float] | None = None, seed: int = 0
) -> Normalised:
    """Mean over suites of 100 (model - reference) / (larger - reference), in percent.

    Args:
        model: scores of the model in question.
        reference: of the model of its size that was trained on everything: 0 % by definition.
        larger: of the next larger one: 100 %.
        noise: standard deviation of a suite's score between trainings; suites that are not named count as exact.
        seed: of the bootstrap, over trainings and suites.

    A suite in which the larger model is not better by two standard deviations of the difference is left out.

    Raises:
        InvalidCut: no suite is left.
    """
    noise = noise or {}
    terms, left_out = {}, {}
    for suite in _common(model, reference, larger):
        gap = larger[suite] - reference[suite]
        if _better(suite) * gap <= 2 * np.sqrt(2) * noise.get(suite, 0.0):
            left_out[suite] = f"the larger model is better by {_better(suite) * gap:.3g} only"
        else:
            terms[suite] = 100 * (model[suite] - reference[suite]) / gap
    _refuse_nothing(terms, left_out)
    spread = {
        suite: 100 * np.sqrt(2) * noise.get(suite, 0.0) / abs(larger[suite] - reference[suite]) for suite in terms
    }
    low, high = _interval(terms, spread, seed)
    return Normalised(float(np.mean(list(terms.values()))), low, high, terms, left_out, {})


def effective_model_size(
    model: Scores,
    family: Mapping[float, Scores],
    reference: float,
    noise: Mapping[str, float] | None = None,
    seed: int = 0,
    extrapolated: Collection[str] | None = None,
) -> Normalised:
    """Parameters of the model trained on everything that does as well: geometric mean over suites.

    Per suite, the family's scores are made monotone in log parameters (isotonic regression), joined by straight
    lines, and shifted so that the reference is worth exactly its own size; the model's score is looked up. Beyond the
    family, the nearest line goes on, to a quarter of the smallest and four times the largest size.

    Args:
        model: scores of the model in question.
        family: scores of models trained on everything, by number of parameters; two at least.
        reference: parameters of the member of the family that has the model's own size.
        noise: as for `over_scaling`.
        seed: of the bootstrap.
        extrapolated: suites whose curve goes on beyond the family; all unless given. Others, e.g. accuracies of small
            models, which are flat at first, end at the smallest and the largest size, and are left out if the family
            does not differ in them by two standard deviations of a difference.

    Raises:
        InvalidCut: fewer than two sizes, the reference not among them, or no suite that tells sizes apart.
    """
    if len(family) < 2 or reference not in family:
        raise InvalidCut(f"{len(family)} sizes, reference {reference:g}: two are needed, the reference among them")
    noise = noise or {}
    terms, left_out, censored, spread = {}, {}, {}, {}
    for suite in _common(model, *family.values()):
        log_size = np.log(sorted(family))
        score = _better(suite) * np.array([family[size][suite] for size in sorted(family)])
        curve, at = _monotone(score), sorted(family).index(reference)
        beyond = _BEYOND if extrapolated is None or suite in extrapolated else 1.0
        found = _invert(log_size, curve + (score[at] - curve[at]), _better(suite) * model[suite], at, beyond)
        if found is None or (beyond == 1.0 and np.ptp(curve) <= 2 * np.sqrt(2) * noise.get(suite, 0.0)):
            left_out[suite] = "it does not tell the sizes apart"
            continue
        value, slope, side = found
        terms[suite] = float(np.exp(value))
        spread[suite] = np.sqrt(2) * noise.get(suite, 0.0) / slope
        if side:
            censored[suite] = side
    _refuse_nothing(terms, left_out)
    logs = {suite: float(np.log(value)) for suite, value in terms.items()}
    low, high = _interval(logs, spread, seed)
    mean = float(np.exp(np.mean(list(logs.values()))))
    return Normalised(mean, float(np.exp(low)), float(np.exp(high)), terms, left_out, censored)


def _common(*scores: Scores) -> list[str]:
    """Suites that all have; a missing one is no reason to compare different sets."""
    return sorted(set.intersection(*(set(one) for one in scores)))


def _better(suite: str) -> int:
    return -1 if suite in LOWER_IS_BETTER or lower_is_better(suite) else 1


def _monotone(score: np.ndarray) -> np.ndarray:
    """The nearest scores that do not fall with size."""
    fitted: np.ndarray = isotonic_regression(score).x
    return fitted


def _invert(
    log_size: np.ndarray, curve: np.ndarray, score: float, at: int, beyond: float
) -> tuple[float, float, str] | None:
    """Log size of a score, the slope there, and "above" or "below" if it was cut off; None on a flat stretch.

    Sizes are cut off at so many times beyond the smallest and the largest.

    A score on the reference's own stretch (number `at`) is worth the reference's size.
    """
    slopes = np.diff(curve) / np.diff(log_size)
    if slopes.max() <= 0:
        return None
    if np.isclose(score, curve[at], rtol=1e-12):
        return float(log_size[at]), float(slopes[slopes > 0].min()), ""
    segment = int(np.clip(np.searchsorted(curve, score, side="left") - 1, 0, len(slopes) - 1))
    if slopes[segment] <= 0:
        return None
    value = log_size[segment] + (score - curve[segment]) / slopes[segment]
    lowest, highest = log_size[0] - np.log(beyond), log_size[-1] + np.log(beyond)
    side = "below" if value < lowest else "above" if value > highest else ""
    return float(np.clip(value, lowest, highest)), float(slopes[segment]), side


def _interval(terms: Mapping[str, float], spread: Mapping[str, float], seed: int) -> tuple[float, float]:
    """Return the 95 % interval of the mean: trainings drawn anew from their noise, suites with replacement.

    Each draw of a training shifts all suites alike: a training's luck in one suite may be its luck in every other, and
    independent draws would average it away.
    """
    rng = np.random.default_rng(seed)
    values, sd = np.array(list(terms.values())), np.array([spread[suite] for suite in terms])
    drawn = values + sd * rng.standard_normal((RESAMPLES, 1))
    chosen = rng.integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.quantile(np.take_along_axis(drawn, chosen, axis=1).mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def _refuse_nothing(terms: Mapping[str, float], left_out: Mapping[str, str]) -> None:
    if not terms:
        said = "; ".join(f"{suite}: {why}" for suite, why in left_out.items()) or "no suite is in all of them"
        raise InvalidCut(f"there is nothing to compare ({said}): measure more suites, or other references")
