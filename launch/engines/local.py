"""Processes of this machine: so many at a time, never two on one accelerator, each after those it needs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from launch.engines import NEVER_STARTED, Task
from launch.processes import start_process, visible_devices
from launch.stages.base import Stage


@dataclass
class _Waiting:
    """A task that waits or runs.

    Attributes:
        task: the task.
        needs: handles of what must have ended well before.
        devices: the accelerators that it holds.
        process: None while it waits.
    """

    task: Task
    needs: set[str]
    devices: list[str] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None


class Local:
    """Runs commands as processes that end with this one, however it ends.

    A task that fails takes along what stands on it; everything else goes on.

    Args:
        workers: processes at a time.
    """

    attended = True
    notes = ()

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._devices = visible_devices()
        self._free = list(self._devices)
        self._jobs: dict[str, _Waiting] = {}
        self._ended: dict[str, int] = {}

    def queued(self, stage: Stage) -> Mapping[int, str]:
        """Return nothing: no process outlives an earlier command."""
        return {}

    def wait_anew(self, stage: Stage, after: Sequence[str]) -> None:
        """Do nothing: nothing is queued from an earlier command."""

    def submit(self, tasks: Sequence[Task], after: Sequence[str]) -> list[str]:
        """Take tasks, to be started after others have ended well; earlier ones are started first."""
        new = {f"{task.stage.name}#{task.number}": _Waiting(task, set(after)) for task in tasks}
        self._jobs |= new
        return list(new)

    def poll(self) -> Mapping[str, int]:
        """Start what can be started, and return exit codes of what has ended since."""
        new = {}
        for handle, job in list(self._jobs.items()):
            if job.process is not None and (code := job.process.poll()) is not None:
                self._free += job.devices
                new[handle] = code
                del self._jobs[handle]
        self._ended |= new
        for handle, job in list(self._jobs.items()):  # in order: what stands on a failed task comes after it
            if any(self._ended.get(need, 0) for need in job.needs):
                del self._jobs[handle]
                self._ended[handle] = new[handle] = NEVER_STARTED
        self._start()
        return new

    def _start(self) -> None:
        running = sum(job.process is not None for job in self._jobs.values())
        free = len(self._free)
        for job in self._jobs.values():
            if running == self._workers:
                return
            if job.process is not None or not job.needs <= self._ended.keys():
                continue
            wanted = min(job.task.stage.devices, len(self._devices))
            if wanted > free:
                free = 0  # held for this one, so that small tasks do not starve it
                continue
            job.devices, self._free, free = self._free[:wanted], self._free[wanted:], free - wanted
            job.process = start_process(job.task.command, job.task.log, _environment(job.devices))
            running += 1

    def close(self) -> None:
        """End what still runs, and wait for its end."""
        running = [job.process for job in self._jobs.values() if job.process is not None]
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


def _environment(devices: Sequence[str]) -> dict[str, str]:
    own = {"CUDA_VISIBLE_DEVICES": ",".join(devices)} if devices else {}
    # One thread each: with as many processes as cores, more would only wait for each other
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {**threads, **os.environ, **own}
