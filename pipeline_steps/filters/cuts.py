"""Found cuts: exactly those documents of a scored corpus that a `Cut` says, each as often as it says.

A cut is found once, in a few passes over the scores and constant memory, and published as a small JSON file in the
score store (`<scores>/cuts/<digest>.json`); whoever needs it next reads it. The file holds thresholds, and of an
upsampling curve the distribution it stands on, so deciding about a document takes its own score and key only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any

import numpy as np
from datatrove.utils.logging import logger

from pipeline_steps.errors import InvalidCut, StoreDamaged
from pipeline_steps.filters.cut_settings import Cut
from pipeline_steps.filters.strata import Strata
from pipeline_steps.numerics.copies import (
    MOST_COPIES,
    MOST_CURVES,
    Copies,
    CopiesByCurve,
    CopiesByScore,
    Shares,
    shares,
)
from pipeline_steps.numerics.keys import keys_digest
from pipeline_steps.numerics.mixtures import share_out
from pipeline_steps.numerics.priority import (
    Chunk,
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


__all__ = ["Cut", "FoundCut", "cascade", "select"]


class FoundCut:
    """A cut of one score store, found: it decides about every document of every source.

    Args:
        store: the scores.
        cut: what to keep.
        labels: cut each stratum by itself.
        exclude: documents that are left out, each as `Exclusion.of` takes it: "FOLDER" or "FOLDER:THRESHOLD". Every
            amount is of what remains.

    Attributes:
        digest: of all that decides the cut: its settings, scores, labels and exclusions.

    Raises:
        InvalidCut: more asked for than there is, a token budget on a store without token counts, or a mixture
            without labels or of labels that are not there.
        StoreMismatch: the labels or exclusions are of another corpus.
    """

    def __init__(
        self, store: ScoreStore, cut: Cut, labels: LabelStore | None = None, exclude: Sequence[str] = ()
    ) -> None:
        self.store, self.cut = store, cut
        self.strata = Strata(store, labels, exclude)
        if labels is None and cut.mixture:
            raise InvalidCut("a mixture is of the labels of documents: give the store of MetadataLabels too")
        made_from: dict[str, Any] = {
            "cut": cut.made(),
            "scores": store.fingerprint,
            "labels": labels.fingerprint if labels is not None else None,
        }
        if self.strata.excludes:
            made_from["exclude"] = self.strata.exclusions()
        self.digest = digest(canonical(made_from))
        self.path = f"{store.path}/cuts/{self.digest}.json"
        found = _read_published(self.path)
        if found is None:
            found = made_from | self._find()
            _publish(self.path, found)
        self._amounts: list[int] | None = found.get("amounts")
        self._temperature: float = found.get("temperature", cut.temperature)
        self._thresholds = [Threshold(**threshold) for threshold in found["thresholds"]]
        self._copies = self._copies_by(found.get("shares", ()))
        sizes = store.sources
        self._starts = dict(zip(sizes, np.cumsum([0, *sizes.values()]).tolist(), strict=False))

    def keeps(self, source: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the keys (uint64 [N]) of a source's documents, and how often each is kept (uint8 [N])."""
        names = ("key", *priority_columns(self.cut.mode), *(["score"] if self._copies else []))
        columns = self.store.read(source, tuple(dict.fromkeys(names)))
        key, seed, start = columns["key"], self.cut.seed, self._starts[source]
        strata = self.strata.of(source)
        if self._copies is None:
            code = priority_code(self.cut.mode, columns, seed, self._temperature)
            kept = keeps(self._thresholds, code, key, start, seed, 0 if strata is None else strata)
            count_N = kept.view(np.uint8)
        else:
            columns |= {} if strata is None else {"stratum": strata}
            count_N = self._copies.counts(self._thresholds, columns, start, seed)
        if self.strata.excludes:
            count_N[strata == len(self.strata.sizes)] = 0  # no threshold holds for them
        return key, count_N

    def ranks(self, source: str) -> np.ndarray:
        """Return the ranks of a source's documents in order of priority, int64 [N]: 1 is kept first, equals share one.

        They hold of documents that are kept, among all of the corpus. 4 bytes of memory for each of those.
        """
        later_N = np.searchsorted(self._kept_codes, self._codes(source), side="right")
        return np.asarray(self._kept_codes.size - later_N + 1)

    @cached_property
    def _kept_codes(self) -> np.ndarray:
        codes = [self._codes(source)[self.keeps(source)[1] > 0] for source in self.store.sources]
        return np.sort(np.concatenate([np.empty(0, dtype=np.uint32), *codes]))

    def _codes(self, source: str) -> np.ndarray:
        names = priority_columns(self.cut.mode)
        return priority_code(self.cut.mode, self.store.read(source, names), self.cut.seed, self._temperature)

    def kept(self) -> dict[str, int]:
        """Return how many copies of documents of each source are kept; reads every score once."""
        return {source: int(self.keeps(source)[1].sum()) for source in self.store.sources}

    @property
    def amount(self) -> int | None:
        """Return how many copies are kept; None if only the scores can tell: of a token budget, of poisson."""
        if self.cut.token_budget is not None or self.cut.mode == "poisson" or self.cut.is_whole:
            return None
        return sum(self._whole_amounts() if self._amounts is None else self._amounts)

    def _copies_by(self, distribution: Sequence[Shares]) -> Copies | None:
        """Return the events of a cut that keeps documents several times; None of any other cut."""
        if self.cut.copies is not None:
            return CopiesByScore(self.cut.copies)
        if self.cut.upsample is not None:
            return CopiesByCurve(self.cut.upsample, self.cut.mode, self.cut.seed, distribution)
        return None

    def _find(self) -> dict[str, Any]:
        """Return what a published cut holds beside what it was made from."""
        cut, found = self.cut, dict[str, Any]()
        weight = "tokens" if cut.token_budget is not None else None
        if weight:
            self._check_tokens()
        if cut.upsample is not None:
            if self.strata.number > MOST_CURVES:
                raise InvalidCut(f"upsample takes up to {MOST_CURVES} strata, and there are {self.strata.number:,}")
            found["shares"] = shares(self._read, cut.mode, cut.seed, weight, self.strata.number)
        copies = self._copies_by(found.get("shares", ()))
        if cut.is_whole:
            return {"thresholds": []}
        amounts = [] if cut.mixture is not None else self._whole_amounts()
        if cut.mixture is not None or copies is not None:
            held = self._held(copies, weight)
            amounts = found["amounts"] = self._within(amounts, held, "tokens" if weight else "documents")
        amounts = [*amounts, *([0] if self.strata.excludes else [])]
        if copies is not None:
            thresholds = copies.find_thresholds(self._read, amounts, cut.seed, weight)
        else:
            if cut.normalize:
                found["temperature"] = cut.temperature * self._deviation()
            temperature = found.get("temperature", cut.temperature)
            thresholds = find_thresholds(self._read, cut.mode, amounts, cut.seed, weight, temperature)
        return found | {"thresholds": [asdict(threshold) for threshold in thresholds]}

    def _held(self, copies: Copies | None, weight: str | None) -> list[int]:
        """Return what each stratum holds, all copies counted, in units of the weight."""
        if copies is not None:
            return copies.held(self._read, weight, self.strata.number)[: len(self.strata.sizes)]
        if weight is None:
            return list(self.strata.sizes.values())
        held_S = np.zeros(self.strata.number)  # float64: exact below 2**53
        for _, columns in self._read([weight, "stratum"], None):
            held_S += np.bincount(columns["stratum"], columns[weight], minlength=self.strata.number)
        return [int(held) for held in held_S[: len(self.strata.sizes)]]

    def _within(self, amounts: list[int], held: list[int], unit: str) -> list[int]:
        """Return amounts of the strata that they hold: of a mixture, their parts of the amount."""
        cut, names, labels = self.cut, list(self.strata.sizes), self.strata.labels
        if cut.mixture is not None:
            asked = cut.mixture
            if strangers := asked.keys() - set(names):
                raise InvalidCut(
                    f"the mixture names {min(strangers)!r}, and {labels.path if labels else ''} has only "
                    f"{', '.join(names[:20])}"
                )
            there, total = dict(zip(names, held, strict=True)), cut.asked(sum(self.strata.sizes.values()))
            if cut.fill == "others" and total > (most := sum(there[name] for name in asked)):
                raise InvalidCut(
                    f"all labels of the mixture hold {most:,} {unit}{self._counted}, and the cut asks for "
                    f"{total:,}: give a smaller amount"
                )
            parts = share_out(total, asked, there if cut.fill == "others" else None)
            amounts = [parts.get(name, 0) for name in names]
        for name, amount, most in zip(names, amounts, held, strict=True):
            if amount > most:
                where = f"the stratum {name!r}" if name else self.store.path
                raise InvalidCut(
                    f"{where} holds {most:,} {unit}{self._counted}, and the cut asks for {amount:,} of it: give a "
                    f"smaller amount{' or fill=others' if cut.mixture and cut.fill == 'none' else ''}"
                )
        return amounts

    @property
    def _counted(self) -> str:
        """Return how the documents of a stratum are counted, for errors."""
        left = " that are not excluded" if self.strata.excludes else ""
        if self.cut.upsample is not None:
            return f"{left} above drop={self.cut.upsample.drop}, in up to {self.cut.upsample.cap} copies each"
        return f"{left}, as often as copies says" if self.cut.copies is not None else left

    def _read(self, columns: Sequence[str], rows: np.ndarray | None) -> Iterator[Chunk]:
        start = 0
        for source, size in self.store.sources.items():
            if rows is None or np.diff(np.searchsorted(rows, [start, start + size])).any():
                yield from self._read_source(source, start, [name for name in columns if name != "stratum"], columns)
            start += size

    def _read_source(self, source: str, row: int, stored: Sequence[str], columns: Sequence[str]) -> Iterator[Chunk]:
        strata = self.strata.of(source) if "stratum" in columns else None
        start = row
        for batch in self.store.batches(source, stored):
            size = len(batch[stored[0]])
            if strata is not None:
                batch["stratum"] = strata[row - start : row - start + size]
            yield row, batch
            row += size

    def _whole_amounts(self) -> list[int]:
        """Return what to keep of each stratum, or of the whole corpus, unless a mixture says otherwise."""
        excludes = self.strata.excludes  # a label whose documents are all excluded is as if it were not there
        amounts = [0 if excludes and not size else self.cut.asked(size) for size in self.strata.sizes.values()]
        for (name, size), amount in zip(self.strata.sizes.items(), amounts, strict=True):
            if self.cut.k is not None and self.cut.is_plain and amount > size:
                where = f" of {name!r}" if name else ""
                raise InvalidCut(
                    f"asked to keep {amount:,} documents{where}, but {self.store.path} holds {size:,}{self._counted}"
                )
        return amounts

    def _deviation(self) -> float:
        """Return the standard deviation of all scores, as a float32: its last bits depend on the processor."""
        total = squares = 0.0
        documents = max(sum(self.strata.sizes.values()), 1)
        for score_N in self._remaining_scores():
            total += score_N.sum(dtype=np.float64)
        mean = total / documents
        for score_N in self._remaining_scores():
            squares += np.square(score_N - mean, dtype=np.float64).sum()
        return float(np.float32((squares / documents) ** 0.5)) or 1.0

    def _remaining_scores(self) -> Iterator[np.ndarray]:
        excludes = self.strata.excludes
        for _, columns in self._read(["score", *(["stratum"] if excludes else [])], None):
            score_N = columns["score"]
            yield score_N[columns["stratum"] < len(self.strata.sizes)] if excludes else score_N

    def _check_tokens(self) -> None:
        chunks = self._read(["tokens"], None)
        if unknown := sum(int((columns["tokens"] == 0).sum()) for _, columns in chunks):
            raise InvalidCut(
                f"{self.store.path} does not know the tokens of {unknown:,} documents: put datatrove's TokensCounter "
                "before the scorer and score into another folder, or cut by k or rate"
            )


