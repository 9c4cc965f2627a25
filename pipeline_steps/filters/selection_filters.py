"""Filters that keep exactly the documents of a cut, in any executor with any number of tasks."""

from __future__ import annotations

from collections import deque
from copy import deepcopy
from dataclasses import replace
from typing import Literal, TypedDict, Unpack

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.writers.disk_base import DiskWriter
from datatrove.utils.logging import logger

from pipeline_steps.credentials import NoCredentials
from pipeline_steps.errors import CorpusError, InvalidCut, MissingScore
from pipeline_steps.filters.cuts import Cut, FoundCut, select
from pipeline_steps.numerics.copies import UpsamplingCurve
from pipeline_steps.numerics.keys import document_key
from pipeline_steps.numerics.priority import Mode
from pipeline_steps.scorers.metadata import LabelStore
from pipeline_steps.stores.corpus_listing import CorpusListing
from pipeline_steps.stores.files import canonical, digest, open_folder, read_json, write_json
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
    ) -> None:
        super().__init__(exclusion_writer)
        self.scores, self.cut, self.partial, self.repeat = str(scores), cut, partial, repeat
        self.labels = None if labels is None else str(labels)
        self._rows: KeptRows | None = None
        self._counts: deque[int] | None = None  # of the kept documents that `run` has not yielded yet

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Yield the kept documents, in order, each as often as it is kept."""
        self._rows, self._counts = self._find_cut(), deque()  # anew: Slurm reuses a step for many ranks
        # Where other tasks read the rest, what is read and done before this step tells this pass from others
        corpus = CorpusListing(data) if world_size > 1 and not self.partial else None
        try:
            for doc in super().run(data, rank, world_size):
                yield from self._copies(doc, self._counts.popleft())
            self._check_pass(self._rows, corpus, rank, world_size)
        finally:
            self._rows = self._counts = None

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        """Return whether the document is in the cut."""
        if self._rows is None:
            self._rows = self._find_cut()
        count = self._rows.keeps(doc)
        if count and self._counts is not None:
            self._counts.append(count)
        return count > 0 or (False, self._reason)

    def _copies(self, doc: Document, count: int) -> list[Document]:
        """Return a kept document as often as it comes out; steps that change a copy change no other."""
        if not self.repeat:
            doc.metadata["count"] = count
            return [doc]
        later = range(2, count + 1)
        return [doc, *(replace(deepcopy(doc), id=f"{doc.id}#{number}") for number in later)]

    def _find_cut(self) -> KeptRows:
        labels = None if self.labels is None else LabelStore.open(self.labels)
        return KeptRows(FoundCut(ScoreStore.open(self.scores), self.cut, labels))

    def _check_pass(self, rows: KeptRows, corpus: CorpusListing | None, rank: int, tasks: int) -> None:
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

    def _met_by_all(
        self, rows: KeptRows, corpus: CorpusListing | None, rank: int, tasks: int
    ) -> dict[str, int] | None:
        """Return how many copies of each source all tasks of this pass have kept; None while nobody can know.

        The last task of a pass adds the records of all: a file in the score store for each.
        """
        if self.partial:
            return None
        if tasks == 1:
            return rows.kept
        if corpus is None or corpus.known is None:
            return None  # two passes over different corpora could not be told apart
        this_pass = digest(canonical([rows.found.path.rsplit("/", 1)[-1], corpus.known, corpus.steps]))
        folder = f"{self.scores.rstrip('/')}/passes/{this_pass[:16]}/{tasks}"
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
    """Looks documents up in a cut, source by source.

    Documents usually come in the order they were scored in, so the next row is tried first. Of documents that are
    identical to the byte, as many are kept as the cut keeps in the same source, in the order they come.

    Attributes:
        found: the cut.
        place: source and row in the store of the document that was asked for last.
        kept: how many copies the cut keeps of the documents of each source, as it is named in the store, that were
            asked for.
    """

    def __init__(self, found: FoundCut) -> None:
        self.found, self.place = found, ("", -1)
        self.kept: dict[str, int] = {}
        self._source: str | None = None
        self._scored_as = ""
        self._keys: list[int] = []
        self._kept: list[int] = []
        self._next = 0
        self._used = bytearray()
        self._used_of: dict[str, bytearray] = {}  # by source, for when its documents come again
        self._file_of: dict[str, str] = {}
        self._rows_of: dict[int, list[int]] | None = None

    def keeps(self, doc: Document) -> int:
        """Return how often the cut keeps the document. Raises MissingScore if the store does not know it."""
        source = doc.metadata.get("file_path")
        if source != self._source:
            self._load(doc, source)
        key, row = document_key(doc.id, doc.text), self._next
        if row >= len(self._keys) or self._keys[row] != key or self._used[row]:
            row = self._search(doc, key)
        self._used[row] = True
        self._next, self.place = row + 1, (self._scored_as, row)
        if count := self._kept[row]:
            self.kept[self._scored_as] = self.kept.get(self._scored_as, 0) + count
        return count

    def _load(self, doc: Document, source: str | None) -> None:
        scored_as = self.found.store.locate(str(source))
        if source is None or scored_as is None:
            raise MissingScore(
                f"{self.found.store.path} holds no scores of {source} (document {doc.id}): score this file first"
            )
        if self._file_of.setdefault(scored_as, source) != source:
            raise MissingScore(
                f"{source} (document {doc.id}) and {self._file_of[scored_as]} both look like {scored_as}, which "
                f"{self.found.store.path} holds scores of: score them apart"
            )
        key_N, kept_N = self.found.keeps(scored_as)
        self._scored_as = scored_as
        self._source, self._keys, self._kept = source, key_N.tolist(), kept_N.tolist()
        self._used = self._used_of.setdefault(source, bytearray(len(self._keys)))
        self._next, self._rows_of = 0, None

    def _search(self, doc: Document, key: int) -> int:
        """Return the first row of this document that has not been asked for."""
        if self._rows_of is None:
            self._rows_of = {}
            for row in range(len(self._keys) - 1, -1, -1):
                self._rows_of.setdefault(self._keys[row], []).append(row)
        rows = self._rows_of.get(key, [])
        while rows and self._used[rows[-1]]:
            rows.pop()
        if not rows:
            raise MissingScore(
                f"document {doc.id} of {self._source} has no score in {self.found.store.path}, or its text has "
                "changed since: score this corpus first"
            )
        return rows.pop()
