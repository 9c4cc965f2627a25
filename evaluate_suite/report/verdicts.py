"""What the numbers of a study support, in sentences, and what its reader has to know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from evaluate_suite.comparison import verdicts as paired_verdicts
from evaluate_suite.registry import SUITES, by_suite, registry
from evaluate_suite.report.figures_runs import colours
from evaluate_suite.report.outcomes import Outcomes, estimate, full_value
from evaluate_suite.report.points import (
    HEADLINES,
    Z95,
    Point,
    StudyResults,
    finals,
    lower_is_better,
    measures,
    models,
    rates,
    references,
    title,
)
from evaluate_suite.report.table_data import minus
from pipeline_steps.errors import StoreDamaged
from pipeline_steps.samplers import FULL, label, ordered
from pipeline_steps.stores.files import read_json


# Tasks of the four few-shot suites are in part of the mixture that models are instruction-tuned on before: FLAN 2022
_SEEN = (
    "Held-out is not held-out. The mixture on which models are instruction-tuned before the few-shot suites holds the "
    "training questions of GSM8K and StrategyQA with rationales, and ARC, BoolQ and AI2 science questions; a task "
    "collection in it holds ASDiv. Test questions of GSM8K and development questions of StrategyQA are not in it, and "
    "MMLU's are filtered from it. The checkpoint of instruction tuning is chosen by the average of these same suites "
    "(v1 App. C.7): that is selection on the test."
)
_NORMALISED = (
    "A suite's score is the mean over its tasks, of a task's metrics before that (T5's rule: the halves of MNLI "
    "count once). Over-scaling is the mean over suites of 100 (score − full) / (larger − full), where full is the "
    "model of the same size trained on everything and larger the next one; effective model size is the geometric "
    "mean over suites of the size at which training on everything would do as well."
)
_INTERVALS = (
    "Intervals are 95 %. Those of scores are over examples, and over training seeds where there are two or more."
)
_INTERVALS_NORMALISED = (
    " Those of over-scaling and effective size draw suites anew, and trainings from the standard deviation between "
    "this study's seeds or, where there is one seed, between trainings of T5 (Raffel et al. 2020, Table 1)."
)
_ONE_SEED = (
    "Every run has one seed. Its intervals do not say what another training seed would give, which can differ by more "
    "than they are wide, for small models above all."
)
_SPELT_OUT = 3


def table_rate(study: StudyResults, model: str) -> float | None:
    """The rate that most samplers were trained at, the middle one of several; None if there are no samplers."""
    counts = Counter(point.rate for point in finals(study, model) if point.sampler != FULL)
    most = sorted(rate for rate, count in counts.items() if count == max(counts.values()))
    return most[len(most) // 2] if most else None


def verdicts(
    study: StudyResults, outcomes: Outcomes, model: str, rate: float, evaluations: Sequence[str] = ()
) -> dict[str, list[str]]:
    """Say who does better than everything, who cannot be told from it, and who does worse: sentences by measure.

    The sentences are about over-scaling, else effective model size, else each perplexity that was measured. Where
    the losses of single trainings by window are at hand, they are compared with Random's, window by window.

    Args:
        study: what was measured.
        outcomes: of `evaluate_suite.report.outcomes.outcomes`.
        model: whose runs.
        rate: at which samplers are compared.
        evaluations: folders of the units that `winnow evaluate` measured.
    """
    points = [point for point in finals(study, model, rate) if point.sampler != FULL]
    for name in HEADLINES:
        found = {point.sampler: known for point in points if (known := estimate(point, outcomes, name))}
        if found:
            unit = " %" if name == "over_scaling" else "M parameters"
            words = {sampler: (_shown(known[0], 1) + unit, known[1], known[2]) for sampler, known in found.items()}
            return {HEADLINES[name]: _sentences(found, full_value(study, name, model), words, 1)}
    said, everything = dict[str, list[str]](), references(study).get(model)
    for measure in filter(lower_is_better, measures(study, model)):
        losses = window_losses(study, model, rate, measure, evaluations)
        if "random" in losses and len(losses) > 1:
            named = {label(name): losses[name] for name in ordered(losses)}
            said[title(measure)] = [f"{one}." for one in paired_verdicts(named, label("random"))]
        elif everything is not None and measure in everything.scores:
            said[title(measure)] = _against(points, everything, measure)
    if everything is None and not said:
        return {model: ["There is no run on everything: nothing to compare with."]}
    return said


def flat(said: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the sentences of `verdicts`, each with its measure."""
    return [f"{measure}. {sentence}" for measure, sentences in said.items() for sentence in sentences]


