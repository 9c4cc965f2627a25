"""The paper's 111 tasks, as data: one entry a task in `evaluate_suite/tasks/*.yaml`.

1 C4 perplexity, 1 high-quality perplexity, 11 GLUE, 8 SuperGLUE, 1 CNN/DailyMail, 1 SQuAD, 57 MMLU, 23 BIG-Bench Hard,
4 reasoning, 4 question answering; the ten suites are what over-scaling and effective model size average over. A task
without public labels is registered and not scored.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import cache
from importlib.resources import files
from typing import Any

import yaml


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
TRAINING = "training"  # protocol of data that is trained on and not measured


@dataclass(frozen=True)
class Task:
    """One of the 111.

    Attributes:
        name: unique.
        suite: key of `SUITES`.
        protocol: how it is measured, one of `PROTOCOLS`.
        dataset: Hub id.
        split: that is measured on.
        metrics: of T5 or the harness; a task's score is their mean.
        beside: further metrics, which do not count.
        direction: "higher" or "lower" is better.
        source: place in the paper.
        config: of the dataset; the task's name unless given.
        revision: of the dataset.
        group: what it is averaged with before the suite is; the task itself unless given.
        prefix: what T5's inputs begin with; the task's name unless given.
        format: how a row becomes text.
        fields: of a row, in T5's order.
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
        """All metrics."""
        return self.metrics + self.beside


@cache
def registry() -> dict[str, Task]:
    """All tasks by name, in the order of `SUITES`."""
    tasks = [task for file in _files() for task in _read(file)]
    order = list(SUITES)
    return {task.name: task for task in sorted(tasks, key=lambda task: order.index(task.suite))}


@cache
def training_data(suite: str) -> list[Task]:
    """Data sets a suite is fine-tuned on beside the training splits of its tasks."""
    return [task for file in _files() for task in _read(file, "training") if task.suite == suite]


def by_suite() -> dict[str, list[Task]]:
    """Tasks of each suite."""
    return {suite: [task for task in registry().values() if task.suite == suite] for suite in SUITES}


def _files() -> list[Any]:
    folder = files("evaluate_suite").joinpath("tasks")
    return sorted((entry for entry in folder.iterdir() if entry.name.endswith(".yaml")), key=lambda entry: entry.name)


def _read(file: Any, section: str = "tasks") -> list[Task]:
    content = yaml.safe_load(file.read_text())
    lists = {one.name for one in fields(Task) if str(one.type).startswith("tuple")}
    tasks = []
    for name, entry in content.get(section, {}).items():
        values = content["defaults"] | (entry or {})
        values = {key: tuple(value) if key in lists else value for key, value in values.items()}
        values = {"config": name, "group": name, "prefix": name} | values
        tasks.append(Task(name=name, **values))
    return tasks
