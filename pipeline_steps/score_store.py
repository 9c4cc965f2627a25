"""Read a score store: numpy arrays over the whole corpus, or one source at a time."""

from __future__ import annotations

from itertools import takewhile

import numpy as np
import pyarrow as pa

from pipeline_steps.errors import StoreIncomplete
from pipeline_steps.source_store import SourceStore


class ScoreStore(SourceStore):
    """Scores of a corpus, in corpus order: sources sorted by name, documents as they stand in them.

    The shards are plain Parquet (`<path>/shards/*.parquet`): pandas, polars and duckdb read them as they are.
    """

    @classmethod
    def open(cls, path: str, partial: bool = False) -> ScoreStore:
        """A finished store; with `partial`, the sources that a running or stopped job has finished so far.

        Raises:
            StoreIncomplete: it is not a store, is half written, or holds nothing.
        StoreMismatch: it holds files that its last finished run did not read.
        """
        store = cls(str(path))
        if "scorer" not in store.config:
            raise StoreIncomplete(f"{path} holds no scores: its config.json names no scorer")
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

    def to_arrow(self) -> pa.Table:
        """All columns of the corpus as one table, with each document's `source`; `.to_pandas()` makes a DataFrame."""
        shards = []
        for index, source in enumerate(self.sources):
            columns = self.read(source)
            index_N = pa.array(np.full(len(columns["key"]), index, dtype=np.int32))
            shards.append(pa.table({"source": pa.DictionaryArray.from_arrays(index_N, list(self.sources)), **columns}))
        return pa.concat_tables(shards)

    def locate(self, source: str) -> str | None:
        """The stored source that this file is: of the same path or, if the corpus has moved, of the one like it most.

        Alike are paths that end in the same folders and name; None if there is none, or no single best one.
        """
        if source in self.manifest:
            return source
        alike: dict[int, list[str]] = {}
        for other in self.manifest:
            pairs = zip(reversed(source.split("/")), reversed(other.split("/")), strict=False)
            alike.setdefault(sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)), []).append(other)
        best = max(alike, default=0)
        return alike[best][0] if best and len(alike[best]) == 1 else None
