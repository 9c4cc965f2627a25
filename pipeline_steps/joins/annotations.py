"""Annotations in Parquet files, as a view that DuckDB joins: on a disk, or behind any fsspec protocol."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as kinds
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from pipeline_steps.errors import CorpusError
from pipeline_steps.joins.keys import On, text_hash
from pipeline_steps.readers.corpus import list_corpus
from pipeline_steps.readers.places import why_not
from pipeline_steps.terminal import one_line


if TYPE_CHECKING:
    import duckdb

PLACE_BITS = 40  # of the row in a place: the number of a file, shifted, and of the row in it
_READERS = 8  # files whose schemas are read at a time
_BLOCK = 1 << 23  # bytes read ahead of a remote file, by each thread; s3fs would read 50 MB


@dataclass(frozen=True)
class Annotations:
    """Parquet files with an id or a text, and a number or a label, in each row.

    Attributes:
        path: what the user gave: a file, a folder or a glob, with any protocol.
        on: what documents are matched by.
        key: the column that is matched: of ids, or of texts.
        column: the column of the numbers or labels.
        labels: the score of each label; {} if the column holds numbers.
        files: the paths of the files, sorted.
        listing: the number of files, and a digest of their names, sizes and versions.
    """

    path: str
    on: On
    key: str
    column: str
    labels: Mapping[str, float]
    files: tuple[str, ...]
    listing: str

    @classmethod
    def open(cls, path: str, on: On, key: str, column: str, labels: Mapping[str, float]) -> Annotations:
        """Look at the schemas of all files.

        Raises:
            CorpusError: there are no Parquet files, or one cannot be read, lacks a column, or holds something else
                in it than ids or texts, and numbers or labels; names file and column.
        """
        found = list_corpus(path)
        if found.kind != "parquet":
            raise CorpusError(f"{path} holds {found.kind} files: annotations are read from .parquet files")
        files = tuple(f"{found.folder}/{name}".removeprefix("file://") for name in found.sizes)
        annotations = cls(path, on, key, column, dict(labels), files, found.listing)
        with ThreadPoolExecutor(_READERS) as readers:
            for file, schema in zip(files, readers.map(_schema, files), strict=True):
                annotations._check(file, schema)
        return annotations

    def _check(self, file: str, schema: pa.Schema) -> None:
        for name in (self.key, self.column):
            twins = [other for other in schema.names if other.casefold() == name.casefold()]
            if name not in twins:
                raise CorpusError(f"{file} has no column {name!r}: its columns are {', '.join(schema.names)[:300]}")
            if len(twins) > 1:
                raise CorpusError(
                    f"{file} has the columns {' and '.join(twins)}, which a join takes for one: rename one"
                )
        if taken := [name for name in schema.names if name.casefold() in ("file_index", "file_row_number")]:
            raise CorpusError(f"{file} has a column {taken[0]!r}, which DuckDB takes for its own: rename it")
        kind = _plain(schema.field(self.key).type)
        if not (_is_text(kind) or (self.on == "id" and kinds.is_integer(kind))):
            raise CorpusError(f"{file}: column {self.key!r} holds {kind}, and not {self.on}s: name another column")
        kind = _plain(schema.field(self.column).type)
        if self.labels and not (_is_text(kind) or kinds.is_boolean(kind) or kinds.is_integer(kind)):
            raise CorpusError(f"{file}: column {self.column!r} holds {kind}, and not labels: leave the labels out")
        if not self.labels and not (kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_decimal(kind)):
            raise CorpusError(
                f"{file}: column {self.column!r} holds {kind}, and not numbers: name another column, or say which "
                "score each label has, such as good=1,bad=0"
            )

    def create_view(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Create the view `annotations`: `match` (BLOB), `value` (DOUBLE), `raw` (VARCHAR) and `place` (BIGINT)."""
        fs, _ = fsspec.core.url_to_fs(self.files[0])
        if isinstance(fs, LocalFileSystem):
            names = [glob.escape(file) for file in self.files]
        else:
            connection.register_filesystem(_Numbered(fs, self.files))
            names = [f"{_Numbered.protocol}://{number}" for number in range(len(self.files))]
        files = ", ".join(map(_literal, names))
        key, raw = _identifier(self.key), f"CAST({_identifier(self.column)} AS VARCHAR)"
        match = f"encode(CAST({key} AS VARCHAR))"
        if self.on == "text":
            from duckdb.func import PythonUDFType

            connection.create_function("text_hash", _hashes, ["VARCHAR"], "BLOB", type=PythonUDFType.ARROW)
            match = f"text_hash({key})"
        value = f"CAST({_identifier(self.column)} AS DOUBLE)"
        if self.labels:
            cases = " ".join(f"WHEN {_literal(label)} THEN {score!r}" for label, score in self.labels.items())
            value = f"CAST(CASE {raw} {cases} END AS DOUBLE)"
        connection.execute(
            f"CREATE VIEW annotations AS SELECT {match} AS match, {value} AS value, {raw} AS raw, "
            f"{place_in('file_index', 'file_row_number')} AS place FROM read_parquet([{files}], union_by_name = true, "
            "hive_partitioning = false)"
        )

    def where(self, place: int) -> str:
        """Return the file and row of a place, for messages."""
        return f"{self.files[place >> PLACE_BITS]}, row {(place & ((1 << PLACE_BITS) - 1)) + 1:,}"


class _Numbered(AbstractFileSystem):
    """Files behind any fsspec protocol by their numbers, as DuckDB reads them: its own client would be downloaded.

    DuckDB asks for the time of a file, which not every filesystem knows, and takes signs in a name for a pattern.
    """

    protocol = "annotations"
    cachable = False

    def __init__(self, behind: AbstractFileSystem, files: Sequence[str]) -> None:
        super().__init__()
        self.behind, self.files = behind, files

    def _behind(self, path: str) -> str:
        return self.files[int(self._strip_protocol(path))]

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        return {"name": path, "size": self.behind.info(self._behind(path))["size"], "type": "file"}

    def glob(self, path: str, **kwargs: Any) -> list[str]:
        return [path]

    def modified(self, path: str) -> datetime:
        return datetime.fromtimestamp(0, UTC)

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        return self.behind.open(self._behind(path), "rb", block_size=_BLOCK)


def place_in(file: str, row: str) -> str:
    """Return SQL for one number that orders rows by file and then by row."""
    return f"((CAST({file} AS BIGINT) << {PLACE_BITS}) + {row})"


def documents_view(connection: duckdb.DuckDBPyConnection, parts: list[str]) -> None:
    """Create the view `documents`: `match` (BLOB) and `place` (BIGINT), of files that JoinKeys wrote."""
    files = ", ".join(_literal(glob.escape(part)) for part in parts)
    connection.execute(
        f"CREATE VIEW documents AS SELECT match, {place_in('file_index', 'file_row_number')} AS place "
        f"FROM read_parquet([{files}], hive_partitioning = false)"
    )


def _schema(file: str) -> pa.Schema:
    try:
        with fsspec.open(file, "rb") as opened:
            return pq.read_schema(opened)
    except Exception as error:  # whatever damaged files and the file systems behind a protocol raise
        raise CorpusError(f"{file} cannot be read as Parquet ({one_line(why_not(file, error))}") from error


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if kinds.is_dictionary(kind) else kind


def _is_text(kind: pa.DataType) -> bool:
    return bool(kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_string_view(kind))


def _hashes(texts: pa.Array) -> pa.Array:
    return pa.array([None if text is None else text_hash(text) for text in texts.to_pylist()], pa.binary())


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
