"""Filters that keep exactly the documents of a cut, in any executor with any number of tasks."""

from __future__ import annotations

from collections import deque
from copy import deepcopy
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal, TypedDict, Unpack

import numpy as np
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.writers.disk_base import DiskWriter
from datatrove.utils.logging import logger

from pipeline_steps.credentials import NoCredentials
from pipeline_steps.errors import CorpusError, InvalidCut, MissingScore, StoreIncomplete
from pipeline_steps.filters.cuts import Cut, FoundCut, select
from pipeline_steps.numerics.copies import UpsamplingCurve
from pipeline_steps.numerics.priority import Mode
from pipeline_steps.samplers import score_name
from pipeline_steps.scorers.metadata import LabelStore
from pipeline_steps.stores.corpus_listing import CorpusListing
from pipeline_steps.stores.documents import key_of, named
from pipeline_steps.stores.files import canonical, create, digest, open_folder, read_json, seal, write_json
from pipeline_steps.stores.key_index import KeyIndex
from pipeline_steps.stores.score_store import ScoreStore


class ScoreSelector(NoCredentials, PipelineStep):
    """Finds a cut before the tasks that filter by it start: one task, no documents needed.

    The filters find and publish a missing cut by themselves; over more than some fifty million documents it is
    better done once, ahead of them.

    Args:
        scores: folder of the score store.
        cut: what to keep.
        labels: folder of a label store; each of its strata is cut by itself.
        selection: where to write the Selection (counts over the corpus, for training); None writes none.

    Raises:
        StoreIncomplete: the store is half written.
        InvalidCut: the asked amount cannot be selected.
    """

    type = "✂️ - SELECTOR"
    name = "✂️ Cut"

    def __init__(self, scores: str, cut: Cut, labels: str | None = None, selection: str | None = None) -> None:
        super().__init__()
        self.scores, self.cut = str(scores), cut
        self.labels = None if labels is None else str(labels)
        self.selection = None if selection is None else str(selection)

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Publish the cut, and the Selection if asked for; documents pass through."""
        if rank == 0:
            store, labels = ScoreStore.open(self.scores), self.labels and LabelStore.open(self.labels)
            with self.track_time("cut"):
                if self.selection:
                    select(store, self.cut, labels or None).save(self.selection)
                else:
                    FoundCut(store, self.cut, labels or None)
        if data:
            yield from data


class CutOptions(TypedDict, total=False):
    """Arguments that every filter passes on to CutFilter."""

    labels: str | None
    exclusion_writer: DiskWriter | None
    partial: bool
    repeat: bool
    ranks: bool


class CutFilter(NoCredentials, BaseFilter):
    """Keeps the documents of one cut of a finished score store.

    Args:
        scores: folder of the score store the corpus was scored into.
        cut: what to keep.
        labels: folder of a label store; each of its strata is cut by itself.
        exclusion_writer: writes the dropped documents, so that drops can be audited.
        partial: whether only a part of the scored corpus is read, or steps before this one drop documents. If not,
            a pass that has met fewer documents of the cut than there are fails at its end.
        repeat: whether a document that the cut keeps several times comes out as often, as Documents of their own with
            ids that end in #2, #3 ...; if not, each document comes out once, with `count` in its metadata.
        ranks: whether kept documents get the rank of their score too, 1 for the one that is kept first: 4 bytes of
            memory for each, in every task.

    A kept document has its score in its metadata, under the scorer's own key such as "ask_llm", if nothing is there
    already; and its rank under "ask_llm_rank".

    Raises:
        StoreIncomplete: the store is half written.
        MissingScore: a document has no score, or its text has changed since it was scored.
        CorpusError: documents that the cut keeps never came.
    """

    name = "✂️ Cut"
    _reason = "not_in_cut"

    def __init__(
        self,
        scores: str,
        cut: Cut,
        labels: str | None = None,
        exclusion_writer: DiskWriter | None = None,
        partial: bool = False,
        repeat: bool = True,
        ranks: bool = False,
    ) -> None:
        super().__init__(exclusion_writer)
        self.ranks = ranks
        self.scores, self.cut, self.partial, self.repeat = str(scores), cut, partial, repeat
        self.labels = None if labels is None else str(labels)
        self._rows: KeptRows | None = None
        self._counts: deque[int] | None = None  # of the kept documents that `run` has not yielded yet

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Yield the kept documents, in order, each as often as it is kept."""
        corpus = CorpusListing(data)
        corpus.refuse_shared_list(type(self).__name__, world_size)
        self._refuse_own_scorer(corpus)
        found = self._find_cut()  # anew: Slurm reuses a step for many ranks
        claims = None if world_size == 1 else Claims(f"{self._pass(found, corpus, world_size)}/claims", rank)
        self._rows, self._counts = KeptRows(found, claims), deque()
        try:
            for doc in super().run(data, rank, world_size):
                yield from self._copies(doc, self._counts.popleft())
            self._check_pass(self._rows, corpus, rank, world_size)
        finally:
            self._rows = self._counts = None

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        """Return whether the document is in the cut."""
        if self._rows is None:
            self._rows = KeptRows(self._find_cut())
        count = self._rows.keeps(doc)
        if not count:
            return False, self._reason
        if self._counts is not None:
            self._counts.append(count)
        for name, value in self._rows.scored(self.ranks).items():
            doc.metadata.setdefault(name, value)
        return True

    def _copies(self, doc: Document, count: int) -> list[Document]:
        """Return a kept document as often as it comes out; steps that change a copy change no other."""
        if not self.repeat:
            doc.metadata["count"] = count
            return [doc]
        later = range(2, count + 1)
        return [doc, *(replace(deepcopy(doc), id=f"{doc.id}#{number}") for number in later)]

    def _refuse_own_scorer(self, corpus: CorpusListing) -> None:
        """Raise StoreIncomplete if a step of this pipeline writes the scores: a cut needs those of all documents."""
        for step in corpus.steps:
            if step.get("store") == self.scores and not ScoreStore(self.scores).is_complete:
                raise StoreIncomplete(
                    f"{type(self).__name__} needs all scores of {self.scores}, and {step['step']} of this pipeline "
                    "is still to write them: put the filter into a second pipeline, which reads the corpus again"
                )

    def _find_cut(self) -> FoundCut:
        labels = None if self.labels is None else LabelStore.open(self.labels)
        return FoundCut(ScoreStore.open(self.scores), self.cut, labels)

    def _pass(self, found: FoundCut, corpus: CorpusListing, tasks: int) -> str:
        """Return the folder of what the tasks of this pass tell each other.

        What is read and done before this step tells this pass from others.
        """
        name = found.path.rsplit("/", 1)[-1]
        this_pass = digest(canonical([name, corpus.known, corpus.steps]))
        return f"{self.scores.rstrip('/')}/passes/{this_pass[:16]}/{tasks}"

    def _check_pass(self, rows: KeptRows, corpus: CorpusListing, rank: int, tasks: int) -> None:
        """Say how many of the cut's copies have come by, and raise CorpusError if all tasks lack some."""
        cut, came = rows.found, sum(rows.kept.values())
        of = "" if cut.amount is None else f" of the {cut.amount:,}"
        task = f" in task {rank} of {tasks}" if tasks > 1 else ""
        logger.info(f"{came:,}{of} documents that the cut of {self.scores} keeps have come by{task}")
        met = self._met_by_all(rows, corpus, rank, tasks)
        if met is None or sum(met.values()) == cut.amount:
            return
        wanted = cut.kept()
        if met == {source: count for source, count in wanted.items() if count}:
            return
        source = next(name for name, count in wanted.items() if met.get(name, 0) != count)
        raise CorpusError(
            f"{sum(met.values()):,} of the {sum(wanted.values()):,} documents that the cut of {self.scores} keeps "
            f"have come by, of {source} {met.get(source, 0):,} of {wanted[source]:,}: restore the file, or pass "
            "partial=True if only a part of the scored corpus is to be read, or a step before this one drops documents"
        )

    def _met_by_all(self, rows: KeptRows, corpus: CorpusListing, rank: int, tasks: int) -> dict[str, int] | None:
        """Return how many copies of each source all tasks of this pass have kept; None while nobody can know.

        The last task of a pass adds the records of all: a file in the score store for each.
        """
        if self.partial:
            return None
        if tasks == 1:
            return rows.kept
        if corpus.known is None:
            return None  # two passes over different corpora could not be told apart
        folder = self._pass(rows.found, corpus, tasks)
        try:
            write_json(f"{folder}/{rank:05d}.json", {"kept": rows.kept})
            fs, root = open_folder(folder)
            if sum(name.endswith(".json") for name in fs.ls(root, detail=False)) < tasks:
                return None  # another task is the last
            records = [read_json(f"{folder}/{other:05d}.json")["kept"] for other in range(tasks)]
        except OSError as error:
            logger.warning(f"{folder} cannot be written ({error}): whether documents are missing is not checked")
            return None
        met: dict[str, int] = {}
        for source, count in (item for record in records for item in record.items()):
            met[source] = met.get(source, 0) + count
        return met


