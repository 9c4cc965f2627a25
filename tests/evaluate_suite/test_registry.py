"""The registry must add up to the paper's 111, and every entry must say what its runner needs."""

import re

import pytest

from evaluate_suite.__main__ import main
from evaluate_suite.averages import CORE_V1
from evaluate_suite.choices import METRICS
from evaluate_suite.registry import (
    CENTRED,
    EXTRA_SUITES,
    PROTOCOLS,
    SUITES,
    all_tasks,
    by_suite,
    extra_suites,
    find_tasks,
    registry,
)


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
EXTRA = [task for task in all_tasks().values() if task.suite in EXTRA_SUITES]


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
    for name, value in vars(task).items():
        assert value is not None or task.chance is None or name == "even_chance"


def test_further_suites_stand_apart():
    assert {suite: len(tasks) for suite, tasks in extra_suites().items()} == {"early_signal": 9, "core_v2": 22}
    assert not {task.name for task in EXTRA} & set(registry())
    assert set(all_tasks()) == set(registry()) | {task.name for task in EXTRA}
    assert {task.name for task in find_tasks(["early_signal"])} - set(registry()) == {
        task.name for task in EXTRA if task.suite == "early_signal"
    }
    assert find_tasks(["qa", "arc_easy"]) == by_suite()["qa"]
    (cloze,) = find_tasks(["mmlu_cloze"])
    assert list(cloze.parts) == [task.name for task in by_suite()["mmlu"]]


@pytest.mark.parametrize("task", EXTRA, ids=lambda task: task.name)
def test_every_field_of_further_tasks(task):
    assert task.protocol == "few_shot"
    assert task.harness
    assert len(task.metrics) == 1
    assert set(task.reported) <= set(METRICS) | {CENTRED}
    assert task.unconditional == ("accuracy_unconditional" in task.beside)
    assert task.chance_of(task.metrics[0]) == task.chance < 63
    assert task.chance_of("bits_per_byte") is task.chance_of("margin") is None
    assert task.chance_of(CENTRED) == 0


def test_cores_shots_and_baselines():
    """Of DCLM's eval/heavy.yaml and eval_meta_data.csv (v2 and v1), at 361714b."""
    core = {task.name.removeprefix("core_"): task for task in extra_suites()["core_v2"]}
    none = {"hellaswag_zeroshot", "copa", "openbook_qa", "winograd", "winogrande", "lambada_openai", "coqa"}
    assert {name for name, task in core.items() if task.shots == 0} == none
    assert {name for name, task in core.items() if task.shots not in (0, 10)} == {"agi_eval_lsat_ar"}
    chance = {name: task.chance for name, task in core.items() if task.metrics == ("accuracy_per_token",)}
    quarter = {"hellaswag_zeroshot", "hellaswag", "arc_easy", "arc_challenge", "openbook_qa", "agi_eval_lsat_ar"}
    quarter |= {"bigbench_language_identification"}
    half = {"copa", "piqa", "winograd", "winogrande"}
    others = {"commonsense_qa": 40.3, "boolq": 62}  # the most frequent answer, which no probability profits from
    shares = {name: core[name].chance_of("choice_probability_per_character") for name in [*others, "copa", "arc_easy"]}
    assert shares == {"commonsense_qa": 25, "boolq": 50, "copa": 50, "arc_easy": 25}
    assert chance == dict.fromkeys(quarter, 25) | dict.fromkeys(half, 50) | others
    assert all(core[name].chance == 0 for name in core.keys() - chance.keys())
    assert {name.removeprefix("core_") for name in CORE_V1} < chance.keys()


def test_the_list_shows_them_all(capsys):
    assert main(["--list"]) == 0
    shown = capsys.readouterr().out
    assert "111 tasks, 109 of them scored" in shown
    assert all(title in shown for title in SUITES.values())
    assert all(task.name in shown for task in [*TASKS, *EXTRA])
    assert all(title in shown.partition("111 tasks")[2] for title in EXTRA_SUITES.values())
    assert main(["list"]) == 0
    assert capsys.readouterr().out == shown
    assert main([]) == 2
    assert "give one of list" in capsys.readouterr().err
