"""Read a score store: numpy arrays over the whole corpus, or one source at a time."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import pyarrow as pa

from pipeline_steps.errors import StoreIncomplete, StoreMismatch
from pipeline_steps.stores.source_store import SourceStore


class ScoreStore(SourceStore):
    """Scores of a corpus, in corpus order: sources sorted by name, documents as they stand in them.

    The parts are plain Parquet (`<path>/parts/*.parquet`): pandas, polars and duckdb read them as they are.
    """

    @classmethod
    def open(cls, path: str, partial: bool = False) -> ScoreStore:
        """A finished store; with `partial`, the sources that a running or stopped job has finished so far.

        Raises:
            StoreIncomplete: it is not a store, is half written, or holds nothing.
            StoreMismatch: it holds something else, or files that its last finished run did not read.
        """
        store = cls(str(path))
        if store.kind != "scores":
            raise StoreMismatch(f"{path} holds {store.kind}, not scores")
        if partial:
            store.manifest = store.sealed()
        if not store.manifest:
            raise StoreIncomplete(
                f"{path} is empty: {'no source is finished' if partial else 'no documents were read'}"
            )
        return store

    @property
    def scores(self) -> np.ndarray:
        """float32 [N]."""
        return self.column("score")

    @property
    def keys(self) -> np.ndarray:
        """uint64 [N], `document_key` of each document."""
        return self.column("key")

    @property
    def tokens(self) -> np.ndarray:
        """uint32 [N]; 0 where the scorer counts none."""
        return self.column("tokens")

    @property
    def lower_is_better(self) -> bool:
        """Return whether low scores are the good ones, as the scorer recorded it.

        Raises:
            StoreMismatch: the store does not say, so an earlier version of this package wrote it.
        """
        if "lower_is_better" not in self.made:
            raise StoreMismatch(
                f"{self.path} does not say whether its low scores are the good ones: an earlier version wrote it; "
                "score the corpus again, into another folder"
            )
        return bool(self.made["lower_is_better"])

    def to_arrow(self) -> pa.Table:
        """All columns of the corpus as one table, with each document's `source`; `.to_pandas()` makes a DataFrame."""
        parts = []
        for index, source in enumerate(self.sources):
            columns = self.read(source)
            index_N = pa.array(np.full(len(columns["key"]), index, dtype=np.int32))
            parts.append(pa.table({"source": pa.DictionaryArray.from_arrays(index_N, list(self.sources)), **columns}))
        return pa.concat_tables(parts)

    def locate(self, source: str) -> str | None:
        """Return the stored source that this file is: of the same path or, if the corpus has moved, the most alike.

        Alike are paths that end in the same folders and name; None if there is none, or no single best one.
        """
        if source in self.manifest:
            return source
        node = self._by_suffix
        for name in reversed(source.split("/")):
            if name not in node.children:
                break
            node = node.children[name]
        return node.source if node is not self._by_suffix and node.sources == 1 else None

    @cached_property
    def _by_suffix(self) -> _Suffix:
        root = _Suffix()
        for source in self.manifest:
            node = root
            for name in reversed(source.split("/")):
                node = node.children.setdefault(name, _Suffix())
                node.source, node.sources = source, node.sources + 1
        return root


class _Suffix:
    """The stored sources whose paths end alike: how many there are, one of them, and those that agree further."""

    __slots__ = ("children", "source", "sources")

    def __init__(self) -> None:
        self.children: dict[str, _Suffix] = {}
        self.source, self.sources = "", 0
