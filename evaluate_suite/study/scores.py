"""One score per measure of a checkpoint: from the rows of one seed, then over seeds, each with its error."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evaluate_suite.averages import suite_scores
from evaluate_suite.registry import EvaluationTask, by_suite, registry
from evaluate_suite.results import ResultRow
from pipeline_steps.errors import StoreIncomplete


Z95 = 1.959964  # 97.5 % quantile of the normal distribution


@dataclass(frozen=True)
class Score:
    """One measure of one checkpoint.

    Attributes:
        value: mean over seeds.
        stderr: of the examples measured on and, from two seeds on, of the seeds.
        low: lower end of the 95 % confidence interval.
        high: upper end.
        sd: standard deviation between seeds; None with fewer than two.
        seeds: how many.
    """

    value: float
    stderr: float
    low: float
    high: float
    sd: float | None
    seeds: int


def common_tasks(groups: Iterable[Sequence[ResultRow]]) -> tuple[set[str], dict[str, str]]:
    """Tasks that every checkpoint with any task of their suite has: averages of different tasks do not compare."""
    common: dict[str, set[str]] = {}
    for group in groups:
        there = _there(group)
        for suite in {registry()[name].suite for name in there}:
            mine = {name for name in there if registry()[name].suite == suite}
            common[suite] = common.get(suite, mine) & mine
    dropped = {suite: "no task was measured of all runs" for suite, tasks in common.items() if not tasks}
    return set().union(*common.values()), dropped


def scores_of_seed(rows: Sequence[ResultRow], common: set[str] | None) -> dict[str, Score]:
    """Score of each measure of one checkpoint of one seed.

    Args:
        rows: of that checkpoint.
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
        scores[suite] = Score(value, stderr, *ends, None, 1)
    for row in kept:
        if row.task not in registry() and row.metric == "perplexity":
            scores[row.task] = Score(row.value, row.stderr, row.ci95_low, row.ci95_high, None, 1)
    return scores


def over_seeds(seeds: Sequence[Mapping[str, Score]]) -> dict[str, Score]:
    """Mean over seeds of each measure that one of them has."""
    pooled = {}
    for measure in sorted(set().union(*seeds)):
        scores = [one[measure] for one in seeds if measure in one]
        pooled[measure] = scores[0] if len(scores) == 1 else _pool(scores)
    return pooled


def _there(rows: Iterable[ResultRow]) -> set[str]:
    """Tasks that count, all of whose metrics are there."""
    found = defaultdict(set)
    for row in rows:
        found[row.task].add(row.metric)
    scored = {name: task.metrics for name, task in registry().items() if task.scored}
    return {name for name in found if name in scored and set(scored[name]) <= found[name]}


def _stderr(tasks: Sequence[EvaluationTask], found: Mapping[str, Mapping[str, ResultRow]]) -> float:
    """Of a suite's score: tasks are independent, a task's metrics are of the same examples and count as one."""
    groups: dict[str, list[float]] = defaultdict(list)
    for task in tasks:
        groups[task.group].append(float(np.mean([found[task.name][metric].stderr for metric in task.metrics])))
    return float(np.sqrt(sum(np.square(errors).sum() / len(errors) ** 2 for errors in groups.values())) / len(groups))


def _pool(scores: Sequence[Score]) -> Score:
    """Seeds are measured on the same examples: that error does not shrink with their number, theirs does."""
    values = [score.value for score in scores]
    value, sd = float(np.mean(values)), float(np.std(values, ddof=1))
    stderr = float(np.hypot(np.mean([score.stderr for score in scores]), sd / len(scores) ** 0.5))
    return Score(value, stderr, *_ends(value, stderr), sd, len(scores))


def _ends(value: float, stderr: float) -> tuple[float, float]:
    return value - Z95 * stderr, value + Z95 * stderr
