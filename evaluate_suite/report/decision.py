"""Can this experiment decide? A section of a report: which tasks tell recipes apart, and which sizes agree."""

from __future__ import annotations

import math
from collections.abc import Sequence

from evaluate_suite.decide import NONE, SIGNAL, UNKNOWN, WEAK, Decisions, TaskReading, Transfer
from evaluate_suite.recipe_scores import lower_is_better, means_over
from evaluate_suite.registry import EXTRA_SUITES, SUITES, all_tasks
from evaluate_suite.report.table_data import NOTHING, Cell, Column, Table, minus, number
from evaluate_suite.results import DOMAIN, MACRO


_ROWS = 24  # of a table that is read at a glance; beyond, a suite's mean stands for its tasks
_NAMED = 4  # tasks that a sentence names
_ORDER = (SIGNAL, WEAK, NONE, UNKNOWN)
_SAID = {
    SIGNAL: "recipes differ by more than noise",
    WEAK: "recipes differ, but more of it is noise than signal",
    NONE: "there is no signal, and the order of recipes means nothing",
    UNKNOWN: "nothing can be told",
}


def name_of(task: str) -> str:
    """Return the display name of a task, or of a suite's mean."""
    suites = SUITES | EXTRA_SUITES | {f"{DOMAIN}{MACRO}": "Held-out text by domain"}
    return f"{suites[task]}, mean" if is_mean(task) else task


def is_mean(task: str) -> bool:
    """Return whether a task of results is a mean over others: a suite, or all domains."""
    return task == f"{DOMAIN}{MACRO}" or (task in SUITES | EXTRA_SUITES and task not in all_tasks())


def main_readings(found: Decisions) -> list[TaskReading]:
    """Return a reading per task and model, of the metric stated beforehand; of many tasks, the means over them."""
    ranking = [one for one in found.readings if one.ranks]
    there = {one.task for one in ranking}
    if len(ranking) > _ROWS:
        ranking = [one for one in ranking if not means_over(one.task) & there - all_tasks().keys()]
    return ranking


def sentences(found: Decisions) -> list[str]:
    """Say what the experiment can tell, in words: for each model its tasks, then what is missing."""
    readings = main_readings(found)
    if not readings:
        return ["There are no two recipes to compare: nothing is decided here."]
    said = []
    for model in found.models:
        mine = [one for one in readings if one.model == model]
        if all(one.verdict == UNKNOWN and one.noise.source != "seeds" for one in mine):
            continue  # `_missing` says that it takes seeds
        for verdict in _ORDER:
            if those := [one for one in mine if one.verdict == verdict]:
                what = "tasks and means" if any(is_mean(one.task) for one in mine) else "tasks"
                said.append(f"{model}: in {len(those)} of {len(mine)} {what} {_SAID[verdict]}: {_named(those)}.")
    ranking = {(one.task, one.metric) for one in readings}
    repeated = set[str]().union(*(means_over(one.task) for one in readings)) - all_tasks().keys()
    for smaller, larger in dict.fromkeys((one.smaller, one.larger) for one in found.transfers):
        alike = sorted(
            (one.agreement.accuracy, name_of(one.task))
            for one in found.transfers
            if (one.smaller, one.larger) == (smaller, larger)
            and (one.task, one.metric) in ranking
            and one.task not in repeated
        )
        if alike:
            mean = 100 * sum(share for share, _ in alike) / len(alike)
            low, high = (f"{name} {100 * share:.0f} %" for share, name in (alike[0], alike[-1]))
            over = f"{mean:.0f} %, mean over {len(alike)} tasks (from {low} to {high})" if len(alike) > 1 else low
            said.append(f"Pairs of recipes that {smaller} puts in the order of {larger}: {over}.")
    return said + _missing(found)


def _missing(found: Decisions) -> list[str]:
    """Say what the experiment lacks for an answer."""
    said = []
    if not any(one.noise.source == "seeds" for one in found.readings):
        earlier = sorted({one.noise.measured for one in found.readings if one.noise.source == "level"})
        one_size = " and one model size" if len(found.models) == 1 else ""
        said.append(
            f"Every run has one seed{one_size}. That says what these very models scored, and not how much of a "
            "difference between two of them is luck: another seed may turn their order around. Three seeds of every "
            "run (seeds: [0, 1, 2]) are enough for a first answer."
        )
        if earlier:
            said.append(f"Until then, pairs of recipes are held against the noise between {'; '.join(earlier)}.")
    if not found.transfers:
        lack = "The size of a model is not known" if found.unordered else "There is one model size"
        several = "There are no two sizes of one family that were trained on the same recipes"
        why = lack if len(found.models) == 1 or found.unordered else several
        said.append(f"{why}: nothing here says whether larger models would order the recipes alike.")
    return said


def tables(found: Decisions) -> list[Table]:
    """Return the tables of the metrics that were stated beforehand: what each task tells, and which sizes agree."""
    readings = main_readings(found)
    ranking = {(one.task, one.metric) for one in readings}
    transfers = [one for one in found.transfers if (one.task, one.metric) in ranking]
    judged = [one for one in readings if one.verdict != UNKNOWN or one.noise.source == "seeds"]
    return _readings_tables(found, judged, "What each task tells") + _transfers_tables(transfers)


def further_tables(found: Decisions) -> list[Table]:
    """Return the tables of every task and metric, if `tables` do not have them all."""
    known = [one for one in found.readings if one.noise.source or one.verdict != UNKNOWN]
    if len(known) <= sum(len(table.rows) for table in _readings_tables(found, main_readings(found), "")):
        known = [one for one in known if one.noise.source == "checkpoints"]
    if not known:
        return []
    return _readings_tables(found, known, "What every metric of every task tells") + _transfers_tables(found.transfers)


