"""Folders that appear whole or not at all, whatever is killed when."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A new folder to fill; on leaving, it is synced and stands at `target`.

    If somebody else has put a folder there meanwhile, theirs stays and ours is dropped: writers of the same target
    write the same bytes. What killed writers of this target left behind is removed.
    """
    temporary = target.with_name(f".{target.name}.tmp-{uuid.uuid4().hex}")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for file in sorted(path for path in temporary.rglob("*") if path.is_file()):
            _sync(file)
        _sync(temporary)
        if not target.exists():
            _rename(temporary, target)
        _sync(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for leftover in sorted(target.parent.glob(f".{target.name}.tmp-*")):
        shutil.rmtree(leftover, ignore_errors=True)


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
