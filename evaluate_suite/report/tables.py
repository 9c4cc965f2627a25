"""The tables of a report: Table 1, its terms, what models were trained on, costs, ranks, tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from evaluate_suite.agreement import rank_change
from evaluate_suite.checkpoint import SELECTED_DOCUMENTS, SELECTED_TOKENS, TRAINING_HOURS
from evaluate_suite.model_sizes import family
from evaluate_suite.registry import SUITES, all_tasks
from evaluate_suite.report.comparisons import Comparison, compare, ended_early, left_out_in_words, noise_in_words
from evaluate_suite.report.figures_runs import dot_of
from evaluate_suite.report.outcomes import Outcome, Outcomes, break_even, estimate, full_value, total_hours
from evaluate_suite.report.points import (
    HEADLINES,
    UNITS,
    Point,
    StudyResults,
    finals,
    lower_is_better,
    measures,
    models,
    rates,
    title,
    unit,
)
from evaluate_suite.report.table_data import NOTHING, Cell, Column, Table, number, time_unit
from evaluate_suite.results import BITS, DOMAIN, ResultRow
from pipeline_steps.errors import InvalidCut
from pipeline_steps.samplers import FULL, label, ordered


if TYPE_CHECKING:
    pass

_LARGE = 100.0  # from which two digits after the point are noise
AMORTISED = 10  # runs that share the scores: the paper trains 5 rates x 2 models on each


def main_table(study: StudyResults, outcomes: Outcomes, model: str, rate: float) -> Table:
    """Make Table 1: a row per sampler at one rate and everything; both normalised numbers and all measures.

    Bold is what is better than a baseline (everything for the normalised numbers, else that of `comparisons.compare`)
    by an interval that holds the noise between trainings. Nothing is bold for being the largest of a column.
    """
    points = _sorted(finals(study, model, rate))
    there = [m for m in measures(study, model) if any(m in point.scores for point in points)]
    headlines = [name for name in HEADLINES if any(estimate(point, outcomes, name) for point in points)]
    shown = [*headlines, *there]
    names = [HEADLINES.get(m) or measure_name(study, m) for m in shown]
    directions = ["lower" if lower_is_better(m) else "higher" for m in shown]
    columns = (Column("Sampler"), *(Column(n, unit(m), d) for n, m, d in zip(names, shown, directions, strict=True)))
    used = {id(point): _suites(outcomes, point) for point in points}
    most = max(used.values(), default=0)
    compared = {measure: one for measure in there if (one := compare(study, model, rate, measure))}
    better = {measure: one.better() for measure, one in compared.items()}
    early, rows = ended_early(points), []
    for point in points:
        few = f" ({used[id(point)]} of {most} suites)" if 0 < used[id(point)] < most else ""
        cells = [Cell(label(point.sampler) + few, dot=dot_of(study, point.sampler))]
        for measure in shown:
            found = estimate(point, outcomes, measure)
            exact = measure in HEADLINES and point.sampler == FULL  # by definition
            digits = 1 if measure in HEADLINES or (found and found[0] >= _LARGE) else 3 if measure in BITS else 2
            cell = number(found[0], digits, *(() if exact else found[1:])) if found else NOTHING
            fair = measure in HEADLINES and not {point.sampler, FULL} & early.keys()
            ahead = fair and not exact and found and found[1] > full_value(study, measure, model)
            cells.append(replace(cell, best=bool(ahead) or point.sampler in better.get(measure, ())))
        rows.append(tuple(cells))
    heading = f"{model}, {100 * rate:g} % of the documents"
    bold = any(cell.best for row in rows for cell in row)
    notes = [*_notes(study, outcomes, model, points), *_noise_notes(model, compared, bold, bool(headlines))]
    return Table(heading, columns, tuple(rows), tuple(notes))


def amounts_table(study: StudyResults, model: str, rate: float, scoring: Mapping[str, float]) -> Table:
    """Say what each model was trained on and what that took, in the rows of `main_table`; what is unknown is left out.

    Args:
        study: what was measured.
        model: whose runs.
        rate: at which the samplers are compared.
        scoring: accelerator hours of scoring the corpus, by sampler.
    """
    points = _sorted(finals(study, model, rate))
    documents, tokens = study.costs(SELECTED_DOCUMENTS), study.costs(SELECTED_TOKENS)
    hours = study.costs(TRAINING_HOURS)
    times = [*scoring.values(), *(hours[point.run] for point in points if point.run in hours)]
    name, per_hour = time_unit(times)
    found: list[tuple[Column, list[float | None], int]] = [
        (Column("Documents"), [documents.get(point.run) for point in points], 0),
        (Column("Tokens selected"), [tokens.get(point.run) for point in points], 0),
        (Column("Tokens trained"), [point.encoder_tokens for point in points], 0),
        (Column("Epochs"), [point.epoch for point in points], 2),
        (
            Column("Scoring", name),
            [per_hour * scoring[p.sampler] if p.sampler in scoring else None for p in points],
            1,
        ),
        (Column("Training", name), [per_hour * hours[p.run] if p.run in hours else None for p in points], 1),
    ]
    known = [one for one in found if any(value is not None for value in one[1])]
    rows = tuple(
        (
            Cell(label(point.sampler), dot=dot_of(study, point.sampler)),
            *(NOTHING if (value := values[i]) is None else number(value, digits) for _, values, digits in known),
        )
        for i, point in enumerate(points)
    )
    heading = f"What each was trained on: {model}, {100 * rate:g} % of the documents"
    return Table(heading, (Column("Sampler"), *(column for column, _, _ in known)), rows)


def terms_table(outcomes: Outcomes, model: str, rate: float, name: str) -> Table:
    """Say what each suite alone says: the terms that a number of `HEADLINES` is the mean of."""
    found = {
        sampler: normalised
        for (one, sampler, at, _), outcome in sorted(outcomes.items(), key=lambda item: item[0][3])
        if (one, at) == (model, rate) and sampler != FULL and (normalised := getattr(outcome, name))
    }
    there = {suite for one in found.values() for suite in one.terms}
    suites = [suite for suite in SUITES if suite in there] + sorted(there - SUITES.keys())
    scale = 1e-6 if name == "effective_size" else 1.0
    mean = "Mean" if name == "over_scaling" else "Geometric mean"
    columns = (
        Column("Sampler"),
        *(Column(title(s), UNITS[name], "higher") for s in suites),
        Column(mean, UNITS[name]),
    )
    rows = []
    for sampler in ordered(found):
        one = found[sampler]
        cells = [Cell(label(sampler))]
        for suite in suites:
            cell = number(scale * one.terms[suite]) if suite in one.terms else NOTHING
            side = {"above": "≥ ", "below": "≤ "}.get(one.censored.get(suite, ""), "")
            cells.append(Cell(side + cell.text, cell.value))
        rows.append((*cells, number(scale * one.value, 1, scale * one.low, scale * one.high)))
    notes = [
        "≥ and ≤: beyond what the references can tell, cut off there: at the smallest and the largest of them for a"
        " decoder's accuracies, else at a quarter of the smallest and four times the largest."
    ]
    cut = name == "effective_size" and any(one.censored for one in found.values())
    heading = f"{HEADLINES[name]} by suite: {model}, {100 * rate:g} % of the documents"
    return Table(heading, columns, tuple(rows), tuple(notes if cut else ()))


def cost_table(scoring: Mapping[str, float], training: Mapping[str, float], runs: int = AMORTISED) -> Table:
    """Say how long scoring takes, and how much of each model's training it must save: for one run, for `runs`."""
    trained = sorted(training, key=lambda model: training[model])
    name_of_unit, per_hour = time_unit([*scoring.values(), *training.values()])
    time = f"accelerator {name_of_unit}"
    columns = [Column("Scorer"), Column("Scoring", time)]
    for model in trained:
        columns += [
            Column(f"{model}: training on everything", time),
            Column("break-even, 1 run", "% of training saved"),
            Column(f"break-even, {runs} runs", "% of training saved"),
            Column(f"total if half is saved, {runs} runs", f"{time} a run"),
        ]
    rows = []
    for name in ordered(scoring):
        hours = scoring[name]
        cells = [Cell(label(name)), number(per_hour * hours, 2)]
        for model in trained:
            shares = [100 * break_even(hours, training[model], n) for n in (1, runs)]
            cells += [number(per_hour * training[model]), *(number(share) for share in shares)]
            cells.append(number(per_hour * total_hours(0.5, hours, training[model], runs)))
        rows.append(cells)
    notes = ("Above 100 %, the scores cost more than the training they could save.",)
    return Table("What scores cost, and when they pay", tuple(columns), tuple(map(tuple, rows)), notes)


