"""A study on a real Slurm of two virtual nodes: disturbed in every way, it ends as on one machine."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from cluster import Cluster, missing
from conftest import document

from launch.cli import main as winnow
from launch.plan import Plan
from launch.records import task_state
from launch.study_file import open_study


pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "there is one")

STUDY = """\
output: OUTPUT
corpus: corpus
held_out: {c4: corpus}
samplers: [{asked: {scorer: ask-llm, model: embedded}}]
rates: [0.3]
models:
  t5-tiny: {total_tokens: 20480, log_every: 1, save_every: 4, checkpoints: 1, report_to: none}
"""
ENGINE = """\
engine:
  kind: slurm
  tasks: TASKS
  slurm: {partition: gpu, cpus_per_task: 32, gpus_per_task: 1, workers: 1}
  cpu: {partition: main, cpus_per_task: 32, workers: 0}
"""
TWO_NODES = """\
engine:
  kind: slurm
  slurm: {partition: main, cpus_per_task: 32}
  training: {nodes: 2, gpus-per-node: 0}
  launch: >-
    --multi_gpu --num_machines $SLURM_NNODES --machine_rank $SLURM_NODEID --num_processes $NUM_PROCESSES
    --main_process_ip $MASTER_ADDR --main_process_port $MASTER_PORT --rdzv_backend static
"""
STORE, SELECTION, RUN = "scores/ask-llm", "selections/asked/0.3", "runs/t5-tiny/full-1-seed0"
MEASURED = "measured/t5-tiny/full-1-seed0/perplexity"


@pytest.fixture(scope="module")
def cluster():
    """A Slurm of our own, in a folder whose name is short enough for a socket."""
    found = Cluster(Path(tempfile.mkdtemp(prefix="winnow-slurm-")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(found.conf))
        patch.setenv("ACCELERATE_USE_CPU", "true")
        patch.setenv("GLOO_SOCKET_IFNAME", "lo")
        try:
            found.start()
            yield found
        finally:
            found.stop()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four source files of 100 documents in all, and study files."""
    folder = tmp_path_factory.mktemp("slurm")
    (folder / "corpus").mkdir()
    for name, numbers in {"a": range(10), "b": range(10, 40), "c": range(40, 60), "d": range(60, 100)}.items():
        lines = [json.dumps(document(number)) + "\n" for number in numbers]
        (folder / "corpus" / f"{name}.jsonl").write_text("".join(lines))
    for name, engine in {
        "alone": "",
        "three": ENGINE.replace("TASKS", "3"),
        "two": ENGINE.replace("TASKS", "2").replace("workers: 1", "workers: 2"),
        "later": ENGINE.replace("TASKS", "3").replace("workers: 1", "sbatch_args: {begin: now+1hour}"),
        "parts": ENGINE.replace("TASKS", "3").replace(
            "workers: 1", "max_array_size: 2, sbatch_args: {begin: now+1hour}"
        ),
        "wrong": ENGINE.replace("TASKS", "1") + "  training: {partition: nowhere}\n",
        "nodes": TWO_NODES,
        "broken": ENGINE.replace("TASKS", "1").replace("workers: 1", "env_command: exit 3"),
    }.items():
        output = {"three": "disturbed", "two": "disturbed"}.get(name, name)
        (folder / f"{name}.yaml").write_text(STUDY.replace("OUTPUT", output) + engine)
    return folder


@pytest.fixture(scope="module")
def alone(folder):
    """The folder that one process, which does one task after the other, fills meanwhile."""
    code = (
        "import sys; from launch.plan import Plan; from launch.study_file import open_study\n"
        "from launch.worker import run_task\n"
        "plan = Plan.of(open_study('alone.yaml'))\n"
        "sys.exit(any([run_task(plan, s.name, t) for s in plan.stages.values() for t in range(s.tasks)]))"
    )
    with open(folder / "alone.log", "w") as log:
        process = subprocess.Popen([sys.executable, "-c", code], cwd=folder, stdout=log, stderr=log)
    yield lambda: (process.wait(120), folder / "alone")[1]
    process.kill()
    process.wait()


