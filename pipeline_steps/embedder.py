"""Embedder: one vector per document, in float16 shards beside the corpus, never in the documents' metadata."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from datatrove.data import Document

from pipeline_steps.document_columns import DocumentColumns
from pipeline_steps.errors import InvalidEmbedding
from pipeline_steps.models import library_versions, model_identity, pick_device, require
from pipeline_steps.numerics import ngram_embedding
from pipeline_steps.source_store import Columns


HASHED_NGRAMS = "hashed-ngrams"
"""The embedding that needs no weights: it sees shared words and phrases, not meaning."""
_HASHED_DIMENSION = 256

Embed = Callable[[Sequence[str]], np.ndarray]


class Embedder(DocumentColumns):
    """Embeds every document into a unit vector; documents pass through unchanged.

    The store holds columns `key` (uint64) and `embedding` (float16, fixed-size list).

    Args:
        embeddings: folder of the embedding store, any fsspec path.
        model: Hub id or folder of a sentence-transformers model, e.g. "sentence-transformers/sentence-t5-base"
            (the paper's, App. B.2), or "hashed-ngrams", which needs no weights and sees no meaning.
        revision: Hub revision; the resolved commit is recorded.
        window_size: documents embedded and committed together.
    """

    type = "🧭 - EMBEDDER"
    name = "🧭 Embedder"

    def __init__(self, embeddings: str, model: str, revision: str | None = None, window_size: int = 4096) -> None:
        super().__init__(embeddings, window_size)
        self.model = model
        self.revision = revision
        self._dimension: int | None = None

    @property
    def schema(self) -> pa.Schema:
        """Columns of the store after `key`."""
        if self._dimension is None:
            self._dimension = load_embedding(self.model, self.revision)(["a"]).shape[1]
        return pa.schema([pa.field("embedding", pa.list_(pa.float16(), self._dimension))])

    def fingerprint(self) -> dict[str, Any]:
        """What decides the vectors."""
        if self.model == HASHED_NGRAMS:
            return {"embedder": HASHED_NGRAMS, "dimension": _HASHED_DIMENSION}
        versions = library_versions("sentence-transformers", "transformers", "torch")
        return {"embedder": model_identity(self.model, self.revision), "versions": versions}

    def compute(self, docs: list[Document], prepared: None) -> Columns:
        """Embeddings of one window."""
        embed = load_embedding(self.model, self.revision)
        embedding = embed([doc.text for doc in docs]).astype(np.float16)
        bad = np.flatnonzero(~(np.isfinite(embedding).all(axis=1) & embedding.any(axis=1)))
        if bad.size:
            doc = docs[bad[0]]
            raise InvalidEmbedding(
                f"{self.model} gave document {doc.id} of {doc.metadata['file_path']} a vector of NaN or zeros: "
                "look at its text, or exclude it"
            )
        return {"embedding": embedding}


@lru_cache(maxsize=2)
def load_embedding(model: str, revision: str | None = None) -> Embed:
    """A function from N texts to float32 [N, D] unit vectors; loaded once per process.

    Raises:
        ModelError: sentence-transformers is not installed, or the model cannot be had.
    """
    if model == HASHED_NGRAMS:
        return lambda texts: ngram_embedding.embed(texts, _HASHED_DIMENSION)
    require("sentence_transformers", "embed")
    model_identity(model, revision)  # a clear error before a long one
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(
        model,
        revision=revision,
        device=str(pick_device()),
        local_files_only=os.path.isdir(model),
        model_kwargs={"use_safetensors": True},
    )
    # encode() sorts by length itself and gives the vectors back in order
    return lambda texts: encoder.encode(
        list(texts), convert_to_numpy=True, normalize_embeddings=True, show_progress_bar=False
    )
