"""Bars go forward only, one for each kind of stage, by what the records of tasks say."""

import io

import pytest

from launch.plan import Plan
from launch.progress import StageProgress, Stages
from launch.records import Watched, record_file
from launch.study_file import parse_study
from pipeline_steps.terminal import Terminal


TEXT = """\
output: {folder}/out
corpus: {folder}/corpus
samplers: [random, density]
engine: {{tasks: 2}}
"""


class Bars:
    """What is asked of the bars."""

    def __init__(self):
        self.shown, self.finished = [], {}

    def update(self, title, fraction):
        self.shown.append((title, fraction))

    def finish(self, title, seconds):
        assert title not in self.finished
        self.finished[title] = seconds


@pytest.fixture
def plan(tmp_path):
    return Plan.of(parse_study("s.yaml", TEXT.format(folder=tmp_path)))


def work(plan, name, task=0):
    return Watched(plan.output, plan.stages[name], task, "")


def test_a_kind_is_shown_from_its_first_task_to_its_last(plan):
    bars = Bars()
    stages = Stages(plan.output, list(plan.stages.values()), bars)
    stages.show()
    assert (bars.shown, bars.finished) == ([], {})
    first = work(plan, "embeddings")
    stages.show()
    assert bars.shown == [("embeddings (2 tasks)", 0.0)]
    first.done()
    stages.show()
    assert bars.shown[1:] == [("embeddings (2 tasks)", 0.5)]
    work(plan, "embeddings", 1).done()
    for _ in range(2):
        stages.show()
    assert list(bars.finished) == ["embeddings (2 tasks)"]
    assert bars.finished["embeddings (2 tasks)"] >= 0
    assert bars.shown[2:] == []


def test_stages_of_a_kind_share_a_bar(plan):
    bars = Bars()
    stages = Stages(plan.output, list(plan.stages.values()), bars)
    for name in ("scores/keys", "scores/density"):
        for task in range(plan.stages[name].tasks):
            assert not bars.finished
            work(plan, name, task).done()
            stages.show()
    assert [fraction for _, fraction in bars.shown] == [0.25, 0.5, 0.75]
    assert list(bars.finished) == ["scores (4 tasks)"]


def test_what_was_done_before_is_said_so_and_what_is_not_chosen_is_not_shown(plan):
    for task in (0, 1):
        work(plan, "embeddings", task).done()
    bars = Bars()
    Stages(plan.output, [plan.stages["embeddings"]], bars).show()
    assert (bars.shown, bars.finished) == ([], {"embeddings (2 tasks)": None})


def test_a_kind_that_is_finished_is_not_looked_at_again(plan):
    """A bar must not go back when somebody else forgets a record meanwhile."""
    for task in (0, 1):
        work(plan, "embeddings", task).done()
    bars = Bars()
    stages = Stages(plan.output, list(plan.stages.values()), bars)
    stages.show()
    record_file(plan.output, plan.stages["embeddings"], 0).unlink()
    stages.show()
    assert (bars.shown, list(bars.finished)) == ([], ["embeddings (2 tasks)"])


def test_a_damaged_record_is_no_error_of_the_bar(plan):
    bars = Bars()
    stages = Stages(plan.output, list(plan.stages.values()), bars)
    for task in (0, 1):
        work(plan, "embeddings", task).done()
    record_file(plan.output, plan.stages["embeddings"], 0).write_bytes(b'{"fing')
    stages.show()
    assert bars.shown == [("embeddings (2 tasks)", 0.5)]


def test_a_tick_looks_once_in_a_while(plan, monkeypatch):
    """A look reads a file for each task, and large studies have tens of thousands."""
    looks = []
    stages = Stages(plan.output, list(plan.stages.values()), Bars())
    monkeypatch.setattr(stages, "show", lambda: looks.append(1))
    for _ in range(5):
        stages.tick()
    assert looks == []
    monkeypatch.setattr("launch.progress._LOOK", 0.0)
    stages.tick()
    assert looks == [1]


@pytest.mark.parametrize("quiet", [False, True])
def test_a_line_for_each_kind_where_there_is_no_terminal(quiet, monkeypatch):
    if quiet:
        monkeypatch.setenv("WINNOW_QUIET", "1")
    said = io.StringIO()
    with StageProgress(Terminal(file=said, width=120)) as progress:
        progress.update("embeddings", 0.5)
        progress.finish("embeddings", 12.345)
        progress.finish("scores (4 tasks)", None)
        progress.note("[a note]")
    lines = ["embeddings                           12.3 s", "scores (4 tasks)                   already done"]
    assert said.getvalue().splitlines() == [*([] if quiet else lines), "[a note]"]