class TopKFilter(CutFilter):
    """Keeps the documents with the largest (or smallest) scores (Sec. 3.3, Alg. 1).

    Args:
        scores: as in CutFilter.
        k, rate, token_budget: documents, fraction of the documents, or tokens to keep; give one.
        order: "top" keeps the largest scores, "bottom" the smallest; "pareto", for log-odds as the quality classifier
            gives, the largest with noise added: GPT-3's way of keeping some of the low.
        seed: of the noise, and decides among equal scores.
        upsample: keep the better documents several times, along this curve.
        **options: `labels`, `exclusion_writer`, `partial` and `repeat`, as in CutFilter.
    """

    name = "🔝 Top-k"
    _reason = "below_cut"

    def __init__(
        self,
        scores: str,
        k: int | None = None,
        rate: float | None = None,
        token_budget: int | None = None,
        order: Literal["top", "bottom", "pareto"] = "top",
        seed: int = 0,
        upsample: UpsamplingCurve | None = None,
        **options: Unpack[CutOptions],
    ) -> None:
        if order not in ("top", "bottom", "pareto"):
            raise InvalidCut(f"no order {order!r}: choose top, bottom or pareto")
        super().__init__(scores, Cut(order, k, rate, token_budget, seed, upsample=upsample), **options)


class IPSFilter(CutFilter):
    """Samples without replacement in proportion to 1 / exp(score): inverse propensity sampling (Sec. 3.2, Alg. 2).

    For scores that are log densities, such as DensityScorer's.

    Args:
        scores: as in CutFilter.
        k, rate, token_budget: documents, fraction of the documents, or tokens to keep; give one.
        method: "inverse" draws one document after the other, in proportion to 1 / exp(score) among those left;
            "direct" in proportion to exp(score), for log weights; "poisson" decides about each document by itself,
            with probability min(1, c / exp(score)), and meets the amount in expectation (Thm. A.2's estimator).
        seed: another seed, another sample; one seed gives nested samples across rates.
        temperature: of "inverse" and "direct": scores are divided by it, so a higher one keeps more of the unlikely.
        **options: `labels`, `exclusion_writer`, `partial` and `repeat`, as in CutFilter.
    """

    name = "🎲 Inverse propensity sampling"
    _reason = "not_sampled"

    def __init__(
        self,
        scores: str,
        k: int | None = None,
        rate: float | None = None,
        token_budget: int | None = None,
        method: Literal["inverse", "direct", "poisson"] = "inverse",
        seed: int = 0,
        temperature: float = 1.0,
        **options: Unpack[CutOptions],
    ) -> None:
        if method not in ("inverse", "direct", "poisson"):
            raise InvalidCut(f"no method {method!r}: choose inverse, direct or poisson")
        mode: Mode = "ips" if method == "inverse" else method
        super().__init__(scores, Cut(mode, k, rate, token_budget, seed, temperature), **options)


