"""Documents that are left out of a corpus before it is cut, and the strata of what is left."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from pipeline_steps.errors import InvalidCut
from pipeline_steps.filters.cut_settings import exclusions
from pipeline_steps.scorers.metadata import LabelStore
from pipeline_steps.stores.score_store import ScoreStore


class Strata:
    """The parts of a corpus that a cut treats each by itself: its labels, without the documents that are excluded.

    Args:
        store: the scores that are cut.
        labels: a category of every document; None for one part.
        exclude: as `Exclusion.of` takes each; a document that any of them names is left out.

    Attributes:
        labels: as given.

    Raises:
        InvalidCut: an exclusion is no such text, or leaves nothing.
        StoreIncomplete: a store of an exclusion is half written.
        StoreMismatch: labels or exclusions are of other documents.
    """

    def __init__(self, store: ScoreStore, labels: LabelStore | None = None, exclude: Sequence[str] = ()) -> None:
        self._store, self.labels = store, labels
        self._exclusions = exclusions(exclude)
        self._stores = [ScoreStore.open(one.scores) for one in self._exclusions]
        for other in [*self._stores, *([] if labels is None else [labels])]:
            store.check_same_corpus(other)

    @property
    def excludes(self) -> bool:
        """Return whether documents may be left out."""
        return bool(self._exclusions)

    @property
    def number(self) -> int:
        """Return how many strata there are: a last one holds what is left out."""
        return len(self.sizes) + self.excludes

    def made(self) -> dict[str, Any]:
        """Return what the strata are made of, as JSON types: nothing of a corpus that is one part."""
        made: dict[str, Any] = {}
        if self.labels is not None:
            made |= {"labels": self.labels.made, "labels_fingerprint": self.labels.fingerprint}
        if self.excludes:
            made["exclude"] = self.exclusions()
        return made

    def exclusions(self) -> list[dict[str, Any]]:
        """Return the exclusions as JSON types, by what their stores hold and not where they are."""
        return [
            {"scores": store.fingerprint, "scorer": store.made.get("scorer"), "threshold": one.threshold}
            for one, store in zip(self._exclusions, self._stores, strict=True)
        ]

    @cached_property
    def sizes(self) -> dict[str, int]:
        """The documents of each label that are not left out, sorted by label; of a corpus without labels, of "".

        Raises InvalidCut if all documents are left out.
        """
        sizes = {"": self._store.documents} if self.labels is None else self.labels.counts
        if not self.excludes:
            return sizes
        left_S = np.zeros(len(sizes) + 1, dtype=np.int64)
        for source in self._store.sources:
            left_S += np.bincount(self._strata(source, len(sizes)), minlength=left_S.size)
        if not left_S[:-1].any():
            raise InvalidCut(
                f"{', '.join(one.scores for one in self._exclusions)} exclude all {self._store.documents:,} documents "
                f"of {self._store.path}: give a threshold that leaves some"
            )
        return dict(zip(sizes, left_S[:-1].tolist(), strict=True))

    def of(self, source: str) -> np.ndarray | None:
        """Return the stratum of each document of a source, intp [N]; None if there is only one."""
        if self.labels is None and not self.excludes:
            return None
        return self._strata(source, len(self.sizes))

    def left_out(self, source: str) -> np.ndarray:
        """Return which documents of a source are left out: bool [N]."""
        if not self.excludes:
            return np.zeros(self._store.sources[source], dtype=bool)
        left_out: np.ndarray = self._strata(source, len(self.sizes)) == len(self.sizes)
        return left_out

    def _strata(self, source: str, last: int) -> np.ndarray:
        if self.labels is None:
            strata = np.zeros(self._store.sources[source], dtype=np.intp)
        else:
            strata = self.labels.strata(source)
        for one, store in zip(self._exclusions, self._stores, strict=True):
            strata[one.worse(store, source)] = last
        return strata
