"""Records of tasks: a small file for each task of a stage, written by the task itself on every engine.

<output>/stages/<stage>/<task>-of-<tasks>.json   done: fingerprint of all that decides the stage, seconds it took;
                                                 without a fingerprint, it was done once and is to be done again
<output>/stages/<stage>/<task>-of-<tasks>.begun  begun: the same, where it runs and logs, and how it failed if it has;
                                                 written again while it lives, so that silence means it was killed
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from launch.stages.base import Stage
from pipeline_steps.errors import InvalidStudy, StoreDamaged
from pipeline_steps.stores.files import unseal, write_json


BEAT = 10.0  # seconds between two signs of life
ON_A_CLUSTER = "WINNOW_ON_A_CLUSTER"  # set by engines whose tasks see a network disk
SILENCE = 90.0  # without one, a task counts as killed: clocks of nodes and caches of network disks may differ by some

State = Literal["done", "running", "failed", "waiting"]


@dataclass(frozen=True)
class TaskState:
    """What is known of a task.

    Attributes:
        state: what the task does; "failed" also if it was killed.
        seconds: how long the task has worked so far, all attempts together.
        log: the file that the task writes to, if it has begun; "" else.
        error: how the task failed; "" if it has not.
    """

    state: State
    seconds: float = 0.0
    log: str = ""
    error: str = ""


def record_file(output: str, stage: Stage, task: int) -> Path:
    """Return the file that says that a task is done."""
    return Path(output) / "stages" / stage.name / f"{task}-of-{stage.tasks}.json"


def is_done(output: str, stage: Stage, task: int) -> bool:
    """Return whether a task has ended well, with the settings of this stage."""
    return _record(record_file(output, stage, task), stage.made) is not None


def tasks_left(output: str, stage: Stage) -> list[int]:
    """Return the tasks of a stage that are still to be done."""
    if is_untouched(output, stage):
        return list(range(stage.tasks))
    return [task for task in range(stage.tasks) if not is_done(output, stage, task)]


def is_untouched(output: str, stage: Stage) -> bool:
    """Return whether no task of a stage has written anything; one look instead of two for each task."""
    return not record_file(output, stage, 0).parent.exists()


def check_ready(output: str, stage: Stage, study: str) -> None:
    """Refuse to begin a stage on half of what it needs: engines forget, and study files are edited meanwhile.

    Raises:
        InvalidStudy: the first stage that is not done.
    """
    # Elsewhere, what has just been written is seen a little later
    is_elsewhere = "SLURM_JOB_ID" in os.environ or ON_A_CLUSTER in os.environ
    end = time.monotonic() + (SILENCE if is_elsewhere else 0.0)
    for need in stage.inputs:
        while tasks_left(output, need):
            if time.monotonic() >= end:
                raise InvalidStudy(
                    f"{stage.name} needs {need.name}, which is not done as {study} is now: winnow run {study} does "
                    "what is missing"
                )
            time.sleep(1.0)


def task_state(output: str, stage: Stage, task: int) -> TaskState:
    """Return what its files say about a task."""
    done = record_file(output, stage, task)
    if (record := _record(done, stage.made)) is not None:
        return TaskState("done", record["seconds"])
    begun = done.with_suffix(".begun")
    if (record := _record(begun, stage.made)) is None:
        return TaskState("waiting")
    error = record["error"]
    if not error and not record["alive"]:
        return TaskState("waiting", record["seconds"], record["log"])
    if not error:
        error = "it was killed" if _is_gone(record, begun) else ""
    return TaskState("failed" if error else "running", record["seconds"], record["log"], error)


def has_begun(output: str, stage: Stage) -> bool:
    """Return whether a task of a stage is done, or is being done."""
    if is_untouched(output, stage):
        return False
    return any(task_state(output, stage, task).state in ("done", "running") for task in range(stage.tasks))


def seconds_of(output: str, stage: Stage) -> float:
    """Return the seconds that all tasks of a stage have taken."""
    return sum(task_state(output, stage, task).seconds for task in range(stage.tasks))


def forgive(output: str, stage: Stage) -> None:
    """Forget that tasks of a stage have failed: they are about to be done again."""
    for task in tasks_left(output, stage):
        begun = record_file(output, stage, task).with_suffix(".begun")
        if (record := _record(begun, stage.made)) is not None:
            write_json(str(begun), record | {"alive": False, "error": ""})


def forget(output: str, stage: Stage) -> None:
    """Take the records off all tasks of a stage; the seconds they have taken are still known."""
    for task in range(stage.tasks):
        done = record_file(output, stage, task)
        if (seconds := _seconds(done)) or done.exists():
            write_json(str(done), {"fingerprint": "", "seconds": seconds})


class Watched:
    """A task that is being done, and writes to a log: gives signs of life until it stops or is done."""

    def __init__(self, output: str, stage: Stage, task: int, log: str) -> None:
        self._done = record_file(output, stage, task)
        self._begun = self._done.with_suffix(".begun")
        self._fingerprint, self._log = stage.made, log
        earlier = _record(self._begun, stage.made)
        self._earlier = earlier["seconds"] if earlier else 0.0
        # Of work that was done under another fingerprint, and is found to be the same
        self._before = _seconds(self._done)
        self._start = time.monotonic()
        self._stop = threading.Event()
        self._note()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def stop(self, error: str = "") -> None:
        """Note that the task was stopped to go on later, or how it failed."""
        self._stop.set()
        self._thread.join()
        self._note(error, alive=False)

    def done(self) -> None:
        """Note that the task is done."""
        self._stop.set()
        self._thread.join()
        seconds = max(self._seconds(), self._before)
        write_json(str(self._done), {"fingerprint": self._fingerprint, "seconds": seconds})
        self._begun.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._stop.wait(BEAT):
            with suppress(OSError):  # a disk that is away for a moment must not end the work
                self._note()

    def _seconds(self) -> float:
        return round(self._earlier + time.monotonic() - self._start, 1)

    def _note(self, error: str = "", alive: bool = True) -> None:
        record = {"fingerprint": self._fingerprint, "seconds": self._seconds(), "alive": alive, "error": error}
        record |= {"host": socket.gethostname(), "pid": os.getpid(), "born": _born(os.getpid()), "log": self._log}
        write_json(str(self._begun), record)


def _is_gone(record: Mapping[str, Any], begun: Path) -> bool:
    """Whether the process of a task that counts as alive is not there any more."""
    if record["host"] == socket.gethostname():
        return _born(record["pid"]) != record.get("born")
    try:
        return time.time() - begun.stat().st_mtime > SILENCE
    except FileNotFoundError:  # it has just ended
        return False


def _born(pid: int) -> str:
    """When a process began, in ticks since its machine did: ids of processes come again. "" if it is not there."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if state in "ZX" else fields[18]  # a container's first process need not clear dead ones away
    except (OSError, IndexError, ValueError):
        return ""


def _seconds(path: Path) -> float:
    record = _read(path)
    return float(record["seconds"]) if record else 0.0


def _record(path: Path, fingerprint: str) -> dict[str, Any] | None:
    record = _read(path)
    return record if record and record["fingerprint"] == fingerprint else None


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return unseal(path.read_bytes(), str(path))  # tens of thousands of them in a large study
    except (OSError, StoreDamaged):  # not there, or a network disk is about to replace it
        return None
