"""Documents whose file nobody knows, in the order in which a task meets them."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from datatrove.data import Document

from pipeline_steps.errors import StoreMismatch
from pipeline_steps.stores.documents import named
from pipeline_steps.stores.key_index import IndexedColumns, KeyIndex
from pipeline_steps.stores.source_store import Columns, SourceStore


class Arrivals:
    """A task's documents of unknown files: columns that are stored already, and windows of those that are not.

    Args:
        store: the store, joined by `begin`.
        rank: the task.
        tasks: how many tasks the run has.

    Attributes:
        windows: how many windows have been passed.
    """

    def __init__(self, store: SourceStore, rank: int, tasks: int) -> None:
        self.name = f"{rank:05d}-of-{tasks:05d}"
        self.windows, self._documents = 0, 0
        self._store = store
        self._kept = set[int]()  # windows that stand there as they are
        self._moved = False  # whether a window's documents are not those of an earlier attempt

    @cached_property
    def is_settled(self) -> bool:
        """Whether the run has finished before, so that nothing has to be written."""
        return self._store.is_settled()

    def stored(self, number: int, docs: list[Document], key_B: np.ndarray) -> tuple[Columns, np.ndarray]:
        """Return the columns of those documents of a window that are stored, and the places of the others.

        Raises:
            StoreMismatch: a document is not stored, though the run over this corpus has finished.
        """
        own = None if self.is_settled else self._store.read_window(self.name, number)
        if own is not None and np.array_equal(own["key"], key_B):
            self._kept.add(number)
            return own, np.empty(0, dtype=np.intp)
        if own is not None and not self._moved:
            self._moved = True
            self.__dict__.pop("_others", None)
        row_B = self._others.index.find(key_B)
        columns = self._others.of(row_B[row_B >= 0])
        unknown = np.flatnonzero(row_B < 0)
        if unknown.size and self.is_settled:
            raise StoreMismatch(
                f"{self._store.path} is finished, and does not hold {named(docs[unknown[0]])}: its id or text has "
                "changed; use another folder"
            )
        return columns, unknown

    def commit(self, columns: Columns) -> None:
        """Keep the columns of the next window."""
        if self.windows not in self._kept and not self.is_settled:
            self._store.commit_window(self.name, self.windows, columns)
        self.windows += 1
        self._documents += len(columns["key"])

    def entry(self) -> dict[str, Any]:
        """Return what a task's record says of these documents; {} if there are none."""
        return {self.name: {"windows": self.windows, "documents": self._documents}} if self.windows else {}

    @cached_property
    def _others(self) -> IndexedColumns:
        """What other runs, runs of other numbers of tasks, and this task in another order have stored."""
        files = self._store.stored_elsewhere(self.name, self._moved)
        held = {}  # this task's own windows are about to be written anew, those of others perhaps too
        key_by_file = {}
        for path, source in files.items():
            if (columns := self._store.read_own(path, source)) is not None:
                key_by_file[path] = columns["key"]
                if "/windows/" in path and self._moved:
                    held[path] = columns
        return IndexedColumns(KeyIndex(key_by_file), lambda path: held.get(path) or self._read(path, files[path]))

    def _read(self, path: str, source: str) -> Columns:
        found = self._store.read_own(path, source)
        if found is None:
            raise StoreMismatch(f"{path} was removed while it was read: give the same command again")
        return found
