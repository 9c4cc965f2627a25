"""What documents' metadata already hold, stored: a number as their score, or a category to cut by, their label."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from numbers import Real
from typing import Any

import numpy as np
import pyarrow as pa
from datatrove.data import Document

from pipeline_steps.errors import CorpusError, InvalidCut, InvalidScore, StoreMismatch
from pipeline_steps.scorers.base import BaseScorer, DocumentColumns
from pipeline_steps.stores.documents import named
from pipeline_steps.stores.source_store import Columns, SourceStore


MOST_STRATA = 1 << 14  # of a cut: each of its arrays of counters then takes 34 MB


class MetadataScorer(BaseScorer):
    """Stores a score computed elsewhere (a fastText or FineWeb-Edu score, a language probability, a length).

    Args:
        key: metadata key of the number, e.g. "language_score".
        lower_is_better: whether low numbers are the good ones, which the store records.
        scores, window_size: as in BaseScorer.

    Raises:
        InvalidScore: a document has no such key, or its value is not a finite number; names document and value.
    """

    name = "🏷️ Metadata score"
    is_of_text = False

    def __init__(self, scores: str, key: str, window_size: int = 4096, lower_is_better: bool = False) -> None:
        super().__init__(scores, key, window_size)
        self.key = key
        self.lower_is_better = bool(lower_is_better)

    def fingerprint(self) -> dict[str, Any]:
        """Return what decides the scores."""
        return {"scorer": "MetadataScorer", "key": self.key}

    def annotate(self, docs: list[Document], columns: Columns) -> None:
        """Change nothing: the number is there, and the store's float32 would round it."""

    def check(self, docs: list[Document], columns: Columns) -> None:
        """Refuse numbers that are not those in the store: a document's key does not cover them."""
        here = np.asarray(self.score(docs), dtype=np.float32)
        for row in np.flatnonzero(here != columns["score"])[:1]:
            raise StoreMismatch(
                f"{named(docs[row])} has {self.key}={here[row]} now, and "
                f"{columns['score'][row]} in {self.store}: use another store for the new numbers"
            )

    def score(self, docs: list[Document]) -> Sequence[float]:
        """Return the numbers of one window."""
        for doc in docs:
            value = doc.metadata.get(self.key)
            if isinstance(value, bool) or not isinstance(value, Real):
                raise InvalidScore(
                    f"{named(doc)} has {self.key}={value!r} in its metadata, "
                    "which is not a number: check the key, or convert it before this step"
                )
        return [float(doc.metadata[self.key]) for doc in docs]


class MetadataLabels(DocumentColumns):
    """Stores a category that the documents' metadata already holds; documents pass through unchanged.

    Args:
        labels: folder of the label store, any fsspec path.
        key: metadata key of the category, e.g. "language"; its value is kept as a string.
        default: label of documents without the key; None refuses them.
        window_size: documents committed together.

    Raises:
        CorpusError: a document has no such key; names it.
    """

    type = "🏷️ - LABELS"
    name = "🏷️ Metadata labels"
    kind = "labels"
    is_of_text = False
    schema = pa.schema([pa.field("label", pa.string())])

    def __init__(self, labels: str, key: str, default: str | None = None, window_size: int = 4096) -> None:
        super().__init__(labels, window_size)
        self.key = key
        self.default = default

    def fingerprint(self) -> dict[str, Any]:
        """Return what decides the labels."""
        return {"labels": self.key, "default": self.default}

    def compute(self, docs: list[Document], prepared: None) -> Columns:
        """Return the labels of one window."""
        return {"label": np.array([self._label(doc) for doc in docs], dtype=object)}

    def check(self, docs: list[Document], columns: Columns) -> None:
        """Refuse labels that are not those in the store: a document's key does not cover them."""
        for doc, stored in zip(docs, columns["label"].tolist(), strict=True):
            if self._label(doc) != stored:
                raise StoreMismatch(
                    f"{named(doc)} is labelled {self._label(doc)!r} now, and "
                    f"{stored!r} in {self.store}: use another store for the new labels"
                )

    def _label(self, doc: Document) -> str:
        label = doc.metadata.get(self.key, self.default)
        if label is None:
            raise CorpusError(
                f"{named(doc)} has no {self.key!r} in its metadata: label it "
                "first, or pass default='...' for such documents"
            )
        return str(label)


class LabelStore(SourceStore):
    """Labels of a corpus, in corpus order."""

    @classmethod
    def open(cls, path: str) -> LabelStore:
        """Return a finished store. Raises StoreIncomplete if it is half written, StoreMismatch if it has no labels."""
        store = cls(str(path))
        if store.kind != "labels":
            raise StoreMismatch(f"{path} holds {store.kind}, not labels")
        store.check_complete()
        return store

    @cached_property
    def counts(self) -> dict[str, int]:
        """The number of documents of each label, sorted by label. Raises InvalidCut if a cut cannot have as many."""
        counts: dict[str, int] = {}
        for source in self.sources:
            values, index = self.categories(source, "label")
            for value, count in zip(values, np.bincount(index, minlength=len(values)).tolist(), strict=True):
                counts[value] = counts.get(value, 0) + count
            if len(counts) > MOST_STRATA:
                raise InvalidCut(f"{self.path} has more than {MOST_STRATA:,} labels: choose a coarser one")
        return dict(sorted(counts.items()))

    def strata(self, source: str) -> np.ndarray:
        """Return the place in `counts` of the label of each document of a source: intp [N]."""
        values, index = self.categories(source, "label")
        return np.array([self._places[value] for value in values], dtype=np.intp)[index]

    @cached_property
    def _places(self) -> dict[str, int]:
        return {label: place for place, label in enumerate(self.counts)}
