"""Cuts: (mode, k | rate | token_budget, seed) -> exactly those documents of a scored corpus.

A cut is found once, in a few passes over the scores and constant memory, and published as a small JSON file in the
score store (`<scores>/cuts/<digest>.json`); whoever needs it next reads it. The file holds thresholds, so deciding
about a document takes its own score and key only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from datatrove.utils.logging import logger

from pipeline_steps.errors import InvalidCut, StoreDamaged
from pipeline_steps.numerics.keys import keys_digest
from pipeline_steps.numerics.priority import (
    MODES,
    Chunk,
    Mode,
    Threshold,
    find_thresholds,
    keeps,
    priority_code,
    priority_columns,
)
from pipeline_steps.scorers.metadata import LabelStore
from pipeline_steps.stores.files import canonical, digest, read_json, write_json
from pipeline_steps.stores.score_store import ScoreStore
from pipeline_steps.stores.selection import Selection


@dataclass(frozen=True)
class Cut:
    """What to keep of a scored corpus, or of each of its strata.

    Attributes:
        mode: "top" or "bottom" of the score; "pareto" (the top of noisy probabilities, for log-odds: GPT-3's way of
            keeping some of the low); "random"; "ips" (k draws without replacement, each in proportion to
            exp(-score), for log densities); "direct" (in proportion to exp(+score), for log weights); "poisson" (each
            document by itself with probability min(1, c * exp(-score)); the amount is met in expectation).
        k: documents to keep, exactly.
        rate: fraction of the documents to keep, rounded to the nearest document.
        token_budget: keep the most documents whose tokens, in order of priority, stay within this many.
        seed: of the random modes, and of the order among equal scores. One seed gives nested cuts across amounts.
    """

    mode: Mode
    k: int | None = None
    rate: float | None = None
    token_budget: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise InvalidCut unless exactly one amount is given and it makes sense; take NumPy's numbers as Python's."""
        for field, kind in {"k": int, "rate": float, "token_budget": int, "seed": int}.items():
            value = getattr(self, field)
            if value is not None and type(value) is not kind:
                if kind(value) != value and value == value:
                    raise InvalidCut(f"{field}={value} is not a whole number")
                object.__setattr__(self, field, kind(value))
        amounts = {"k": self.k, "rate": self.rate, "token_budget": self.token_budget}
        given = {name: value for name, value in amounts.items() if value is not None}
        if len(given) != 1:
            raise InvalidCut(f"give exactly one of k, rate and token_budget; got {given or 'none'}")
        if self.mode not in MODES:
            raise InvalidCut(f"no selection mode {self.mode!r}: choose one of {', '.join(MODES)}")
        (name, value), *_ = given.items()
        if not value >= 0 or (name == "rate" and value > 1):
            raise InvalidCut(f"{name}={value} is out of range: {'0 to 1' if name == 'rate' else 'at least 0'}")
        if not 0 <= self.seed < 2**64:
            raise InvalidCut(f"seed={self.seed} is out of range: 0 to 2**64 - 1")


