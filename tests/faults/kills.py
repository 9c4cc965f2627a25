"""Kill jobs at random moments and at random file operations; what they leave must be what undisturbed ones leave.

A job is forked from this process, which has imported what it needs, so that a life costs milliseconds. Killed are its
whole process group, one worker, or the parent alone: then its workers go on beside the next life.
"""

from __future__ import annotations

import ctypes
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from .hook.sitecustomize import install


LIMIT = 300.0  # seconds of a life that is not killed
_WORKERS = 2  # of a life, at work at one time
_GRACE = 1.0  # after a worker is killed: datatrove's pool waits for it for ever


@dataclass(frozen=True)
class Workload:
    """What is killed.

    Attributes:
        name: in the table.
        make: writes the input into a folder.
        live: one life in a folder, in a forked process: the folder, and a number that differs for each life.
        results: the result files in a folder, each with its content.
        documents: ids of the documents that were kept, in a folder.
        work: what was computed so far, a line for each piece that must be computed once; [] if nobody counts.
        moments: seconds between which a life is killed.
        operations: the largest number of the file operation a life is killed at.
    """

    name: str
    make: Callable[[Path], None]
    live: Callable[[Path, int], None]
    results: Callable[[Path], dict[str, bytes]]
    documents: Callable[[Path], list[str]]
    work: Callable[[Path], list[str]] = lambda _: []
    moments: tuple[float, float] = (0.0, 0.3)
    operations: int = 60


@dataclass
class Tally:
    """A row of the table."""

    name: str
    trials: int = 0
    kills: int = 0
    lost: int = 0
    doubled: int = 0
    differing: int = 0
    redone: int = 0
    failed: int = 0
    hangs: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def bad(self) -> bool:
        """Whether anything is there that must not be. A kill may cost each worker one piece of work."""
        wrong = self.lost + self.doubled + self.differing + self.failed + self.hangs
        return bool(wrong) or self.redone > _WORKERS * self.kills


def campaign(workload: Workload, kills: int, seed: int, folder: Path) -> Tally:
    """Kill a workload so often, some times in each trial, and compare each trial's end with an undisturbed one."""
    chance, tally = random.Random(f"{seed} {workload.name}"), Tally(workload.name)
    trial = folder / workload.name.replace(" ", "-")  # one name for all: files hold the paths of their sources
    workload.make(trial)
    _check(tally, _life(workload, trial, 0, None, chance))
    wanted, documents = workload.results(trial), Counter(workload.documents(trial))
    while tally.kills < kills and not tally.bad:
        shutil.rmtree(trial)
        workload.make(trial)
        most, before, life = chance.randint(1, 8), tally.kills, 0
        orphaned = False  # workers whose parent was killed go on beside the next life, and may do what that does
        while tally.kills - before < most and life < 4 * most:
            life += 1
            how = chance.choice(["moment", "operation"]), chance.choice(["group", "group", "worker", "parent"])
            orphaned |= how[1] == "parent"
            status = _life(workload, trial, life, how, chance)
            if status == 0:
                break  # it was done before it could be killed
            tally.kills += status == -signal.SIGKILL
        _end_orphans()
        _check(tally, _life(workload, trial, life + 1, None, chance))
        found, kept = workload.results(trial), Counter(workload.documents(trial))
        tally.trials += 1
        different = [name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name)]
        tally.differing += len(different)
        tally.notes += [f"{name} differs in trial {tally.trials}" for name in different]
        tally.lost += sum((documents - kept).values())
        tally.doubled += sum((kept - documents).values())
        done = Counter(workload.work(trial))
        tally.redone += sum(count - 1 for count in done.values()) if not orphaned else 0
    if not tally.bad:
        shutil.rmtree(trial)
    return tally


def _check(tally: Tally, status: int) -> None:
    if status == -signal.SIGALRM:
        tally.hangs += 1
    elif status:
        tally.failed += 1
        tally.notes.append(f"a life that was not killed ended with {status}")


def _life(workload: Workload, folder: Path, life: int, how: tuple[str, str] | None, chance: random.Random) -> int:
    """Run a life; its exit code, negative for a signal. `how` it is killed, if it is."""
    number = chance.randint(1, workload.operations)
    moment = chance.uniform(*workload.moments)
    job = os.fork()
    if not job:
        try:
            os.setsid()
            _quiet(folder.with_name(f"{folder.name}.log"))
            if how and how[0] == "operation":
                whom = {"worker": "self"}.get(how[1], how[1])
                install(number, "self" if whom == "parent" else whom, str(folder))
                os.environ["WINNOW_FAULT"] = f"{number}:{whom}:{folder}"
            workload.live(folder, life)
            os._exit(0)
        except SystemExit as exit:
            os._exit(exit.code if isinstance(exit.code, int) else 1)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
    if how is None:
        return _wait(job, LIMIT)
    if how[0] == "moment":
        status = _wait(job, moment, give_up=False)
        if status is not None:
            return status
        _kill(job, how[1], chance)
        status = _wait(job, _GRACE, give_up=False)
    else:
        status = _wait(job, workload.moments[1] * 4 + _GRACE, give_up=False)
    if status is None:  # a worker was killed, and the pool waits for it
        _kill(job, "group", chance)
        status = _wait(job, LIMIT)
    return status


def _kill(job: int, whom: str, chance: random.Random) -> None:
    try:
        if whom == "group":
            os.killpg(job, signal.SIGKILL)
        elif whom == "worker" and (workers := psutil.Process(job).children(recursive=True)):
            chance.choice(workers).kill()
        else:
            os.kill(job, signal.SIGKILL)
    except (ProcessLookupError, psutil.NoSuchProcess):
        pass


def _wait(job: int, seconds: float, give_up: bool = True) -> int | None:
    """Exit code of a child; None if it is still there. With `give_up` that is a hang: it is killed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found, status = os.waitpid(job, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    if not give_up:
        return None
    os.killpg(job, signal.SIGKILL)
    os.waitpid(job, 0)
    return -signal.SIGALRM


def adopt_orphans() -> None:
    """Let workers whose parent is killed become children of this process, so that they can be found."""
    pr_set_child_subreaper = 36  # linux/prctl.h
    ctypes.CDLL(None).prctl(pr_set_child_subreaper, 1, 0, 0, 0)


def _end_orphans() -> None:
    """End what killed parents have left at work, as the machine's owner would before the last rerun."""
    for process in psutil.Process().children(recursive=True):
        try:
            process.kill()
            process.wait()
        except psutil.NoSuchProcess:
            continue


def _quiet(log: Path) -> None:
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
