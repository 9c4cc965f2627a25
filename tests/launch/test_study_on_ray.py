"""A study on a real, local Ray: a killed worker is noticed, and it ends as in one process."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from conftest import document
from launch.study.progress import fingerprints, marker
from launch.study.ray import _absent
from launch.study.reading import open_study, parse_study
from launch.study.stages import stages_of, store_of
from launch.study.work import do


pytest.importorskip("ray", reason="the tests of studies on Ray need it: pip install 'winnow-llm[ray]'")

STUDY = """\
output: OUTPUT
corpus: corpus
held_out: {c4: corpus}
samplers: [{asked: {scorer: ask-llm, model: embedded, options: {window_size: 16}}}]
rates: [0.3]
models:
  t5-tiny: {total_tokens: 8192, log_every: 1, checkpoints: 1, report_to: none}
engine: {kind: ray, tasks: 2, ray: {mem_per_cpu_gb: 0.5}}
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
    """The process of the first scoring task that has begun: datatrove and Ray would wait for it for ever."""
    study = open_study("ray.yaml")
    stage = stages_of(study)[store_of(study.samplers[0])]
    begun = [marker(study, stage, task).with_suffix(".begun") for task in range(stage.tasks)]
    while process.poll() is None:
        for file in begun:
            if file.exists():
                os.kill(json.loads(file.read_text())["pid"], signal.SIGKILL)
                return
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_study_whose_worker_is_killed_ends_as_in_one_process(folder):
    shared = Path(tempfile.gettempdir(), "ray_logs")
    before = {file: file.stat().st_mtime for file in shared.rglob("*")}
    command = [sys.executable, "-m", "launch", "run", "ray.yaml"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    kill_a_worker(process)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 1, said
    assert re.search(r"scores/ask-llm-embedded-\w{4}, task", said)
    assert "it was killed" in said
    again = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert again.returncode == 0, again.stdout + again.stderr
    assert {file: file.stat().st_mtime for file in shared.rglob("*")} == before  # of all studies of a node
    (log,) = (folder / "ray" / "logs" / "tokens" / "train").glob("ray-*/logs/task_00000.log")
    assert "Processing done" in log.read_text()
    study = open_study("alone.yaml")
    assert fingerprints(stages_of(study)) == fingerprints(stages_of(open_study("ray.yaml")))
    assert not any(do(study, name, task) for name, stage in stages_of(study).items() for task in range(stage.tasks))
    alone = results(folder / "alone")
    assert len(alone) == 2 + 1 + 1 + 2  # parts, selection, results, runs
    assert results(folder / "ray") == alone


def test_what_a_cluster_does_not_have_is_said(folder):
    text = STUDY.replace("OUTPUT", "ray").replace("mem_per_cpu_gb: 0.5", "mem_per_cpu_gb: 0.5, gpus_per_task: 1")
    study = parse_study("ray.yaml", text)
    stages = stages_of(study)
    there = {"CPU": 2.0}
    (said,) = _absent(study, stages, fingerprints(stages), there)
    assert said.startswith("a task asks for 1 GPUs, of which the cluster has 0")
    only = {name: stage for name, stage in stages.items() if name.startswith("tokens/")}
    assert not list(_absent(study, only, fingerprints(stages), there))
    assert not list(_absent(study, stages, fingerprints(stages), there | {"GPU": 1.0}))
