"""Read an embedding store: what it was made by, a sample of it, the rows of some documents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
from datatrove.data import Document

from pipeline_steps.errors import InvalidEmbedding, MissingScore, StoreIncomplete
from pipeline_steps.numerics.keys import document_key, mix
from pipeline_steps.stores.source_store import SourceStore


_SAMPLED_SOURCES = 64  # files a sample is taken from
_SAMPLED_ROWS = 4096  # of a file are read at a time, until four times as many are known as are wanted


def made_by(store: SourceStore) -> dict[str, Any]:
    """What decides the embeddings of a store: the model, not the windows it was run in."""
    return {name: value for name, value in store.made.items() if name != "window_size"}


def sample_embeddings(store: SourceStore, count: int, seed: int) -> np.ndarray:
    """About `count` embeddings, float16 [count, D], by hashes of their keys: the same for any number of tasks.

    They come from the beginnings of up to 64 files of the store, a share from each.

    Raises:
        StoreIncomplete: the store is empty or not finished.
    """
    sources = sorted(store.sources, key=lambda source: document_key(str(seed), source))[:_SAMPLED_SOURCES]
    known = sum(store.sources[source] for source in sources)
    if not known:
        raise StoreIncomplete(f"{store.path} holds no embeddings: embed the corpus first")
    parts = []
    for source in sorted(sources):
        wanted = -(-count * store.sources[source] // known)
        read, size = [], 0
        for batch in store.batches(source, ["key", "embedding"], _SAMPLED_ROWS):
            read.append(batch)
            size += len(batch["key"])
            if size >= 4 * wanted:
                break
        key = np.concatenate([batch["key"] for batch in read])
        chosen = np.sort(np.argsort(mix(key, seed), kind="stable")[:wanted])
        parts.append(np.concatenate([batch["embedding"] for batch in read])[chosen])
    return np.concatenate(parts)


@contextmanager
def naming(source: str, store: SourceStore) -> Iterator[None]:
    """Let an error about an embedding say whose it is."""
    try:
        yield
    except InvalidEmbedding as error:
        raise InvalidEmbedding(f"{source} in {store.path}: {error}; embed it again") from None


class Readable(Protocol):
    """What RowsByDocument reads: a SourceStore, or what is put together from several files."""

    path: str

    def read(self, source: str, columns: Sequence[str]) -> dict[str, np.ndarray]:
        """Columns of a source in document order."""


class RowsByDocument:
    """Columns of a store for the documents of a pipeline, one source file at a time.

    Args:
        store: the store.
        columns: which of its columns.
    """

    def __init__(self, store: Readable, columns: Sequence[str]) -> None:
        self._store, self._names = store, list(columns)
        self._source: str | None = None
        self._keys = np.empty(0, dtype=np.uint64)
        self._rows: dict[int, int] = {}
        self._columns: dict[str, np.ndarray] = {}

    def of(self, docs: Sequence[Document]) -> dict[str, np.ndarray]:
        """Rows of documents of one source, in their order.

        Raises:
            MissingScore: a document is not in the store, or its text has changed since.
        """
        source = docs[0].metadata["file_path"]
        if source != self._source:
            self._columns = self._store.read(source, ["key", *self._names])
            self._keys = self._columns.pop("key")
            self._rows = {key: row for row, key in enumerate(self._keys.tolist())}
            self._source = source
        keys = [document_key(doc.id, doc.text) for doc in docs]
        try:
            rows = self._neighbouring(keys) or [self._rows[key] for key in keys]
        except KeyError:
            lost = next(doc.id for doc, key in zip(docs, keys, strict=True) if key not in self._rows)
            raise MissingScore(
                f"document {lost} of {source} is not in {self._store.path}, or its text has changed: run the step "
                "that writes that store over this corpus first"
            ) from None
        return {name: column[rows] for name, column in self._columns.items()}

    def _neighbouring(self, keys: list[int]) -> list[int]:
        """The run of rows with these keys, as a whole source has it; [] if there is none.

        It tells copies apart, which are the same document by key, but may have different values.
        """
        wanted = np.array(keys, dtype=np.uint64)
        for start in np.flatnonzero(self._keys == wanted[0]).tolist():
            if np.array_equal(self._keys[start : start + len(keys)], wanted):
                return list(range(start, start + len(keys)))
        return []
