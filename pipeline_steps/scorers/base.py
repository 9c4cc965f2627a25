"""Base classes of the steps that compute something per document: DocumentColumns, and BaseScorer for one number.

What is computed goes into a SourceStore window by window. Windows never straddle a source file, so what is computed
together, hence every last bit, does not depend on the number of tasks. Where source files are unknown, last bits may.
"""

from __future__ import annotations

import json
import re
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, wraps
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.batching import batched

from pipeline_steps.credentials import NoCredentials
from pipeline_steps.errors import InvalidScore, StoreMismatch, WinnowError
from pipeline_steps.stores.arrivals import Arrivals
from pipeline_steps.stores.corpus_listing import CorpusListing
from pipeline_steps.stores.documents import by_source, id_of, key_of, named, tokens_of
from pipeline_steps.stores.score_store import SCORE_FIELDS
from pipeline_steps.stores.source_store import Columns, SourceStore


_READERS_OWN = ("file_path", "dataset", "token_count")  # metadata that readers and counters write


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
        is_of_text: whether the columns are a function of a document's id and text. If not, of identical documents of
            unknown files, those of the lowest columns stand for all.
    """

    type = "📏 - SCORER"
    kind = "columns"
    is_of_text: bool = True
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
        sources, arrivals = [], Arrivals(store, rank, world_size, self.is_of_text)
        for source, docs in by_source(data, corpus, store.is_by_key):
            if source is None:
                windows = self._run_arrivals(arrivals, docs)
            else:
                sources.append(source)
                windows = self._run_source(store, source, docs)
            for window in windows:
                yield from window
        corpus.check_unchanged()
        if not sources and arrivals.is_settled:
            store.tidy_settled()
        else:
            store.finish_task(rank, world_size, sources, arrivals.entries())
        self._forget()

    def _forget(self) -> None:
        for name in [name for name in vars(self) if isinstance(getattr(type(self), name, None), cached_property)]:
            delattr(self, name)

    def _run_source(self, store: SourceStore, source: str, docs: Iterator[Document]) -> Iterator[list[Document]]:
        """Yield the documents of a file, window by window, and seal the file's columns."""
        sealed = store.read_to_continue(source)
        size = 0 if sealed is None else len(sealed["key"])

        def stored(number: int, docs: list[Document], keys: np.ndarray) -> tuple[Columns, np.ndarray]:
            start = number * self.window_size
            columns: Columns | None = None
            if sealed is not None:
                columns = {name: values[start : start + len(keys)] for name, values in sealed.items()}
                _check_keys(columns["key"], keys[: max(size - start, 0)], docs, source, store)
            if columns is None or start + len(keys) > size:  # read with a limit then: it is computed as a whole
                columns = store.read_window(source, number)
            if columns is None or _is_beginning(columns["key"], keys):
                return {}, np.arange(len(keys))
            _check_keys(columns["key"], keys, docs, source, store)
            return columns, np.empty(0, dtype=np.intp)

        parts = []
        for window, columns, is_last in self._computed(docs, stored):
            if window.unknown.size and not (is_last and window.number == 0):  # which is sealed at once
                store.commit_window(source, window.number, columns)
            parts.append(columns)
            yield window.docs
        position = sum(len(part["key"]) for part in parts)
        if sealed is None or position > size:
            store.seal(source, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
        elif position == size:
            store.drop_windows(source)  # left by a task that was killed while it sealed
        else:
            raise StoreMismatch(
                f"{source} has {position:,} documents, but {store.path} holds {size:,} for it: the file has changed "
                f"or is read with a limit; {store.restore(source)}"
            )

    def _run_arrivals(self, arrivals: Arrivals, docs: Iterator[Document]) -> Iterator[list[Document]]:
        """Yield documents whose source file is unknown, window by window."""
        for window, columns, _ in self._computed(docs, arrivals.stored, arrivals.windows, check=False):
            arrivals.commit(columns)
            yield window.docs

    def _computed(
        self, docs: Iterator[Document], stored: Stored, first: int = 0, check: bool = True
    ) -> Iterator[tuple[_Window, Columns, bool]]:
        """Yield windows with their columns, and whether it is the last; the next is prepared in a thread meanwhile."""
        prepares = type(self).prepare is not DocumentColumns.prepare
        pending: deque[_Window] = deque()
        with ThreadPoolExecutor(1) as pool:
            for number, window in enumerate(batched(docs, self.window_size), first):
                keys = np.array([key_of(doc) for doc in window], dtype=np.uint64)
                columns, unknown = stored(number, window, keys)
                prepared = (
                    pool.submit(self.prepare, [window[row] for row in unknown]) if prepares and unknown.size else None
                )
                pending.append(_Window(number, window, keys, columns, unknown, prepared))
                if len(pending) > 1:
                    yield *self._complete(pending.popleft(), check), False
            for last in pending:
                yield *self._complete(last, check), True

    def _complete(self, window: _Window, check: bool) -> tuple[_Window, Columns]:
        """Return a window and the columns of all its documents, after computing those that are not stored.

        Stored columns are checked against their documents if `check`; copies by key have those of one of them.
        """
        docs = [window.docs[row] for row in window.unknown]
        new = self._compute(docs, window) if docs else {}
        if len(docs) == len(window.docs):
            columns: Columns = new
        elif docs:
            columns = _merged(window, new)
        else:
            columns = window.stored
        if len(docs) < len(window.docs):
            known = np.delete(np.arange(len(window.docs)), window.unknown)
            if check:
                self.check([window.docs[row] for row in known], {k: v[known] for k, v in columns.items()})
            self.stat_update("already_stored", value=len(known), unit="window")
        self.annotate(window.docs, columns)
        return window, columns

    def _compute(self, docs: list[Document], window: _Window) -> Columns:
        begun = time.perf_counter()
        with self.track_time("window"):
            prepared = window.prepared.result() if window.prepared else None
            columns = {"key": window.keys[window.unknown], **self.compute(docs, prepared)}
        self.stat_update("computed", value=len(docs), unit="window")
        self.stat_update("computed_per_second", value=len(docs) / (time.perf_counter() - begun), unit="window")
        return columns


Stored = Callable[[int, list[Document], np.ndarray], tuple[Columns, np.ndarray]]
"""Returns, given the number of a window, its documents and their keys, the columns that are stored of its documents,
in order, and the places in the window of the documents that are not stored."""


class _Window(NamedTuple):
    """Documents that are computed together, and what is known of them."""

    number: int
    docs: list[Document]
    keys: np.ndarray
    stored: Columns
    unknown: np.ndarray
    prepared: Future[Any] | None


def _merged(window: _Window, new: Columns) -> Columns:
    """Return the columns of a window of which some documents are stored and others have just been computed."""
    columns = {}
    for name, stored in window.stored.items():
        found = np.empty((len(window.docs), *stored.shape[1:]), dtype=stored.dtype)
        found[window.unknown] = new[name]
        found[np.delete(np.arange(len(window.docs)), window.unknown)] = stored
        columns[name] = found
    return columns


def _is_beginning(stored: np.ndarray, keys: np.ndarray) -> bool:
    """Return whether a window was committed when the file was read with a limit."""
    return len(stored) < len(keys) and np.array_equal(stored, keys[: len(stored)])


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

    A subclass implements one hook, `score`. If it also has `prepare`, which tokenises a window in a thread while the
    one before is scored, `score` takes what that returns as its second argument. The score goes to
    `metadata[metadata_key]` (a Python float, on every document) and to the store: Parquet files with columns `key`
    (uint64), `id`, `score` (float32), `tokens` (uint32: `metadata["token_count"]` where a datatrove TokensCounter has
    set it, else what the scorer's own tokenizer counted, else 0) and the subclass's `extra_fields`.

    What decides the scores is the class's name, its `version`, and every attribute that the constructor sets whose
    name begins with no underscore: a store that was made with others is refused. A subclass with more to say overrides
    `fingerprint`.

    Args:
        scores: folder of the score store, any fsspec path.
        metadata_key: metadata key the score is written to; by default the class's name: "shout" of ShoutScorer.
        window_size: documents scored and committed together; what a killed task can lose.

    Raises:
        WinnowError: an argument holds a credential, or the subclass cannot work; says why.
        InvalidScore: a score is NaN or infinite, or a `token_count` is no number of tokens; names the document.

    Attributes:
        score: the hook: documents of one window in, their scores in the same order out, higher = more of what the
            step's name says. They come alone, or as columns by name: `score`, optionally `tokens`, and every one of
            `extra_fields`.
        lower_is_better: whether low scores are the good ones; the store records it.
        version: to be raised when the code of `score` changes what it returns.
    """

    kind = "scores"
    lower_is_better: bool = False
    version: int = 1
    extra_fields: tuple[pa.Field, ...] = ()
    score: Callable[..., Sequence[float] | Columns]

    def __init_subclass__(cls) -> None:
        """Check every scorer when it has been constructed, not in the last of its tasks."""
        super().__init_subclass__()
        constructor = cls.__init__

        @wraps(constructor)
        def constructed(self: BaseScorer, *args: Any, **options: Any) -> None:
            constructor(self, *args, **options)
            if type(self) is cls:
                self.check_construction()

        cls.__init__ = constructed  # type: ignore[method-assign]

    def __init__(self, scores: str, metadata_key: str | None = None, window_size: int = 4096) -> None:
        set_before = set(vars(self))
        super().__init__(scores, window_size)
        own_name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(self).__name__.removesuffix("Scorer")).lower()
        self.metadata_key = own_name if metadata_key is None else metadata_key
        self._not_settings = frozenset(vars(self)) - set_before

    def check_construction(self) -> None:
        """Refuse a scorer that could not work.

        Raises:
            WinnowError: it lacks the hook or the base's constructor, its settings are not JSON, or its metadata key is
                one that readers use.
        """
        name = type(self).__name__
        if not hasattr(self, "score"):
            raise WinnowError(f"{name} has no method score(docs), which returns a window's scores")
        if not hasattr(self, "_not_settings"):
            raise WinnowError(f"{name} must call super().__init__(scores) in its constructor")
        if self.metadata_key in _READERS_OWN:
            raise WinnowError(f"{name} would write its scores over metadata[{self.metadata_key!r}]: give another key")
        if type(self).fingerprint is BaseScorer.fingerprint:
            for attribute, value in self._settings().items():
                try:
                    json.dumps(value, allow_nan=False)
                except (TypeError, ValueError):
                    raise WinnowError(
                        f"{name}.{attribute} is {type(value).__name__}, which cannot be noted as a setting: call it "
                        f"_{attribute} if it does not decide the scores, or load it in a cached_property"
                    ) from None

    def fingerprint(self) -> dict[str, Any]:
        """Return everything that decides the scores, as JSON types; a store made with another one is refused."""
        return self._settings() | ({} if self.version == 1 else {"version": self.version})

    def _settings(self) -> dict[str, Any]:
        loaded = {name for name in vars(self) if isinstance(getattr(type(self), name, None), cached_property)}
        hidden = self._not_settings | loaded
        return {name: value for name, value in vars(self).items() if name not in hidden and not name.startswith("_")}

    @property
    def schema(self) -> pa.Schema:
        """The columns of the store after `key`."""
        return pa.schema([*SCORE_FIELDS, *self.extra_fields])

    def made(self) -> dict[str, Any]:
        """Return the configuration that the store records: the fingerprint, and which direction is better."""
        return {"scorer": type(self).__name__} | super().made() | {"lower_is_better": self.lower_is_better}

    def compute(self, docs: list[Document], prepared: Any) -> Columns:
        """Return the window's columns, checked."""
        result = self.score(docs) if prepared is None else self.score(docs, prepared)
        columns: dict[str, Any] = dict(result) if isinstance(result, Mapping) else {"score": result}
        scores = np.asarray(columns["score"], dtype=np.float32)
        if scores.shape != (len(docs),):
            raise InvalidScore(f"{type(self).__name__} returned {scores.shape} scores for {len(docs)} documents")
        bad = np.flatnonzero(~np.isfinite(scores))
        if bad.size:
            raise InvalidScore(
                f"{type(self).__name__} gave {named(docs[bad[0]])} the score {scores[bad[0]]}: look at its text, or "
                "exclude it before scoring"
            )
        counted = columns.get("tokens", np.zeros(len(docs), dtype=np.uint32))
        tokens = np.array([tokens_of(doc, own) for doc, own in zip(docs, counted, strict=True)], dtype=np.uint32)
        self.stat_update("tokens", value=int(tokens.sum(dtype=np.int64)), unit="window")
        ids = np.array([id_of(doc).encode("utf-8", "backslashreplace").decode() for doc in docs], dtype=object)
        return columns | {"id": ids, "score": scores, "tokens": tokens}

    def annotate(self, docs: list[Document], columns: Columns) -> None:
        """Set the score on every document, as a Python float: datatrove's writers and stats need one."""
        for doc, score in zip(docs, columns["score"].tolist(), strict=True):
            doc.metadata[self.metadata_key] = score