class RandomFilter(CutFilter):
    """Keeps a uniform sample of the scored corpus, drawn by document key: the same for any number of tasks.

    Args:
        scores: folder of any score store of the corpus; only its keys are used.
        k, rate, token_budget: documents, fraction of the documents, or tokens to keep; give one.
        seed: another seed, another sample; one seed gives nested samples across rates.
        **options: `labels`, `exclusion_writer`, `partial` and `repeat`, as in CutFilter.
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
        **options: Unpack[CutOptions],
    ) -> None:
        super().__init__(scores, Cut("random", k, rate, token_budget, seed), **options)


class KeptRows:
    """Looks documents up in a cut: by their file where the store knows it, else by their key.

    Documents of a file usually come in the order they were scored in, so the next row is tried first. Of documents
    that are identical to the byte, as many are kept as the cut keeps, in the order they come.

    Args:
        found: the cut.
        claims: who gets which of identical documents of unknown files, where several tasks meet some.

    Attributes:
        found: the cut.
        place: source and row in the store of the document that was asked for last.
        kept: how many copies the cut keeps of the documents of each source, as it is named in the store, that were
            asked for.
    """

    def __init__(self, found: FoundCut, claims: Claims | None = None) -> None:
        self.found, self.place = found, ("", -1)
        self.kept: dict[str, int] = {}
        self._claims, self._is_by_key = claims, found.store.is_by_key
        self._source: str | None = None
        self._scored_as = ""
        self._keys: list[int] = []
        self._kept: list[int] = []
        self._next = 0
        self._used = bytearray()
        self._used_of: dict[str, bytearray] = {}  # by source, for when its documents come again
        self._file_of: dict[str, str] = {}
        self._rows_of: dict[int, list[int]] | None = None
        self._score_name = score_name(found.store.made) if found.cut.mode != "random" else None
        self._scored: dict[str, tuple[np.ndarray, np.ndarray | None]] = {}
        self._came: dict[int, int] = {}  # by key of documents of unknown files of which some are kept

    def keeps(self, doc: Document) -> int:
        """Return how often the cut keeps the document. Raises MissingScore if the store does not know it."""
        source, key = doc.metadata.get("file_path"), key_of(doc)
        count: int | None = None
        if not self._is_by_key and source is not None:
            if source != self._source:
                self._open(doc, source)
            count = self._keeps_of_file(doc, key)
        if count is None:
            count = self._keeps_by_key(doc, key)
        if count:
            self.kept[self.place[0]] = self.kept.get(self.place[0], 0) + count
        return count

    def scored(self, ranks: bool) -> dict[str, float | int]:
        """Return the score, and the rank if asked for, of the document that was asked for last; {} in a random cut."""
        source, row = self.place
        if self._score_name is None:
            return {}
        if source not in self._scored:
            if not self._is_by_key:  # sources come one after the other
                self._scored.clear()
            score_N = self.found.store.read(source, ["score"])["score"]
            self._scored[source] = score_N, self.found.ranks(source) if ranks else None
        score_N, rank_N = self._scored[source]
        score = {self._score_name: float(score_N[row])}
        return score if rank_N is None else score | {f"{self._score_name}_rank": int(rank_N[row])}

    def _open(self, doc: Document, source: str) -> None:
        """Load the rows of a file; of one that the store does not know, there are none."""
        scored_as = self.found.store.locate(source)
        self._source, self._next, self._rows_of = source, 0, None
        self._scored_as, self._keys, self._kept, self._used = scored_as or "", [], [], bytearray()
        if scored_as is None:
            return
        if self._file_of.setdefault(scored_as, source) != source:
            raise MissingScore(
                f"{source} (document {doc.id}) and {self._file_of[scored_as]} both look like {scored_as}, which "
                f"{self.found.store.path} holds scores of: score them apart"
            )
        key_N, kept_N = self.found.keeps(scored_as)
        self._keys, self._kept = key_N.tolist(), kept_N.tolist()
        self._used = self._used_of.setdefault(source, bytearray(len(self._keys)))

    def _keeps_of_file(self, doc: Document, key: int) -> int | None:
        """Return how often the cut keeps a document of the open file; None if the store does not have it there.

        Raises:
            MissingScore: more copies of it come than were scored.
        """
        row = self._next
        if row >= len(self._keys) or self._keys[row] != key or self._used[row]:
            rows = self._copies(key)
            if rows is None:
                return None
            while rows and self._used[rows[-1]]:
                rows.pop()
            if not rows:
                raise MissingScore(f"more copies of {named(doc)} come than {self.found.store.path} holds scores of")
            row = rows.pop()
        self._used[row] = True
        self._next, self.place = row + 1, (self._scored_as, row)
        return self._kept[row]

    def _copies(self, key: int) -> list[int] | None:
        """Return rows of a document of the open file, the last first; None if it has none."""
        if self._rows_of is None:
            self._rows_of = {}
            for row in range(len(self._keys) - 1, -1, -1):
                self._rows_of.setdefault(self._keys[row], []).append(row)
        return self._rows_of.get(key)

    def _keeps_by_key(self, doc: Document, key: int) -> int:
        """Return how often the cut keeps a document, wherever in the store it is."""
        index, kept_N = self._by_key
        rows = index.rows(key)
        if not rows.size:
            raise MissingScore(
                f"{named(doc)} has no score in {self.found.store.path}, or its text has changed since: score this "
                "corpus first"
            )
        count_R, chosen = kept_N[rows], 0
        if count_R.min() < count_R.max():  # identical documents of which the cut does not keep all alike
            order = np.argsort(-count_R.astype(int), kind="stable")
            nth = self._came[key] = self._came.get(key, -1) + 1
            slot = nth if self._claims is None else self._claims.slot(key, nth, int((count_R > 0).sum()))
            chosen = int(order[min(slot, len(rows) - 1)])
        self.place = index.place(int(rows[chosen]))
        return int(count_R[chosen])

    @cached_property
    def _by_key(self) -> tuple[KeyIndex, np.ndarray]:
        """Where the documents of the store stand, and how often each is kept: uint8 [N], in the index's rows."""
        keys, kept = dict[str, np.ndarray](), [np.empty(0, dtype=np.uint8)]
        for source in self.found.store.sources:
            keys[source], kept_N = self.found.keeps(source)
            kept.append(kept_N)
        return KeyIndex(keys), np.concatenate(kept)


