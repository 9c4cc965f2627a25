"""BaseScorer: one number per document, written once to a ScoreStore and reused by every cut."""

from __future__ import annotations

import reprlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from datatrove.data import Document

from pipeline_steps.errors import InvalidScore
from pipeline_steps.scorers.document_columns import DocumentColumns
from pipeline_steps.stores.source_store import Columns


_MOST_TOKENS = np.iinfo(np.uint32).max
SCORE_FIELDS = (pa.field("score", pa.float32()), pa.field("tokens", pa.uint32()))


class BaseScorer(DocumentColumns):
    """Scores every document; drops nothing, reorders nothing.

    A subclass implements `score_batch` and `fingerprint`. The score goes to `metadata[metadata_key]` (a Python
    float, on every document) and to the store: Parquet files with columns `key` (uint64), `score` (float32),
    `tokens` (uint32: `metadata["token_count"]` where a datatrove TokensCounter has set it, else what the scorer's
    own tokenizer counted, else 0) and the subclass's `extra_fields`.

    Args:
        scores: folder of the score store, any fsspec path.
        metadata_key: metadata key the score is written to.
        window_size: documents scored and committed together; what a killed task can lose.

    Raises:
        WinnowError: an argument holds a credential.
        InvalidScore: a score is NaN or infinite, or a `token_count` is no number of tokens; names the document.

    Attributes:
        lower_is_better: whether low scores are the good ones; the store records it.
    """

    kind = "scores"
    lower_is_better: bool = False
    extra_fields: tuple[pa.Field, ...] = ()

    def __init__(self, scores: str, metadata_key: str, window_size: int = 4096) -> None:
        super().__init__(scores, window_size)
        self.metadata_key = metadata_key

    @property
    def schema(self) -> pa.Schema:
        """Columns of the store after `key`."""
        return pa.schema([*SCORE_FIELDS, *self.extra_fields])

    def made(self) -> dict[str, Any]:
        """Return the configuration that the store records: the fingerprint, and which direction is better."""
        return super().made() | {"lower_is_better": self.lower_is_better}

    @abstractmethod
    def score_batch(self, docs: list[Document]) -> Sequence[float] | Columns:
        """Scores of one window, in order; higher = more of what the step's name says.

        Either the scores, or columns by name: `score`, optionally `tokens`, and every one of `extra_fields`.
        """

    def score_prepared(self, docs: list[Document], prepared: Any) -> Sequence[float] | Columns:
        """The same, given what `prepare` returned. Override this one instead if there is something to prepare."""
        return self.score_batch(docs)

    def compute(self, docs: list[Document], prepared: Any) -> Columns:
        """The window's columns, checked."""
        result = self.score_prepared(docs, prepared)
        columns: dict[str, Any] = dict(result) if isinstance(result, Mapping) else {"score": result}
        scores = np.asarray(columns["score"], dtype=np.float32)
        if len(scores) != len(docs):
            raise InvalidScore(f"{type(self).__name__} returned {len(scores)} scores for {len(docs)} documents")
        bad = np.flatnonzero(~np.isfinite(scores))
        if bad.size:
            doc = docs[bad[0]]
            raise InvalidScore(
                f"{type(self).__name__} gave document {doc.id} of {doc.metadata['file_path']} the score "
                f"{scores[bad[0]]}: look at its text, or exclude it before scoring"
            )
        counted = columns.get("tokens", np.zeros(len(docs), dtype=np.uint32))
        tokens = np.array([_tokens(doc, own) for doc, own in zip(docs, counted, strict=True)], dtype=np.uint32)
        self.stat_update("tokens", value=int(tokens.sum(dtype=np.int64)), unit="window")
        return columns | {"score": scores, "tokens": tokens}

    def annotate(self, docs: list[Document], columns: Columns) -> None:
        """Set the score on every document, as a Python float: datatrove's writers and stats need one."""
        for doc, score in zip(docs, columns["score"].tolist(), strict=True):
            doc.metadata[self.metadata_key] = score


def _tokens(doc: Document, counted: int) -> int:
    """Return the number of tokens that a document says it has, or else what the scorer has counted."""
    said = doc.metadata.get("token_count")
    if said is None:
        return counted
    if isinstance(said, bool) or not isinstance(said, int | np.integer) or not 0 <= said <= _MOST_TOKENS:
        raise InvalidScore(
            f"document {doc.id} of {doc.metadata['file_path']} has token_count={reprlib.repr(said)} in its metadata, "
            f"which is not a whole number from 0 to {_MOST_TOKENS:,}: mend it, or leave that column out"
        )
    return int(said)
