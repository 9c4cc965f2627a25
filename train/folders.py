"""Folders that appear whole or not at all, whatever is killed when."""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import xxhash

from pipeline_steps.errors import StoreMismatch


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A new folder to fill; on leaving, it is synced and stands at `target`.

    If somebody else has put a folder there meanwhile, theirs stays and ours is dropped: writers of the same target
    write the same bytes. What killed writers of this target left behind is removed; a lock, which ends with its
    process, tells it from what a living one is still filling.
    """
    unlocked = target.with_name(f".{target.name}.new-{uuid.uuid4().hex}")
    temporary = unlocked.with_name(unlocked.name.replace(".new-", ".tmp-"))
    unlocked.mkdir(parents=True)
    lock = os.open(unlocked, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        unlocked.rename(temporary)
        yield temporary
        for file in sorted(path for path in temporary.rglob("*") if path.is_file()):
            _sync(file)
        _sync(temporary)
        if not target.exists():
            _rename(temporary, target)
        _sync(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(lock)
    for leftover in sorted(target.parent.glob(f".{target.name}.tmp-*")):
        _remove_if_dead(leftover)


@contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Only one process at a time in a folder; the lock goes with its process, however it ends.

    Raises:
        StoreMismatch: another one is there; calls it `what`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreMismatch(
                f"another {what} is running in {folder}: wait for it or end it, or give another folder"
            ) from None
        yield


def checksum(path: Path) -> str:
    """xxh3-128 of a file's bytes, as hex digits."""
    state = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 24):
            state.update(chunk)
    return state.hexdigest()


def _remove_if_dead(leftover: Path) -> None:
    try:
        lock = os.open(leftover, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(leftover, ignore_errors=True)
    except BlockingIOError:
        pass  # its writer is alive
    finally:
        os.close(lock)


def _rename(temporary: Path, target: Path) -> None:
    try:
        os.rename(temporary, target)
    except OSError:
        if not target.exists():  # otherwise somebody was faster, between our look and our rename
            raise


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
