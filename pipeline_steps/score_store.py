"""Read a score store: numpy arrays over the whole corpus, or one source at a time."""

from __future__ import annotations

import json

import numpy as np
import xxhash

from pipeline_steps.errors import StoreIncomplete
from pipeline_steps.source_store import SourceStore


class ScoreStore(SourceStore):
    """Scores of a corpus, in corpus order: sources sorted by name, documents as they stand in them.

    The shards are plain Parquet (`<path>/shards/*.parquet`): pandas, polars and duckdb read them as they are.
    """

    @classmethod
    def open(cls, path: str) -> ScoreStore:
        """A finished store.

        Raises:
            StoreIncomplete: it is not a store, is half written, or holds nothing.
        """
        store = cls(str(path))
        if "scorer" not in store.config:
            raise StoreIncomplete(f"{path} holds no scores: its config.json names no scorer")
        store.check_complete()
        if not store.sources:
            raise StoreIncomplete(f"{path} is empty: the corpus that was scored had no documents")
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
    def fingerprint(self) -> str:
        """Digest of what the scores were made with and from."""
        return xxhash.xxh3_64_hexdigest((json.dumps(self.config, sort_keys=True) + self.corpus_digest).encode())
