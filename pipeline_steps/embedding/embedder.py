"""Embedder: one vector per document, in float16 beside the corpus, never in the documents' metadata."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from datatrove.data import Document

from pipeline_steps.engines.models import library_versions, model_identity, pick_device, pick_dtype
from pipeline_steps.errors import InvalidEmbedding
from pipeline_steps.numerics import ngram_embedding
from pipeline_steps.scorers.document_columns import DocumentColumns
from pipeline_steps.stores.sealed_parquet import vectors
from pipeline_steps.stores.source_store import Columns


HASHED_NGRAMS = "hashed-ngrams"
"""The embedding that needs no weights: it sees shared words and phrases, not meaning."""
_HASHED_DIMENSION = 256


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
        self.model, self.revision = str(model), revision
        self.max_tokens, self.dtype, self.unit_norm = max_tokens, dtype, unit_norm
        self._dimension: int | None = None

    @property
    def schema(self) -> pa.Schema:
        """Columns of the store after `key`."""
        if self._dimension is None:
            known = self.model == HASHED_NGRAMS
            self._dimension = _HASHED_DIMENSION if known else self._encode(self._tokenize(["a"])).shape[1]
        return pa.schema([pa.field("embedding", vectors(self._dimension))])

    def fingerprint(self) -> dict[str, Any]:
        """What decides the vectors."""
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
        return None if self.model == HASHED_NGRAMS else self._tokenize([doc.text for doc in docs])

    def compute(self, docs: list[Document], prepared: Any) -> Columns:
        """Embeddings of one window."""
        if prepared is None:
            found = ngram_embedding.embed([doc.text for doc in docs], _HASHED_DIMENSION)
        else:
            found = self._encode(prepared)
            if self.unit_norm:
                found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        with np.errstate(over="ignore"):
            embedding = found.astype(np.float16)
        bad = np.flatnonzero(~(np.isfinite(embedding).all(axis=1) & embedding.any(axis=1)))
        if bad.size:
            doc = docs[bad[0]]
            raise InvalidEmbedding(
                f"{self.model} gave document {doc.id} of {doc.metadata['file_path']} a vector of NaN or zeros: "
                "look at its text, or exclude it"
            )
        return {"embedding": embedding}

    def _tokenize(self, texts: list[str]) -> Any:
        return self._encoder().tokenize(texts)

    def _encode(self, inputs: Any) -> np.ndarray:
        return self._encoder().encode(inputs)

    def _encoder(self) -> Any:
        from pipeline_steps.engines.text_encoder import load_text_encoder  # needs torch

        return load_text_encoder(self.model, self.revision, self.dtype, self.max_tokens)
