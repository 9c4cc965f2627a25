"""Refuse pipes, devices and sockets before they are opened: reading one waits for ever, or never ends."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import known_implementations

from pipeline_steps.errors import CorpusError


_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def refuse_special_files(path: str) -> None:
    """Raise CorpusError if a path of this machine, or a file anywhere in its folder, cannot be read to an end.

    Links to files are followed, links to folders inside the folder are not. A path that does not exist, or that
    belongs to another file system, passes.
    """
    refuse_unusable_name(path)
    for place in _files_below(path):
        if (kind := special_kind(place)) is not None:
            raise CorpusError(f"{place} is {kind}, which cannot be read to an end: write its content into a file")


def special_kind(path: str) -> str | None:
    """Return "a pipe", "a device" or "a socket" if a local path leads to one, and None otherwise."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return None
    return _KINDS.get(stat.S_IFMT(mode))


def refuse_unusable_name(path: str) -> None:
    """Raise CorpusError if a path cannot be written down: it is not UTF-8, or another tool would read it otherwise."""
    try:
        path.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(path).decode(errors="backslashreplace")
        raise CorpusError(f"{shown}: the name of this file is not UTF-8: rename it") from None
    if "\0" in path:
        raise CorpusError(f"{path.encode('unicode_escape').decode()}: a path cannot hold a zero byte")
    first, chained, _ = path.partition("::")
    if chained and "://" not in first and first not in known_implementations:
        raise CorpusError(f"{path}: fsspec reads :: as a chain of file systems: rename the file or its folder")


def _files_below(path: str) -> Iterator[str]:
    """Yield a local path itself, and those of its entries that may be special files."""
    protocol, separator, _ = path.partition("://")
    if separator and protocol not in ("file", "local"):
        return
    local = LocalFileSystem._strip_protocol(path)
    yield local
    folders = [local] if os.path.isdir(local) else []
    while folders:
        try:
            entries = os.scandir(folders.pop())
        except OSError:  # whoever reads the folder will say why it cannot
            continue
        with entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif not entry.is_file(follow_symlinks=False):
                    yield entry.path
