"""A task's documents whose source file is unknown, in the order in which they come."""

from __future__ import annotations

import uuid
from functools import cached_property
from typing import Any

import numpy as np
import xxhash
from datatrove.data import Document

from pipeline_steps.errors import StoreDamaged, StoreMismatch
from pipeline_steps.stores.documents import named
from pipeline_steps.stores.key_index import IndexedColumns, KeyIndex
from pipeline_steps.stores.source_store import Columns, SourceStore


class Arrivals:
    """Columns of these documents: those that are stored already, and windows of those that are not.

    A committed window is never written again: where the documents come in another order than in an earlier attempt,
    the task goes on in a folder of its own.

    Args:
        store: the store, joined by `begin`.
        rank: the task.
        tasks: how many tasks the run has.
        is_of_text: whether columns are a function of a document's id and text, so that those of a copy are its own.
    """

    def __init__(self, store: SourceStore, rank: int, tasks: int, is_of_text: bool = True) -> None:
        self._is_of_text = is_of_text
        self._store, self._task = store, f"{rank:05d}-of-{tasks:05d}"
        self._name = store.arrivals_name(self._task)
        self._first = 0  # number of the first window in this folder
        self._moved_at: int | None = None  # the first window whose documents are not those of an earlier attempt
        self._stored_there = set[int]()  # numbers of windows that need not be written
        self._keys, self._documents = xxhash.xxh3_128(), 0
        self._entries: dict[str, Any] = {}
        self.windows = 0

    @cached_property
    def is_settled(self) -> bool:
        """Whether the run has finished before, so that nothing has to be written."""
        return self._store.is_settled()

    def stored(self, number: int, docs: list[Document], key_B: np.ndarray) -> tuple[Columns, np.ndarray]:
        """Return the columns of those documents of a window that are stored, and the places of the others.

        Raises:
            StoreMismatch: a document is not stored, though the run over this corpus has finished.
        """
        own = None if self.is_settled else self._store.read_window(self._name, number - self._first)
        if own is not None and np.array_equal(own["key"], key_B):
            if self._moved_at is None:  # what comes after a move belongs into the new folder
                self._stored_there.add(number)
            return own, np.empty(0, dtype=np.intp)
        if own is not None and self._moved_at is None:
            self._moved_at = number
            self.__dict__.pop("_elsewhere", None)
        if not self._is_of_text and not self.is_settled:
            return {}, np.arange(len(key_B))
        row_B = self._elsewhere.index.find(key_B)
        known = row_B >= 0
        columns = self._elsewhere.of(row_B[known])
        if known.any() and not np.array_equal(columns["key"], key_B[known]):
            raise StoreMismatch(f"{self._store.path} was changed while it was read: give the same command again")
        if self.is_settled and not known.all():
            raise StoreMismatch(
                f"{self._store.path} is finished, and does not hold {named(docs[np.flatnonzero(~known)[0]])}: use "
                "another folder or, if the corpus has grown, another name of it in the step's attribute `corpus`"
            )
        return columns, np.flatnonzero(~known)

    def commit(self, columns: Columns) -> None:
        """Keep the columns of the next window."""
        if self.windows == self._moved_at:
            self._close()
            self._name, self._first = self._store.arrivals_name(f"{self._task}+{uuid.uuid4().hex[:8]}"), self.windows
        if self.windows not in self._stored_there and not self.is_settled:
            self._store.commit_window(self._name, self.windows - self._first, columns)
        self.windows += 1
        self._documents += len(columns["key"])
        self._keys.update(np.ascontiguousarray(columns["key"], dtype="<u8").tobytes())

    def entries(self) -> dict[str, Any]:
        """Return what the task's record says of these documents, by folder; {} if there are none."""
        self._close()
        return self._entries

    def _close(self) -> None:
        if windows := self.windows - self._first:
            about = {"windows": windows, "documents": self._documents, "keys": self._keys.hexdigest()}
            self._entries[self._name] = about
        self._keys, self._documents = xxhash.xxh3_128(), 0

    @cached_property
    def _elsewhere(self) -> IndexedColumns:
        """What other runs have stored and, if the order has changed, other tasks and attempts of this run."""
        files = self._store.files_elsewhere(self._task, self._moved_at is not None)
        return IndexedColumns(KeyIndex(files), self._read)

    def _read(self, path: str) -> Columns:
        try:
            return self._store.read_file(path)
        except StoreDamaged as error:
            raise StoreDamaged(f"{error}; delete it first, since the run has finished, and run all tasks") from error
