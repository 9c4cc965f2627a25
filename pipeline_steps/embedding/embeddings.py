"""Embeddings: one vector per document, in float16 beside the corpus, never in the documents' metadata.

`Embedder` writes the store; what reads it takes samples, or the rows of some documents.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from datatrove.data import Document

from pipeline_steps.engines.encoders import SentenceEncoder, load_sentence_encoder
from pipeline_steps.engines.models import library_versions, model_identity, pick_device, pick_dtype
from pipeline_steps.errors import InvalidEmbedding, StoreIncomplete
from pipeline_steps.numerics.keys import document_key, mix
from pipeline_steps.numerics.vectors import embed_ngrams
from pipeline_steps.scorers.base import DocumentColumns
from pipeline_steps.stores.documents import named
from pipeline_steps.stores.sealed_parquet import vectors
from pipeline_steps.stores.source_store import Columns, SourceStore


HASHED_NGRAMS = "hashed-ngrams"
"""The embedding that needs no weights: it sees shared words and phrases, not meaning."""
_HASHED_DIMENSION = 256
_SAMPLED_SOURCES = 64  # files a sample is taken from
_SAMPLED_ROWS = 4096  # of a file are read at a time, until four times as many are known as are wanted


class Embedder(DocumentColumns):
    """Embeds every document; documents pass through unchanged.

    The store holds columns `key` (uint64) and `embedding` (float16, see `sealed_parquet.vectors`).

    Args:
        embeddings: folder of the embedding store, any fsspec path.
        model: Hub id or folder of a sentence-transformers model (the default is the paper's, App. B.2), of any
            encoder of transformers, which is then pooled by its mean, or "hashed-ngrams", which needs no weights and
            sees no meaning.
        revision: Hub revision; the resolved commit is recorded.
        max_tokens: of a document, special tokens included, the rest is cut off; None takes the model's own limit, or
            512 if it states none.
        dtype: "auto" (bfloat16 on CUDA, float32 on the CPU), "float32" or "bfloat16".
        unit_norm: scale every vector to length 1, as the clusters need it.
        window_size: documents embedded and committed together.

    Raises:
        ModelError: the model cannot be loaded.
        ValueError: `max_tokens` is below 1, or set, as `unit_norm`, for "hashed-ngrams", which has neither.
        InvalidEmbedding: the model gives NaN or zeros for a document, which is named.
    """

    type = "🧭 - EMBEDDER"
    kind = "embeddings"
    name = "🧭 Embedder"

    def __init__(
        self,
        embeddings: str,
        model: str = "sentence-transformers/sentence-t5-base",
        revision: str | None = None,
        max_tokens: int | None = None,
        dtype: str = "auto",
        unit_norm: bool = True,
        window_size: int = 4096,
    ) -> None:
        super().__init__(embeddings, window_size)
        if max_tokens is not None and max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, not {max_tokens}; None takes the model's limit")
        if model == HASHED_NGRAMS and (max_tokens is not None or not unit_norm):
            raise ValueError(
                f"{HASHED_NGRAMS} reads whole documents and makes unit vectors: it takes no max_tokens or unit_norm"
            )
        self.model, self.revision = str(model), revision
        self.max_tokens, self.dtype, self.unit_norm = max_tokens, dtype, unit_norm

    @cached_property
    def schema(self) -> pa.Schema:
        """The columns of the store after `key`."""
        known = self.model == HASHED_NGRAMS
        dimension = _HASHED_DIMENSION if known else self._encoder().encode(self._encoder().tokenize(["a"])).shape[1]
        return pa.schema([pa.field("embedding", vectors(dimension))])

    def fingerprint(self) -> dict[str, Any]:
        """Return what decides the vectors."""
        if self.model == HASHED_NGRAMS:
            return {"embedder": HASHED_NGRAMS, "dimension": _HASHED_DIMENSION, "unit_norm": True}
        return {
            "embedder": model_identity(self.model, self.revision),
            "max_tokens": self.max_tokens,
            "dtype": str(pick_dtype(self.dtype, pick_device())),
            "unit_norm": self.unit_norm,
            "versions": library_versions("sentence-transformers", "transformers", "torch"),
        }

    def prepare(self, docs: list[Document]) -> Any:
        """Tokenise one window."""
        return None if self.model == HASHED_NGRAMS else self._encoder().tokenize([doc.text for doc in docs])

    def compute(self, docs: list[Document], prepared: Any) -> Columns:
        """Return the embeddings of one window."""
        if prepared is None:
            found = embed_ngrams([doc.text for doc in docs], _HASHED_DIMENSION)
        else:
            found = self._encoder().encode(prepared)
            if self.unit_norm:
                found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        with np.errstate(over="ignore"):
            embedding = found.astype(np.float16)
        bad = np.flatnonzero(~(np.isfinite(embedding).all(axis=1) & embedding.any(axis=1)))
        if bad.size:
            doc = docs[bad[0]]
            raise InvalidEmbedding(
                f"{self.model} gave {named(doc)} a vector of NaN or zeros: look at its text, or exclude it"
            )
        return {"embedding": embedding}

    def _encoder(self) -> SentenceEncoder:
        return load_sentence_encoder(self.model, self.revision, self.dtype, self.max_tokens)


def made_by(store: SourceStore) -> dict[str, Any]:
    """Return what decides the embeddings of a store: the model, not the windows it was run in."""
    return {name: value for name, value in store.made.items() if name != "window_size"}


def sample_embeddings(store: SourceStore, count: int, seed: int) -> np.ndarray:
    """Return about `count` embeddings, float16 [count, D], by hashes of their keys: the same for any number of tasks.

    They come from the beginnings of up to 64 files of the store, a share from each.
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
def naming(source: str, store: str) -> Iterator[None]:
    """Let an error about an embedding say whose it is."""
    try:
        yield
    except InvalidEmbedding as error:
        raise InvalidEmbedding(f"{source} in {store}: {error}; embed it again") from None