class FoundCut:
    """A cut of one score store, found: it decides about every document of every source.

    Args:
        store: the scores.
        cut: what to keep.
        labels: cut each stratum by itself.

    Raises:
        InvalidCut: more documents asked for than there are, or a token budget on a store without token counts.
        StoreMismatch: the labels are of another corpus.
    """

    def __init__(self, store: ScoreStore, cut: Cut, labels: LabelStore | None = None) -> None:
        self.store, self.cut, self.labels = store, cut, labels
        if labels is not None:
            store.check_same_corpus(labels)
        made_from = {
            "cut": asdict(cut),
            "scores": store.fingerprint,
            "labels": labels.fingerprint if labels is not None else None,
        }
        self.path = f"{store.path}/cuts/{digest(canonical(made_from))}.json"
        found = _read_published(self.path)
        if found is None:
            found = made_from | {"thresholds": [asdict(threshold) for threshold in self._find()]}
            _publish(self.path, found)
        self._thresholds = [Threshold(**threshold) for threshold in found["thresholds"]]
        sizes = store.sources
        self._starts = dict(zip(sizes, np.cumsum([0, *sizes.values()]).tolist(), strict=False))

    def keeps(self, source: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the keys (uint64 [N]) of a source's documents, and whether each is kept (bool [N])."""
        columns = self.store.read(source, tuple(dict.fromkeys(("key", *priority_columns(self.cut.mode)))))
        code, key = priority_code(self.cut.mode, columns, self.cut.seed), columns["key"]
        stratum = self.labels.strata(source) if self.labels is not None else 0
        return key, keeps(self._thresholds, code, key, self._starts[source], self.cut.seed, stratum)

    def kept(self) -> dict[str, int]:
        """Return how many documents of each source are kept; reads every score once."""
        return {source: int(self.keeps(source)[1].sum()) for source in self.store.sources}

    @property
    def amount(self) -> int | None:
        """Return how many documents are kept; None if only the scores can tell: of a token budget, of poisson."""
        exact = self.cut.token_budget is None and self.cut.mode != "poisson"
        return sum(self._amounts()) if exact else None

    def _find(self) -> list[Threshold]:
        weight = "tokens" if self.cut.token_budget is not None else None
        if weight:
            self._check_tokens()
        return find_thresholds(self._read, self.cut.mode, self._amounts(), self.cut.seed, weight)

    def _read(self, columns: Sequence[str], rows: np.ndarray | None) -> Iterator[Chunk]:
        start = 0
        for source, size in self.store.sources.items():
            if rows is None or np.diff(np.searchsorted(rows, [start, start + size])).any():
                yield from self._read_source(source, start, [name for name in columns if name != "stratum"], columns)
            start += size

    def _read_source(self, source: str, row: int, stored: Sequence[str], columns: Sequence[str]) -> Iterator[Chunk]:
        strata = self.labels.strata(source) if self.labels is not None and "stratum" in columns else None
        start = row
        for batch in self.store.batches(source, stored):
            size = len(batch[stored[0]])
            if strata is not None:
                batch["stratum"] = strata[row - start : row - start + size]
            yield row, batch
            row += size

    def _amounts(self) -> list[int]:
        """Return what to keep of each stratum, or of the whole corpus."""
        sizes = self.labels.counts if self.labels is not None else {"": self.store.documents}
        if self.cut.token_budget is not None:
            return [self.cut.token_budget] * len(sizes)
        if self.cut.rate is not None:
            return [round(self.cut.rate * size) for size in sizes.values()]
        for name, size in sizes.items():
            if self.cut.k > size:  # type: ignore[operator]  # one of the three is given
                where = f" of {name!r}" if name else ""
                raise InvalidCut(
                    f"asked to keep {self.cut.k:,} documents{where}, but {self.store.path} holds {size:,}"
                )
        return [self.cut.k] * len(sizes)  # type: ignore[list-item]

    def _check_tokens(self) -> None:
        chunks = self._read(["tokens"], None)
        if unknown := sum(int((columns["tokens"] == 0).sum()) for _, columns in chunks):
            raise InvalidCut(
                f"{self.store.path} does not know the tokens of {unknown:,} documents: put datatrove's TokensCounter "
                "before the scorer and score into another folder, or cut by k or rate"
            )


def select(store: ScoreStore, cut: Cut, labels: LabelStore | None = None) -> Selection:
    """Return the documents that a cut keeps, as a bitmap in corpus order. Raises what FoundCut raises."""
    found = FoundCut(store, cut, labels)
    parts = [found.keeps(source)[1] for source in store.sources]
    made: dict[str, Any] = {**asdict(cut), "scores": store.made, "scores_fingerprint": store.fingerprint}
    if labels is not None:
        made |= {"labels": labels.made, "labels_fingerprint": labels.fingerprint}
    return Selection(np.concatenate(parts), store.corpus_digest, made)


def cascade(corpus: ScoreStore, first: Selection, second: Selection) -> Selection:
    """Return what is left of `corpus` when `second` was made from scores of only what `first` keeps of it.

    Raises:
        StoreMismatch: `first` is not of this corpus, or `second` not of what `first` keeps.
    """
    first.check_corpus(corpus.corpus_digest, corpus.path)
    kept_keys, start = [np.empty(0, np.uint64)], 0
    for source, size in corpus.sources.items():
        kept_keys.append(corpus.read(source, ["key"])["key"][first.mask[start : start + size]])
        start += size
    second.check_corpus(keys_digest(np.concatenate(kept_keys)), f"what the first cut keeps of {corpus.path}")
    mask = np.zeros_like(first.mask)
    mask[np.flatnonzero(first.mask)[second.mask]] = True
    return Selection(mask, first.corpus_digest, {"first": first.cut, "second": second.cut})


def _read_published(path: str) -> dict[str, Any] | None:
    try:
        return read_json(path)
    except FileNotFoundError:
        return None
    except StoreDamaged as error:
        logger.warning(f"{error} (done now)")
        return None


def _publish(path: str, found: dict[str, Any]) -> None:
    """Write a found cut; all who find it come to the same."""
    try:
        write_json(path, found)
    except OSError as error:
        logger.warning(f"the cut cannot be kept for others in {path} ({error}): every task makes it by itself")
