"""JoinScores: published annotations become the score store of a corpus."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.logging import logger
from filelock import FileLock

from pipeline_steps.credentials import NoCredentials
from pipeline_steps.engines.models import require
from pipeline_steps.errors import CorpusError, InvalidScore, WinnowError
from pipeline_steps.joins.annotations import PLACE_BITS, Annotations, documents_view
from pipeline_steps.joins.keys import open_keys, verify_keys
from pipeline_steps.stores.artefact import Artefact
from pipeline_steps.stores.files import digest, write_json
from pipeline_steps.stores.score_store import SCORE_FIELDS, ScoreStore
from pipeline_steps.terminal import one_line


if TYPE_CHECKING:
    import duckdb

Duplicates = Literal["error", "max", "first"]
COUNTS = "counts.json"  # in the folder of the keys: what a join has counted
_BATCH = 1 << 16  # rows of the result taken at a time
_MOST_THREADS = 8  # more need a larger memory limit, and wait for the disk
_MEMORY = re.compile(r"[1-9]\d*(\.\d+)? ?[KMGT]i?B", re.IGNORECASE)
_LARGEST = float(np.finfo(np.float32).max)
_CHOSEN = {"error": "max(a.value)", "max": "max(a.value)", "first": "arg_min(a.value, a.place)"}


class Counted(NamedTuple):
    """What a join has found: documents, those without an annotation, and those with several that differ."""

    documents: int
    unmatched: int  # without an annotation that has a value, those of `unknown` included
    unknown: int  # with annotations that are all null or of labels without a score
    conflicting: int


class JoinScores(NoCredentials, PipelineStep):
    """Writes a score store of annotations: one task, no documents needed.

    DuckDB joins the annotations with what JoinKeys wrote, in bounded memory, spilling beside the keys. The store is
    the same to the byte for any number of threads. Nothing is written to it before everything has been joined and
    counted; killed while it is written, the step continues.

    Every document gets a score: filters refuse documents without one, so there is no way to leave them out. Give them
    a default that the cut drops. Annotations of no document are ignored. Several documents of one id or text get the
    same annotation. Of several annotations of one document, those that are null or of an unknown label are ignored,
    and those with equal values are one.

    Args:
        scores: folder of the score store, any fsspec path.
        keys: folder that JoinKeys wrote, for the documents and for what they are matched by.
        annotations: a file, a folder or a glob of Parquet files; s3:// and hf://datasets/... too.
        column: the annotations' column of numbers, or of labels.
        key_column: the annotations' column of ids or texts; by default it is called "id" or "text".
        labels: the score of each label; None for a column of numbers.
        default: score of the documents without an annotation; None makes them an error.
        duplicates: the value of a document whose annotations differ: "error" refuses them, "max" takes the largest,
            "first" the first by file name and row.
        lower_is_better: whether low scores are the good ones, which the store records.
        memory: DuckDB's limit, e.g. "1.5GB"; the process takes some 100 MB more.

    Attributes:
        threads: DuckDB's: one a core, 8 at most.

    Raises:
        CorpusError: files of annotations cannot be read or lack a column, documents without an annotation, or
            annotations that differ; names an example.
        WinnowError: `memory` is not an amount.
        InvalidScore: an annotation or the default is not a finite number of float32; names its file and row.
        StoreMismatch: the store was made with other settings, annotations or documents.
        StoreIncomplete, StoreDamaged: the keys are not finished, or not what was written.
    """

    type = "🔗 - JOIN"
    name = "🔗 Join scores"

    def __init__(
        self,
        scores: str,
        keys: str,
        annotations: str,
        column: str,
        key_column: str | None = None,
        labels: Mapping[str, float] | None = None,
        default: float | None = None,
        duplicates: Duplicates = "error",
        lower_is_better: bool = False,
        memory: str = "1.5GB",
    ) -> None:
        super().__init__()
        if duplicates not in get_args(Duplicates):
            raise ValueError(f"duplicates={duplicates!r} is none of {', '.join(get_args(Duplicates))}")
        if not _MEMORY.fullmatch(memory):
            raise WinnowError(f"memory {memory!r} is not an amount, such as 1GB or 500MB")
        for said, value in {"the default": default, **(labels or {})}.items():
            if value is not None and not abs(value) <= _LARGEST:
                raise InvalidScore(f"{said} has the score {value}: give a finite number of float32")
        self.scores, self.keys, self.annotations, self.column = str(scores), str(keys), str(annotations), str(column)
        self.key_column, self.labels = key_column, {str(label): float(one) for label, one in (labels or {}).items()}
        self.default = None if default is None else float(default)
        self.duplicates, self.lower_is_better = duplicates, bool(lower_is_better)
        self.memory, self.threads = memory, min(os.cpu_count() or 1, _MOST_THREADS)

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Write the store; documents pass through."""
        if rank == 0:
            with self.track_time("join"):
                self._run()
        if data:
            yield from data

    def _run(self) -> None:
        require("duckdb", "join")
        keys = open_keys(self.keys)
        verify_keys(keys)
        on = keys.made["on"]
        found = Annotations.open(self.annotations, on, self.key_column or on, self.column, self.labels)
        store = ScoreStore(self.scores, pa.schema([pa.field("key", pa.uint64()), *SCORE_FIELDS]))
        made = {
            "scorer": "JoinScores",
            "annotations": self.annotations,
            "files": found.listing,
            "on": on,
            "key_column": found.key,
            "column": self.column,
            "labels": self.labels,
            "default": self.default,
            "duplicates": self.duplicates,
            "lower_is_better": self.lower_is_better,
        }
        inputs = {"keys": keys.fingerprint}
        if store.exists:  # refused before the join; a new folder is claimed after it, when nothing was refused
            store.begin("scores", made, inputs)
        with self._connected() as connection:
            documents_view(connection, [keys.part(source) for source in keys.manifest])
            found.create_view(connection)
            counted = self._join(connection, found, keys)
            store.begin("scores", made, inputs)
            self._write(store, keys, connection, counted.documents - counted.unmatched)
        write_json(f"{self.keys}/{COUNTS}", counted._asdict())
        for name, value in counted._asdict().items():
            self.stat_update(name, value=value)
        logger.info(
            f"{counted.documents:,} documents, {counted.unmatched:,} without an annotation "
            f"({counted.unknown:,} with null or unknown labels only), {counted.conflicting:,} with several that differ"
        )

    @contextmanager
    def _connected(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Yield a database in memory that spills into a folder beside the keys."""
        import duckdb

        settings: dict[str, Any] = {
            "memory_limit": self.memory,
            "threads": self.threads,
            "preserve_insertion_order": False,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
        spill = f"{os.path.abspath(self.keys)}/.spill-{digest(self.scores.encode())[:16]}"
        try:
            with _own_folder(spill), duckdb.connect(config=settings | {"temp_directory": spill}) as connection:
                connection.execute("SET enable_progress_bar = false")
                yield connection
        except duckdb.OutOfMemoryException as error:
            raise CorpusError(
                f"the join with {self.annotations} needs more than {self.memory} of memory, or the disk of "
                f"{self.keys} is full: give more ({one_line(error)[:160]})"
            ) from error
        except duckdb.Error as error:
            raise CorpusError(f"{self.annotations} cannot be joined: {one_line(error)[:300]}") from error

    def _join(self, connection: duckdb.DuckDBPyConnection, found: Annotations, keys: Artefact) -> Counted:
        """Make the table `joined` of the documents that have annotations, and refuse what was not foreseen."""
        connection.execute(
            f"CREATE TEMP TABLE joined AS SELECT d.place AS place, {_CHOSEN[self.duplicates]} AS value, "
            "min(a.value) <> max(a.value) AS differs FROM annotations a JOIN documents d ON a.match = d.match "
            "GROUP BY d.place"
        )
        valued, unknown, conflicting = _one(
            connection, "SELECT count(value), count(*) - count(value), count(*) FILTER (differs) FROM joined"
        )
        documents = sum(entry["documents"] for entry in keys.manifest.values())
        counted = Counted(documents, documents - valued, unknown, conflicting)
        examples = _Examples(connection, found, list(keys.manifest))
        if conflicting and self.duplicates == "error":
            raise CorpusError(
                f"annotations differ for {conflicting:,} of {documents:,} documents, first for "
                f"{examples.of('joined WHERE differs')}: give --duplicates max, or --duplicates first for the first "
                "by file and row"
            )
        not_finite = f"joined WHERE NOT abs(value) <= {_LARGEST!r}"  # NaN is above all numbers
        if _one(connection, f"SELECT count(*) FROM {not_finite}")[0]:
            raise InvalidScore(
                f"an annotation is not a finite number of float32: {examples.of(not_finite)}; mend it, or make it null"
            )
        if counted.unmatched and self.default is None:
            missing = "documents WHERE place NOT IN (SELECT place FROM joined WHERE value IS NOT NULL)"
            raise CorpusError(
                f"{counted.unmatched:,} of {documents:,} documents have no {self.column!r} in {self.annotations} "
                f"({unknown:,} have null or unknown labels only), first {examples.of(missing)}: give "
                "--unmatched default=SCORE, or check which columns are matched"
            )
        return counted

    def _write(self, store: ScoreStore, keys: Artefact, connection: duckdb.DuckDBPyConnection, matched: int) -> None:
        """Seal every source: the default, or the joined value where there is one; all in all `matched` of them."""
        connection.execute("SET preserve_insertion_order = true")  # otherwise ORDER BY does not hold for batches
        result = connection.sql("SELECT place, value FROM joined WHERE value IS NOT NULL ORDER BY place")
        groups = groupby(_pieces(result.to_arrow_reader(_BATCH)), key=lambda piece: piece.source)
        number, pieces = next(groups, (-1, iter(())))
        for at, (source, entry) in enumerate(keys.manifest.items()):
            score = np.full(entry["documents"], self.default or 0.0, dtype=np.float32)
            if number == at:
                for piece in pieces:
                    score[piece.row] = piece.value  # a row that the source does not have raises IndexError
                    matched -= piece.row.size
                number, pieces = next(groups, (-1, iter(())))
            part = pq.read_table(keys.part(source), columns=["key", "id", "tokens"])
            columns = {name: part.column(name).to_numpy() for name in part.column_names}
            there = store.read_to_continue(source)
            if there is None or not np.array_equal(there["key"], columns["key"]):  # which seal refuses
                store.seal(source, columns | {"score": score})
        if matched:
            raise RuntimeError(f"the join has counted {matched:,} documents more than it has returned")
        store.finish_task(0, 1, keys.manifest)


@contextmanager
def _own_folder(path: str) -> Iterator[None]:
    """Let one process at a time use a folder that is not there before and after; a lock ends with its process."""
    with FileLock(f"{path}.lock", thread_local=False):
        try:
            shutil.rmtree(path, ignore_errors=True)  # of a process that was killed
            yield
        finally:
            shutil.rmtree(path, ignore_errors=True)


class _Piece(NamedTuple):
    source: int
    row: np.ndarray  # int64 [n], increasing
    value: np.ndarray  # float64 [n]


def _pieces(batches: Iterable[pa.RecordBatch]) -> Iterator[_Piece]:
    """Cut batches in the order of places where a source ends. Raises RuntimeError if a place comes twice."""
    last = -1
    for batch in batches:
        place, value = (batch.column(name).to_numpy(zero_copy_only=False) for name in ("place", "value"))
        if place.size and (place[0] <= last or (np.diff(place) <= 0).any()):
            raise RuntimeError("the join has multiplied rows, or lost their order")
        last = place[-1] if place.size else last
        source = place >> PLACE_BITS
        ends = [*(np.flatnonzero(np.diff(source)) + 1).tolist(), place.size]
        for begin, end in zip([0, *ends], ends, strict=False):
            if end > begin:
                row = place[begin:end] & ((1 << PLACE_BITS) - 1)
                yield _Piece(int(source[begin]), row, value[begin:end])


class _Examples(NamedTuple):
    """Finds the document that an error names, and its annotations; reads them all once more."""

    connection: duckdb.DuckDBPyConnection
    annotations: Annotations
    sources: list[str]

    def of(self, rows: str) -> str:
        """Return the first document of some rows, with its first annotations."""
        (place,) = _one(self.connection, f"SELECT min(place) FROM {rows}")
        row = place & ((1 << PLACE_BITS) - 1)
        said = f"document {row + 1:,} of {self.sources[place >> PLACE_BITS]}"
        with_value = self.connection.execute(
            "SELECT min(a.place) AS first, a.raw FROM annotations a JOIN documents d ON a.match = d.match "
            f"WHERE d.place = {place} GROUP BY a.raw ORDER BY first LIMIT 2"
        ).fetchall()
        found = [f"{self.annotations.where(at)}: {one_line(str(raw))[:60]}" for at, raw in with_value]
        return f"{said} ({'; '.join(found)})" if found else said


def _one(connection: duckdb.DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    row = connection.execute(query).fetchone()
    assert row is not None  # each is an aggregate without groups
    return row
