"""Compare every sampler of a study with one baseline, by intervals that hold the noise between trainings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from evaluate_suite.noise import UNKNOWN, Noise
from evaluate_suite.registry import SUITES, by_suite
from evaluate_suite.report.outcomes import Outcomes, estimate, full_value
from evaluate_suite.report.points import HEADLINES, Point, StudyResults, finals, lower_is_better, rates
from evaluate_suite.report.scores import Difference, Score, differences, is_perplexity
from evaluate_suite.report.style import MOST_LINES
from evaluate_suite.results import BITS
from pipeline_steps.errors import StoreDamaged
from pipeline_steps.samplers import FULL, label
from pipeline_steps.stores.files import read_json


SEEDS = "train with seeds: [0, 1, 2]"
RANDOM = "random"


@dataclass(frozen=True)
class Comparison:
    """The differences between samplers at one rate and a baseline, in one measure.

    Attributes:
        baseline: Random, or everything where there is no Random.
        found: by sampler; endless intervals where the noise is not known.
        noise: between trainings.
        seeds: least and most seeds of a run.
        left_out: why samplers are not compared, by sampler; if the baseline is among them, nothing is.
    """

    baseline: str
    found: Mapping[str, Difference]
    noise: Noise
    seeds: tuple[int, int]
    left_out: Mapping[str, str] = field(default_factory=dict)

    def better(self) -> set[str]:
        """Return the samplers that are better than the baseline."""
        return {sampler for sampler, one in self.found.items() if one.sign > 0}


def compare(
    study: StudyResults, model: str, rate: float, measure: str, baseline: str | None = None
) -> Comparison | None:
    """Compare the samplers at a rate, and everything, with a baseline; None if there are no two to compare.

    Args:
        study: what was measured.
        model: whose runs.
        rate: at which samplers are compared.
        measure: a suite, a perplexity or bits.
        baseline: a sampler; Random unless given, or everything where there is no Random.
    """
    points = {point.sampler: point for point in finals(study, model, rate) if measure in point.scores}
    baseline = baseline or (RANDOM if RANDOM in points else FULL)
    if baseline not in points or len(points) < 2:
        return None
    end, early = max(point.step for point in points.values()), ended_early(points.values())
    diverged = {
        name: "has a run that diverged"
        for name, point in points.items()
        if name not in early and not np.isfinite(list(point.scores[measure].by_seed.values())).all()
    }
    left_out = early | diverged
    counts = [point.scores[measure].seeds for point in points.values()]
    seeds = min(counts), max(counts)
    if baseline in left_out:
        return Comparison(baseline, {}, UNKNOWN, seeds, left_out)
    further = [
        point.scores[measure]
        for point in finals(study, model)
        if measure in point.scores and point.sampler != FULL and point.rate != rate and point.step == end
    ]
    scores = {name: point.scores[measure] for name, point in points.items() if point.step == end}
    found = differences(scores, baseline, measure, further, window_losses(study, model, rate, measure))
    return Comparison(baseline, *found, seeds, left_out)


def better_than_everything(
    study: StudyResults, outcomes: Outcomes, model: str, measure: str
) -> set[tuple[str, float]]:
    """Return the samplers and rates whose last checkpoints are better than everything's."""
    if measure in HEADLINES:
        full, last = full_value(study, measure, model), finals(study, model)
        end = max((point.step for point in last), default=0)
        ends = [point for point in last if point.sampler != FULL and point.step == end]
        known = {point.run[1:]: found for point in ends if (found := estimate(point, outcomes, measure))}
        return {run for run, (_, low, _) in known.items() if low > full}
    compared = {rate: compare(study, model, rate, measure, FULL) for rate in rates(study, model)}
    return {(sampler, rate) for rate, one in compared.items() if one for sampler in one.better()}


def left_out_in_words(compared: Comparison) -> str:
    """Say in a sentence which samplers are not compared, and why; "" if all are."""
    if why := compared.left_out.get(compared.baseline):
        return f"Nothing is compared with {_name(compared.baseline)}, which {why}."
    return not_compared(compared.left_out)