@pytest.fixture(autouse=True)
def _here(folder, monkeypatch, cluster):
    monkeypatch.chdir(folder)
    yield
    slurm("scancel", "--user=root")
    until(lambda: not queue())


def slurm(*command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def queue():
    """States by job id, of what is not over."""
    lines = slurm("squeue", "--noheader", "--format=%F %T").splitlines()
    return {job: state for job, state in map(str.split, lines)}


def until(reached, seconds=60):
    end = time.monotonic() + seconds
    while not (found := reached()):
        assert time.monotonic() < end, f"not after {seconds} s; in the queue: {queue()}"
        time.sleep(0.1)
    return found


def states(study, stage):
    """Of each of its tasks."""
    plan = Plan.of(open_study(study))
    found = plan.stages[stage]
    return [task_state(plan.output, found, task).state for task in range(found.tasks)]


def submit(study, capsys, *more):
    """Job ids by stage, and what was in the queue already."""
    assert winnow(["run", study, *more]) == 0
    said = capsys.readouterr().out
    found = re.findall(r"^ *([\d,]+)  (\S+)(  in the queue already|  \(some of it .*)?$", said, flags=re.MULTILINE)
    return {stage: jobs.split(",") for jobs, stage, _ in found}, {
        stage for _, stage, how in found if how and "(" not in how
    }


def losses(output):
    rows = [json.loads(line) for line in (output / RUN / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: (row["nll"], row["z_loss"]) for row in rows}


def steps():
    file = Path("disturbed", RUN, "metrics.jsonl")
    return len(file.read_text().splitlines()) if file.exists() else 0


@pytest.mark.slow
def test_a_study_that_is_disturbed_in_every_way(cluster, alone, capsys):
    jobs, _ = submit("three.yaml", capsys)

    # A task is sent back into the queue by somebody else
    until(lambda: queue().get(jobs["tokens/c4/c4"][0]) == "RUNNING")
    slurm("scontrol", "requeue", f"{jobs['tokens/c4/c4'][0]}_0")

    # A node loses its power and is switched on again
    until(lambda: "running" in states("three.yaml", STORE))
    (node,) = set(slurm("squeue", "-h", f"--jobs={jobs[STORE][0]}", "--states=R", "--format=%N").split())
    cluster.kill_node(node)
    cluster.start_node(node)

    # An array is cancelled between two of its tasks, and a training between two steps
    due = {STORE: lambda: "done" in states("three.yaml", STORE), RUN: lambda: steps() >= 2}
    while due:
        stage = until(lambda: next((one for one, is_due in due.items() if is_due()), None))
        slurm("scancel", *jobs[stage])
        del due[stage]
    until(lambda: not queue())  # what needs them leaves, the rest goes on to its end
    assert sorted(states("three.yaml", STORE))[0] == "done" != sorted(states("three.yaml", STORE))[-1]
    assert states("three.yaml", "tokens/c4/c4") == ["done"]
    for stage in (SELECTION, MEASURED, "report"):
        assert states("three.yaml", stage) == ["waiting"], stage
    assert not Path("disturbed/selections/asked/0.3.safetensors").exists()

    # Again, with another number of tasks
    jobs, _ = submit("two.yaml", capsys)
    assert "tokens/c4/c4" not in jobs

    # The time of the training is nearly up: it saves and goes back into the queue; what waits for it waits on
    before = steps()
    until(lambda: steps() > max(before, 4))
    slurm("scancel", "--signal=USR1", *jobs[RUN])
    until(lambda: queue()[jobs[RUN][0]] == "PENDING")
    assert Path("disturbed", RUN, "preempted.json").exists()
    assert queue()[jobs[MEASURED][0]] == "PENDING"
    until(lambda: not queue(), 90)
    assert states("two.yaml", "report") == ["done"]
    assert_same(Path("disturbed"), alone())


def assert_same(found, wanted):
    for files in ("scores/*/parts/*.parquet", "selections/*/*.safetensors"):
        names = {str(path.relative_to(wanted)) for path in wanted.glob(files)}
        assert names == {str(path.relative_to(found)) for path in found.glob(files)}
        assert names
        for name in names:
            assert (found / name).read_bytes() == (wanted / name).read_bytes(), name
    assert losses(found) == losses(wanted)
    assert sorted(losses(found)) == list(range(1, 11))
    assert (found / "results.jsonl").read_bytes() == (wanted / "results.jsonl").read_bytes()
    assert (found / "report.html").exists()


@pytest.mark.slow
def test_two_nodes_train_one_model(alone, capsys):
    for name in ("tokens", "stages/tokens"):
        shutil.copytree(alone() / name, Path("nodes") / name)
    jobs, _ = submit("nodes.yaml", capsys, "--only", RUN)
    until(lambda: not queue(), 90)
    log = Path("nodes", "logs", RUN, f"slurm-{jobs[RUN][0]}_0.log").read_text()
    assert states("nodes.yaml", RUN) == ["done"], log
    one, two = losses(alone()), losses(Path("nodes"))
    assert one.keys() == two.keys()
    for step, values in one.items():
        assert two[step] == pytest.approx(values, rel=1e-4), step
    assert json.loads(Path("nodes", RUN, "environment.json").read_text())["processes"] == 2


def test_what_is_in_the_queue_is_not_submitted_again(capsys):
    jobs, there = submit("later.yaml", capsys)
    assert there == set()
    assert set(queue().values()) == {"PENDING"}
    before = queue()
    again, there = submit("later.yaml", capsys)
    assert again == jobs
    assert there == jobs.keys()
    assert queue() == before
    slurm("scancel", *jobs["report"])
    again, there = submit("later.yaml", capsys)
    assert jobs.keys() - there == {"report"}
    text = Path("later.yaml").read_text()
    (report,) = again["report"]
    try:
        Path("later.yaml").write_text(text.replace("rates: [0.3]", "rates: [0.3, 0.5]"))  # more runs, another report
        more, there = submit("later.yaml", capsys)
        assert more.keys() - there == {
            "selections/asked/0.5",
            "runs/t5-tiny/asked-0.5-seed0",
            "measured/t5-tiny/asked-0.5-seed0/perplexity",
            "report",
        }
        until(lambda: report not in queue())
        slurm("scancel", *more["report"])
        until(lambda: more["report"][0] not in queue())
        Path("later.yaml").write_text(text.replace("tasks: 3", "tasks: 5"))
        before = queue()
        assert winnow(["run", "later.yaml"]) == 2
        assert "is in the queue as job" in (said := capsys.readouterr().err)
        assert f"scancel {jobs[STORE][0]}" in said
        assert queue() == before
    finally:
        Path("later.yaml").write_text(text)


@pytest.mark.slow  # without a cluster: tests/launch/test_slurm_queue.py
def test_a_part_of_an_array_is_missing(capsys, monkeypatch, tmp_path):
    path = os.environ["PATH"]
    refusing = tmp_path / "sbatch"  # the second time it is called
    refusing.write_text(
        f"#!/bin/sh\necho . >> {tmp_path}/calls\n"
        f'[ $(wc -l < {tmp_path}/calls) = 2 ] || exec {shutil.which("sbatch")} "$@"\n'
        'echo "sbatch: error: Batch job submission failed: Job violates policy" >&2; exit 1\n'
    )
    refusing.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{path}")
    assert winnow(["run", "parts.yaml"]) == 2
    said = capsys.readouterr().err
    assert f"refuses {STORE}, part 2 of 2 (Job violates policy)" in said
    assert "before it, 1 in number, stays" in said
    monkeypatch.setenv("PATH", path)
    (first,) = queue()
    jobs, there = submit("parts.yaml", capsys)
    assert there == set()
    (second,) = jobs[STORE]
    (cut,) = jobs[SELECTION]
    assert awaited(cut) == {f"{first}_*", f"{second}_*"}

    # Nobody lived to note the numbers of the jobs
    notes = Path("parts", "slurm", "jobs.jsonl")
    lines = notes.read_text().splitlines(keepends=True)
    notes.write_text("".join(line for line in lines if "stage" in line))
    before = queue()
    assert submit("parts.yaml", capsys)[1] == jobs.keys()
    assert queue() == before

    # One number of an array fails; what waits for the array waits for the others and for one that takes its place
    slurm("scancel", f"{first}_0")
    again, there = submit("parts.yaml", capsys)
    assert there == jobs.keys() - {STORE}
    (third,) = again[STORE]
    assert awaited(cut) == {f"{first}_1", f"{second}_*", f"{third}_*"}
    assert queue() == before | {third: "PENDING"}
    for job in (first, second, third):
        slurm("scontrol", "update", f"JobId={job}", "StartTime=now")
    until(lambda: states("parts.yaml", STORE) == ["done"] * 3)
    until(lambda: not {first, second, third} & queue().keys())
    time.sleep(2)
    assert awaited(cut) == set()
    assert queue()[cut] == "PENDING"  # for its hour
    assert submit("parts.yaml", capsys)[1] == jobs.keys() - {STORE}


def awaited(job):
    """What a job waits for."""
    return set(re.findall(r"afterok:([\d_*]+)", slurm("squeue", "--noheader", f"--jobs={job}", "--format=%E")))


def test_a_job_that_ends_before_it_can_say_anything(capsys):
    jobs, _ = submit("broken.yaml", capsys, "--only", "scores")
    until(lambda: not queue())
    assert winnow(["status", "broken.yaml"]) == 1
    said = capsys.readouterr().out
    assert f"failed   {STORE}: its job, {jobs[STORE][0]}, was cancelled, or has ended without a word" in said
    assert "to go on: winnow run broken.yaml" in said


def test_a_job_that_is_refused(capsys):
    assert winnow(["run", "wrong.yaml"]) == 2
    said = capsys.readouterr().err
    assert re.search(rf"sbatch refuses {RUN} \(Invalid partition name specified\): correct engine.training or", said)
    assert re.search(
        r"wrong.yaml; what was submitted before it, \d+ in number, stays in the queue, and the same command", said
    )
    slurm("scancel", "--user=root")
    until(lambda: not queue())
    assert winnow(["run", "wrong.yaml", "--only", "report"]) == 2  # needs what is not done


def test_every_kind_of_script_of_the_papers_study_is_valid(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert winnow(["run", "paper.yaml", "--dry-run"]) == 0  # without a network
    scripts = sorted(tmp_path.rglob("slurm/**/*.sh"))
    assert len(scripts) == len(Plan.of(open_study("paper.yaml")).stages)
    kinds = {}
    for script in scripts:
        lines = [re.sub(r"=/.*|name=.*", "", line) for line in script.read_text().splitlines() if "#SBATCH" in line]
        kinds.setdefault(tuple(lines), script)
    assert 3 <= len(kinds) <= 12
    for script in kinds.values():
        slurm("sbatch", "--test-only", str(script))


def test_no_process_is_left(cluster):
    """Of the tests before: what a job started ended with it."""
    mark = os.fsencode(str(cluster.folder))
    names = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in process.joinpath("environ").read_bytes() and int(process.name) != os.getpid():
                names.append(process.joinpath("comm").read_text().strip())
        except OSError:
            continue
    assert not [name for name in names if name.startswith(("python", "launch_pickled", "bash"))], names
