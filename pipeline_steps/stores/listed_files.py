"""Files that others read as they are (Parquet, JSON lines, weights), verified by what a sealed JSON file says of them.

An entry is {"bytes": size, "xxh3": xxh3-128 of the bytes}; a list has one for each name.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import xxhash
from fsspec.implementations.local import LocalFileSystem

from pipeline_steps.stores.files import file_digest, open_folder


Entries = dict[str, dict[str, Any]]
_BLOCK = 1 << 20  # bytes of a remote file read at a time
_READERS = 8  # files of a remote folder read at a time


def entry(file: Path) -> dict[str, Any]:
    """Return the size and digest of a local file."""
    return {"bytes": file.stat().st_size, "xxh3": file_digest(file)}


def damaged(folder: str | Path, listed: Mapping[str, Mapping[str, Any]], whole: bool = True) -> list[str]:
    """Return the names of listed files that are not there, or not what they were.

    Args:
        folder: where they stand, any fsspec path.
        listed: their entries.
        whole: whether every byte is read; if not, only the sizes are compared.
    """
    fs, root = open_folder(str(folder))

    def is_damaged(name: str) -> bool:
        try:
            if fs.info(f"{root}/{name}")["size"] != listed[name]["bytes"]:
                return True
            return whole and _digest(fs, f"{root}/{name}") != listed[name]["xxh3"]
        except FileNotFoundError:
            return True

    with ThreadPoolExecutor(_READERS) as readers:
        return [name for name, bad in zip(listed, readers.map(is_damaged, listed), strict=True) if bad]


def _digest(fs: Any, path: str) -> str:
    if isinstance(fs, LocalFileSystem):
        return file_digest(path)
    state = xxhash.xxh3_128()
    with fs.open(path, "rb") as file:
        while block := file.read(_BLOCK):
            state.update(block)
    return state.hexdigest()
