"""The paper's tables, from a study: Table 1, its terms, costs, ranks, overlaps, tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from evaluate_suite.agreement import overlap, rank_change
from evaluate_suite.figures.cost import break_even, total_hours
from evaluate_suite.figures.quality import Outcomes, estimate
from evaluate_suite.registry import SUITES, registry
from evaluate_suite.results import ResultRow
from evaluate_suite.study.outcomes import HEADLINES, UNITS, Outcome
from evaluate_suite.study.points import Point, Study, finals, lower_is_better, measures, nominal_rate, title, unit
from evaluate_suite.study.table_data import NOTHING, Cell, Column, Table, mark_best, number
from pipeline_steps.errors import InvalidCut
from pipeline_steps.samplers import FULL, label, ordered


AMORTISED = 10  # runs that share the scores: the paper trains 5 rates x 2 models on each


def main_table(study: Study, outcomes: Outcomes, model: str, rate: float) -> Table:
    """Table 1: a row per sampler at one rate and everything; both normalised numbers and all measures."""
    points = _sorted(finals(study, model, rate))
    there = [m for m in measures(study, model) if any(m in point.scores for point in points)]
    headlines = [name for name in HEADLINES if any(estimate(point, outcomes, name) for point in points)]
    columns = (
        Column("Sampler"),
        *(Column(HEADLINES[name], UNITS[name], "higher") for name in headlines),
        *(Column(measure_name(study, m), unit(m), "lower" if lower_is_better(m) else "higher") for m in there),
    )
    used = {id(point): _suites(outcomes, point) for point in points}
    most = max(used.values(), default=0)
    rows = []
    for point in points:
        few = f" ({used[id(point)]} of {most} suites)" if 0 < used[id(point)] < most else ""
        cells = [Cell(label(point.sampler) + few)]
        cells += [_headline(point, outcomes, name) for name in headlines]
        for measure in there:
            score = point.scores.get(measure)
            cells.append(number(score.value, 2, score.low, score.high) if score else NOTHING)
        rows.append(cells)
    heading = f"{model}, {100 * rate:g} % of the documents"
    return Table(heading, columns, mark_best(columns, rows), tuple(_notes(study, outcomes, model, points)))


def terms_table(outcomes: Outcomes, model: str, rate: float, name: str) -> Table:
    """What each suite alone says: the terms that a number of `HEADLINES` is the mean of."""
    found = {
        sampler: normalised
        for (one, sampler, at, _), outcome in sorted(outcomes.items(), key=lambda item: item[0][3])
        if (one, at) == (model, rate) and sampler != FULL and (normalised := getattr(outcome, name))
    }
    suites = [suite for suite in SUITES if any(suite in one.terms for one in found.values())]
    scale = 1e-6 if name == "effective_size" else 1.0
    mean = "Mean" if name == "over_scaling" else "Geometric mean"
    columns = (
        Column("Sampler"),
        *(Column(SUITES[s], UNITS[name], "higher") for s in suites),
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
        rows.append([*cells, number(scale * one.value, 1, scale * one.low, scale * one.high)])
    notes = ["≥ and ≤: beyond four times the largest or a quarter of the smallest reference, cut off there."]
    cut = name == "effective_size" and any(one.censored for one in found.values())
    heading = f"{HEADLINES[name]} by suite: {model}, {100 * rate:g} % of the documents"
    return Table(heading, columns, mark_best(columns, rows), tuple(notes if cut else ()))


def cost_table(scoring: Mapping[str, float], training: Mapping[str, float], runs: int = AMORTISED) -> Table:
    """Accelerator hours of scores, and how much of each model's training they must save: for one run, for `runs`."""
    models = sorted(training, key=lambda model: training[model])
    columns = [Column("Scorer"), Column("Scoring", "accelerator hours")]
    for model in models:
        columns += [
            Column(f"{model}: training on everything", "accelerator hours"),
            Column("break-even, 1 run", "% of training saved"),
            Column(f"break-even, {runs} runs", "% of training saved"),
            Column(f"total if half is saved, {runs} runs", "accelerator hours a run"),
        ]
    rows = []
    for name in ordered(scoring):
        hours = scoring[name]
        cells = [Cell(label(name)), number(hours, 2)]
        for model in models:
            shares = [100 * break_even(hours, training[model], n) for n in (1, runs)]
            cells += [number(training[model]), *(number(share) for share in shares)]
            cells.append(number(total_hours(0.5, hours, training[model], runs)))
        rows.append(cells)
    notes = ("Above 100 %, the scores cost more than the training they could save.",)
    return Table("What scores cost, and when they pay", tuple(columns), tuple(map(tuple, rows)), notes)


