"""Filters that keep exactly the documents of a cut, in any executor with any number of tasks."""

from __future__ import annotations

from typing import Literal

import numpy as np
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.writers.disk_base import DiskWriter

from pipeline_steps.cuts import Cut, select
from pipeline_steps.errors import MissingScore
from pipeline_steps.numerics.keys import document_key
from pipeline_steps.score_store import ScoreStore


class CutFilter(BaseFilter):
    """Keeps the documents of one cut of a finished score store; every task comes to the same cut by itself.

    Args:
        scores: folder of the score store the corpus was scored into.
        cut: what to keep.
        exclusion_writer: writes the dropped documents, so that drops can be audited.

    Raises:
        StoreIncomplete: the store is half written.
        MissingScore: a document has no score, or its text has changed since it was scored.
    """

    name = "✂️ Cut"
    _reason = "not_in_cut"

    def __init__(self, scores: str, cut: Cut, exclusion_writer: DiskWriter = None) -> None:
        super().__init__(exclusion_writer)
        self.scores = str(scores)
        self.cut = cut
        self._rows: _KeptRows | None = None

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Yield the kept documents, in order."""
        self._rows = _KeptRows(ScoreStore.open(self.scores), self.cut)  # anew: Slurm reuses a step for many ranks
        try:
            yield from super().run(data, rank, world_size)
        finally:
            self._rows = None

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        """Whether the document is in the cut."""
        if self._rows is None:
            self._rows = _KeptRows(ScoreStore.open(self.scores), self.cut)
        return self._rows.keeps(doc) or (False, self._reason)


class TopKFilter(CutFilter):
    """Keeps the documents with the largest (or smallest) scores (paper Sec. 3.3, Alg. 1).

    Args:
        scores: folder of the score store.
        k: documents to keep; or
        rate: fraction of the documents to keep; or
        token_budget: tokens to keep.
        order: "top" keeps the largest scores, "bottom" the smallest.
        seed: decides among equal scores.
        exclusion_writer: writes the dropped documents.
    """

    name = "🔝 Top-k"
    _reason = "below_cut"

    def __init__(
        self,
        scores: str,
        k: int | None = None,
        rate: float | None = None,
        token_budget: int | None = None,
        order: Literal["top", "bottom"] = "top",
        seed: int = 0,
        exclusion_writer: DiskWriter = None,
    ) -> None:
        super().__init__(scores, Cut(order, k, rate, token_budget, seed), exclusion_writer)


class IPSFilter(CutFilter):
    """Samples without replacement in proportion to 1 / exp(score): inverse propensity sampling (Sec. 3.2, Alg. 2).

    For scores that are log densities, such as DensityScorer's.

    Args:
        scores: folder of the score store.
        k: documents to keep; or
        rate: fraction of the documents to keep; or
        token_budget: tokens to keep.
        weight: "inverse" samples rare documents more often; "direct" in proportion to exp(score), for log weights.
        seed: another seed, another sample; one seed gives nested samples across rates.
        exclusion_writer: writes the dropped documents.
    """

    name = "🎲 Inverse propensity sampling"
    _reason = "not_sampled"

    def __init__(
        self,
        scores: str,
        k: int | None = None,
        rate: float | None = None,
        token_budget: int | None = None,
        weight: Literal["inverse", "direct"] = "inverse",
        seed: int = 0,
        exclusion_writer: DiskWriter = None,
    ) -> None:
        cut = Cut("ips" if weight == "inverse" else "direct", k, rate, token_budget, seed)
        super().__init__(scores, cut, exclusion_writer)


class RandomFilter(CutFilter):
    """Keeps a uniform sample of the scored corpus, drawn by document key: the same for any number of tasks.

    Args:
        scores: folder of any score store of the corpus; only its keys are used.
        k: documents to keep; or
        rate: fraction of the documents to keep; or
        token_budget: tokens to keep.
        seed: another seed, another sample; one seed gives nested samples across rates.
        exclusion_writer: writes the dropped documents.
    """

    name = "🎲 Random"
    _reason = "not_sampled"

    def __init__(
        self,
        scores: str,
        k: int | None = None,
        rate: float | None = None,
        token_budget: int | None = None,
        seed: int = 0,
        exclusion_writer: DiskWriter = None,
    ) -> None:
        super().__init__(scores, Cut("random", k, rate, token_budget, seed), exclusion_writer)


class _KeptRows:
    """Looks documents up in the cut of a store.

    Documents that are identical to the byte share a key; of theirs, as many are kept as the cut keeps in the same
    source, in the order they come.
    """

    def __init__(self, store: ScoreStore, cut: Cut) -> None:
        self._store = store
        mask, key_N = select(store, cut).mask, store.keys
        sizes = [len(store.read(source)["key"]) for source in store.sources]  # type: ignore[index]
        starts = np.concatenate([[0], np.cumsum(sizes)]).tolist()
        self._slices = {
            source: (key_N[start:end], mask[start:end])
            for source, start, end in zip(store.sources, starts, starts[1:], strict=False)
        }
        self._source: str | None = None
        self._pending: dict[int, list[bool]] = {}

    def keeps(self, doc: Document) -> bool:
        source = doc.metadata.get("file_path")
        if source != self._source:
            self._source = source
            self._pending = self._decisions(doc, source)
        try:
            return self._pending[document_key(doc.id, doc.text)].pop()
        except (KeyError, IndexError):
            raise MissingScore(
                f"document {doc.id} of {source} has no score in {self._store.path}, or its text has changed since: "
                "score this corpus first"
            ) from None

    def _decisions(self, doc: Document, source: str | None) -> dict[int, list[bool]]:
        """For each key of a source, its decisions, the first one last so that `pop` gives them in order."""
        if source not in self._slices:
            raise MissingScore(
                f"{self._store.path} holds no scores of {source} (document {doc.id}): score this file first, or "
                "read the corpus from where it was scored"
            )
        keys, kept = self._slices[source]
        decisions: dict[int, list[bool]] = {}
        for key, keep in zip(keys[::-1].tolist(), kept[::-1].tolist(), strict=True):
            decisions.setdefault(key, []).append(keep)
        return decisions
