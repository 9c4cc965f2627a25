"""Signals that ask a run to write a checkpoint and stop, instead of ending it; and launchers, which must let it."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType


REQUEUE = os.EX_TEMPFAIL  # 75: "temporary failure; the user is invited to retry", sysexits.h
# A scheduler's and a container's notice, Slurm's --signal=USR1@120, and Ctrl-C
_STOPPING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


def signal_when_parent_dies(number: int) -> None:
    """Ask Linux, and no other system, for a signal when this process's parent is gone, kill -9 included."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(1, number)  # PR_SET_PDEATHSIG, <sys/prctl.h>


@contextmanager
def stopping_signals() -> Iterator[list[int]]:
    """Yield a list that the numbers of stopping signals are put into instead of ending the process."""
    if "ACCELERATE_MIXED_PRECISION" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ:  # of a launcher
        signal_when_parent_dies(signal.SIGTERM)
    stopped: list[int] = []
    with _stopping_handled_by(stopped.append):
        yield stopped


@contextmanager
def _stopping_handled_by(handle: Callable[[int], object]) -> Iterator[None]:
    def handler(number: int, frame: FrameType | None) -> None:
        handle(number)

    before = {number: signal.signal(number, handler) for number in _STOPPING}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


def _as_launcher() -> None:
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal_when_parent_dies(signal.SIGTERM)


def run_launcher(command: Sequence[str], run_dir: Path, environment: Mapping[str, str] | None = None) -> int:
    """Wait for a launcher and the processes that train under it.

    A signal to stop goes past the launcher, which would kill them half a minute later in the middle of a checkpoint.

    Args:
        command: command of the launcher.
        run_dir: folder of the run.
        environment: environment of the launcher; this process's if None. Either gets a safe path, by which a user's
            own train.py in the working directory is never imported.

    Returns:
        its exit code; `REQUEUE` if the run was stopped and waits to be continued, which launchers do not tell.
    """
    import psutil

    preempted = run_dir / "preempted.json"
    preempted.unlink(missing_ok=True)  # of another start
    # Slurm tells every process that its time is up; a launcher would die of it, those who train listen all the same
    environment = {**(os.environ if environment is None else environment), "PYTHONSAFEPATH": "1"}
    process = subprocess.Popen(command, env=environment, preexec_fn=_as_launcher)

    def pass_on(number: int) -> None:
        with suppress(psutil.NoSuchProcess):
            for worker in psutil.Process(process.pid).children(recursive=True):
                worker.send_signal(number)

    with _stopping_handled_by(pass_on):
        code = process.wait()
    return REQUEUE if code and preempted.exists() else code
