"""Signals that ask a run to write a checkpoint and stop, instead of ending it; and not to outlive its launcher."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


# A scheduler's and a container's notice, Slurm's --signal=USR1@120, and Ctrl-C
_STOPPING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


def signal_when_parent_dies(number: int) -> None:
    """Ask Linux, and no other system, for a signal when this process's parent is gone, kill -9 included."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(1, number)  # PR_SET_PDEATHSIG, <sys/prctl.h>


@contextmanager
def stopping_signals() -> Iterator[list[int]]:
    """A list that the numbers of stopping signals are put into instead of ending the process."""
    stopped: list[int] = []
    if "ACCELERATE_MIXED_PRECISION" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ:  # of a launcher
        signal_when_parent_dies(signal.SIGTERM)

    def note(number: int, frame: FrameType | None) -> None:
        stopped.append(number)

    before = {number: signal.signal(number, note) for number in _STOPPING}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
