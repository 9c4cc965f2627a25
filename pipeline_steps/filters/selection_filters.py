"""Filters that keep exactly the documents of a cut, in any executor with any number of tasks."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any, Literal, TypedDict, Unpack

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.writers.disk_base import DiskWriter
from datatrove.utils.logging import logger

from pipeline_steps.credentials import NoCredentials
from pipeline_steps.errors import CorpusError, InvalidCut, StoreIncomplete
from pipeline_steps.filters.cut_settings import exclusions
from pipeline_steps.filters.cuts import Cut, FoundCut, select
from pipeline_steps.filters.kept_rows import BY_KEY, Claims, KeptRows
from pipeline_steps.numerics.copies import UpsamplingCurve
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
        exclude: what is left out before the cut, as in CutFilter.
        selection: where to write the Selection (counts over the corpus, for training); None writes none.

    Raises:
        StoreIncomplete: the store is half written.
        InvalidCut: the asked amount cannot be selected, or `exclude` is no list of stores.
    """

    type = "✂️ - SELECTOR"
    name = "✂️ Cut"

    def __init__(
        self,
        scores: str,
        cut: Cut,
        labels: str | None = None,
        selection: str | None = None,
        exclude: Sequence[str] = (),
    ) -> None:
        super().__init__()
        exclusions(exclude)
        self.exclude = list(exclude)
        self.scores, self.cut = str(scores), cut
        self.labels = None if labels is None else str(labels)
        self.selection = None if selection is None else str(selection)

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Publish the cut, and the Selection if asked for; documents pass through."""
        if rank == 0:
            store, labels = ScoreStore.open(self.scores), self.labels and LabelStore.open(self.labels)
            with self.track_time("cut"):
                if self.selection:
                    select(store, self.cut, labels or None, self.exclude).save(self.selection)
                else:
                    FoundCut(store, self.cut, labels or None, self.exclude)
        if data:
            yield from data


class CutOptions(TypedDict, total=False):
    """Arguments that every filter takes by name: the amount and the seed of its Cut, and what CutFilter takes."""

    k: int | None
    rate: float | None
    token_budget: int | None
    seed: int
    labels: str | None
    exclude: Sequence[str]
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
        exclude: score stores of the corpus, each as "FOLDER" or "FOLDER:THRESHOLD" (0 unless given), whose documents
            of worse scores than the threshold are left out; the amount is of what remains. A store of
            ContaminationScorer leaves out what shares a run of words with evaluation items.

    The reason of a dropped document is "excluded" if `exclude` leaves it out; else it says which cut did not keep it.
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
        exclude: Sequence[str] = (),
    ) -> None:
        super().__init__(exclusion_writer)
        exclusions(exclude)
        self.exclude = list(exclude)
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
        agreed = f"{self._pass(found, corpus, world_size)}/claims" if corpus.known is not None else None
        claims = None if world_size == 1 else Claims(agreed, rank)
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
            return False, "excluded" if self._rows.is_excluded() else self._reason
        if self._counts is not None:
            self._counts.append(count)
        if self._rows.score_name is not None:
            score, rank = self._rows.scored(self.ranks)
            doc.metadata.setdefault(self._rows.score_name, score)
            if self.ranks:
                doc.metadata.setdefault(f"{self._rows.score_name}_rank", rank)
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
        own = [step for step in corpus.steps if str(step.get("store")).rstrip("/") == self.scores.rstrip("/")]
        if own and not ScoreStore(self.scores).is_complete:
            raise StoreIncomplete(
                f"{type(self).__name__} needs all scores of {self.scores}, and {own[0]['step']} of this pipeline is "
                "still to write them: put the filter into a second pipeline, which reads the corpus again"
            )

    def _find_cut(self) -> FoundCut:
        labels = None if self.labels is None else LabelStore.open(self.labels)
        return FoundCut(ScoreStore.open(self.scores), self.cut, labels, self.exclude)

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
        if BY_KEY in met and sum(met.values()) == sum(wanted.values()):
            return
        if met == {source: count for source, count in wanted.items() if count}:
            return
        source = next((name for name, count in wanted.items() if met.get(name, 0) != count), "")
        where = "" if BY_KEY in met else f", of {source} {met.get(source, 0):,} of {wanted[source]:,}"
        raise CorpusError(
            f"{sum(met.values()):,} of the {sum(wanted.values()):,} documents that the cut of {self.scores} keeps "
            f"have come by{where}: restore the file, or pass "
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


def _split(options: CutOptions) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arguments of Cut, and those of CutFilter."""
    of_cut = ("k", "rate", "token_budget", "seed")
    amount = {name: value for name, value in options.items() if name in of_cut}
    return amount, {name: value for name, value in options.items() if name not in of_cut}


class TopKFilter(CutFilter):
    """Keeps the documents with the largest (or smallest) scores (Sec. 3.3, Alg. 1).

    Args:
        scores: as in CutFilter.
        order: "top" keeps the largest scores, "bottom" the smallest; "pareto", for log-odds as the quality classifier
            gives, the largest with noise added: GPT-3's way of keeping some of the low.
        upsample: keep the better documents several times, along this curve.
        **options: `k`, `rate` or `token_budget`: documents, fraction of the documents, or tokens to keep; give one.
            `seed`: of the noise, and decides among equal scores. All others as in CutFilter.
    """

    name = "🔝 Top-k"
    _reason = "below_cut"

    def __init__(
        self,
        scores: str,
        *,
        order: Literal["top", "bottom", "pareto"] = "top",
        upsample: UpsamplingCurve | None = None,
        **options: Unpack[CutOptions],
    ) -> None:
        if order not in ("top", "bottom", "pareto"):
            raise InvalidCut(f"no order {order!r}: choose top, bottom or pareto")
        amount, own = _split(options)
        super().__init__(scores, Cut(order, upsample=upsample, **amount), **own)


class IPSFilter(CutFilter):
    """Samples without replacement in proportion to 1 / exp(score): inverse propensity sampling (Sec. 3.2, Alg. 2).

    For scores that are log densities, such as DensityScorer's.

    Args:
        scores: as in CutFilter.
        method: "inverse" draws one document after the other, in proportion to 1 / exp(score) among those left;
            "direct" in proportion to exp(score), for log weights; "poisson" decides about each document by itself,
            with probability min(1, c / exp(score)), and meets the amount in expectation (Thm. A.2's estimator).
        temperature: of "inverse" and "direct": scores are divided by it, so a higher one keeps more of the unlikely.
        **options: as in TopKFilter; another `seed` gives another sample, and one seed nested ones across rates.
    """

    name = "🎲 Inverse propensity sampling"
    _reason = "not_sampled"

    def __init__(
        self,
        scores: str,
        *,
        method: Literal["inverse", "direct", "poisson"] = "inverse",
        temperature: float = 1.0,
        **options: Unpack[CutOptions],
    ) -> None:
        if method not in ("inverse", "direct", "poisson"):
            raise InvalidCut(f"no method {method!r}: choose inverse, direct or poisson")
        mode: Mode = "ips" if method == "inverse" else method
        amount, own = _split(options)
        super().__init__(scores, Cut(mode, temperature=temperature, **amount), **own)


class RandomFilter(CutFilter):
    """Keeps a uniform sample of the scored corpus, drawn by document key: the same for any number of tasks.

    Args:
        scores: folder of any score store of the corpus; only its keys are used.
        **options: as in IPSFilter.
    """

    name = "🎲 Random"
    _reason = "not_sampled"

    def __init__(self, scores: str, **options: Unpack[CutOptions]) -> None:
        amount, own = _split(options)
        super().__init__(scores, Cut("random", **amount), **own)
