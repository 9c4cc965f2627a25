"""What the numbers of a study support, in sentences, and what its reader has to know."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from evaluate_suite.registry import registry
from evaluate_suite.report.comparisons import (
    compare,
    ended_early,
    left_out_in_words,
    noise_in_words,
    not_compared,
    seeds_in_words,
)
from evaluate_suite.report.outcomes import Outcomes, estimate, full_value
from evaluate_suite.report.points import (
    HEADLINES,
    StudyResults,
    finals,
    measures,
    models,
    rates,
    references,
    title,
)
from evaluate_suite.report.scores import Difference, is_perplexity
from evaluate_suite.report.table_data import minus
from evaluate_suite.results import BITS
from pipeline_steps.samplers import FULL, label, ordered


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
    "Intervals are 95 %. Where the noise between trainings is known, from the seeds of this study or from earlier "
    "trainings of the same settings and as many tokens, they hold it beside the noise between examples "
    "(docs/decide.md). Elsewhere they are over examples only, say nothing of another training, and nothing is called "
    "better or worse. Differences from a baseline are for other trainings on these examples, and for other windows "
    "too where the loss of each window is at hand. They hold all at once: of 20 such lists, one is wrong somewhere."
)
_INTERVALS_NORMALISED = (
    " Those of over-scaling and effective size draw suites anew, and trainings from that noise; there are none where "
    "the noise of a suite is not known. Each of them holds alone in 95 of 100 studies."
)
_SPELT_OUT = 3
_ENDLESS = 1000.0  # percent: an interval of so few seeds says nothing of its upper end


def table_rate(study: StudyResults, model: str) -> float | None:
    """The rate that most samplers were trained at, the middle one of several; None if there are no samplers."""
    counts = Counter(point.rate for point in finals(study, model) if point.sampler != FULL)
    most = sorted(rate for rate, count in counts.items() if count == max(counts.values()))
    return most[len(most) // 2] if most else None


def verdicts(study: StudyResults, outcomes: Outcomes, model: str, rate: float) -> dict[str, list[str]]:
    """Say which samplers are better than a baseline, cannot be told from it, or are worse: sentences by measure.

    The sentences are about over-scaling, else effective model size, against everything; where these have no interval,
    about each measure against Random, or against everything where there is no Random. Each measure says how many seeds
    there are and what the noise between trainings is; where that is not known, nothing is compared.

    Args:
        study: what was measured.
        outcomes: of `evaluate_suite.report.outcomes.outcomes`.
        model: whose runs.
        rate: at which samplers are compared.
    """
    early = ended_early(finals(study, model, rate))
    points = [point for point in finals(study, model, rate) if point.sampler not in (FULL, *early)]
    for name in HEADLINES:
        found = {point.sampler: known for point in points if (known := estimate(point, outcomes, name))}
        if found and FULL not in early and all(math.isfinite(low) for _, low, _ in found.values()):
            unit, full = " %" if name == "over_scaling" else "M parameters", full_value(study, name, model)
            words = {sampler: (_shown(known[0], 1) + unit, known[1], known[2]) for sampler, known in found.items()}
            gains = {
                sampler: Difference(one[0] - full, one[1] - full, one[2] - full) for sampler, one in found.items()
            }
            said = [*_sentences(gains, FULL, words, 1), not_compared(early), _noise_of_suites(study, model)]
            return {HEADLINES[name]: [sentence for sentence in said if sentence]}
    compared = {measure: one for measure in measures(study, model) if (one := compare(study, model, rate, measure))}
    if not compared:
        return {model: ["There is nothing to compare: no two runs, one of them on everything or on a random choice."]}
    by_measure, noise = dict[str, list[str]](), dict[str, list[str]]()
    for measure, one in compared.items():
        if one.noise.decides:
            digits = 1 if is_perplexity(measure) else 3 if measure in BITS else 2
            words = {sampler: _change(difference, measure, digits) for sampler, difference in one.found.items()}
            by_measure[title(measure)] = _sentences(one.found, one.baseline, words, digits)
        if left_out := left_out_in_words(one):
            by_measure.setdefault(title(measure), []).append(left_out)
        if one.baseline in one.left_out:
            continue
        noise.setdefault(noise_in_words(model, one.noise, measure, one.seeds), []).append(title(measure))
    for sentence, names in noise.items():
        by_measure.setdefault(", ".join(names), []).append(sentence)
    return by_measure


def intervals_in_words(study: StudyResults) -> str:
    """Say what the intervals beside single numbers hold: another training, or these trainings alone."""
    scores = {measure: score for point in finals(study) for measure, score in point.scores.items()}
    alone = [title(measure) for measure in measures(study) if not scores[measure].noise.decides]
    if not alone:
        return "Intervals are 95 %, over examples and trainings."
    which = "" if len(alone) == len(scores) else f" for {_listed(alone)}"
    return f"Intervals are 95 %,{which} over examples only: they say nothing of another training."


def flat(said: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the sentences of `verdicts`, each with its measure."""
    return [f"{measure}. {sentence}" for measure, sentences in said.items() for sentence in sentences]


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
    if any(row.task in few_shot for row in study.rows):
        said.append(_SEEN)
    if study.partial:
        parts = ", ".join(f"{title(suite)} {k} of {n}" for suite, (k, n) in study.partial.items())
        said.append(f"Incomplete suites, averaged over the tasks that every run has: {parts}. They are not the suite.")
    return said


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