def rank_pairs(study: StudyResults) -> list[tuple[str, str]]:
    """Return each model that was trained on selections with the next larger one of its family."""
    trained = [model for model in models(study) if rates(study, model)]
    families = [[model for model in trained if family(model) == one] for one in dict.fromkeys(map(family, trained))]
    return [pair for kin in families for pair in pairwise(kin)]


def rank_changes(study: StudyResults, smaller: str, larger: str) -> dict[str, float]:
    """Return `agreement.rank_change` between two models over all measures and rates that every sampler has with both.

    Raises:
        InvalidCut: there are none.
    """
    points = {(p.model, p.sampler, p.rate): p for p in finals(study) if p.sampler != FULL}
    both = [{s for m, s, _ in points if m == model} for model in (smaller, larger)]
    samplers = ordered(both[0] & both[1])
    shared = [
        (rate, measure)
        for rate in sorted({rate for _, _, rate in points})
        for measure in measures(study)
        if all(
            measure in points[model, sampler, rate].scores if (model, sampler, rate) in points else False
            for model in (smaller, larger)
            for sampler in samplers
        )
    ]
    if not shared or len(samplers) < 2:
        raise InvalidCut(f"{smaller} and {larger} have no measure that two samplers have at the same rate with both")

    def scores(model: str) -> dict[str, list[float]]:
        turn = {measure: -1 if lower_is_better(measure) else 1 for _, measure in shared}
        return {s: [turn[m] * points[model, s, rate].scores[m].value for rate, m in shared] for s in samplers}

    return rank_change(scores(smaller), scores(larger))


