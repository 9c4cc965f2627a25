"""A study on a real, local Ray: a killed worker is noticed, and it ends as in one process."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import document

from launch.engines import NEVER_STARTED, Task
from launch.engines.ray import Ray
from launch.plan import Plan
from launch.records import record_file
from launch.stages.base import Stage
from launch.stages.runs import Training
from launch.study_file import open_study, parse_study
from launch.study_samplers import store_of
from launch.worker import run_task


pytest.importorskip("ray", reason="the tests of studies on Ray need it: pip install 'winnow-llm[ray]'")

STUDY = """\
output: OUTPUT
corpus: corpus
held_out: {c4: corpus}
samplers: [{asked: {scorer: ask-llm, model: embedded, options: {window_size: 16}}}]
rates: [0.3]
models:
  t5-tiny: {total_tokens: 8192, log_every: 1, checkpoints: 1, report_to: none}
engine: {kind: ray, tasks: 2}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")  # a socket's name must be short
    monkeypatch.setenv("RAY_worker_niceness", "0")  # of 15, its tasks wait for all other tests
    (tmp_path / "corpus").mkdir()
    for name, numbers in {"a": range(30), "b": range(30, 100)}.items():
        lines = [json.dumps(document(number)) + "\n" for number in numbers]
        (tmp_path / "corpus" / f"{name}.jsonl").write_text("".join(lines))
    for name in ("alone", "ray"):
        (tmp_path / f"{name}.yaml").write_text(STUDY.replace("OUTPUT", name))
    return tmp_path


def results(folder):
    """Bytes of scores, selections and results, and the losses of every step."""
    found = {
        str(file.relative_to(folder)): file.read_bytes()
        for pattern in ("scores/*/parts/*", "selections/*/*", "results.jsonl")
        for file in folder.glob(pattern)
    }
    for file in folder.glob("runs/*/*/metrics.jsonl"):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        found[str(file.relative_to(folder))] = [(row["step"], row["nll"]) for row in rows]
    return found


def kill_a_worker(process):
    """The process of the first scoring task that has begun."""
    study = open_study("ray.yaml")
    stage = Plan.of(study).stages[f"scores/{store_of(study.samplers[0])}"]
    begun = [record_file(study.output, stage, task).with_suffix(".begun") for task in range(stage.tasks)]
    while process.poll() is None:
        for file in begun:
            if file.exists():
                os.kill(json.loads(file.read_text())["pid"], signal.SIGKILL)
                return
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_study_whose_worker_is_killed_ends_as_in_one_process(folder):
    shared = Path(tempfile.gettempdir(), "ray_logs")
    before = {file: file.stat().st_mtime for file in shared.rglob("*")}
    command = [sys.executable, "-m", "launch", "run", "ray.yaml"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    kill_a_worker(process)
    said = process.communicate(timeout=250)[0]
    assert process.returncode == 1, said
    assert re.search(r"scores/ask-llm-embedded-\w{8}, task", said)
    assert "was killed by signal 9" in said
    assert not (folder / "ray" / "selections").exists()  # which needs the scores; everything else has gone on
    plan = Plan.of(open_study("ray.yaml"))
    (full, selected) = (stage for stage in plan.stages.values() if isinstance(stage, Training))
    assert record_file("ray", full, 0).exists()
    assert not record_file("ray", selected, 0).exists()
    again = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert again.returncode == 0, again.stdout + again.stderr
    assert {file: file.stat().st_mtime for file in shared.rglob("*")} == before  # of all studies of a node
    assert "Processing done" in (folder / "ray" / "logs" / "tokens" / "train" / "task-0.log").read_text()
    alone = Plan.of(open_study("alone.yaml"))
    assert {name: stage.made for name, stage in alone.stages.items()} == {
        name: stage.made for name, stage in plan.stages.items()
    }
    assert not any(run_task(alone, name, task) for name, stage in alone.stages.items() for task in range(stage.tasks))
    found = results(folder / "alone")
    assert len(found) == 2 + 1 + 1 + 2  # parts, selection, results, runs
    assert results(folder / "ray") == found


def test_what_a_cluster_does_not_have_is_said(folder):
    text = STUDY.replace("OUTPUT", "ray").replace("tasks: 2", "tasks: 2, ray: {gpus_per_task: 1}")
    plan = Plan.of(parse_study("ray.yaml", text))
    engine = object.__new__(Ray)  # without a cluster
    engine._cluster, engine._training = plan.study.engine.ray, {}
    there = {"CPU": 2.0}
    (said,) = engine._missing(plan, there)
    assert said.startswith("a task asks for 1 GPUs, of which the cluster has 0")
    only = Plan(plan.study, {name: one for name, one in plan.stages.items() if name.startswith("tokens/")})
    assert not list(engine._missing(only, there))
    assert not list(engine._missing(plan, there | {"GPU": 1.0}))


@dataclass(frozen=True, eq=False, kw_only=True)
class Work(Stage):
    """A stage of which engines know only the name."""

    kind = "work"
    called: str

    @property
    def name(self):
        return self.called


@pytest.fixture
def engine(folder):
    """A cluster of two CPUs, for tasks that are a few words of Python each."""
    import ray

    text = STUDY.replace("OUTPUT", "ray")
    start = ray.init
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray, "init", lambda **given: start(**given, num_cpus=2, include_dashboard=False))
        made = Ray(Plan.of(parse_study("ray.yaml", text)))
    yield made
    made.close()


def run_all(engine, needs):
    """Submit tasks by name, each a piece of code after others; return exit codes by name, in the order of ends."""
    handles, codes, end = {}, {}, time.monotonic() + 120
    for name, (code, *after) in needs.items():
        task = Task(Work(called=name), 0, (sys.executable, "-c", code), f"logs/{name}.log")
        (handles[name],) = engine.submit([task], [handles[one] for one in after])
    names = {handle: name for name, handle in handles.items()}
    while len(codes) < len(needs):
        assert time.monotonic() < end
        codes |= {names[handle]: code for handle, code in engine.poll().items()}
    return codes


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_tasks_start_as_soon_as_what_they_need_is_there_and_not_without(folder, engine):
    ran = "print('ran')"
    waits = "import os, time\nwhile not os.path.exists('trained'): time.sleep(0.05)"
    needs = {
        "scores/slow": (waits,),
        "scores/quick": (ran,),
        "selected/slow": (ran, "scores/slow"),
        "selected/quick": (ran, "scores/quick"),
        "runs/quick": ("open('trained', 'w')", "selected/quick"),  # while another selection is still to come
        "fails": ("import sys; sys.exit(7)",),
        "near": (ran, "fails", "scores/quick"),
        "far": (ran, "near"),
    }
    codes = run_all(engine, needs)
    assert codes == dict.fromkeys(needs, 0) | {"fails": 7, "near": NEVER_STARTED, "far": NEVER_STARTED}
    logs = {str(file.relative_to("logs")).removesuffix(".log") for file in Path("logs").rglob("*.log")}
    assert logs == needs.keys() - {"near", "far"}
    assert list(codes).index("runs/quick") < list(codes).index("selected/slow")
