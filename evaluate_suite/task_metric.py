"""The metrics of a task as an `evaluate.Metric`, which needs no network.

It is a module of its own because importing `evaluate` takes seconds.
"""

from __future__ import annotations

from typing import Any

import datasets
import evaluate

from evaluate_suite.metrics import METRICS, TaskAnswers, compute
from evaluate_suite.registry import EvaluationTask, registry
from pipeline_steps.errors import InvalidCut


class TaskMetric(evaluate.Metric):
    """The metrics of one of the 111 tasks: `TaskMetric("mrpc").compute(predictions=..., references=...)`.

    Predictions are texts, references lists of accepted texts, `groups` (optional) names of what belongs together.
    Returns percentages by metric.

    Raises:
        InvalidCut: no such task, or one that is measured by perplexity.
    """

    def __init__(self, task: str, **settings: Any) -> None:
        if task not in registry():
            raise InvalidCut(f"no task {task!r}: winnow evaluate --list names all 111")
        self.task: EvaluationTask = registry()[task]
        if self.task.protocol == "perplexity":
            raise InvalidCut(f"{task} is measured by perplexity: see evaluate_suite.perplexity")
        # Others of ranked answers are computed from their likelihoods: see `evaluate_suite.choices`
        self.names = [name for name in self.task.reported if name in METRICS]
        super().__init__(config_name=task, keep_in_memory=True, **settings)

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=f"{', '.join(self.names)} of {self.task.name}, as T5 computes them",
            citation="Raffel et al. 2020",
            inputs_description="predictions: texts; references: lists of accepted texts; groups: names",
            features=datasets.Features({"predictions": text, "references": datasets.Sequence(text), "groups": text}),
        )

    def compute(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> dict[str, float] | None:
        """Return percentages by metric; `groups` may be left out."""
        if predictions is not None and "groups" not in kwargs:
            kwargs["groups"] = [str(number) for number in range(len(predictions))]
        result: dict[str, float] | None = super().compute(predictions=predictions, references=references, **kwargs)
        return result

    def _compute(self, predictions: list[str], references: list[list[str]], groups: list[str]) -> dict[str, float]:
        answers = TaskAnswers(predictions, references, groups, self.task.labels)
        return {name: compute(name, answers) for name in self.names}