class Claims:
    """Which of identical documents the tasks of one pass keep: each is claimed by a file, which stays after a kill.

    Args:
        folder: of the pass and its number of tasks, on any fsspec path.
        rank: the task.
    """

    def __init__(self, folder: str, rank: int) -> None:
        self._folder, self._rank = folder, rank
        self._mine: dict[int, dict[int, int]] = {}  # by key, slots that an earlier attempt of this task has claimed
        self._free: dict[int, int] = {}  # by key, the first slot that may be free

    def slot(self, key: int, nth: int, wanted: int) -> int:
        """Return a slot below `wanted` for the task's n-th document of a key, or `wanted` if all are taken."""
        if key not in self._mine:
            claims = {slot: self._read(key, slot) for slot in range(wanted)}
            self._mine[key] = {claim["nth"]: slot for slot, claim in claims.items() if claim["rank"] == self._rank}
        if nth in self._mine[key]:
            return self._mine[key][nth]
        first = self._free.get(key, 0)
        claim = seal({"rank": self._rank, "nth": nth})
        found = next((slot for slot in range(first, wanted) if create(self._name(key, slot), claim)), wanted)
        self._free[key] = found + 1
        return found

    def _read(self, key: int, slot: int) -> dict[str, Any]:
        try:
            return read_json(self._name(key, slot))
        except FileNotFoundError:
            return {"rank": -1}

    def _name(self, key: int, slot: int) -> str:
        return f"{self._folder}/{key:016x}/{slot:06d}.json"
