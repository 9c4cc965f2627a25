"""KeysScorer: a score store that holds no opinion, only the documents' keys."""

from __future__ import annotations

from datatrove.data import Document

from pipeline_steps.scorers.base import BaseScorer


class KeysScorer(BaseScorer):
    """Scores every document 0, so that a random cut has a store of keys to draw from.

    A random cut looks at keys alone. With a store of its own, the draw does not depend on which other scorers ran.

    Args:
        scores: folder of the score store, any fsspec path.
    """

    name = "🔑 Keys"

    def __init__(self, scores: str) -> None:
        super().__init__(scores, "zero")

    def fingerprint(self) -> dict[str, str]:
        """Return what decides the scores, which is the class alone."""
        return {"scorer": "KeysScorer"}

    def score(self, docs: list[Document]) -> list[float]:
        """Return a zero for every document."""
        return [0.0] * len(docs)
