"""Run a stage as processes of its own: watched, logged, and never outliving the one who started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from launch.faults import DISK_FULL, USERS_FAULT, StageFailed, disk_full
from pipeline_steps.errors import WinnowError
from train.signals import signal_when_parent_dies


TICK = 0.2  # seconds between two looks at the processes


@dataclass(frozen=True)
class Job:
    """One process of a stage.

    Attributes:
        module: what `python -P -m` runs.
        arguments: its command line.
        log: file its output is appended to; on a user's error (status 2) its last line is the message.
        title: what messages call it; "": by its log.
        devices: accelerators it runs on, where there are any; all of them if there are fewer.
    """

    module: str
    arguments: tuple[str, ...]
    log: Path
    title: str = ""
    devices: int = 0


def run_jobs(
    jobs: Sequence[Job], parallel: int, tick: Callable[[], None], after: Mapping[Job, Collection[Job]] | None = None
) -> None:
    """Run jobs, `parallel` at a time and never two on one accelerator; returns when all have ended well.

    Args:
        jobs: started in this order.
        parallel: at a time; fewer if there are not so many devices as they run on.
        tick: called between two looks at the processes.
        after: jobs, among the others and earlier, that a job waits for.

    Raises:
        WinnowError: a job found the user's input at fault.
        StageFailed: a job died of anything else.
        OSError: a job found a disk full.
        KeyboardInterrupt: after ending the jobs.
    """
    waiting, running, ended = list(jobs), dict[Job, subprocess.Popen[bytes]](), set[Job]()
    needs = {job: set(before) for job, before in (after or {}).items()}
    devices = _Devices(visible_devices())
    with _interrupts_held() as raise_held:
        try:
            while waiting or running:
                ready = [job for job in waiting if needs.get(job, set()) <= ended]
                for job, taken in devices.share(ready, parallel - len(running)):
                    waiting.remove(job)
                    running[job] = _start(job, taken)
                raise_held()
                for job, process in list(running.items()):
                    if (status := process.poll()) is not None:
                        del running[job]
                        devices.give_back(job)
                        _check(job, status)
                        ended.add(job)
                tick()
                time.sleep(TICK)
            raise_held()
        finally:
            for process in running.values():
                process.terminate()
            for process in running.values():
                process.wait()


def visible_devices() -> list[str]:
    """CUDA devices that processes started here may use, as CUDA_VISIBLE_DEVICES names them; without torch, which takes
    seconds to import."""
    said = os.environ.get("CUDA_VISIBLE_DEVICES")
    if said is not None:
        return [one for one in said.split(",") if one not in ("", "-1")]
    return [str(number) for number in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]


class _Devices:
    """Who has which device.

    Args:
        names: of all.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._taken: dict[Job, list[str]] = {}

    def share(self, ready: Sequence[Job], most: int) -> Iterator[tuple[Job, list[str]]]:
        """Jobs to start now, `most` at most, and their devices; what is held back for a job is not given to later
        ones."""
        free = [one for one in self._names if not any(one in taken for taken in self._taken.values())]
        for job in ready:
            wanted = min(job.devices, len(self._names))
            if most == 0:
                return
            if wanted > len(free):
                free = []
                continue
            self._taken[job], free = free[:wanted], free[wanted:]
            most -= 1
            yield job, self._taken[job]

    def give_back(self, job: Job) -> None:
        """A job has ended."""
        del self._taken[job]


@contextmanager
def _interrupts_held() -> Iterator[Callable[[], None]]:
    """Keep a Ctrl-C until it is asked for: Python drops the exception of one that arrives while it forks.

    SIGTERM, of a container or a scheduler, and Slurm's notice are taken for one: jobs may save what they have.
    """
    usual: dict[int, Any] = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGUSR1: signal.SIG_DFL,
    }
    ours = threading.current_thread() is threading.main_thread()
    taken = [number for number, handler in usual.items() if ours and signal.getsignal(number) is handler]
    held: list[int] = []

    def raise_held() -> None:
        if held:
            raise KeyboardInterrupt

    for number in taken:  # others are ignored, or somebody else's
        signal.signal(number, lambda number, _: held.append(number))
    try:
        yield raise_held
    finally:
        for number in taken:
            signal.signal(number, usual[number])


def _start(job: Job, devices: Sequence[str]) -> subprocess.Popen[bytes]:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    # One thread each: with as many processes as cores, more would only wait for each other
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    own = {"CUDA_VISIBLE_DEVICES": ",".join(devices)} if devices else {}
    with open(job.log, "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", job.module, *job.arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**threads, **os.environ, **own, "PYTHONUNBUFFERED": "1"},
            preexec_fn=partial(signal_when_parent_dies, signal.SIGKILL),
        )


def log_end(log: str, lines: int = 12) -> str:
    """The last lines of a log; "" if there is none."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, os.path.getsize(log) - 16_384))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def _check(job: Job, status: int) -> None:
    if status == 0:
        return
    if status == DISK_FULL:
        raise disk_full(str(job.log.parent))
    if status == USERS_FAULT:
        said = job.log.read_text(errors="replace").rstrip().rsplit("\n", 1)[-1]
        raise WinnowError(f"{job.title.rstrip(',')}: {said}" if job.title else said)
    how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    memory = " (out of memory?)" if status == -signal.SIGKILL else ""
    end = "".join(f"  | {line}\n" for line in log_end(str(job.log)).splitlines())
    raise StageFailed(
        f"{job.title or job.log.stem} {how}{memory}; the end of its log, {job.log}:\n{end}"
        "The same command goes on from there."
    )