def _readings_tables(found: Decisions, readings: Sequence[TaskReading], title: str) -> list[Table]:
    by_model = {model: [one for one in readings if one.model == model] for model in found.models}
    return [readings_table(mine, f"{title}: {model}") for model, mine in by_model.items() if mine]


def _transfers_tables(transfers: Sequence[Transfer]) -> list[Table]:
    return [transfers_table(transfers)] if transfers else []


def readings_table(readings: Sequence[TaskReading], title: str) -> Table:
    """Make a table of one model's readings: a row per task and metric, the clearest first."""
    rows = sorted(readings, key=lambda one: (math.isnan(one.snr), -one.snr, one.task, one.metric))
    columns = (
        Column("Task"),
        Column("Metric"),
        Column("Verdict"),
        Column("SNR", direction="higher"),
        Column("SNR of equals"),
        Column("Reliability", direction="higher"),
        Column("Ranked right", "% of pairs", "higher"),
        Column("Undecided", "pairs"),
        Column("Noise"),
        Column("Reason"),
    )
    cells = tuple(
        (
            Cell(name_of(one.task)),
            Cell(one.metric.replace("_", " ")),
            Cell(one.verdict, _ORDER.index(one.verdict)),
            _finite(one.snr, 1),
            number(one.snr_of_equals, 1),
            _finite(one.reliability, 2),
            _finite(100 * one.right, 0),
            Cell(f"{one.undecided} of {one.pairs}", one.undecided / one.pairs),
            _noise(one),
            Cell(one.why or "–"),
        )
        for one in rows
    )
    notes = ["Noise of a perplexity is in percent of it."] if any(one.metric == "perplexity" for one in rows) else []
    if any(one.noise.source == "checkpoints" for one in rows):
        notes.append(
            "Checkpoints only: this noise is the scatter of single runs' last checkpoints around a line. It is less "
            "than that between seeds, so that SNR and reliability are lower than shown."
        )
    if left_out := sum(one.left_out for one in rows):
        notes.append(
            f"{left_out} scores are left out: their run has not reached the last step or has diverged, or they are of "
            "another number of questions, documents or windows than most."
        )
    return Table(title, columns, cells, tuple(notes))


def transfers_table(transfers: Sequence[Transfer]) -> Table:
    """Make a table of how well smaller models tell the largest model's order of recipes."""
    several = any(one.target != one.metric for one in transfers)
    few = any(one.agreement.p is not None for one in transfers)
    laws = any(one.extrapolated is not None for one in transfers)
    columns = [Column("Task"), Column("Metric"), *([Column("predicts")] if several else [])]
    columns += [
        Column("From"),
        Column("To"),
        Column("Pairs ordered alike", "%", "higher"),
        Column("of the pairs that the larger decides", "%", "higher"),
        Column("Kendall's τ", direction="higher"),
        *([Column("p if sizes were unrelated")] if few else []),
        *([Column("Pairs ordered alike by a power law", "%", "higher")] if laws else []),
    ]
    rows = []
    for one in transfers:
        found = one.agreement
        low, high = (100 * end for end in found.interval or (math.nan, math.nan))
        decided = found.decided_accuracy
        cells = [Cell(name_of(one.task)), Cell(one.metric.replace("_", " "))]
        cells += [Cell(one.target.replace("_", " "))] if several else []
        cells += [
            Cell(one.smaller),
            Cell(one.larger),
            number(100 * found.accuracy, 0, low, high),
            NOTHING if decided is None else Cell(f"{100 * decided:.0f} ({found.decided})", 100 * decided),
            NOTHING if found.tau is None else number(found.tau, 2, *(found.tau_interval or ())),
        ]
        cells += [] if not few else [NOTHING if found.p is None else number(found.p, 2)]
        cells += [] if not laws else [NOTHING if one.extrapolated is None else number(100 * one.extrapolated, 0)]
        rows.append(tuple(cells))
    notes = (
        "50 % is tossing a coin. In brackets: the number of pairs. Intervals are for other recipes, with all rates "
        "of a sampler drawn together; for fewer than 8 recipes or 4 samplers there is p instead.",
    )
    return Table("Do smaller models order the recipes as the largest does?", tuple(columns), tuple(rows), notes)


def _noise(one: TaskReading) -> Cell:
    """Show the noise in the metric's unit."""
    if math.isnan(one.noise.sd):
        return NOTHING
    value = 100 * one.noise.sd if one.metric == "perplexity" else one.noise.sd
    small = one.metric != "perplexity" and lower_is_better(one.metric)
    text = f"{value:.4f}" if small else f"{value:.2f}"
    unit = " %" if one.metric == "perplexity" else ""
    of = {"checkpoints": " (checkpoints only)", "level": " (earlier trainings)"}.get(one.noise.source, "")
    return Cell(f"{text}{unit}{of}", value)


def _finite(value: float, digits: int) -> Cell:
    if math.isinf(value):
        return Cell("∞")
    return NOTHING if math.isnan(value) else number(value, digits)


def _named(readings: Sequence[TaskReading]) -> str:
    """Name the first tasks, with the reason where they do not decide."""
    names = [
        name_of(one.task) + (f" ({minus(one.why)})" if one.verdict in (NONE, UNKNOWN) else "") for one in readings
    ]
    more = [f"{len(names) - _NAMED} others"] if len(names) > _NAMED else []
    return "; ".join([*names[:_NAMED], *more])
