"""The paper's 111 tasks, as data: one entry a task in `evaluate_suite/tasks/*.yaml`.

1 C4 perplexity, 1 high-quality perplexity, 11 GLUE, 8 SuperGLUE, 1 CNN/DailyMail, 1 SQuAD, 57 MMLU, 23 BIG-Bench Hard,
4 reasoning, 4 question answering; the ten suites are what over-scaling and effective model size average over. A task
without public labels is registered and not scored.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from pipeline_steps.errors import InvalidCut


SUITES = {
    "c4_perplexity": "C4 perplexity",
    "hq_perplexity": "High-quality perplexity",
    "glue": "GLUE",
    "superglue": "SuperGLUE",
    "cnn_dailymail": "CNN/DailyMail",
    "squad": "SQuAD",
    "mmlu": "MMLU",
    "bbh": "BIG-Bench Hard",
    "reasoning": "Reasoning",
    "qa": "Question answering",
}
PROTOCOLS = ("perplexity", "finetune", "few_shot")


@dataclass(frozen=True)
class EvaluationTask:
    """One of the 111 tasks, or data that a suite is trained on beside them.

    Attributes:
        name: name that no other task has.
        suite: key of `SUITES`.
        protocol: how it is measured, one of `PROTOCOLS`.
        dataset: Hub id.
        split: the split that is measured on.
        metrics: metrics of T5 or the harness, whose mean is the task's score.
        beside: further metrics, which do not count.
        direction: "higher" or "lower" is better.
        source: place in the paper.
        config: configuration of the dataset; the task's name unless given.
        revision: revision of the dataset.
        group: what it is averaged with before the suite is; the task itself unless given.
        prefix: what T5's inputs begin with; the task's name unless given.
        format: how a row becomes text.
        fields: fields of a row, in T5's order.
        labels: target texts by class, or the answers that are ranked.
        parts: configurations whose mean is the task.
        shots: exemplars in the prompt.
        mode: "direct" or "cot", whether exemplars reason before they answer.
        chance: score of guessing, in the metric's unit (percent); None for perplexity.
        scored: whether there are public labels to score with.
        harness: file of the lm-eval task, its own or in `evaluate_suite/harness`, {part} standing for a configuration.
        cot_harness: the same with a chain of thought, if the suite is measured in both ways.
        note: what a reader of the number should know.
    """

    name: str
    suite: str
    protocol: str
    dataset: str
    split: str
    metrics: tuple[str, ...]
    direction: str
    source: str
    config: str = ""
    revision: str = "main"
    group: str = ""
    prefix: str = ""
    format: str = ""
    fields: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    shots: int = 0
    mode: str = ""
    chance: float | None = None
    beside: tuple[str, ...] = ()
    scored: bool = True
    harness: str = ""
    cot_harness: str = ""
    note: str = field(default="", compare=False)

    @property
    def reported(self) -> tuple[str, ...]:
        """Return all metrics, those that do not count last."""
        return self.metrics + self.beside


@cache
def registry() -> dict[str, EvaluationTask]:
    """Return all tasks by name, in the order of `SUITES`."""
    tasks = [task for file in _files() for task in _read(file)]
    order = list(SUITES)
    return {task.name: task for task in sorted(tasks, key=lambda task: order.index(task.suite))}


@cache
def training_data(suite: str) -> list[EvaluationTask]:
    """Return the data sets that a suite is fine-tuned on beside the training splits of its tasks."""
    return [task for file in _files() for task in _read(file, "training") if task.suite == suite]


def by_suite() -> dict[str, list[EvaluationTask]]:
    """Return the tasks of each suite."""
    return {suite: [task for task in registry().values() if task.suite == suite] for suite in SUITES}


def find_tasks(names: Iterable[str]) -> list[EvaluationTask]:
    """Return tasks by their names or those of their suites, in the registry's order.

    Raises:
        InvalidCut: there is no such task; names those that are spelled nearly alike.
    """
    tasks, wanted = registry(), set()
    suites = {task.suite for task in tasks.values()}
    for name in names:
        if name not in tasks and name not in suites:
            near = difflib.get_close_matches(name, [*suites, *tasks], n=3)
            said = f"did you mean {' or '.join(near)}?" if near else "winnow evaluate --list names all 111"
            raise InvalidCut(f"no task or suite {name!r}: {said}")
        wanted |= {task.name for task in tasks.values() if name in (task.name, task.suite)}
    return [task for task in tasks.values() if task.name in wanted]


def _files() -> list[Any]:
    folder = files("evaluate_suite").joinpath("tasks")
    return sorted((entry for entry in folder.iterdir() if entry.name.endswith(".yaml")), key=lambda entry: entry.name)


def _read(file: Any, section: str = "tasks") -> list[EvaluationTask]:
    content = yaml.load(file.read_text(), yaml.CSafeLoader)
    lists = {one.name for one in fields(EvaluationTask) if str(one.type).startswith("tuple")}
    tasks = []
    for name, entry in content.get(section, {}).items():
        values = content["defaults"] | (entry or {})
        values = {key: tuple(value) if key in lists else value for key, value in values.items()}
        values = {"config": name, "group": name, "prefix": name} | values
        tasks.append(EvaluationTask(name=name, **values))
    return tasks
