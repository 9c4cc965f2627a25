"""Processes of this machine: so many at a time, never two on one accelerator, each after those it needs."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from typing_extensions import override

from launch.engines import NEVER_STARTED, Engine, Task
from launch.engines.warm import Forked, WarmServer
from launch.processes import visible_devices


_PATIENCE = 60.0  # seconds that tasks have to save what they have, once they were asked to stop


@dataclass
class _Group:
    """Tasks that were submitted together, and so wait for the same ones."""

    needs: set[str]  # handles of what has not ended well yet
    is_lost: bool = False  # since one of the needs has failed


@dataclass
class _Waiting:
    """A task that waits, or runs as a process, and the accelerators that it holds."""

    task: Task
    group: _Group
    devices: list[str] = field(default_factory=list)
    process: Forked | None = None


class Local(Engine):
    """Runs commands as processes that end with this one, however it ends.

    A task that fails takes along what stands on it; everything else goes on. There are `workers` processes at a time.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._devices = visible_devices()
        self._free = list(self._devices)
        self._jobs: dict[str, _Waiting] = {}
        self._groups: list[_Group] = []
        self._ended: dict[str, int] = {}
        # One thread each: with as many processes as cores, more would only wait for each other
        threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        self._server = WarmServer({**threads, **os.environ})

    @override
    def submit(self, tasks: Sequence[Task], after: Sequence[str]) -> list[str]:
        group = _Group({handle for handle in after if self._ended.get(handle) != 0})
        group.is_lost = any(self._ended.get(handle, 0) for handle in after)
        self._groups.append(group)
        new = {f"{task.stage.name}#{task.number}": _Waiting(task, group) for task in tasks}
        self._jobs |= new
        return list(new)

    @override
    def poll(self) -> Mapping[str, int]:
        new = {}
        for handle, job in list(self._jobs.items()):
            if job.process is not None and (code := job.process.poll()) is not None:
                self._free = sorted(self._free + job.devices, key=self._devices.index)
                new[handle] = code
                self._end(handle, code)
        for handle, job in list(self._jobs.items()):  # in order: what stands on a failed task comes after it
            if job.group.is_lost:
                new[handle] = NEVER_STARTED
                self._end(handle, NEVER_STARTED)
        self._start()
        return new

    def _end(self, handle: str, code: int) -> None:
        del self._jobs[handle]
        self._ended[handle] = code
        for group in self._groups:
            if handle in group.needs:
                group.needs.discard(handle)
                group.is_lost |= code != 0

    def _start(self) -> None:
        running = sum(job.process is not None for job in self._jobs.values())
        free = len(self._free)
        for job in self._jobs.values():
            if running == self._workers:
                return
            if job.process is not None or job.group.needs:
                continue
            wanted = min(job.task.stage.devices, len(self._devices))
            if wanted > free:
                free = 0  # held for this one, so that small tasks do not starve it
                continue
            job.devices, self._free, free = self._free[:wanted], self._free[wanted:], free - wanted
            own = {"CUDA_VISIBLE_DEVICES": ",".join(job.devices)} if job.devices else {}
            job.process = self._server.start(job.task.command, job.task.log, own, job.task.stage.imports)
            running += 1

    @override
    def close(self) -> None:
        running = [job.process for job in self._jobs.values() if job.process is not None]
        for process in running:
            process.send_signal(signal.SIGTERM)
        end = time.monotonic() + _PATIENCE
        for process in running:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, end - time.monotonic()))
        self._server.close()  # which kills what still runs
