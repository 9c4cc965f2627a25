"""MetadataScorer: adopts a number that the documents' metadata already holds."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
from datatrove.data import Document

from pipeline_steps.errors import InvalidScore, StoreMismatch
from pipeline_steps.scorers.base import BaseScorer
from pipeline_steps.stores.source_store import Columns


class MetadataScorer(BaseScorer):
    """Stores a score computed elsewhere (a fastText or FineWeb-Edu score, a language probability, a length).

    Args:
        scores: folder of the score store.
        key: metadata key of the number, e.g. "language_score".
        window_size: documents committed together.
        lower_is_better: whether low numbers are the good ones, which the store records.

    Raises:
        InvalidScore: a document has no such key, or its value is not a finite number; names document and value.
    """

    name = "🏷️ Metadata score"

    def __init__(self, scores: str, key: str, window_size: int = 4096, lower_is_better: bool = False) -> None:
        super().__init__(scores, key, window_size)
        self.key = key
        self.lower_is_better = bool(lower_is_better)

    def fingerprint(self) -> dict[str, Any]:
        """What decides the scores."""
        return {"scorer": "MetadataScorer", "key": self.key}

    def annotate(self, docs: list[Document], columns: Columns) -> None:
        """Nothing: the number is there, and the store's float32 would round it."""

    def check(self, docs: list[Document], columns: Columns) -> None:
        """Refuse numbers that are not those in the store: a document's key does not cover them."""
        here = np.asarray(self.score_batch(docs), dtype=np.float32)
        for row in np.flatnonzero(here != columns["score"])[:1]:
            raise StoreMismatch(
                f"document {docs[row].id} of {docs[row].metadata['file_path']} has {self.key}={here[row]} now, and "
                f"{columns['score'][row]} in {self.store}: use another store for the new numbers"
            )

    def score_batch(self, docs: list[Document]) -> Sequence[float]:
        """The numbers of one window."""
        for doc in docs:
            value = doc.metadata.get(self.key)
            if isinstance(value, bool) or not isinstance(value, Real):
                raise InvalidScore(
                    f"document {doc.id} of {doc.metadata['file_path']} has {self.key}={value!r} in its metadata, "
                    "which is not a number: check the key, or convert it before this step"
                )
        return [float(doc.metadata[self.key]) for doc in docs]