def rank_table(changes: Mapping[str, float], smaller: str, larger: str) -> Table:
    """Show Figure 6 as numbers."""
    columns = (Column("Sampler"), Column("Ranks gained", direction="higher"))
    names = sorted(changes, key=lambda name: -changes[name])
    rows = tuple((Cell(label(name)), number(changes[name], 2)) for name in names)
    notes = ("Ranks are of means over seeds, without an interval: other seeds may change them.",)
    return Table(f"Change of rank from {smaller} to {larger}", columns, rows, notes)


def task_table(study: StudyResults, model: str, rate: float) -> Table:
    """Show every task and metric that was measured at the last checkpoints, a column per sampler."""
    points = _sorted(finals(study, model, rate))
    step = {(point.sampler, point.rate): point.step for point in points}
    found: dict[tuple[str, str], dict[str, list[ResultRow]]] = {}
    for row in study.rows:
        if row.task != "cost" and row.model == model and step.get((row.sampler, row.rate)) == row.step:
            found.setdefault((row.task, row.metric), {}).setdefault(row.sampler, []).append(row)
    names = [point.sampler for point in points]
    columns = [Column("Task"), Column("Suite"), Column("Metric"), Column("n"), Column("Shots"), Column("Chance")]
    columns += [Column(label(name), "± standard error") for name in names]
    order = list(all_tasks())
    rows = []
    for task, metric in sorted(found, key=lambda key: (order.index(key[0]) if key[0] in order else len(order), key)):
        rows.append(_task_cells(task, metric, found[task, metric], names))
    notes = ("°: the 95 % confidence interval, over examples, holds the score of guessing, or lies below it.",)
    return Table(f"Every task: {model}, {100 * rate:g} % of the documents", tuple(columns), tuple(rows), notes)


def measure_name(study: StudyResults, measure: str) -> str:
    """Return a measure's title with "(k/n)" if it is the average of k of a suite's n scored tasks."""
    return title(measure) + (" ({}/{})".format(*study.partial[measure]) if measure in study.partial else "")