def window_losses(
    study: StudyResults, model: str, rate: float, measure: str, evaluations: Sequence[str]
) -> dict[str, np.ndarray]:
    """Return the mean loss of each held-out window, float64 [N], by sampler; nothing if one sampler's are not at hand.

    A unit is that of a checkpoint if the perplexity of its losses is, to the last digits, the checkpoint's.
    """
    tasks = [task.name for task in by_suite()[measure]] if measure in SUITES else [measure]
    points = [point for point in finals(study, model, rate) if measure in point.scores]
    if len(tasks) > 1 or not colours(study) or any(point.scores[measure].seeds > 1 for point in points):
        return {}
    found = {}
    for point in points:
        name = f"step-{point.step:08d}/{tasks[0].replace('/', '-')}.json"
        for file in [file for folder in evaluations for file in sorted(Path(folder).rglob(name))]:
            if file.parent.parent.name != point.sampler:
                continue
            try:
                nll_N = np.array(read_json(str(file))["found"]["nll"])
            except (StoreDamaged, KeyError, TypeError):
                continue
            if np.isclose(np.exp(nll_N.mean()), point.scores[measure].value, rtol=1e-12):
                found[point.sampler] = nll_N
    same = len({nll_N.size for nll_N in found.values()}) == 1
    return found if same and len(found) == len(points) else {}


def coverage(study: StudyResults) -> str:
    """Say how many of the paper's tasks stand behind the numbers."""
    names = {row.task for row in study.rows}
    scored = [task.name for task in registry().values() if task.scored]
    measured = sum(name in names for name in scored)
    return f"{len(registry())} tasks registered, {len(scored)} of them scored, {measured} measured here"


def lead(study: StudyResults) -> str:
    """Say in two sentences what was compared."""
    chosen = ordered(point.sampler for point in finals(study) if point.sampler != FULL)
    if not chosen:
        return "Models trained on everything; nothing was selected."
    amounts = _listed([f"{100 * rate:g}" for rate in rates(study)])
    trained = [model for model in models(study) if rates(study, model)]
    who = f"{len(chosen)} samplers" if len(chosen) > 1 else label(chosen[0])
    tokens = sorted({point.encoder_tokens for point in finals(study) if point.model in trained})
    budget = f"{tokens[0]:,} encoder tokens" if len(tokens) == 1 else f"{tokens[0]:,} to {tokens[-1]:,} encoder tokens"
    were = f"{_listed(trained)} {'was' if len(trained) == 1 else 'were'}"
    return f"{who} chose {amounts} % of the documents. {were} trained on each choice, and on everything, for {budget}."


def methods(study: StudyResults) -> list[str]:
    """Write paragraphs on how the numbers were made, and what they cannot say."""
    few_shot = {task.name for task in registry().values() if task.protocol == "few_shot"}
    normalised = len(references(study)) > 1
    said = [_NORMALISED] if normalised else []
    said.append(_INTERVALS + (_INTERVALS_NORMALISED if normalised else ""))
    if has_one_seed(study):
        said.append(_ONE_SEED)
    if any(row.task in few_shot for row in study.rows):
        said.append(_SEEN)
    if study.partial:
        parts = ", ".join(f"{title(suite)} {k} of {n}" for suite, (k, n) in study.partial.items())
        said.append(f"Incomplete suites, averaged over the tasks that every run has: {parts}. They are not the suite.")
    return said


def has_one_seed(study: StudyResults) -> bool:
    """Return whether no run was trained twice."""
    runs = {(row.model, row.sampler, row.rate, row.seed) for row in study.rows if row.task != "cost"}
    return len({run[:3] for run in runs}) == len(runs)


def facts(study: StudyResults) -> dict[str, str]:
    """Return what a reader would ask for: name -> value."""
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


def _against(points: Sequence[Point], everything: Point, measure: str) -> list[str]:
    """Compare perplexities with everything's, by the interval of a difference of independent numbers."""
    full, found, words = everything.scores[measure], {}, {}
    for point in points:
        if score := point.scores.get(measure):
            gain, error = full.value - score.value, Z95 * (full.stderr**2 + score.stderr**2) ** 0.5
            found[point.sampler] = gain, gain - error, gain + error
            number = f"{_shown(abs(gain), 2)} {'lower' if gain > 0 else 'higher'}"  # the interval is of that word
            words[point.sampler] = number, abs(gain) - error, abs(gain) + error
    return _sentences(found, 0.0, words, 2)


def _sentences(
    found: Mapping[str, tuple[float, float, float]],
    full: float,
    words: Mapping[str, tuple[str, float, float]],
    digits: int,
) -> list[str]:
    """Group samplers into better than, like and worse than everything, the best first.

    Args:
        found: value and interval by sampler, higher is better.
        full: what everything is worth.
        words: what is said: a number and the ends of its interval, which the first three of a sentence have.
        digits: of the ends after the point.
    """
    groups: dict[str, list[str]] = {"Better than": [], "Cannot be told from": [], "Worse than": []}
    for sampler in sorted(found, key=lambda one: -found[one][0]):
        _, low, high = found[sampler]
        said = groups["Better than" if low > full else "Worse than" if high < full else "Cannot be told from"]
        number, *ends = words[sampler]
        interval = f" (95 % CI {' to '.join(_shown(end, digits) for end in ends)})" if len(said) < _SPELT_OUT else ""
        said.append(f"{label(sampler)} {number}{interval}")
    return [
        f"{group} everything, {len(said)} of {len(found)}: {'; '.join(said)}."
        for group, said in groups.items()
        if said
    ]


def _shown(number: float, digits: int) -> str:
    return minus(f"{number:,.{digits}f}")


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
