"""Rows in order of their keys, cut into ranges: the content does not depend on the order in which the rows came."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from pipeline_steps.stores.sealed_parquet import ID, SealedFile, encode


Columns = dict[str, np.ndarray]
_NAME = "key="
_ROWS = 1 << 20  # of a range, about
_TEXT = 100  # bytes of a string, about
_HELD = 1 << 28  # bytes of rows in memory before they go to the disk


def is_key_range(source: str) -> bool:
    """Return whether a source is a range of keys, and no file."""
    return source.startswith(_NAME)


def contains(sorted_N: np.ndarray, key_B: np.ndarray) -> np.ndarray:
    """Return whether each key is among sorted ones: bool [B]."""
    first_B = np.searchsorted(sorted_N, key_B)
    return np.asarray(np.searchsorted(sorted_N, key_B, side="right") > first_B)


class KeyRanges:
    """Sorts rows by key; more than memory holds are kept in a temporary folder of this machine.

    Args:
        schema: Arrow fields of the columns, `key` among them.
        rows: how many rows there will be.
    """

    def __init__(self, schema: pa.Schema, rows: int) -> None:
        self._schema = schema
        self._bits = max(0, (max(rows, 1) - 1).bit_length() - (_ROWS.bit_length() - 1))
        self._held: dict[int, list[Columns]] = {}
        self._bytes, self._spilled = 0, 0

    def __enter__(self) -> KeyRanges:
        self._scratch = TemporaryDirectory()
        return self

    def __exit__(self, *_: object) -> None:
        self._scratch.cleanup()

    def add(self, columns: Mapping[str, np.ndarray]) -> None:
        """Take rows."""
        if self._bits:
            range_N = (columns["key"] >> np.uint64(64 - self._bits)).astype(np.intp)
        else:
            range_N = np.zeros(len(columns["key"]), dtype=np.intp)
        order = np.argsort(range_N, kind="stable")
        number_R, start_R = np.unique(range_N[order], return_index=True)
        for number, rows in zip(number_R.tolist(), np.split(order, start_R[1:]), strict=True):
            self._held.setdefault(number, []).append({name: column[rows] for name, column in columns.items()})
        self._bytes += sum(
            column.nbytes + _TEXT * column.size * (column.dtype == object) for column in columns.values()
        )
        if self._bytes > _HELD:
            self._spill()

    def sorted(self) -> Iterator[tuple[str, Columns]]:
        """Yield each range that has rows, as a source, with its rows in order of key; copies get one's columns."""
        for number in range(1 << self._bits):
            parts = self._held.pop(number, [])
            for path in sorted(self._folder(number).glob("*")):
                with SealedFile(LocalFileSystem(), str(path)) as file:
                    parts.append(file.read())
            if parts:
                first = number << (64 - self._bits) if self._bits else 0
                yield f"{_NAME}{first:016x}", _sorted({name: _joined(parts, name) for name in parts[0]})

    def _spill(self) -> None:
        for number, parts in self._held.items():
            folder = self._folder(number)
            folder.mkdir(exist_ok=True)
            columns = {name: _joined(parts, name) for name in parts[0]}
            (folder / f"{self._spilled:08d}").write_bytes(encode(self._schema, columns, None))
        self._held, self._bytes, self._spilled = {}, 0, self._spilled + 1

    def _folder(self, number: int) -> Path:
        return Path(self._scratch.name, f"{number:08d}")


def _joined(parts: list[Columns], name: str) -> np.ndarray:
    return np.concatenate([part[name] for part in parts])


def _sorted(columns: Columns) -> Columns:
    """Sort by key. What was computed of copies in other company may differ in last bits: the lowest stands for all."""
    others = [column for name, column in columns.items() if name not in ("key", ID) and column.ndim == 1]
    sortable = [np.unique(one, return_inverse=True)[1] if one.dtype == object else one for one in others]
    order = np.lexsort((*reversed(sortable), columns["key"]))
    key_N = columns["key"][order]
    first_N = np.r_[True, key_N[1:] != key_N[:-1]]
    order = order[np.flatnonzero(first_N)[np.cumsum(first_N) - 1]]
    return {name: column[order] for name, column in columns.items()}
