"""From metrics to one score per suite: mean of a task's metrics, of a group's tasks, of a suite's groups.

T5's rule (its `compute_avg_glue`): MNLI's two halves are one group of GLUE; and the harness's macro average for the
others. All metrics are in percent but perplexity and bits per byte.

Of a further suite, each metric that all of its tasks have is averaged; CORE is the mean of `centred` accuracies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from evaluate_suite.registry import CENTRED, EXTRA_SUITES, SUITES, EvaluationTask, by_suite, extra_suites
from evaluate_suite.results import ResultRow
from evaluate_suite.units import Estimates
from pipeline_steps.errors import StoreIncomplete


# Baselines of DCLM's first version, eval/eval_meta_data_v1.csv, where they differ from `chance`; for older tables
CORE_V1 = {"core_commonsense_qa": 20.0, "core_agi_eval_lsat_ar": 20.0, "core_bigbench_language_identification": 9.1}


def suite_scores(
    rows: Iterable[ResultRow], partial: bool = False, suites: Mapping[str, list[EvaluationTask]] | None = None
) -> dict[str, float]:
    """Score of each suite that was measured, from the rows of one checkpoint.

    Args:
        rows: of registered tasks; others are passed over.
        partial: average a suite of which some scored tasks are missing over those that are there.
        suites: tasks by suite; the paper's ten unless given.

    Raises:
        StoreIncomplete: a suite was measured in part; names what is missing. A partial average is not the suite's.
    """
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        found.setdefault(row.task, {})[row.metric] = row.value
    scores = {}
    for suite, tasks in (suites or by_suite()).items():
        wanted = [task for task in tasks if task.scored]
        there = [task for task in wanted if set(task.metrics) <= found.get(task.name, {}).keys()]
        if not there:
            continue
        if len(there) < len(wanted) and not partial:
            missing = [task.name for task in wanted if task not in there]
            raise StoreIncomplete(f"{_missing(suite, missing, len(wanted))}, or ask for a partial average")
        scores[suite] = _mean_of_groups(there, found)
    return scores


def extra_scores(rows: Iterable[ResultRow], suite: str) -> dict[str, Estimates]:
    """Return the estimates of a further suite by metric, under its name; CORE's with older baselines as core_v1 too.

    Each metric that all tasks have is averaged over tasks, which count alike.

    Args:
        rows: of one checkpoint.
        suite: key of `EXTRA_SUITES`.

    Raises:
        StoreIncomplete: a task is missing, without which the average would be another.
    """
    tasks, found = extra_suites()[suite], {(row.task, row.metric): (row.value, row.stderr, row.n) for row in rows}
    metrics = [name for name in tasks[0].reported if all(name in task.reported for task in tasks)]
    missing = [task.name for task in tasks if any((task.name, name) not in found for name in metrics)]
    if missing:
        raise StoreIncomplete(_missing(suite, missing, len(tasks)))
    scores = {suite: {name: mean_of([found[task.name, name] for task in tasks]) for name in metrics}}
    if suite == "core_v2":
        older = [
            centred(found[task.name, task.metrics[0]], CORE_V1.get(task.name, task.chance or 0.0)) for task in tasks
        ]
        scores["core_v1"] = {CENTRED: mean_of(older)}
    return scores


def centred(estimate: tuple[float, float, int], chance: float) -> tuple[float, float, int]:
    """Return (value - chance) / (100 - chance) in percent of value, standard error and n, which are in percent too."""
    value, stderr, n = estimate
    return 100 * (value - chance) / (100 - chance), 100 * stderr / (100 - chance), n


def mean_of(parts: Sequence[tuple[float, float, int]]) -> tuple[float, float, int]:
    """Return the mean of independent estimates that count alike, its standard error, and the number of all units."""
    values, errors, counts = (np.array(column) for column in zip(*parts, strict=True))
    return float(values.mean()), float(np.sqrt((errors**2).sum()) / len(parts)), int(counts.sum())


def _missing(suite: str, missing: list[str], tasks: int) -> str:
    more = f" and {len(missing) - 5} others" if len(missing) > 5 else ""
    return (
        f"{(SUITES | EXTRA_SUITES)[suite]}: {tasks - len(missing)} of {tasks} tasks were measured; "
        f"{', '.join(missing[:5])}{more} are missing: measure them"
    )


def task_score(task: EvaluationTask, metrics: Mapping[str, float]) -> float:
    """Mean of a task's metrics."""
    return float(np.mean([metrics[name] for name in task.metrics]))


def _mean_of_groups(tasks: list[EvaluationTask], found: Mapping[str, Mapping[str, float]]) -> float:
    groups: dict[str, list[float]] = {}
    for task in tasks:
        groups.setdefault(task.group, []).append(task_score(task, found[task.name]))
    return float(np.mean([np.mean(scores) for scores in groups.values()]))
