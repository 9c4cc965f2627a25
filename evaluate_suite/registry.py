"""The paper's 111 tasks and the tasks of further suites, as data: one entry a task in `evaluate_suite/tasks/*.yaml`.

1 C4 perplexity, 1 high-quality perplexity, 11 GLUE, 8 SuperGLUE, 1 CNN/DailyMail, 1 SQuAD, 57 MMLU, 23 BIG-Bench Hard,
4 reasoning, 4 question answering; the ten suites are what over-scaling and effective model size average over. A task
without public labels is registered and not scored. The further suites stand apart: nothing of the paper counts them.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
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
EXTRA_SUITES = {
    "early_signal": "Early signal",
    "core_v2": "CORE, corrected baselines",
}
CENTRED = "centred_accuracy"  # of CORE: percent of the way from guessing to all right
_WITHOUT_CHANCE = frozenset({"bits_per_byte", "margin"})
_PROBABILITY = "choice_probability"  # how the names of metrics of the right choice's share begin
_RIGHT_CHOICE = ("accuracy", "acc_", _PROBABILITY)  # metrics of ranked answers that guessing has a level of
PROTOCOLS = ("perplexity", "finetune", "few_shot")


@dataclass(frozen=True)
class EvaluationTask:
    """One of the 111 tasks, a task of a further suite, or data that a suite is trained on beside them.

    Attributes:
        name: name that no other task has.
        suite: key of `SUITES` or `EXTRA_SUITES`.
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
        chance: score of guessing, in percent; None for perplexity. See `chance_of`.
        even_chance: chance of the right choice's probability, where the score of guessing is the share of the most
            frequent answer.
        scored: whether there are public labels to score with.
        harness: file of the lm-eval task, its own or in `evaluate_suite/harness`, {part} standing for a configuration.
        cot_harness: the same with a chain of thought, if the suite is measured in both ways.
        unconditional: whether ranked answers are scored without their questions too, for `accuracy_unconditional`.
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
    even_chance: float | None = None
    beside: tuple[str, ...] = ()
    scored: bool = True
    harness: str = ""
    cot_harness: str = ""
    unconditional: bool = False
    note: str = field(default="", compare=False)

    @property
    def reported(self) -> tuple[str, ...]:
        """Return all metrics, those that do not count last."""
        return self.metrics + self.beside

    def chance_of(self, metric: str) -> float | None:
        """Return the score of guessing in one metric, in its unit; None where there is none, as for bits per byte."""
        if metric == CENTRED:
            return 0.0
        if metric.startswith(_PROBABILITY) and self.even_chance is not None:
            return self.even_chance
        known = metric in self.reported or metric.startswith(_RIGHT_CHOICE)
        return self.chance if known and metric not in _WITHOUT_CHANCE else None


@cache
def all_tasks() -> dict[str, EvaluationTask]:
    """Return all tasks by name, in the order of `SUITES`, then of `EXTRA_SUITES`."""
    tasks = [task for file in _files() for task in _read(file)]
    order = [*SUITES, *EXTRA_SUITES]
    return {task.name: task for task in sorted(tasks, key=lambda task: order.index(task.suite))}


@cache
def registry() -> dict[str, EvaluationTask]:
    """Return the paper's 111 tasks by name, in the order of `SUITES`."""
    return {name: task for name, task in all_tasks().items() if task.suite in SUITES}


@cache
def training_data(suite: str) -> list[EvaluationTask]:
    """Return the data sets that a suite is fine-tuned on beside the training splits of its tasks."""
    return [task for file in _files() for task in _read(file, "training") if task.suite == suite]


def by_suite() -> dict[str, list[EvaluationTask]]:
    """Return the tasks of each of the paper's suites."""
    return {suite: [task for task in registry().values() if task.suite == suite] for suite in SUITES}


@cache
def extra_suites() -> dict[str, list[EvaluationTask]]:
    """Return the tasks of each further suite; some are tasks of the paper that count there too."""
    shared = {content["defaults"].get("suite"): content.get("shared", []) for content in map(_content, _files())}
    return {
        suite: [task for task in all_tasks().values() if task.suite == suite or task.name in shared[suite]]
        for suite in EXTRA_SUITES
    }


def asked_for_a_further_suite(names: Collection[str]) -> set[str]:
    """Return those of the measured tasks of the paper that are there only because a further suite shares them.

    Of their own suite no other task was measured, so that they are no part of it that somebody began to measure.
    """
    found = set[str]()
    for suite, tasks in extra_suites().items():
        if any(task.suite == suite and task.name in names for task in tasks):
            found |= {task.name for task in tasks if task.suite != suite and task.name in names}
    begun = {registry()[name].suite for name in names if name in registry() and name not in found}
    return {name for name in found if registry()[name].suite not in begun}


def find_tasks(names: Iterable[str]) -> list[EvaluationTask]:
    """Return tasks by their names or those of their suites, in the registry's order.

    Raises:
        InvalidCut: there is no such task; names those that are spelled nearly alike.
    """
    tasks, suites, wanted = all_tasks(), by_suite() | extra_suites(), set[str]()
    for name in names:
        if name not in tasks and name not in suites:
            near = difflib.get_close_matches(name, [*suites, *tasks], n=3)
            said = f"did you mean {' or '.join(near)}?" if near else "winnow evaluate --list names them all"
            raise InvalidCut(f"no task or suite {name!r}: {said}")
        wanted |= {task.name for task in suites.get(name, [])} | ({name} & tasks.keys())
    return [task for task in tasks.values() if task.name in wanted]


def tasks_with_questions(names: Iterable[str]) -> list[EvaluationTask]:
    """Return the tasks that are scored on questions of a data set, by their names or those of their suites.

    Raises:
        InvalidCut: there is no such task, or a name stands for no such task.
    """
    found = dict[str, EvaluationTask]()
    for name in names:
        own = [task for task in find_tasks([name]) if task.scored and task.protocol != "perplexity"]
        if not own:
            raise InvalidCut(f"{name} has no scored questions that a corpus could hold: leave it out")
        found |= {task.name: task for task in own}
    return find_tasks(found)


def _files() -> list[Any]:
    folder = files("evaluate_suite").joinpath("tasks")
    return sorted((entry for entry in folder.iterdir() if entry.name.endswith(".yaml")), key=lambda entry: entry.name)


def _content(file: Any) -> dict[str, Any]:
    content: dict[str, Any] = yaml.load(file.read_text(), yaml.CSafeLoader)
    return content


def _read(file: Any, section: str = "tasks") -> list[EvaluationTask]:
    content = _content(file)
    lists = {one.name for one in fields(EvaluationTask) if str(one.type).startswith("tuple")}
    tasks = []
    for name, entry in content.get(section, {}).items():
        values = content["defaults"] | (entry or {})
        values = {key: tuple(value) if key in lists else value for key, value in values.items()}
        values = {"config": name, "group": name, "prefix": name} | values
        tasks.append(EvaluationTask(name=name, **values))
    return tasks
