"""Processes of this machine: they end with the one who started them, and share devices without meeting on one."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import pytest

from launch import records
from launch.engines import NEVER_STARTED, Task, local, warm
from launch.engines.local import Local
from launch.processes import visible_devices
from launch.stages.base import Stage


@dataclass(frozen=True, eq=False, kw_only=True)
class Work(Stage):
    """A stage of which engines know only the name and the devices."""

    kind = "work"
    called: str

    @property
    def name(self):
        return self.called


def task(name, code, folder, devices=0):
    return Task(Work(called=name, devices=devices), 0, (sys.executable, "-c", code), str(folder / name))


def run_all(engine, needs, *, seconds=60):
    """Submit tasks, each after others by name, and return the exit codes of all by name."""
    handles, codes, end = {}, {}, time.monotonic() + seconds
    for one, after in needs.items():
        (handles[one.stage.name],) = engine.submit([one], [handles[name] for name in after])
    names = {handle: name for name, handle in handles.items()}
    try:
        while len(codes) < len(needs):
            assert time.monotonic() < end
            codes |= {names[handle]: code for handle, code in engine.poll().items()}
            time.sleep(0.02)
    finally:
        engine.close()
    return codes


RUNS = """
import os, signal, sys
from pathlib import Path
from launch.engines import Task
from launch.engines.local import Local
from launch.plan import Plan
from launch.progress import Stages, StageProgress
from launch.runner import attend
from launch.study_file import parse_study
from rich.console import Console
import launch.runner

command, folder, hook = sys.argv[1:]
text = "output: {0}/out\\ncorpus: {0}/c.jsonl\\ntoken_store: {{append_eos: false}}\\n".format(folder)
plan = Plan.of(parse_study("s.yaml", text))
stages = list(plan.stages.values())
launch.runner.command = lambda *_: [sys.executable, "-c", command]
if hook:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    os.register_at_fork(after_in_parent=lambda: signal.raise_signal(signal.SIGINT))
try:
    attend(plan, stages, Local(1), Stages(plan.output, stages, StageProgress(Console(quiet=True))))
except KeyboardInterrupt:
    print("interrupted")
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
"""


def test_ctrl_c_while_a_process_is_being_started_is_not_lost(tmp_path):
    """Python drops exceptions that are raised in its hooks around fork."""
    done = subprocess.run(
        [sys.executable, "-c", RUNS, "import time; time.sleep(60)", str(tmp_path), "at a fork"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "interrupted\n", done.stderr
    assert done.stderr == ""


SAVES = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("saved", flush=True), sys.exit(75)))
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("send", "number"),
    [
        (os.kill, signal.SIGTERM),
        (os.kill, signal.SIGUSR1),
        (os.kill, signal.SIGINT),
        (os.killpg, signal.SIGTERM),  # of timeout(1), systemd and Slurm: to everybody
    ],
)
def test_who_is_asked_to_stop_lets_its_processes_save(tmp_path, send, number):
    log = tmp_path / "out" / "logs" / "tokens" / "task-0.log"
    process = subprocess.Popen(
        [sys.executable, "-c", RUNS, SAVES, str(tmp_path), ""],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while not log.exists() or "ready" not in log.read_text():
        assert process.poll() is None
        time.sleep(0.05)
    send(process.pid, number)
    assert process.communicate(timeout=30)[0] == "interrupted\n"
    assert "saved" in log.read_text()


def test_processes_end_with_the_one_who_started_them(tmp_path):
    log = tmp_path / "out" / "logs" / "tokens" / "task-0.log"
    says = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", RUNS, says, str(tmp_path), ""])
    while not log.exists() or not log.read_text().endswith("\n"):
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    end = time.monotonic() + 30
    while os.path.exists(f"/proc/{int(log.read_text())}"):
        assert time.monotonic() < end
        time.sleep(0.05)


WORK = """
import os, time
print("from", time.time(), "on", os.environ.get("CUDA_VISIBLE_DEVICES"))
time.sleep(0.5)
print("to", time.time())
"""


def test_a_device_is_never_shared(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-7")
    wanted = {"one": 1, "more": 1, "all": 8, "late": 1, "none": 0}
    codes = run_all(Local(4), {task(name, WORK, tmp_path, devices): () for name, devices in wanted.items()})
    assert codes == dict.fromkeys(wanted, 0)
    found = {}
    for name in wanted:
        start, devices, end = re.fullmatch(r"from (\S+) on (\S+)\nto (\S+)\n", (tmp_path / name).read_text()).groups()
        found[name] = float(start), float(end), devices
    assert {found[name][2] for name in ("one", "more")} == {"3", "GPU-7"}
    assert found["all"][2] == found["none"][2] == "3,GPU-7"  # as many as there are; what was there before
    assert found["late"][2] == "3"
    assert max(found["one"][1], found["more"][1]) <= found["all"][0]
    assert found["all"][1] <= found["late"][0]  # what is held back for one is not given to a later one
    assert found["none"][0] < found["all"][0]  # who needs none does not wait


def test_a_task_that_wants_more_devices_than_are_free_holds_those_that_are(tmp_path, monkeypatch):
    """Or small ones, of which one always waits, would starve it."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    waits = "import pathlib, sys, time\nwhile not pathlib.Path('{}').exists(): time.sleep(0.02)"
    go = tmp_path / "go"
    engine, noop = Local(9), "pass"
    tasks = [task("long", waits.format(go), tmp_path, 1), task("large", noop, tmp_path, 3)]
    tasks += [task(f"small-{number}", noop, tmp_path, 1) for number in range(3)]
    for one in tasks:
        engine.submit([one], [])
    ended = []
    for _ in range(10):
        ended += engine.poll()
        time.sleep(0.05)
    assert ended == []  # two devices are free, and held
    go.write_text("")
    while len(ended) < len(tasks):
        ended += engine.poll()
        time.sleep(0.02)
    engine.close()
    assert [handle.partition("#")[0] for handle in ended[:2]] == ["long", "large"]