def _task_cells(
    task: str, metric: str, found: Mapping[str, Sequence[ResultRow]], names: Sequence[str]
) -> tuple[Cell, ...]:
    known, rows = all_tasks().get(task), [row for rows in found.values() for row in rows]
    sizes, shots = sorted({row.n for row in rows}), sorted({row.n_shot for row in rows})
    chance = known.chance_of(metric) if known else None
    cells = [
        Cell(task),
        Cell("Held-out text by domain" if task.startswith(DOMAIN) else title(known.suite if known else task)),
        Cell(metric),
        Cell(" – ".join(f"{n:,}" for n in (sizes if len(sizes) < 3 else [sizes[0], sizes[-1]])), sizes[0]),
        Cell(", ".join(map(str, shots)), shots[0]),
        NOTHING if chance is None else number(chance),
    ]
    for name in names:
        mine = found.get(name, [])
        if not mine:
            cells.append(NOTHING)
            continue
        value, error = float(np.mean([r.value for r in mine])), float(np.mean([r.stderr for r in mine]))
        low = float(np.mean([r.ci95_low for r in mine]))
        guessed = "°" if chance is not None and low <= chance else ""
        cells.append(Cell(f"{number(value, 2).text} ± {error:.2f}{guessed}", value))
    return tuple(cells)


def _suites(outcomes: Outcomes, point: Point) -> int:
    """Return how many suites stand behind a point's normalised numbers."""
    found = outcomes.get((*point.run, point.step))
    both = [one for one in (found.over_scaling, found.effective_size) if one] if found else []
    return max((len(one.terms) for one in both), default=0)


def _notes(study: StudyResults, outcomes: Outcomes, model: str, points: Sequence[Point]) -> list[str]:
    """Write the footnotes: what 100 % is, which suites were left out and why, what is missing."""
    mine: list[Outcome] = [found for p in points if p.sampler != FULL and (found := outcomes.get((*p.run, p.step)))]
    notes = []
    for larger in sorted({one.larger for one in mine if one.over_scaling}):
        notes.append(f"Over-scaling: 0 % is {model} on everything, 100 % is {larger} on everything.")
    for name, title_ in HEADLINES.items():
        left = {s: why for one in mine if (n := getattr(one, name)) for s, why in n.left_out.items()}
        notes += [f"{title_} leaves out {title(suite)}: {why}." for suite, why in left.items()]
        if not all(map(lower_is_better, measures(study, model))):  # perplexities alone want no comparison of sizes
            notes += sorted({f"{title_}: {one.missing[name]}." for one in mine if name in one.missing})
    absent = [SUITES[suite] for suite in SUITES if suite not in measures(study, model)]
    if absent and not all(map(lower_is_better, measures(study, model))):
        notes.append(f"Not measured: {', '.join(absent)}.")
    notes += [f"{SUITES[suite]} is not shown: {why}." for suite, why in study.dropped.items()]
    return notes


def _noise_notes(model: str, compared: Mapping[str, Comparison], bold: bool, headlines: bool) -> list[str]:
    """Write the footnotes on intervals and bold: what they hold, for which measures, and with how many seeds."""
    said, unknown = dict[str, list[str]](), list[str]()
    left_out = dict[str, list[str]]()
    for measure, one in compared.items():
        if sentence := left_out_in_words(one):
            left_out.setdefault(sentence, []).append(title(measure))
        if one.baseline in one.left_out:
            continue
        words = noise_in_words(model, one.noise, measure, one.seeds)
        (said.setdefault(words, []) if one.noise.decides else unknown).append(title(measure))
    notes = [f"{', '.join(names)}: {words[0].lower()}{words[1:]}" for words, names in said.items()]
    notes += [f"{', '.join(names)}. {sentence}" for sentence, names in left_out.items()]
    if unknown:
        notes.append(f"{', '.join(unknown)}: intervals over examples only; the noise between trainings is not known.")
    if bold:
        names = sorted({"everything" if one.baseline == FULL else label(one.baseline) for one in compared.values()})
        of = " (over-scaling and effective size: than everything)" if headlines else ""
        notes.append(
            f"Bold: better than {' or '.join(names) or 'everything'}{of} by a 95 % interval of the difference, which "
            "holds the noise between trainings."
        )
    elif any(one.noise.decides for one in compared.values()):
        notes.append("Nothing is bold: no sampler can be told to be better than the baseline.")
    return notes


def _sorted(points: Sequence[Point]) -> list[Point]:
    order = ordered(point.sampler for point in points)
    return sorted(points, key=lambda point: order.index(point.sampler))