def select(store: ScoreStore, cut: Cut, labels: LabelStore | None = None, exclude: Sequence[str] = ()) -> Selection:
    """Return how often a cut keeps each document, in corpus order; takes and raises what FoundCut does."""
    found = FoundCut(store, cut, labels, exclude)
    parts = [np.empty(0, np.uint8), *(found.keeps(source)[1] for source in store.sources)]
    made = {**cut.made(), "scores": store.made, "scores_fingerprint": store.fingerprint, **found.strata.made()}
    return Selection(np.concatenate(parts), store.corpus_digest, made)


def cascade(corpus: ScoreStore, first: Selection, second: Selection) -> Selection:
    """Return what is left of `corpus` when `second` was made from scores of only what `first` keeps of it.

    A document that the first keeps a times, and the second b times, is left a * b times.

    Raises:
        StoreMismatch: `first` is not of this corpus, or `second` not of what `first` keeps, each document once.
        InvalidCut: more than 255 copies of a document are left.
    """
    first.check_corpus(corpus.corpus_digest, corpus.path)
    kept_keys, start = [np.empty(0, np.uint64)], 0
    for source, size in corpus.sources.items():
        kept_keys.append(corpus.read(source, ["key"])["key"][first.counts[start : start + size] > 0])
        start += size
    second.check_corpus(keys_digest(np.concatenate(kept_keys)), f"what the first cut keeps of {corpus.path}")
    counts = first.counts.copy()
    left = np.flatnonzero(counts)
    product = counts[left] * second.counts.astype(np.uint16)
    if product.max(initial=0) > MOST_COPIES:
        raise InvalidCut(f"the two cuts keep a document {product.max():,} times: at most {MOST_COPIES} are possible")
    counts[left] = product
    return Selection(counts, first.corpus_digest, {"first": first.cut, "second": second.cut})


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
