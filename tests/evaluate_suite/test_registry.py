"""The registry must add up to the paper's 111, and every entry must say what its runner needs."""

import dataclasses
import re

import pytest

from evaluate_suite.__main__ import main
from evaluate_suite.registry import PROTOCOLS, SUITES, by_suite, registry


COUNTS = {
    "c4_perplexity": 1,
    "hq_perplexity": 1,
    "glue": 11,
    "superglue": 8,
    "cnn_dailymail": 1,
    "squad": 1,
    "mmlu": 57,
    "bbh": 23,
    "reasoning": 4,
    "qa": 4,
}
TASKS = list(registry().values())


def test_a_hundred_and_eleven():
    assert {suite: len(tasks) for suite, tasks in by_suite().items()} == COUNTS
    assert len(registry()) == sum(COUNTS.values()) == 111
    assert set(SUITES) == set(COUNTS)


def test_what_is_not_scored():
    assert [task.name for task in TASKS if not task.scored] == ["wnli", "ax"]
    assert all(task.note for task in TASKS if not task.scored)


def test_groups():
    groups = {suite: len({task.group for task in tasks if task.scored}) for suite, tasks in by_suite().items()}
    assert groups == COUNTS | {"glue": 8}  # MNLI's halves are one; T5 averages 8
    assert sum(max(1, len(task.parts)) for task in by_suite()["bbh"]) == 27  # files


def test_shots():
    shots = {suite: {task.shots for task in by_suite()[suite]} for suite in ("mmlu", "bbh", "reasoning", "qa")}
    assert shots == {"mmlu": {5}, "bbh": {3}, "reasoning": {8}, "qa": {0}}  # v1 App. C.7
    modes = {suite: {task.mode for task in by_suite()[suite]} for suite in shots}
    assert modes == {"mmlu": {"direct"}, "bbh": {"direct"}, "reasoning": {"cot"}, "qa": {"direct"}}


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_every_field(task):
    assert task.protocol in PROTOCOLS
    assert re.fullmatch(r"[\w-]+/[\w.-]+", task.dataset)
    assert task.revision
    assert task.split
    assert task.metrics
    assert task.direction == ("lower" if task.protocol == "perplexity" else "higher")
    assert (task.chance is None) == (task.protocol == "perplexity")
    assert task.chance is None or 0 <= task.chance <= 51
    assert "App." in task.source
    assert bool(task.format) == (task.protocol == "finetune")
    assert bool(task.harness) == (task.protocol == "few_shot")
    assert bool(task.mode) == (task.protocol == "few_shot")
    if task.format == "glue":
        assert task.fields == tuple(sorted(task.fields)) or task.name in {"multirc", "wic"}  # T5 sorts them
        assert len(task.labels) >= 2
    for value in dataclasses.astuple(task):
        assert value is not None or task.chance is None


def test_the_list_shows_them_all(capsys):
    assert main(["--list"]) == 0
    shown = capsys.readouterr().out
    assert "111 tasks, 109 of them scored" in shown
    assert all(title in shown for title in SUITES.values())
    assert all(task.name in shown for task in TASKS)
    assert main(["list"]) == 0
    assert capsys.readouterr().out == shown
    assert main([]) == 2
    assert "give one of list" in capsys.readouterr().err
