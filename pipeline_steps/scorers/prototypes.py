"""Prototypes (Sorscher et al. 2022; paper App. B.2): how far a document is from the centre of its cluster."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from datatrove.data import Document

from pipeline_steps.scorers.base import BaseScorer
from pipeline_steps.stores.rows_by_document import RowsByDocument
from pipeline_steps.stores.source_store import SourceStore


class PrototypesScorer(BaseScorer):
    """Cosine distance to the nearest centroid, 1 - cosine: high = unlike a prototype, the ones to keep.

    Keep with `TopKFilter`.

    Args:
        clusters: folder KMeansAssign wrote to.
        scores, metadata_key, window_size: as in BaseScorer.

    Raises:
        MissingScore: a document is in no cluster, or its text has changed since.
    """

    name = "🎯 Prototypes"

    def __init__(self, scores: str, clusters: str, metadata_key: str = "prototypes", window_size: int = 4096) -> None:
        super().__init__(scores, metadata_key, window_size)
        self.clusters = str(clusters).rstrip("/")

    def fingerprint(self) -> dict[str, Any]:
        """Return what decides the scores."""
        store = SourceStore(f"{self.clusters}/assignments")
        about = {"unit": "1 - cosine", "assignments": store.fingerprint, "clusters": store.made}
        return {"scorer": "PrototypesScorer", **about}

    def score(self, docs: list[Document]) -> Sequence[float]:
        """Return the distances of one window."""
        return (1 - self._rows.of(docs)["cosine"]).tolist()

    @cached_property
    def _rows(self) -> RowsByDocument:
        return RowsByDocument(SourceStore(f"{self.clusters}/assignments"), ["cosine"])
