"""Files of rows, as JSON lines or Parquet: the same bytes whenever they are written, and a schema in common."""

from __future__ import annotations

import base64
import gzip
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO, Literal

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_steps.errors import CorpusError


Format = Literal["parquet", "jsonl"]
SUFFIX = {"parquet": ".parquet", "jsonl": ".jsonl.gz"}
PART_ROWS = 100_000
PART_BYTES = 1 << 29  # of text
_GROUP_ROWS, _GROUP_BYTES = 10_000, 1 << 25  # of a row group: what is in memory


@dataclass(frozen=True)
class Part:
    """A finished file.

    Attributes:
        name: of the file.
        rows: in it.
        schema: Arrow's, of its rows; None where a column holds values of several types.
        why: which one, in words.
    """

    name: str
    rows: int
    schema: pa.Schema | None
    why: str = ""

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        schema = None if self.schema is None else base64.b64encode(self.schema.serialize().to_pybytes()).decode()
        return {"name": self.name, "rows": self.rows, "schema": schema, "why": self.why}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Part:
        """What `to_json` made."""
        schema = record["schema"] and pa.ipc.read_schema(pa.py_buffer(base64.b64decode(record["schema"])))
        return cls(record["name"], record["rows"], schema or None, record["why"])


class PartWriter:
    """Writes rows into files of at most `PART_ROWS` rows and some `PART_BYTES` of text.

    Args:
        folder: where.
        prefix: of their names.
        format: theirs.
        schema: of the rows, for Parquet; JSON lines find theirs while they are written.
        level: of gzip.
    """

    def __init__(
        self, folder: Path, prefix: str, format: Format, schema: pa.Schema | None = None, level: int = 6
    ) -> None:
        self.parts: list[Part] = []
        self._folder, self._prefix, self._format, self._schema, self._level = folder, prefix, format, schema, level
        self._waiting: list[dict[str, Any]] = []
        self._bytes = self._rows = self._part_bytes = 0
        self._file: BinaryIO | None = None
        self._sink: Any = None
        self._found = pa.schema([])
        self._why = ""

    def write(self, row: dict[str, Any]) -> None:
        """Take one row."""
        self._waiting.append(row)
        self._bytes += len(row["text"])
        if len(self._waiting) >= _GROUP_ROWS or self._bytes >= _GROUP_BYTES:
            self._flush()
        if self._rows >= PART_ROWS or self._part_bytes >= PART_BYTES:
            self._finish()

    def close(self) -> list[Part]:
        """Finish the last file; all of them, in order. None was begun if there were no rows."""
        if self._waiting:
            self._flush()
        if self._file is not None:
            self._finish()
        return self.parts

    def _flush(self) -> None:
        if self._file is None:
            self._open()
        if self._schema is not None:
            self._sink.write_table(table(self._waiting, self._schema))
        else:
            self._sink.write(b"".join(_line(row) for row in self._waiting))
            self._learn()
        self._rows += len(self._waiting)
        self._part_bytes += self._bytes
        self._waiting, self._bytes = [], 0

    def _learn(self) -> None:
        if not self._why:
            try:
                self._found = unify([self._found, infer(self._waiting)])
            except CorpusError as error:
                self._why = str(error)

    def _open(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._file = (self._folder / f".{self._name}").open("wb")
        if self._schema is not None:
            self._sink = pq.ParquetWriter(self._file, self._schema, compression="zstd", write_page_index=True)
        else:
            self._sink = gzip.GzipFile("", "wb", self._level, self._file, mtime=0)

    def _finish(self) -> None:
        assert self._file is not None
        self._sink.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._folder / f".{self._name}", self._folder / self._name)
        schema = self._schema or (None if self._why else self._found)
        self.parts.append(Part(self._name, self._rows, schema, self._why))
        self._file, self._rows, self._part_bytes = None, 0, 0
        self._found, self._why = pa.schema([]), ""

    @property
    def _name(self) -> str:
        return f"{self._prefix}-{len(self.parts):05d}{SUFFIX[self._format]}"


def rewrite(folder: Path, part: Part, schema: pa.Schema) -> None:
    """A part as Parquet of another schema, beside it, under its name with the ending of Parquet."""
    target = folder / parquet_name(part.name)
    temporary = target.with_name(f".{target.name}")
    with pq.ParquetWriter(temporary, schema, compression="zstd", write_page_index=True) as sink:
        for rows in _batches(folder / part.name):
            sink.write_table(table(rows, schema))
    os.replace(temporary, target)


def parquet_name(name: str) -> str:
    """Of what `rewrite` makes of a part."""
    return f"{name.removesuffix(SUFFIX['jsonl']).removesuffix(SUFFIX['parquet'])}.final{SUFFIX['parquet']}"


def infer(rows: Sequence[dict[str, Any]]) -> pa.Schema:
    """Schema of rows, their columns in the order they are met. Raises CorpusError if a column has no one type."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.schema([pa.field(name, _type(name, [row.get(name) for row in rows])) for name in names])


def unify(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """The schema that rows of all of these fit. Raises CorpusError if a column has no one type."""
    try:
        return pa.unify_schemas(schemas, promote_options="permissive")
    except pa.ArrowException as error:
        raise CorpusError(
            f"a column has values of types that do not go together ({error}): give --format jsonl, which keeps them, "
            "or mend it"
        ) from error


def table(rows: Sequence[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows of a schema; what a row does not have is null."""
    columns = []
    for field in schema:
        values = [_filled(row.get(field.name)) for row in rows]
        try:
            columns.append(pa.array(values, field.type))
        except (pa.ArrowException, OverflowError) as error:
            raise CorpusError(f"column {field.name!r} cannot be written as {field.type}: {error}") from error
    return pa.Table.from_arrays(columns, schema=schema)


def _type(name: str, values: list[Any]) -> pa.DataType:
    try:
        return pa.array([_filled(value) for value in values]).type
    except (pa.ArrowException, OverflowError) as error:
        raise CorpusError(
            f"column {name!r} has no one type that Parquet knows ({error}): give --format jsonl, which keeps it as it "
            "is, or mend it"
        ) from error


def _filled(value: Any) -> Any:
    """Without empty mappings: Parquet has none."""
    if isinstance(value, dict):
        return {key: _filled(one) for key, one in value.items()} or None
    if isinstance(value, list) and any(isinstance(one, dict | list) for one in value):
        return [_filled(one) for one in value]
    return value


def _batches(path: Path) -> Iterator[list[dict[str, Any]]]:
    if path.name.endswith(SUFFIX["parquet"]):
        for batch in pq.ParquetFile(path).iter_batches(batch_size=_GROUP_ROWS):
            yield batch.to_pylist()
        return
    rows, size = [], 0
    with gzip.open(path, "rb") as file:
        for line in file:
            rows.append(orjson.loads(line))
            size += len(line)
            if len(rows) >= _GROUP_ROWS or size >= _GROUP_BYTES:
                yield rows
                rows, size = [], 0
    if rows:
        yield rows


def _line(row: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(row, default=_plain, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError as error:
        raise CorpusError(
            f"document {row.get('id')} cannot be written as JSON ({error}): give --format parquet"
        ) from error


def _plain(value: Any) -> str:
    if isinstance(value, Decimal | timedelta):
        return str(value)
    raise TypeError(type(value).__name__)
