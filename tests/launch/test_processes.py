"""Processes of a stage: they end with the one who started them, and share devices without meeting on one."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from launch.processes import Job, run_jobs, visible_devices


CODE = """
import os, signal, sys
from pathlib import Path
from launch.processes import Job, run_jobs

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
os.register_at_fork(after_in_parent=lambda: signal.raise_signal(signal.SIGINT))
try:
    run_jobs([Job("http.server", ("0",), Path(sys.argv[1]))], 1, lambda: None)
except KeyboardInterrupt:
    print("interrupted")
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
"""
WORK = """
import os, time
print("from", time.time(), "on", os.environ.get("CUDA_VISIBLE_DEVICES"))
time.sleep(0.5)
print("to", time.time())
"""


def test_ctrl_c_while_a_process_is_being_started_is_not_lost(tmp_path):
    """Python drops exceptions that are raised in its hooks around fork."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path / "log")], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "interrupted\n", done.stderr
    assert done.stderr == ""


SAVES = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("saved", flush=True), sys.exit(75)))
print("ready", flush=True)
time.sleep(60)
"""
STOPS = """
import sys
from pathlib import Path
from launch.processes import Job, run_jobs
try:
    run_jobs([Job("saves", (), Path(sys.argv[1]))], 1, lambda: None)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_who_is_asked_to_stop_lets_its_processes_save(tmp_path, number):
    (tmp_path / "saves.py").write_text(SAVES)
    log = tmp_path / "log"
    process = subprocess.Popen(
        [sys.executable, "-c", STOPS, str(log)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while not log.exists() or "ready" not in log.read_text():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    assert process.communicate(timeout=30)[0] == "interrupted\n"
    assert "saved" in log.read_text()


def test_a_device_is_never_shared(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-7")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "work.py").write_text(WORK)
    wanted = {"one": 1, "more": 1, "all": 8, "late": 1, "none": 0}
    run_jobs([Job("work", (), tmp_path / name, devices=devices) for name, devices in wanted.items()], 4, lambda: None)
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


def test_devices_that_are_hidden(monkeypatch):
    for said, devices in {"": [], "-1": [], "0": ["0"], "2,5": ["2", "5"]}.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", said)
        assert visible_devices() == devices
