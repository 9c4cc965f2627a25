"""The results of many runs, in the form that figures and tables are made from.

    results.jsonl, one or many -> rows -> checkpoints: a score per measure, over seeds -> over-scaling, size

A *measure* is a suite of `registry.SUITES`, a perplexity on text that is not registered, the mean over domains of a
metric of `results.BITS`, or a number of `HEADLINES`; a *run* is a model, a sampler and the rate that was asked for.
Rows of costs have the task "cost" and a metric of `evaluate_suite.checkpoint`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import TypeVar

import fsspec
import numpy as np

from evaluate_suite.averages import suite_scores
from evaluate_suite.checkpoint import SCORING_HOURS, TRAINING_HOURS
from evaluate_suite.decide import Decisions, decisions
from evaluate_suite.model_sizes import sizes
from evaluate_suite.noise_levels import recipe_numbers
from evaluate_suite.normalised import LOWER_IS_BETTER
from evaluate_suite.recipe_scores import training_noise
from evaluate_suite.registry import (
    EXTRA_SUITES,
    SUITES,
    EvaluationTask,
    asked_for_a_further_suite,
    by_suite,
    registry,
)
from evaluate_suite.report.scores import Z95, Score, metric_of, over_seeds, table, with_noise
from evaluate_suite.results import BITS, DOMAIN, MACRO, ResultRow, read_results
from pipeline_steps.errors import CorpusError, StoreIncomplete, StoreMismatch
from pipeline_steps.samplers import FULL


Run = tuple[str, str, float]  # model, sampler, rate
Key = TypeVar("Key")
HEADLINES = {"over_scaling": "Over-scaling", "effective_size": "Effective model size"}
UNITS = {"over_scaling": "%", "effective_size": "M parameters"}
_COSTS = "costs.jsonl"  # beside the results: hours differ from run to run
_TITLES = {"in_distribution": "In-distribution perplexity", "high_quality": "High-quality perplexity"}
_TITLES |= {"core_v1": "CORE, older baselines"}
_TITLES |= {metric: f"{name}, mean over domains" for metric, name in BITS.items()}


@dataclass(frozen=True)
class Point:
    """What was measured of a run at one step.

    Attributes:
        sampler: its name.
        rate: share of the documents that was asked for; see `ResultRow.rate`.
        model: architecture.
        step: optimizer steps.
        encoder_tokens: encoder positions the model has been trained on.
        epoch: repetitions of the selection.
        scores: by measure.
    """

    sampler: str
    rate: float
    model: str
    step: int
    encoder_tokens: int
    epoch: float
    scores: Mapping[str, Score]

    @property
    def run(self) -> Run:
        """The run that this is a checkpoint of."""
        return self.model, self.sampler, self.rate


@dataclass(frozen=True, eq=False)
class StudyResults:
    """Everything that was measured.

    Attributes:
        rows: as they were read, without repetitions; those of costs too.
        checkpoints: sorted by model, sampler, rate and step.
        partial: suites that are averaged over some of their scored tasks: (k, n).
        dropped: suites that are not averaged at all, and why.
        scoring_hours: accelerator hours of scoring the corpus, by sampler.
        training_hours: accelerator hours of training on everything, by model.
        evaluations: folders of the units that `winnow evaluate` measured, which hold the losses of single windows.
    """

    rows: tuple[ResultRow, ...]
    checkpoints: tuple[Point, ...]
    partial: Mapping[str, tuple[int, int]]
    dropped: Mapping[str, str]
    scoring_hours: Mapping[str, float]
    training_hours: Mapping[str, float]
    evaluations: tuple[str, ...] = ()

    def costs(self, metric: str) -> dict[Run, float]:
        """Return a metric of the rows of costs by run, mean over seeds."""
        return _costs(self.rows, metric, lambda row: (row.model, row.sampler, row.rate))

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        """The parameters of the models whose size is known."""
        return sizes(self.rows, (point.model for point in self.checkpoints))

    @cached_property
    def decisions(self) -> Decisions:
        """What the measurements can decide."""
        return decisions(self.rows)


def read_measurements(paths: Sequence[str], partial: bool = False) -> StudyResults:
    """Read files of results, or all `results.jsonl` of folders, with the `costs.jsonl` beside them.

    Args:
        paths: files and folders, any fsspec paths.
        partial: average suites that lack tasks, over the tasks that every checkpoint with the suite has.

    Raises:
        StoreIncomplete: nothing is there, or a suite is incomplete and `partial` is not set.
        StoreMismatch: one number was measured twice with different outcomes, or a file holds no results.
    """
    rows: dict[tuple[str | float, ...], tuple[ResultRow, str]] = {}
    for path in [file for given in paths for file in result_files(given)]:
        for row in read_results(path):
            key = (row.sampler, row.rate, row.model, row.seed, row.step, row.task, row.metric)
            known, where = rows.setdefault(key, (row, path))
            if not known.repeats(row):
                raise StoreMismatch(
                    f"{row.task} {row.metric} of {row.sampler}, {row.model}, seed {row.seed}, step {row.step:,} is "
                    f"{known.value:g} in {where} and {row.value:g} in {path}: leave one of the files out"
                )
    if not rows:
        raise StoreIncomplete(f"no results in {', '.join(paths)}: winnow evaluate writes results.jsonl")
    return measurements_of([row for row, _ in rows.values()], partial)


def result_files(path: str) -> list[str]:
    """List the files of results and costs in a folder, or a file of results and the costs beside it.

    Raises:
        StoreIncomplete: there are none.
        CorpusError: the folder cannot be listed.
    """
    try:
        fs, root = fsspec.core.url_to_fs(path)
        if fs.isdir(root):
            found = sorted(name for name in fs.find(root) if name.rsplit("/", 1)[-1] in ("results.jsonl", _COSTS))
        else:
            beside = f"{root.rpartition('/')[0]}/{_COSTS}"
            found = [name for name in dict.fromkeys((root, beside)) if fs.exists(root) and fs.exists(name)]
    except (OSError, ImportError, ValueError) as error:
        raise CorpusError(f"{path} cannot be listed: {error}") from error
    if not found:
        raise StoreIncomplete(f"no results in {path}: give a results.jsonl, or a folder that holds one")
    return [name if "://" not in path else fs.unstrip_protocol(name) for name in found]


def measurements_of(rows: Iterable[ResultRow], partial: bool = False) -> StudyResults:
    """Bring rows into the form of `StudyResults`; raises as `read_measurements`."""
    rows = tuple(sorted(rows))
    measured = [row for row in rows if row.task != "cost"]
    groups = {key: list(group) for key, group in groupby(sorted(measured, key=_of_seed), key=_of_seed)}
    aside = asked_for_a_further_suite({row.task for row in measured})
    counted = {key: [row for row in group if row.task not in aside] for key, group in groups.items()}
    common, dropped = common_tasks(counted.values()) if partial else (None, {})
    single: dict[tuple[str, str, float, int], list[tuple[ResultRow, dict[str, Score]]]] = defaultdict(list)
    for key, group in groups.items():
        row = group[0]
        single[row.model, row.sampler, row.rate, row.step].append((row, scores_of_seed(counted[key], common)))
    checkpoints = [
        Point(
            sampler=sampler,
            rate=rate,
            model=model,
            step=step,
            encoder_tokens=seeds[0][0].encoder_tokens,
            epoch=float(np.mean([row.epoch for row, _ in seeds])),
            scores=over_seeds([scores for _, scores in seeds]),
        )
        for (model, sampler, rate, step), seeds in sorted(single.items())
    ]
    scored = {suite: sum(task.scored for task in tasks) for suite, tasks in by_suite().items()}
    there = {suite: sum(registry()[name].suite == suite for name in common or ()) for suite in SUITES}
    return StudyResults(
        rows=rows,
        checkpoints=tuple(_with_noise(checkpoints, measured, rows)),
        partial={s: (there[s], scored[s]) for s in SUITES if 0 < there[s] < scored[s]},
        dropped=dropped,
        scoring_hours=_costs(rows, SCORING_HOURS, lambda row: row.sampler),
        training_hours=_costs([row for row in rows if row.sampler == FULL], TRAINING_HOURS, lambda row: row.model),
    )


def finals(study: StudyResults, model: str | None = None, rate: float | None = None) -> list[Point]:
    """Return the last checkpoint of each run; of one model; at one rate, where training on everything is at any."""
    last = {point.run: point for point in study.checkpoints}
    return [
        point
        for point in last.values()
        if model in (None, point.model) and (rate in (None, point.rate) or point.sampler == FULL)
    ]


def rates(study: StudyResults, model: str | None = None) -> list[float]:
    """Return the rates that samplers were trained at, in ascending order."""
    return sorted({point.rate for point in finals(study, model) if point.sampler != FULL})


def references(study: StudyResults) -> dict[str, Point]:
    """Return the last checkpoint of the run on everything, by model, from small to large."""
    found = {point.model: point for point in finals(study) if point.sampler == FULL}
    return {model: found[model] for model in models(study) if model in found}


def models(study: StudyResults) -> list[str]:
    """Return the models from small to large; those of unknown size come last."""
    names = {point.model for point in study.checkpoints}
    return sorted(names, key=lambda name: (study.sizes.get(name, float("inf")), name))


def measures(study: StudyResults, model: str | None = None) -> list[str]:
    """Return the measures of the last checkpoints: the ten suites in order, then bits and perplexities by name."""
    there = {measure for point in finals(study, model) for measure in point.scores}
    return [suite for suite in SUITES if suite in there] + sorted(there - SUITES.keys())


def title(measure: str) -> str:
    """Return the display name of a measure."""
    known = HEADLINES | SUITES | EXTRA_SUITES | _TITLES
    return known.get(measure) or f"Perplexity, {measure}"


def unit(measure: str) -> str:
    """Return the unit of a measure; a perplexity has none."""
    return UNITS.get(measure) or ("" if lower_is_better(measure) else "points")


def lower_is_better(measure: str) -> bool:
    """Return whether a lower value is better, which is true of perplexities and bits only."""
    return measure in LOWER_IS_BETTER or (measure not in SUITES and measure not in HEADLINES)


def common_tasks(groups: Iterable[Sequence[ResultRow]]) -> tuple[set[str], dict[str, str]]:
    """Find the tasks that every checkpoint with any task of their suite has: only averages of the same tasks compare.

    Returns the tasks, and the suites without any such task with the reason why they are dropped.
    """
    common: dict[str, set[str]] = {}
    for group in groups:
        there = _complete(group)
        for suite in {registry()[name].suite for name in there}:
            mine = {name for name in there if registry()[name].suite == suite}
            common[suite] = common.get(suite, mine) & mine
    dropped = {suite: "no task was measured of all runs" for suite, tasks in common.items() if not tasks}
    return set().union(*common.values()), dropped


def scores_of_seed(rows: Sequence[ResultRow], common: set[str] | None) -> dict[str, Score]:
    """Return the score of each measure of one checkpoint of one seed.

    Args:
        rows: the rows of that checkpoint.
        common: the tasks to average, if not all are wanted.

    Raises:
        StoreIncomplete: a suite lacks tasks; names the run.
    """
    kept = [row for row in rows if common is None or row.task not in registry() or row.task in common]
    try:
        values = suite_scores(kept, partial=common is not None)
    except StoreIncomplete as error:
        run = rows[0]
        raise StoreIncomplete(
            f"{run.sampler} at {run.rate:.3g}, {run.model}, seed {run.seed}, step {run.step:,}: {error} (--partial)"
        ) from error
    found: dict[str, dict[str, ResultRow]] = defaultdict(dict)
    for row in kept:
        found[row.task][row.metric] = row
    scores = {}
    for suite, value in values.items():
        tasks = [t for t in by_suite()[suite] if t.scored and set(t.metrics) <= found[t.name].keys()]
        only = found[tasks[0].name][tasks[0].metrics[0]]
        stderr = _stderr(tasks, found)
        ends = (only.ci95_low, only.ci95_high) if len(tasks) == len(tasks[0].metrics) == 1 else _ends(value, stderr)
        scores[suite] = Score(value, stderr, *ends, {rows[0].seed: value})
    for row in kept:
        if row.task not in registry() and row.metric == "perplexity":
            scores[row.task] = _of_row(row)
        elif row.task == f"{DOMAIN}{MACRO}" and row.metric in BITS:
            scores[row.metric] = _of_row(row)
    return scores


def _with_noise(checkpoints: Sequence[Point], measured: Sequence[ResultRow], rows: Sequence[ResultRow]) -> list[Point]:
    """Put the noise between trainings into the scores of each run's last checkpoint, model by model."""
    numbers, places = recipe_numbers(rows), {point.run: place for place, point in enumerate(checkpoints)}
    last_rows = {_of_seed(row)[:4]: row for row in measured}
    found = list(checkpoints)
    for model in {point.model for point in checkpoints}:
        ends = [checkpoints[place] for run, place in places.items() if run[0] == model]
        noise = {}
        for measure in set().union(*(point.scores for point in ends)):
            those = [point for point in ends if measure in point.scores]
            last = [last_rows[*point.run, seed] for point in those for seed in point.scores[measure].by_seed]
            value_RK = table((point.scores[measure] for point in those), measure)
            noise[measure] = training_noise(value_RK, metric_of(measure), last, numbers)
        for point in ends:
            scores = {name: with_noise(score, name, noise[name]) for name, score in point.scores.items()}
            found[places[point.run]] = replace(point, scores=scores)
    return found


