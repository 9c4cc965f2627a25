"""What a study supports, in sentences, and what its reader has to know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from evaluate_suite.figures.quality import Outcomes, estimate
from evaluate_suite.registry import registry
from evaluate_suite.study.outcomes import HEADLINES, full_value
from evaluate_suite.study.points import Point, Study, finals, lower_is_better, measures, references, title
from evaluate_suite.study.scores import Z95
from evaluate_suite.study.table_data import minus
from pipeline_steps.samplers import FULL, label, ordered


# Tasks of the four few-shot suites are in part of the mixture that models are instruction-tuned on before: FLAN 2022
_SEEN = (
    "Held-out is not held-out. The mixture on which models are instruction-tuned before the few-shot suites holds the "
    "training questions of GSM8K and StrategyQA with rationales, and ARC, BoolQ and AI2 science questions; a task "
    "collection in it holds ASDiv. Test questions of GSM8K and development questions of StrategyQA are not in it, and "
    "MMLU's are filtered from it. The checkpoint of instruction tuning is chosen by the average of these same suites "
    "(v1 App. C.7): that is selection on the test."
)
_SPELT_OUT = 3


def table_rate(study: Study, model: str) -> float | None:
    """The rate that most samplers were trained at, the middle one of several; None if there are no samplers."""
    counts = Counter(point.rate for point in finals(study, model) if point.sampler != FULL)
    most = sorted(rate for rate, count in counts.items() if count == max(counts.values()))
    return most[len(most) // 2] if most else None


def verdicts(study: Study, outcomes: Outcomes, model: str, rate: float) -> list[str]:
    """Who does better than everything, who cannot be told from it, and who does worse; one sentence each.

    By over-scaling, else by effective model size, else by each perplexity that was measured.
    """
    points = [point for point in finals(study, model, rate) if point.sampler != FULL]
    for name in HEADLINES:
        if any(estimate(point, outcomes, name) for point in points):
            unit = " %" if name == "over_scaling" else "M parameters"
            found = {p.sampler: known for p in points if (known := estimate(p, outcomes, name))}
            return _sentences(found, full_value(name, model), HEADLINES[name], unit)
    everything = references(study).get(model)
    if everything is None:
        return [f"There is no run of {model} on everything: nothing to compare with."]
    sentences = []
    for measure in measures(study, model):
        if lower_is_better(measure) and measure in everything.scores:
            sentences += _sentences(_differences(points, everything, measure), 0.0, title(measure), " less", 2)
    return sentences


def coverage(study: Study) -> str:
    """How many of the paper's tasks stand behind the numbers."""
    names = {row.task for row in study.rows}
    scored = [task.name for task in registry().values() if task.scored]
    measured = sum(name in names for name in scored)
    return f"{len(registry())} tasks registered, {len(scored)} of them scored, {measured} measured here"


def methods(study: Study) -> list[str]:
    """Paragraphs: how the numbers were made, and what they cannot say."""
    few_shot = {task.name for task in registry().values() if task.protocol == "few_shot"}
    said = [
        "A suite's score is the mean over its tasks, of a task's metrics before that (T5's rule: the halves of MNLI "
        "count once). Over-scaling is the mean over suites of 100 (score − full) / (larger − full), where full is the "
        "model of the same size trained on everything and larger the next one; effective model size is the geometric "
        "mean over suites of the size at which training on everything would do as well.",
        "Intervals are 95 %. Those of scores are over examples, and over training seeds where there are two or more. "
        "Those of over-scaling and effective size draw suites anew, and trainings from the standard deviation between "
        "this study's seeds or, where there is one seed, between trainings of T5 (Raffel et al. 2020, Table 1).",
    ]
    if any(row.task in few_shot for row in study.rows):
        said.append(_SEEN)
    if study.partial:
        parts = ", ".join(f"{title(suite)} {k} of {n}" for suite, (k, n) in study.partial.items())
        said.append(f"Incomplete suites, averaged over the tasks that every run has: {parts}. They are not the suite.")
    return said


def facts(study: Study) -> dict[str, str]:
    """Name and value of what a reader would ask for."""
    rows = [row for row in study.rows if row.task != "cost"]
    runs = {(row.sampler, row.rate, row.model, row.seed) for row in rows}
    return {
        "tasks": coverage(study),
        "runs": f"{len(runs):,} trainings, {len(study.checkpoints):,} checkpoints, {len(rows):,} measurements",
        "models": ", ".join(sorted({row.model for row in rows})),
        "samplers": ", ".join(label(name) for name in ordered(row.sampler for row in rows)),
        "seeds": ", ".join(str(seed) for seed in sorted({row.seed for row in rows})),
        "measured with": ", ".join(sorted({row.harness_version for row in rows})),
    }


def _differences(points: Sequence[Point], everything: Point, measure: str) -> dict[str, tuple[float, float, float]]:
    """Perplexity that a sampler has less than everything, with the interval of a difference of independent numbers."""
    full, found = everything.scores[measure], {}
    for point in points:
        if score := point.scores.get(measure):
            value, error = full.value - score.value, Z95 * (full.stderr**2 + score.stderr**2) ** 0.5
            found[point.sampler] = (value, value - error, value + error)
    return found


def _sentences(
    found: dict[str, tuple[float, float, float]], full: float, name: str, unit: str, digits: int = 1
) -> list[str]:
    """The first three of a sentence have their intervals; the table has those of all."""
    groups: dict[str, list[str]] = {"Better than": [], "Cannot be told from": [], "Worse than": []}
    for sampler in sorted(found, key=lambda one: -found[one][0]):
        value, low, high = (minus(f"{number:,.{digits}f}") for number in found[sampler])
        better, worse = found[sampler][1] > full, found[sampler][2] < full
        said = groups["Better than" if better else "Worse than" if worse else "Cannot be told from"]
        interval = f" (95 % CI {low} to {high})" if len(said) < _SPELT_OUT else ""
        said.append(f"{label(sampler)} {value}{unit}{interval}")
    return [
        f"{name}. {words} everything, {len(said)} of {len(found)}: {'; '.join(said)}."
        for words, said in groups.items()
        if said
    ]