def not_compared(left_out: Mapping[str, str]) -> str:
    """Say in a sentence which samplers are not compared, and why each is not; "" if there are none."""
    said = "; ".join(f"{_name(sampler)}, which {why}" for sampler, why in left_out.items())
    return f"Not compared: {said}." if said else ""


def ended_early(points: Iterable[Point]) -> dict[str, str]:
    """Return the samplers whose runs end at an earlier step than others, and in words where they do."""
    steps = {point.sampler: point.step for point in points}
    end = max(steps.values(), default=0)
    return {name: f"ends at step {step:,} of {end:,}" for name, step in steps.items() if step < end}


def _name(sampler: str) -> str:
    return "everything" if sampler == FULL else label(sampler)


def noise_in_words(model: str, noise: Noise, measure: str, seeds: tuple[int, int]) -> str:
    """Say in a sentence how many seeds there are, what the noise between trainings is, and how well it is known."""
    runs = seeds_in_words(*seeds)
    if noise.source == "seeds" and not noise.decides:
        return (
            f"{runs}, between which no noise shows: trainings of {model} are copies of each other, or scores are too "
            "coarse. No comparison can be made."
        )
    if not noise.decides:
        return (
            f"{runs}, and the noise between trainings of {model} with these settings and tokens is not known: no "
            f"comparison can be made; {SEEDS}."
        )
    unit = " bits" if measure in BITS else " points"
    size = f"{100 * noise.sd:.1f} % of the perplexity" if is_perplexity(measure) else f"{noise.sd:.3g}{unit}"
    known = f"{noise.freedom} degree{'s' if noise.freedom > 1 else ''} of freedom"
    taken = f", taken from {noise.measured}," if noise.source == "level" else ""
    return f"{runs}; the noise between trainings{taken} is a standard deviation of {size} ({known})."


def seeds_in_words(few: int, many: int) -> str:
    """Say how many seeds runs have, from the least to the most."""
    if few < many:
        return f"{few} to {many} seeds a run"
    return "One seed of each run" if many == 1 else f"{many} seeds of each run"


@lru_cache(maxsize=64)
def window_losses(study: StudyResults, model: str, rate: float, measure: str) -> dict[str, np.ndarray]:
    """Return the mean loss of each held-out window over seeds, float64 [N], by sampler.

    Nothing is returned if one run's losses are not at hand. A unit is that of a run if the perplexity of its losses
    is, to the last digits, the run's.
    """
    tasks = [task.name for task in by_suite()[measure]] if measure in SUITES else [measure]
    points = [point for point in finals(study, model, rate) if measure in point.scores]
    if not lower_is_better(measure) or len(tasks) > 1 or len(points) > MOST_LINES + 1:
        return {}
    found = dict[str, np.ndarray]()
    for point in points:
        name = f"step-{point.step:08d}/{tasks[0].replace('/', '-')}.json"
        files = [file for folder in study.evaluations for file in sorted(Path(folder).rglob(name))]
        by_seed = _losses_by_seed([f for f in files if f.parent.parent.name == point.sampler], point.scores[measure])
        if len(by_seed) == point.scores[measure].seeds and len({nll_N.size for nll_N in by_seed.values()}) == 1:
            found[point.sampler] = np.mean(list(by_seed.values()), axis=0)
    same = len({nll_N.size for nll_N in found.values()}) == 1
    return found if same and len(found) == len(points) else {}


def _losses_by_seed(files: list[Path], score: Score) -> dict[int, np.ndarray]:
    found = dict[int, np.ndarray]()
    for file in files:
        try:
            nll_N = np.array(read_json(str(file))["found"]["nll"])
        except (StoreDamaged, KeyError, TypeError):
            continue
        mine = np.exp(nll_N.mean())
        found |= {seed: nll_N for seed, value in score.by_seed.items() if np.isclose(mine, value, rtol=1e-12)}
    return found
