"""What commands that start processes share: devices, signals and logs."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


TICK = 0.2  # seconds between two looks at processes


def visible_devices() -> list[str]:
    """Return the CUDA devices that processes started here may use, as CUDA_VISIBLE_DEVICES names them.

    This needs no torch, which takes seconds to import.
    """
    said = os.environ.get("CUDA_VISIBLE_DEVICES")
    if said is not None:
        return [one for one in said.split(",") if one not in ("", "-1")]
    return [str(number) for number in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]


@contextmanager
def interrupts_held() -> Iterator[Callable[[], None]]:
    """Keep a Ctrl-C until the yielded function is called: Python drops the exception of one that arrives in a fork.

    SIGTERM, of a container or a scheduler, and Slurm's notice are taken for a Ctrl-C: processes may save what they
    have.
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


def log_end(log: str, lines: int = 12) -> str:
    """Return the last lines of a log; "" if there is none."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, os.path.getsize(log) - 16_384))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""
