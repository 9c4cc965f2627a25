"""MetadataScorer: adopts a number that the documents' metadata already holds."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any

from datatrove.data import Document

from pipeline_steps.errors import InvalidScore
from pipeline_steps.scorer import BaseScorer


class MetadataScorer(BaseScorer):
    """Stores a score computed elsewhere (a fastText or FineWeb-Edu score, a language probability, a length).

    Args:
        scores: folder of the score store.
        key: metadata key of the number, e.g. "language_score".
        window_size: documents committed together.

    Raises:
        InvalidScore: a document has no such key, or its value is not a finite number; names document and value.
    """

    name = "🏷️ Metadata score"

    def __init__(self, scores: str, key: str, window_size: int = 4096) -> None:
        super().__init__(scores, key, window_size)
        self.key = key

    def fingerprint(self) -> dict[str, Any]:
        """What decides the scores."""
        return {"scorer": "MetadataScorer", "key": self.key}

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