def _sentences(
    found: Mapping[str, Difference], baseline: str, words: Mapping[str, tuple[str, float, float]], digits: int
) -> list[str]:
    """Group samplers into better than, like and worse than a baseline, the best first.

    Args:
        found: by sampler.
        baseline: its name.
        words: what is said: a number and the ends of its interval, which the first three of a sentence have.
        digits: of the ends after the point.
    """
    groups: dict[str, list[str]] = {"Better than": [], "Cannot be told from": [], "Worse than": []}
    for sampler in sorted(found, key=lambda one: -found[one].gain):
        said = groups[("Cannot be told from", "Better than", "Worse than")[found[sampler].sign]]
        number, *ends = words[sampler]
        interval = f" (95 % CI {' to '.join(_shown(end, digits) for end in ends)})" if len(said) < _SPELT_OUT else ""
        said.append(f"{label(sampler)} {number}{interval}")
    name = "everything" if baseline == FULL else label(baseline)
    return [
        f"{group} {name}, {len(said)} of {len(found)}: {'; '.join(said)}." for group, said in groups.items() if said
    ]


def _change(difference: Difference, measure: str, digits: int) -> tuple[str, float, float]:
    """Return a difference in the measure's unit, of a perplexity in percent: words, and the ends of its interval."""
    gain, low, high = difference.gain, difference.low, difference.high
    if is_perplexity(measure):
        with np.errstate(over="ignore"):
            value, low, high = (float(100 * np.expm1(-number)) for number in (gain, high, low))
        high = high if high <= _ENDLESS else math.inf
    else:
        value, low, high = (-gain, -high, -low) if measure in BITS else (gain, low, high)
    unit = " %" if is_perplexity(measure) else " bits" if measure in BITS else " points"
    return minus(f"{value:+,.{digits}f}") + unit, low, high


def _noise_of_suites(study: StudyResults, model: str) -> str:
    """Say whose noise the intervals of over-scaling and effective size hold."""
    scores = [score for point in finals(study, model) for score in point.scores.values() if score.noise.decides]
    seeds = seeds_in_words(min(score.seeds for score in scores), max(score.seeds for score in scores))
    others = sorted({score.noise.measured for score in scores if score.noise.source == "level"})
    own = ["them"] if any(score.noise.source == "seeds" for score in scores) else []
    return f"{seeds}; intervals hold the noise between {_listed(own + others)}."


def _shown(number: float, digits: int) -> str:
    return minus(f"{number:,.{digits}f}").replace("inf", "∞")


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
