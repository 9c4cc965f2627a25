"""What a selection is worth: over-scaling, effective model size, and the hours that its scores must save."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from evaluate_suite.model_sizes import family, one_token_rule
from evaluate_suite.normalised import Normalised, effective_model_size, over_scaling
from evaluate_suite.registry import SUITES
from evaluate_suite.report.points import HEADLINES, Point, StudyResults, finals, lower_is_better, references
from evaluate_suite.report.scores import is_perplexity
from evaluate_suite.results import BITS
from pipeline_steps.errors import InvalidCut
from pipeline_steps.samplers import FULL


_OF_DECODERS, _ = BITS


@dataclass(frozen=True)
class Outcome:
    """Both numbers of a run; None where the study has no references for one.

    Attributes:
        over_scaling: in percent.
        effective_size: in parameters.
        larger: the model that is worth 100 % once trained on everything; "" if there is none.
        missing: why a number is None, by name of `HEADLINES`.
    """

    over_scaling: Normalised | None
    effective_size: Normalised | None
    larger: str
    missing: Mapping[str, str]


Outcomes = Mapping[tuple[str, str, float, int], Outcome]
"""Outcomes by model, sampler, rate and step."""


def outcomes(study: StudyResults) -> dict[tuple[str, str, float, int], Outcome]:
    """Return the outcomes of the checkpoints at which the suites of their run's last one were measured."""
    suites = {point.run: _values(point).keys() for point in finals(study)}
    noises = {model: run_noise(study, model) for model in {point.model for point in study.checkpoints}}
    return {
        (*point.run, point.step): outcome(study, point, noises[point.model])
        for point in study.checkpoints
        if _values(point).keys() == suites[point.run]
    }


def outcome(study: StudyResults, point: Point, noise: Mapping[str, float]) -> Outcome:
    """Compare a checkpoint with the last checkpoints of the models of its family that were trained on everything.

    A family is of one kind and one token rule. Of decoder-only models, bits per byte count beside the suites, and
    only losses are extrapolated: accuracies of small models are flat.

    Args:
        study: with the references.
        point: the checkpoint.
        noise: standard deviation of each measure between trainings. Without that of one of its suites, a number has no
            interval.
    """
    trained = references(study)
    sizes = {
        model: (study.sizes[model], reference.encoder_tokens)
        for model, reference in trained.items()
        if family(model) == family(point.model) and model in study.sizes
    }
    missing: dict[str, str] = {}
    if point.model not in sizes:
        why = f"there is no run of {point.model} on everything, or its size is not known"
        return Outcome(None, None, "", dict.fromkeys(HEADLINES, why))
    members = one_token_rule(point.model, sizes)
    own, scores = sizes[point.model][0], {model: _values(trained[model]) for model in members}
    larger = min((model for model in members if sizes[model][0] > own), key=lambda m: sizes[m][0], default="")
    rule = " by its token rule" if len(members) < len(sizes) else ""
    scaled = sized = None
    if larger:
        try:
            scaled = over_scaling(_values(point), scores[point.model], scores[larger], noise)
        except InvalidCut as error:
            missing["over_scaling"] = str(error)
    else:
        missing["over_scaling"] = f"there is no run of a model larger than {point.model} on everything{rule}"
    if len(members) > 1:
        try:
            losses = list(filter(lower_is_better, _values(point))) if _OF_DECODERS in point.scores else None
            by_size = {float(sizes[model][0]): scores[model] for model in members}
            sized = effective_model_size(_values(point), by_size, own, noise, extrapolated=losses)
        except InvalidCut as error:
            missing["effective_size"] = str(error)
    else:
        missing["effective_size"] = f"it takes runs of two sizes on everything{rule}"
    return Outcome(_honest(scaled, noise), _honest(sized, noise), larger, missing)


def estimate(point: Point, outcomes: Outcomes, measure: str) -> tuple[float, float, float] | None:
    """Return value and 95 % interval of any measure of a checkpoint, in its unit; None if it was not measured.

    Training on everything is worth 0 % and its own size by definition.
    """
    if measure not in HEADLINES:
        score = point.scores.get(measure)
        return (score.value, score.low, score.high) if score else None
    found = outcomes.get((*point.run, point.step))
    number: Normalised | None = getattr(found, measure) if found else None
    if number is None:
        return None
    scale = 1e-6 if measure == "effective_size" else 1.0
    if point.sampler == FULL:
        return (scale * number.value,) * 3
    return scale * number.value, scale * number.low, scale * number.high


def full_value(study: StudyResults, name: str, model: str) -> float:
    """Return what training on everything is worth by definition: 0 %, and the model's own size in millions."""
    return 0.0 if name == "over_scaling" else study.sizes.get(model, 0) * 1e-6


def total_hours(saved: float, scoring: float, training: float, runs: int = 1) -> float:
    """Return the hours of one of `runs` trainings that share the scores and each save that share of training."""
    return (1 - saved) * training + scoring / runs


def break_even(scoring: float, training: float, runs: int = 1) -> float:
    """Return the share of training that must be saved to pay for the scores; above 1 they never pay."""
    return scoring / (runs * training)


def run_noise(study: StudyResults, model: str) -> dict[str, float]:
    """Return each measure's standard deviation between trainings where it is known, of means over this study's seeds.

    It is that of a normal distribution with Student's 95 % interval, since normal numbers are drawn from it, in the
    measure's unit: of a perplexity, at the mean of the runs.
    """
    ends, found = finals(study, model), {}
    known = {measure for point in ends for measure, score in point.scores.items() if score.noise.decides}
    for measure in filter(_counts, known):
        scores = [point.scores[measure] for point in ends if measure in point.scores]
        unit = sum(score.value for score in scores) / len(scores) if is_perplexity(measure) else 1.0
        found[measure] = unit * scores[0].noise.normal_sd / math.sqrt(min(score.seeds for score in scores))
    return found


def _honest(number: Normalised | None, noise: Mapping[str, float]) -> Normalised | None:
    """Take the interval from a number that counts a suite whose noise between trainings is not known."""
    if number is None or number.terms.keys() <= noise.keys():
        return number
    return replace(number, low=math.nan, high=math.nan)


def _values(point: Point) -> dict[str, float]:
    return {measure: score.value for measure, score in point.scores.items() if _counts(measure)}


def _counts(measure: str) -> bool:
    """Return whether a measure counts: the paper's suites, and bits per byte of decoder-only models."""
    return measure in SUITES or measure == _OF_DECODERS
