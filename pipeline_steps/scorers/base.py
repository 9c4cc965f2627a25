"""Base classes of the steps that compute something per document: DocumentColumns, and BaseScorer for one number.

What is computed goes into a SourceStore window by window. Windows never straddle a source file, so what is computed
together, hence every last bit, does not depend on the number of tasks.
"""

from __future__ import annotations

import reprlib
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.batching import batched

from pipeline_steps.credentials import NoCredentials
from pipeline_steps.errors import CorpusError, InvalidScore, StoreMismatch
from pipeline_steps.numerics.keys import document_key
from pipeline_steps.stores.corpus_listing import CorpusListing
from pipeline_steps.stores.score_store import SCORE_FIELDS
from pipeline_steps.stores.source_store import Columns, SourceStore


_MOST_TOKENS = np.iinfo(np.uint32).max


class DocumentColumns(NoCredentials, PipelineStep):
    """Base of every step that stores something per document and passes documents through unchanged, in order.

    A subclass gives `schema` (after `key`), `fingerprint` and `compute`, and may override `prepare`, `annotate` and
    `check`. What it loads it may keep in cached properties: each task forgets them when it begins and when it ends.

    Args:
        store: folder of the SourceStore, any fsspec path.
        window_size: documents computed and committed together; what a killed task can lose.

    Attributes:
        corpus: the reader of the documents, where several tasks run behind a step that hides it; or a name of the
            corpus as it is now, where nodes see other times of the same files.
    """

    type = "📏 - SCORER"
    kind = "columns"
    schema: pa.Schema

    def __init__(self, store: str, window_size: int = 4096) -> None:
        super().__init__()
        if window_size < 1:
            raise ValueError(f"window_size must be at least 1, not {window_size}")
        self.store = str(store)
        self.window_size = int(window_size)
        self.corpus: PipelineStep | str | None = None

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """Return everything that decides the values, as JSON types; a store made with another one is refused."""

    def made(self) -> dict[str, Any]:
        """Return the configuration that the store records."""
        return self.fingerprint() | {"window_size": self.window_size}

    def prepare(self, docs: list[Document]) -> Any:
        """Prepare a window in a thread, while the one before is computed: tokenise it. Default: nothing."""

    @abstractmethod
    def compute(self, docs: list[Document], prepared: Any) -> Columns:
        """Return the columns of a window of documents, without `key`; `prepared` is what `prepare` returned."""

    def annotate(self, docs: list[Document], columns: Columns) -> None:
        """Put values into the documents' metadata. Default: nothing."""

    def check(self, docs: list[Document], columns: Columns) -> None:
        """Raise StoreMismatch if stored columns are not of these documents, beyond ids and texts. Default: nothing."""

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Yield every document of `data`, computed or read back from the store."""
        self._forget()  # datatrove on Slurm uses one step for many ranks
        store = SourceStore(self.store, pa.schema([pa.field("key", pa.uint64()), *self.schema]))
        corpus = CorpusListing(data, self.corpus)
        store.begin(self.kind, self.made(), corpus.inputs(type(self).__name__, world_size))
        sources = []
        for source, docs in by_source(data, type(self).__name__):
            sources.append(source)
            for window in self._run_source(store, source, docs):
                yield from window
        corpus.check_unchanged()
        store.finish_task(rank, world_size, sources)
        self._forget()

    def _forget(self) -> None:
        for name in [name for name in vars(self) if isinstance(getattr(type(self), name, None), cached_property)]:
            delattr(self, name)

    def _run_source(self, store: SourceStore, source: str, docs: Iterator[Document]) -> Iterator[list[Document]]:
        sealed, parts = store.read_to_continue(source), []
        position = 0
        for window in self._windows_ahead(store, source, docs, sealed):
            columns = window.columns
            if columns is None:
                columns = self._compute(window)
                store.commit_window(source, window.number, columns)
            else:
                _check_keys(columns["key"], window.keys, window.docs, source, store)
                self.check(window.docs, columns)
                self.stat_update("already_stored", value=len(window.docs), unit="window")
            position += len(window.docs)
            self.annotate(window.docs, columns)
            if sealed is None:
                parts.append(columns)
            yield window.docs
        if sealed is not None:
            store.drop_windows(source)  # left by a task that was killed while it sealed
        if sealed is None:
            store.seal(source, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
        elif position != len(sealed["key"]):
            raise StoreMismatch(
                f"{source} has {position:,} documents, but {store.path} holds {len(sealed['key']):,} for it: "
                f"the file has changed or was read with a limit; {store.restore(source)}"
            )

    def _windows_ahead(
        self, store: SourceStore, source: str, docs: Iterator[Document], sealed: Columns | None
    ) -> Iterator[_Window]:
        """Yield the windows of a source; while one is computed, the next is read and prepared in a thread."""
        pending: deque[_Window] = deque()
        start = 0
        with ThreadPoolExecutor(1) as pool:
            for number, window in enumerate(batched(docs, self.window_size)):
                keys = np.array([document_key(doc.id, doc.text) for doc in window], dtype=np.uint64)
                columns: Columns | None
                if sealed is not None:
                    columns = {name: values[start : start + len(window)] for name, values in sealed.items()}
                else:
                    columns = store.read_window(source, number)
                prepared = pool.submit(self.prepare, window) if columns is None else None
                pending.append(_Window(number, window, keys, columns, prepared))
                start += len(window)
                if len(pending) > 1:
                    yield pending.popleft()
            yield from pending

    def _compute(self, window: _Window) -> Columns:
        begun = time.perf_counter()
        with self.track_time("window"):
            prepared = window.prepared.result() if window.prepared else None
            columns = {"key": window.keys, **self.compute(window.docs, prepared)}
        self.stat_update("computed", value=len(window.docs), unit="window")
        self.stat_update("computed_per_second", value=len(window.docs) / (time.perf_counter() - begun), unit="window")
        return columns


class _Window(NamedTuple):
    """Documents that are computed together, and what is known of them: columns if they are stored already."""

    number: int
    docs: list[Document]
    keys: np.ndarray
    columns: Columns | None
    prepared: Future[Any] | None


def by_source(data: DocumentsPipeline, step: str) -> Iterator[tuple[str, Iterator[Document]]]:
    """Group documents by the file they were read from (`metadata["file_path"]`), in order.

    Raises:
        CorpusError: a document does not say which file it is from, or a file's documents do not come together.
    """
    seen: set[str] = set()
    for source, docs in groupby(data, key=_source_of):
        if source in seen:
            raise CorpusError(
                f"documents of {source} reach {step} in more than one run: they were shuffled, or rewritten into "
                "other files since; put this step before that, or read from where they were first. If they have a "
                "column file_path of their own, as FineWeb has, give the reader an adapter that leaves it out"
            )
        seen.add(source)
        yield source, docs


def _source_of(doc: Document) -> str:
    source = doc.metadata.get("file_path")
    if source is None:
        raise CorpusError(
            f"document {doc.id} does not say which file it is from (metadata 'file_path'): read with a file-based "
            "reader, e.g. ParquetReader('hf://datasets/...') instead of HuggingFaceDatasetReader"
        )
    return str(source)


def _check_keys(stored: np.ndarray, keys: np.ndarray, docs: list[Document], source: str, store: SourceStore) -> None:
    if len(stored) == len(keys) and (stored == keys).all():
        return
    same = min(len(stored), len(keys))
    wrong = np.flatnonzero(stored[:same] != keys[:same])
    where = f"document {docs[wrong[0]].id}" if wrong.size else f"a window of {len(keys)} documents"
    raise StoreMismatch(
        f"{store.path} was made from another {source}: {where} is not what is stored there; {store.restore(source)}"
    )


class BaseScorer(DocumentColumns):
    """Scores every document; drops nothing, reorders nothing.

    A subclass implements `fingerprint` and one hook, `score_batch`; or, where texts are to be tokenised while the
    window before is scored, `prepare` and `score_prepared` in its place. The score goes to `metadata[metadata_key]` (a
    Python float, on every document) and to the store: Parquet files with columns `key` (uint64), `score` (float32),
    `tokens` (uint32: `metadata["token_count"]` where a datatrove TokensCounter has set it, else what the scorer's own
    tokenizer counted, else 0) and the subclass's `extra_fields`.

    Args:
        scores: folder of the score store, any fsspec path.
        metadata_key: metadata key the score is written to.
        window_size: documents scored and committed together; what a killed task can lose.

    Raises:
        WinnowError: an argument holds a credential.
        InvalidScore: a score is NaN or infinite, or a `token_count` is no number of tokens; names the document.

    Attributes:
        lower_is_better: whether low scores are the good ones; the store records it.
    """

    kind = "scores"
    lower_is_better: bool = False
    extra_fields: tuple[pa.Field, ...] = ()

    def __init__(self, scores: str, metadata_key: str, window_size: int = 4096) -> None:
        super().__init__(scores, window_size)
        self.metadata_key = metadata_key

    @property
    def schema(self) -> pa.Schema:
        """The columns of the store after `key`."""
        return pa.schema([*SCORE_FIELDS, *self.extra_fields])

    def made(self) -> dict[str, Any]:
        """Return the configuration that the store records: the fingerprint, and which direction is better."""
        return super().made() | {"lower_is_better": self.lower_is_better}

    def score_batch(self, docs: list[Document]) -> Sequence[float] | Columns:
        """Return the scores of one window, in order; higher = more of what the step's name says.

        They come alone, or as columns by name: `score`, optionally `tokens`, and every one of `extra_fields`.
        """
        return self.score_prepared(docs, self.prepare(docs))

    def score_prepared(self, docs: list[Document], prepared: Any) -> Sequence[float] | Columns:
        """Return what `score_batch` returns, given what `prepare` has returned for the same window."""
        raise NotImplementedError(f"{type(self).__name__} implements neither score_batch nor score_prepared")

    def compute(self, docs: list[Document], prepared: Any) -> Columns:
        """Return the window's columns, checked."""
        result = self.score_batch(docs) if prepared is None else self.score_prepared(docs, prepared)
        columns: dict[str, Any] = dict(result) if isinstance(result, Mapping) else {"score": result}
        scores = np.asarray(columns["score"], dtype=np.float32)
        if len(scores) != len(docs):
            raise InvalidScore(f"{type(self).__name__} returned {len(scores)} scores for {len(docs)} documents")
        bad = np.flatnonzero(~np.isfinite(scores))
        if bad.size:
            doc = docs[bad[0]]
            raise InvalidScore(
                f"{type(self).__name__} gave document {doc.id} of {doc.metadata['file_path']} the score "
                f"{scores[bad[0]]}: look at its text, or exclude it before scoring"
            )
        counted = columns.get("tokens", np.zeros(len(docs), dtype=np.uint32))
        tokens = np.array([_tokens(doc, own) for doc, own in zip(docs, counted, strict=True)], dtype=np.uint32)
        self.stat_update("tokens", value=int(tokens.sum(dtype=np.int64)), unit="window")
        return columns | {"score": scores, "tokens": tokens}

    def annotate(self, docs: list[Document], columns: Columns) -> None:
        """Set the score on every document, as a Python float: datatrove's writers and stats need one."""
        for doc, score in zip(docs, columns["score"].tolist(), strict=True):
            doc.metadata[self.metadata_key] = score


def _tokens(doc: Document, counted: int) -> int:
    """Return the number of tokens that a document says it has, or else what the scorer has counted."""
    said = doc.metadata.get("token_count")
    if said is None:
        return counted
    if isinstance(said, bool) or not isinstance(said, int | np.integer) or not 0 <= said <= _MOST_TOKENS:
        raise InvalidScore(
            f"document {doc.id} of {doc.metadata['file_path']} has token_count={reprlib.repr(said)} in its metadata, "
            f"which is not a whole number from 0 to {_MOST_TOKENS:,}: mend it, or leave that column out"
        )
    return int(said)
