"""Signals that ask a run to write a checkpoint and stop, instead of ending it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


# A scheduler's and a container's notice, Slurm's --signal=USR1@120, and Ctrl-C
_STOPPING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


@contextmanager
def stopping_signals() -> Iterator[list[int]]:
    """A list that the numbers of stopping signals are put into instead of ending the process."""
    stopped: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        stopped.append(number)

    before = {number: signal.signal(number, note) for number in _STOPPING}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
