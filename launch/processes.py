"""Run a stage as processes of its own: watched, logged, and never outliving the one who started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipeline_steps.errors import WinnowError
from train.signals import signal_when_parent_dies


TICK = 0.2  # seconds between two looks at the processes


class StageFailed(Exception):
    """A stage's process died: the message says how, and where its log is."""


@dataclass(frozen=True)
class Job:
    """One process of a stage.

    Attributes:
        module: what `python -m` runs.
        arguments: its command line.
        log: file its output is appended to; on a user's error (status 2) its last line is the message.
    """

    module: str
    arguments: tuple[str, ...]
    log: Path


def run_jobs(jobs: Sequence[Job], parallel: int, tick: Callable[[], None]) -> None:
    """Run jobs, `parallel` at a time; returns when all have ended well.

    Raises:
        WinnowError: a job found the user's input at fault.
        StageFailed: a job died of anything else.
        KeyboardInterrupt: after ending the jobs.
    """
    waiting, running = list(jobs), dict[Job, subprocess.Popen[bytes]]()
    with _interrupts_held() as raise_held:
        try:
            while waiting or running:
                while waiting and len(running) < parallel:
                    job = waiting.pop(0)
                    running[job] = _start(job)
                raise_held()
                for job, process in list(running.items()):
                    if (status := process.poll()) is not None:
                        del running[job]
                        _check(job, status)
                tick()
                time.sleep(TICK)
            raise_held()
        finally:
            for process in running.values():
                process.terminate()
            for process in running.values():
                process.wait()


@contextmanager
def _interrupts_held() -> Iterator[Callable[[], None]]:
    """Keep a Ctrl-C until it is asked for: Python drops the exception of one that arrives while it forks."""
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield lambda: None  # ignored, or somebody else's
        return
    held: list[bool] = []
    signal.signal(signal.SIGINT, lambda *_: held.append(True))

    def raise_held() -> None:
        if held:
            raise KeyboardInterrupt

    try:
        yield raise_held
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _start(job: Job) -> subprocess.Popen[bytes]:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    # One thread each: with as many processes as cores, more would only wait for each other
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    with open(job.log, "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", job.module, *job.arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **threads, "PYTHONUNBUFFERED": "1"},
            preexec_fn=partial(signal_when_parent_dies, signal.SIGKILL),
        )


def _check(job: Job, status: int) -> None:
    if status == 0:
        return
    if status == 2:
        raise WinnowError(job.log.read_text(errors="replace").rstrip().rsplit("\n", 1)[-1])
    how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    memory = " (out of memory?)" if status == -signal.SIGKILL else ""
    raise StageFailed(f"{job.log.stem} {how}{memory}; its log is {job.log}. The same command goes on from there.")