def _of_row(row: ResultRow) -> Score:
    return Score(row.value, row.stderr, row.ci95_low, row.ci95_high, {row.seed: row.value})


def _complete(rows: Iterable[ResultRow]) -> set[str]:
    """Return the scored tasks whose metrics are all there."""
    found = defaultdict(set)
    for row in rows:
        found[row.task].add(row.metric)
    scored = {name: task.metrics for name, task in registry().items() if task.scored}
    return {name for name in found if name in scored and set(scored[name]) <= found[name]}


def _stderr(tasks: Sequence[EvaluationTask], found: Mapping[str, Mapping[str, ResultRow]]) -> float:
    """Return the error of a suite: tasks are independent; a task's metrics share its examples and count as one."""
    groups: dict[str, list[float]] = defaultdict(list)
    for task in tasks:
        groups[task.group].append(float(np.mean([found[task.name][metric].stderr for metric in task.metrics])))
    return float(np.sqrt(sum(np.square(errors).sum() / len(errors) ** 2 for errors in groups.values())) / len(groups))


def _ends(value: float, stderr: float) -> tuple[float, float]:
    return value - Z95 * stderr, value + Z95 * stderr


def _of_seed(row: ResultRow) -> tuple[str, str, float, int, int]:
    return row.model, row.sampler, row.rate, row.seed, row.step


def _costs(rows: Iterable[ResultRow], metric: str, key: Callable[[ResultRow], Key]) -> dict[Key, float]:
    """Average a metric of costs over the runs of each key. Costs add up: a run's are in the row of its last step."""
    last = {_of_seed(row)[:4]: row for row in rows if (row.task, row.metric) == ("cost", metric)}
    found: dict[Key, list[float]] = defaultdict(list)
    for row in last.values():
        found[key(row)].append(row.value)
    return {one: float(np.mean(values)) for one, values in found.items()}
