"""A launcher and what trains under it, told to stop: it saves before anything ends it."""

import os
import signal
import subprocess
import sys
import time

import pytest


WORKER = """
import pathlib, signal, sys, time
def save(number, frame):
    time.sleep(0.3)
    pathlib.Path(sys.argv[1], "preempted.json").write_text("{}")
    sys.exit(75)
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, save)
pathlib.Path(sys.argv[1], "ready").touch()
time.sleep(60)
"""
LAUNCHER = """
import subprocess, sys
sys.exit(1 if subprocess.run([sys.executable, "-c", sys.argv[1], sys.argv[2]]).returncode else 0)
"""
OUTER = """
import sys
from pathlib import Path
from train.signals import run_launcher
sys.exit(run_launcher([sys.executable, "-c", *sys.argv[1:]], Path(sys.argv[3])))
"""


def start(folder, worker=WORKER):
    return subprocess.Popen(
        [sys.executable, "-c", OUTER, LAUNCHER, worker, str(folder)], start_new_session=True, stderr=subprocess.DEVNULL
    )


@pytest.mark.parametrize(
    ("number", "everybody"),
    [(signal.SIGTERM, False), (signal.SIGUSR1, False), (signal.SIGUSR1, True)],  # the last as Slurm does it
)
def test_a_launcher_waits_until_it_is_saved(tmp_path, number, everybody):
    process = start(tmp_path)
    while not (tmp_path / "ready").exists():
        time.sleep(0.02)
    if everybody:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    assert process.wait(20) == 75
    assert (tmp_path / "preempted.json").exists()


def test_a_run_that_fails_does_not_look_preempted(tmp_path):
    (tmp_path / "preempted.json").write_text("{}")
    assert start(tmp_path, "import sys; sys.exit(3)").wait(20) == 1