def test_what_stands_on_a_failed_task_never_starts_and_all_else_goes_on(tmp_path):
    noop = "print('ran')"
    fails = task("fails", "import sys; sys.exit(7)", tmp_path)
    killed = task("killed", "import os; os.kill(os.getpid(), 9)", tmp_path)
    near, far, both = (task(name, noop, tmp_path) for name in ("near", "far", "both"))
    well, after, last = (task(name, noop, tmp_path) for name in ("well", "after", "last"))
    needs = {fails: (), killed: (), well: (), near: ["fails"], far: ["near"], both: ["well", "killed"]}
    codes = run_all(Local(1), needs | {after: ["well"], last: ["well", "after"]})
    assert codes == {"fails": 7, "killed": -9, "well": 0, "after": 0, "last": 0} | dict.fromkeys(
        ("near", "far", "both"), NEVER_STARTED
    )
    assert [name for name in ("near", "far", "both") if (tmp_path / name).exists()] == []
    assert [(tmp_path / name).read_text() for name in ("well", "after", "last")] == ["ran\n"] * 3


def test_no_more_processes_than_workers_and_none_before_what_it_needs(tmp_path):
    needs = {task(name, WORK, tmp_path): () for name in "abc"} | {task("d", WORK, tmp_path): ["a"]}
    assert set(run_all(Local(2), needs).values()) == {0}
    times = {
        name: [float(one) for one in re.findall(r"(?:from|to) (\S+)", (tmp_path / name).read_text())]
        for name in "abcd"
    }
    for start, _ in times.values():
        assert sum(other[0] <= start < other[1] for other in times.values()) <= 2
    assert times["a"][1] <= times["d"][0]


def test_devices_that_are_hidden(monkeypatch):
    for said, devices in {"": [], "-1": [], "0": ["0"], "2,5": ["2", "5"]}.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", said)
        assert visible_devices() == devices


def test_a_dead_process_that_nobody_has_cleared_away_is_gone():
    """In a container whose first process clears nothing away, a killed task would count as running for ever."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert records._born(os.getpid())
    assert not records._born(process.pid)
    process.wait()


def test_a_killed_server_takes_its_tasks_along_and_is_started_again(tmp_path):
    engine = Local(2)
    (long,) = engine.submit([task("long", "import time; time.sleep(60)", tmp_path)], [])
    engine.poll()
    while not (tmp_path / "long").exists():
        time.sleep(0.02)
    os.kill(engine._server._process.pid, signal.SIGKILL)
    while not (codes := engine.poll()):
        time.sleep(0.02)
    assert codes == {long: -9}
    assert run_all(engine, {task("after", "print('ran')", tmp_path): ()}) == {"after": 0}


def test_a_log_that_cannot_be_opened_is_named(tmp_path):
    (tmp_path / "log").mkdir()
    engine = Local(1)
    engine.submit([task("log", "pass", tmp_path)], [])
    with pytest.raises(IsADirectoryError, match=str(tmp_path / "log")):
        engine.poll()
    engine.close()


def test_a_server_that_never_ends_an_import_is_ended(tmp_path, monkeypatch):
    (tmp_path / "stuck_module.py").write_text("import pathlib, time; pathlib.Path('here').touch(); time.sleep(60)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    for module in (local, warm):
        monkeypatch.setattr(module, "_PATIENCE", 0.1)
    monkeypatch.setattr(Work, "imports", ("stuck_module",))
    engine, start = Local(1), time.monotonic()
    engine.submit([task("waits", "pass", tmp_path)], [])
    engine.poll()
    while not (tmp_path / "here").exists():
        time.sleep(0.02)
    engine.close()
    assert time.monotonic() - start < 50


def test_worker_commands_are_forked_with_what_their_stage_imports(tmp_path):
    """The modules are there before the command begins; what it does to them is its own affair."""
    leaves_a_child = "subprocess.Popen(['true'])"
    (tmp_path / "slow_module.py").write_text(f"import os, subprocess\nhere = os.getpid()\n{leaves_a_child}\n")
    says = "import os, sys; m = sys.modules.get('slow_module'); print(m is not None and m.here != os.getpid())"
    (tmp_path / "worker.py").write_text(f"def main(words):\n    {says}\n    return 3\n")
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import launch.engines.warm as warm, worker\n"
        "sys.modules['launch.worker'] = worker; sys.exit(warm.main())"
    )
    server = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    for number in (1, 2):
        command = [sys.executable, "-P", "-m", "launch.worker", "study.yaml"]
        asked = {"task": number, "command": command, "log": str(tmp_path / "log"), "own": {}}
        server.stdin.write(json.dumps(asked | {"imports": ["slow_module"]}) + "\n")
        server.stdin.flush()
        assert json.loads(server.stdout.readline()) == [number, 3]
    server.stdin.close()
    assert server.wait(timeout=60) == 0
    assert (tmp_path / "log").read_text() == "True\nTrue\n"
