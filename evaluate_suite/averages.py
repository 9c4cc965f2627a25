"""From metrics to one score per suite: mean of a task's metrics, of a group's tasks, of a suite's groups.

T5's rule (its `compute_avg_glue`): MNLI's two halves are one group of GLUE; and the harness's macro average for the
others. All metrics are in percent but perplexity.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from evaluate_suite.registry import SUITES, EvaluationTask, by_suite
from evaluate_suite.results import ResultRow
from pipeline_steps.errors import StoreIncomplete


def suite_scores(rows: Iterable[ResultRow], partial: bool = False) -> dict[str, float]:
    """Score of each suite that was measured, from the rows of one checkpoint.

    Args:
        rows: of registered tasks; others are passed over.
        partial: average a suite of which some scored tasks are missing over those that are there.

    Raises:
        StoreIncomplete: a suite was measured in part; names what is missing. A partial average is not the suite's.
    """
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        found.setdefault(row.task, {})[row.metric] = row.value
    scores = {}
    for suite, tasks in by_suite().items():
        wanted = [task for task in tasks if task.scored]
        there = [task for task in wanted if set(task.metrics) <= found.get(task.name, {}).keys()]
        if not there:
            continue
        if len(there) < len(wanted) and not partial:
            missing = [task.name for task in wanted if task not in there]
            more = f" and {len(missing) - 5} others" if len(missing) > 5 else ""
            raise StoreIncomplete(
                f"{SUITES[suite]}: {len(there)} of {len(wanted)} tasks were measured; {', '.join(missing[:5])}{more} "
                "are missing: measure them, or ask for a partial average"
            )
        scores[suite] = _mean_of_groups(there, found)
    return scores


def task_score(task: EvaluationTask, metrics: Mapping[str, float]) -> float:
    """Mean of a task's metrics."""
    return float(np.mean([metrics[name] for name in task.metrics]))


def _mean_of_groups(tasks: list[EvaluationTask], found: Mapping[str, Mapping[str, float]]) -> float:
    groups: dict[str, list[float]] = {}
    for task in tasks:
        groups.setdefault(task.group, []).append(task_score(task, found[task.name]))
    return float(np.mean([np.mean(scores) for scores in groups.values()]))
