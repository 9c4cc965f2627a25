"""What `winnow status` says: of tasks that are done, run, have failed, were killed, or wait."""

import json
import subprocess
import sys

import pytest
from rich.console import Console

from launch.cli import main
from launch.plan import Plan
from launch.records import Watched, forgive, record_file, task_state
from launch.status import as_json, exit_code, seconds_left_by_kind, show, tasks_of
from launch.study_file import parse_study
from pipeline_steps.stores.files import read_json, write_json
from train.run_directory import sealed_row


TEXT = """\
output: {folder}/out
samplers: [random, density]
rates: [0.5]
models:
  t5-tiny: {{total_tokens: 8192}}
engine: {{tasks: 4}}
"""


@pytest.fixture
def plan(tmp_path):
    return Plan.of(parse_study("s.yaml", TEXT.format(folder=tmp_path)))


def work(plan, name, task=0, log=""):
    return Watched(plan.output, plan.stages[name], task, log)


def state(plan, name, task=0):
    return task_state(plan.output, plan.stages[name], task)


def record_of(plan, name, task=0):
    return record_file(plan.output, plan.stages[name], task)


def shown(plan):
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(show(plan, tasks_of(plan)))
    return console.export_text()


def test_nothing_has_begun(plan):
    assert exit_code(tasks_of(plan)) == 3
    assert "0 of" in shown(plan)
    assert seconds_left_by_kind(tasks_of(plan)) == {}


def test_what_has_failed_is_shown_with_the_end_of_its_log_and_how_to_go_on(plan, tmp_path):
    log = tmp_path / "log"
    log.write_text("".join(f"line {number}\n" for number in range(99)))
    work(plan, "scores/density", 2, str(log)).stop("CorpusError: nothing is there")
    assert exit_code(tasks_of(plan)) == 1
    text = shown(plan)
    assert "scores/density, task 2 of 4: CorpusError: nothing is there" in text
    assert "line 98" in text
    assert "line 90" not in text
    assert text.rstrip().endswith("to go on: winnow run s.yaml")  # what needs it as well
    assert as_json(tasks_of(plan))["failed"] == [
        {"stage": "scores/density", "task": 2, "error": "CorpusError: nothing is there", "log": str(log)}
    ]


def test_a_task_that_was_killed_is_seen_at_once_and_can_be_begun_again(plan):
    """Its own words cannot tell."""
    code = (
        "import os, sys; sys.path[:0] = ['tests/launch']\n"
        "from launch.plan import Plan\n"
        "from launch.records import Watched\n"
        "from launch.study_file import parse_study\n"
        f"plan = Plan.of(parse_study('s.yaml', {TEXT.format(folder=plan.output[:-4])!r}))\n"
        "Watched(plan.output, plan.stages['density/merge'], 0, '')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    found = state(plan, "density/merge")
    assert (found.state, found.error) == ("failed", "it was killed")
    forgive(plan.output, plan.stages["density/merge"])
    assert state(plan, "density/merge").state == "waiting"


def test_seconds_of_all_attempts_add_up(plan):
    begun = record_of(plan, "density/merge").with_suffix(".begun")
    work(plan, "density/merge").stop()
    record = read_json(str(begun))
    write_json(str(begun), record | {"seconds": 100.0})
    again = work(plan, "density/merge")
    assert state(plan, "density/merge").seconds >= 100
    again.done()
    assert state(plan, "density/merge").seconds >= 100
    assert not begun.exists()


def test_work_that_is_found_to_be_done_keeps_its_cost(plan):
    """A stage whose fingerprint changes, though nothing of its outcome does, ends in a moment."""
    path = record_of(plan, "density/merge")
    path.parent.mkdir(parents=True)
    write_json(str(path), {"fingerprint": "another", "seconds": 3600.0})
    work(plan, "density/merge").done()
    assert state(plan, "density/merge").seconds == 3600


def test_time_left_follows_the_tasks_that_are_done(plan):
    for task in (0, 1):
        work(plan, "embeddings", task).done()
        path = record_of(plan, "embeddings", task)
        write_json(str(path), {"fingerprint": plan.stages["embeddings"].made, "seconds": 60.0})
    work(plan, "embeddings", 2)
    left = seconds_left_by_kind(tasks_of(plan))["embeddings"]
    assert left == pytest.approx(120, abs=2)  # one runs, one waits, one at a time


def test_a_training_tells_its_own_speed(plan, tmp_path):
    name = "runs/t5-tiny/full-1-seed0"
    work(plan, name)
    folder = tmp_path / "out" / name
    folder.mkdir(parents=True)
    rows = [{"encoder_tokens": 1}, {"encoder_tokens": 2048, "tokens_per_second": 777.0}]
    (folder / "metrics.jsonl").write_text("".join(map(sealed_row, rows)))
    text = shown(plan)
    assert "25%, 777 tokens/s" in text
    (folder / "metrics.jsonl").write_text('{"encoder_tokens": 1')  # being written
    assert "running" in shown(plan)


def test_exit_codes_of_the_command(tmp_path, plan, capsys):
    file = tmp_path / "s.yaml"
    file.write_text(TEXT.format(folder=tmp_path))
    assert main(["status", str(file)]) == 3
    for name, stage in plan.stages.items():
        for task in range(stage.tasks):
            work(plan, name, task).done()
    assert main(["status", str(file)]) == 0
    capsys.readouterr()
    assert main(["status", str(file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["stages"]["scores"] == {"done": 8, "running": 0, "failed": 0, "waiting": 0}
    assert main(["status", str(tmp_path / "nothing.yaml")]) == 2


def test_an_id_that_another_process_has_by_now(plan):
    begun = record_of(plan, "scores/density").with_suffix(".begun")
    watched = work(plan, "scores/density", 0)
    assert [task.found.state for task in tasks_of(plan) if task.stage.name == "scores/density"][0] == "running"
    record = read_json(str(begun))
    watched.stop()
    write_json(str(begun), record | {"pid": 1})
    (found, *_) = [task.found for task in tasks_of(plan) if task.stage.name == "scores/density"]
    assert (found.state, found.error) == ("failed", "it was killed")
