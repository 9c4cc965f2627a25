"""An index of the rows of a store's files by key: for documents whose source file is unknown, or another now."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping

import numpy as np


Columns = Mapping[str, np.ndarray]
_CACHED = 1 << 30  # bytes of columns that are kept in memory between two look-ups


class KeyIndex:
    """The rows of several files, found by key; 16 bytes a row.

    Args:
        key_by_file: keys of each file's rows, uint64 [N] each.
    """

    def __init__(self, key_by_file: Mapping[str, np.ndarray]) -> None:
        self.files = list(key_by_file)
        key_N = np.concatenate([np.empty(0, np.uint64), *key_by_file.values()])
        self._starts = np.cumsum([0, *(len(keys) for keys in key_by_file.values())])
        self._row_N = np.argsort(key_N, kind="stable")
        self.key_N = key_N[self._row_N]

    def find(self, key_B: np.ndarray) -> np.ndarray:
        """Return a row of each key, int64 [B], counted over all files; -1 for keys that no file has."""
        at = np.searchsorted(self.key_N, key_B)
        row = np.full(len(key_B), -1, dtype=np.int64)
        inside = np.flatnonzero(at < len(self.key_N))
        there = inside[self.key_N[at[inside]] == key_B[inside]]
        row[there] = self._row_N[at[there]]
        return row

    def rows(self, key: int) -> np.ndarray:
        """Return all rows of a key, int64, in the order of files and rows."""
        wanted = np.uint64(key)
        return self._row_N[np.searchsorted(self.key_N, wanted) : np.searchsorted(self.key_N, wanted, side="right")]

    def place(self, row: int) -> tuple[str, int]:
        """Return the file of a row, and its number there."""
        file = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self.files[file], row - int(self._starts[file])

    def by_file(self, row_B: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return, by file, which of B rows are in it, and their numbers there."""
        file_B = np.searchsorted(self._starts, row_B, side="right") - 1
        found = {}
        for file in np.unique(file_B).tolist():
            mine = np.flatnonzero(file_B == file)
            found[self.files[file]] = mine, row_B[mine] - self._starts[file]
        return found


class IndexedColumns:
    """Columns of several files for any documents of theirs, by key.

    Args:
        index: where the documents stand.
        read: returns the columns of a file.
    """

    def __init__(self, index: KeyIndex, read: Callable[[str], Columns]) -> None:
        self.index, self._read = index, read
        self._cache: OrderedDict[str, Columns] = OrderedDict()
        self._bytes = 0

    def of(self, row_B: np.ndarray) -> dict[str, np.ndarray]:
        """Return the columns of rows, as `KeyIndex.find` counts them; {} if there are none."""
        found: dict[str, np.ndarray] = {}
        for file, (mine, rows) in self.index.by_file(row_B).items():
            for name, column in self._columns(file).items():
                if name not in found:
                    found[name] = np.empty((len(row_B), *column.shape[1:]), dtype=column.dtype)
                found[name][mine] = column[rows]
        return found

    def _columns(self, file: str) -> Columns:
        if file in self._cache:
            self._cache.move_to_end(file)
            return self._cache[file]
        columns = self._cache[file] = self._read(file)
        self._bytes += _bytes(columns)
        while self._bytes > _CACHED and len(self._cache) > 1:
            self._bytes -= _bytes(self._cache.popitem(last=False)[1])
        return columns


def _bytes(columns: Columns) -> int:
    return sum(column.nbytes for column in columns.values())