def rank_changes(study: Study, smaller: str, larger: str) -> dict[str, float]:
    """`agreement.rank_change` between two models over all measures and rates that every sampler has with both.

    Raises:
        InvalidCut: there are none.
    """
    points = {(p.model, p.sampler, p.rate): p for p in finals(study) if p.sampler != FULL}
    both = [{s for m, s, _ in points if m == model} for model in (smaller, larger)]
    samplers = ordered(both[0] & both[1])
    rates = sorted({rate for _, _, rate in points})
    shared = [
        (rate, measure)
        for rate in rates
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
    """Figure 6 as numbers."""
    columns = (Column("Sampler"), Column("Ranks gained", direction="higher"))
    names = sorted(changes, key=lambda name: -changes[name])
    rows = [[Cell(label(name)), number(changes[name], 2)] for name in names]
    return Table(f"Change of rank from {smaller} to {larger}", columns, mark_best(columns, rows))


def overlap_table(selections: Mapping[str, np.ndarray]) -> Table:
    """Documents that two selections share, per document of the smaller; masks bool [N] of one corpus.

    Raises:
        InvalidCut: they are of different corpora, or one is empty.
    """
    names = ordered(selections)
    columns = (Column("Selection"), Column("Kept", "%"), *(Column(label(name), "%") for name in names))
    rows = [
        (
            Cell(label(row)),
            number(100 * float(selections[row].mean())),
            *(number(100 * overlap(selections[row], selections[column])) for column in names),
        )
        for row in names
    ]
    notes = ("Selections that have nothing to do with each other share as much as the larger one keeps.",)
    return Table("Documents that selections share", columns, tuple(rows), notes)


def task_table(study: Study, model: str, rate: float) -> Table:
    """Every task and metric that was measured at the last checkpoints, a column per sampler."""
    points = _sorted(finals(study, model, rate))
    step = {(point.sampler, point.rate): point.step for point in points}
    found: dict[tuple[str, str], dict[str, list[ResultRow]]] = {}
    for row in study.rows:
        if row.task != "cost" and row.model == model and step.get((row.sampler, nominal_rate(row.rate))) == row.step:
            found.setdefault((row.task, row.metric), {}).setdefault(row.sampler, []).append(row)
    names = [point.sampler for point in points]
    columns = [Column("Task"), Column("Suite"), Column("Metric"), Column("n"), Column("Shots"), Column("Chance")]
    columns += [Column(label(name), "± standard error") for name in names]
    order = list(registry())
    rows = []
    for task, metric in sorted(found, key=lambda key: (order.index(key[0]) if key[0] in order else len(order), key)):
        rows.append(_task_cells(task, metric, found[task, metric], names))
    notes = ("°: the 95 % confidence interval holds the score of guessing, or lies below it.",)
    return Table(f"Every task: {model}, {100 * rate:g} % of the documents", tuple(columns), tuple(rows), notes)


def measure_name(study: Study, measure: str) -> str:
    """Its title; "(k/n)" if it is the average of k of a suite's n scored tasks."""
    return title(measure) + (" ({}/{})".format(*study.partial[measure]) if measure in study.partial else "")


def _task_cells(
    task: str, metric: str, found: Mapping[str, Sequence[ResultRow]], names: Sequence[str]
) -> tuple[Cell, ...]:
    known, rows = registry().get(task), [row for rows in found.values() for row in rows]
    sizes, shots = sorted({row.n for row in rows}), sorted({row.n_shot for row in rows})
    chance = known.chance if known and metric in known.reported else None
    cells = [
        Cell(task),
        Cell(title(known.suite if known else task)),
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


def _headline(point: Point, outcomes: Outcomes, name: str) -> Cell:
    found = estimate(point, outcomes, name)
    if found is None:
        return NOTHING
    value, low, high = found
    return number(value) if point.sampler == FULL else number(value, 1, low, high)  # exact by definition


def _suites(outcomes: Outcomes, point: Point) -> int:
    """Behind the number that is the mean of more."""
    found = outcomes.get((point.model, point.sampler, point.rate, point.step))
    both = [one for one in (found.over_scaling, found.effective_size) if one] if found else []
    return max((len(one.terms) for one in both), default=0)


def _notes(study: Study, outcomes: Outcomes, model: str, points: Sequence[Point]) -> list[str]:
    """Footnotes: what 100 % is, which suites were left out and why, what is missing, how many seeds."""
    mine: list[Outcome] = [
        found for p in points if p.sampler != FULL and (found := outcomes.get((p.model, p.sampler, p.rate, p.step)))
    ]
    notes = []
    for larger in sorted({one.larger for one in mine if one.over_scaling}):
        notes.append(f"Over-scaling: 0 % is {model} on everything, 100 % is {larger} on everything.")
    for name, title_ in HEADLINES.items():
        left = {s: why for one in mine if (n := getattr(one, name)) for s, why in n.left_out.items()}
        notes += [f"{title_} leaves out {SUITES[suite]}: {why}." for suite, why in left.items()]
        notes += sorted({f"{title_}: {one.missing[name]}." for one in mine if name in one.missing})
    absent = [SUITES[suite] for suite in SUITES if suite not in measures(study, model)]
    if absent:
        notes.append(f"Not measured: {', '.join(absent)}.")
    notes += [f"{SUITES[suite]} is not shown: {why}." for suite, why in study.dropped.items()]
    seeds = {score.seeds for point in points for score in point.scores.values()}
    if max(seeds, default=1) > 1:
        spread = {
            measure: max(s.sd for p in points if (s := p.scores.get(measure)) and s.sd is not None)
            for measure in measures(study, model)
            if any((s := p.scores.get(measure)) and s.sd is not None for p in points)
        }
        said = ", ".join(f"{title(measure)} {sd:.2f}" for measure, sd in spread.items())
        notes.append(f"Means over {min(seeds)} – {max(seeds)} seeds; largest standard deviation between them: {said}.")
    return notes


def _sorted(points: Sequence[Point]) -> list[Point]:
    order = ordered(point.sampler for point in points)
    return sorted(points, key=lambda point: order.index(point.sampler))
