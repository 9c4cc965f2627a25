"""Columns of a store for the documents of a pipeline: by their file where the store knows it, else by their key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from datatrove.data import Document

from pipeline_steps.errors import MissingScore
from pipeline_steps.stores.documents import key_of, named
from pipeline_steps.stores.key_index import IndexedColumns, KeyIndex


class Readable(Protocol):
    """What RowsByDocument reads: a SourceStore, or what is put together from several files."""

    path: str

    @property
    def sources(self) -> Mapping[str, int]:
        """Return the documents of each source."""

    def read(self, source: str, columns: Sequence[str]) -> dict[str, np.ndarray]:
        """Return columns of a source in document order."""


class RowsByDocument:
    """Columns of a store for any documents; those of one file after the other cost least.

    Args:
        store: the store.
        columns: names of the columns.
    """

    def __init__(self, store: Readable, columns: Sequence[str]) -> None:
        self._store, self._names, self._sources = store, list(columns), frozenset(store.sources)
        self._source: str | None = None
        self._keys = np.empty(0, dtype=np.uint64)
        self._rows: dict[int, int] = {}
        self._columns: Mapping[str, np.ndarray] = {}

    def of(self, docs: Sequence[Document]) -> dict[str, np.ndarray]:
        """Return the rows of documents. Raises MissingScore if one is not in the store as it is now."""
        keys = [key_of(doc) for doc in docs]
        sources = {doc.metadata.get("file_path") for doc in docs}
        if len(sources) == 1 and self._open(str(*sources)):
            rows = self._neighbouring(keys) or [self._rows.get(key, -1) for key in keys]
            if min(rows) >= 0:
                return {name: column[rows] for name, column in self._columns.items()}
        row_B = self._by_key.index.find(np.array(keys, dtype=np.uint64))
        for lost in np.flatnonzero(row_B < 0)[:1]:
            raise MissingScore(
                f"{named(docs[lost])} is not in {self._store.path}, or its text has changed: run the step that "
                "writes that store over this corpus first"
            )
        return self._by_key.of(row_B)

    def known(self, docs: Sequence[Document]) -> list[Any]:
        """Return the one column's value of each document; None for documents that the store does not have."""
        (name,) = self._names
        found: list[Any] = []
        for doc in docs:
            key, source = key_of(doc), str(doc.metadata.get("file_path"))
            if self._open(source) and key in self._rows:
                found.append(self._columns[name][self._rows[key]])
                continue
            row_B = self._by_key.index.find(np.array([key], dtype=np.uint64))
            found.append(None if row_B[0] < 0 else self._by_key.of(row_B)[name][0])
        return found

    def _open(self, source: str) -> bool:
        """Return whether the store has this file, and read it."""
        if source != self._source and source in self._sources:
            columns = self._store.read(source, ["key", *self._names])
            self._keys = columns.pop("key")
            self._columns = columns
            self._rows = {key: row for row, key in enumerate(self._keys.tolist())}
            self._source = source
        return source == self._source

    def _neighbouring(self, keys: list[int]) -> list[int]:
        """Return the run of rows with these keys, as a whole source has it; [] if there is none.

        It tells copies apart, which are the same document by key, but may have different values.
        """
        wanted = np.array(keys, dtype=np.uint64)
        for start in np.flatnonzero(self._keys == wanted[0]).tolist():
            if np.array_equal(self._keys[start : start + len(keys)], wanted):
                return list(range(start, start + len(keys)))
        return []

    @cached_property
    def _by_key(self) -> IndexedColumns:
        keys = {source: self._store.read(source, ["key"])["key"] for source in self._store.sources}
        return IndexedColumns(KeyIndex(keys), lambda source: self._store.read(source, self._names))
