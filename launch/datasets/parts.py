"""Files of rows, as JSON lines or Parquet: one version of pyarrow makes the same bytes of the same rows, always."""

from __future__ import annotations

import base64
import gzip
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import chain, groupby
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from launch.datasets.columns import Row, depth_of, infer, table, unify
from pipeline_steps.errors import CorpusError
from pipeline_steps.stores.listed_files import entry


SUFFIX = {"parquet": ".parquet", "jsonl": ".jsonl.gz"}
LEVEL, SCRATCH_LEVEL = 6, 1  # of gzip, of JSON lines that stay and of those that become Parquet
PART_ROWS = 100_000
PART_BYTES = 1 << 29  # of text
_JSON_DEEPEST = 254  # orjson writes no more
_GROUP_ROWS, _GROUP_BYTES = 10_000, 1 << 25  # of a row group: what is in memory


@dataclass(frozen=True)
class WrittenFile:
    """A finished file.

    Attributes:
        name: of the file.
        rows: how many it has.
        first: where the first row is from.
        schema: Arrow's, of its rows.
        mixed: columns that hold values of several types, null in `schema`, and what is the matter with each.
        entry: size and digest of the file.
    """

    name: str
    rows: int
    first: str
    schema: pa.Schema
    mixed: Mapping[str, str]
    entry: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the part as JSON types."""
        return asdict(self) | {"schema": base64.b64encode(self.schema.serialize().to_pybytes()).decode()}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> WrittenFile:
        """Return the part of which `to_json` made a record."""
        return cls(**record | {"schema": pa.ipc.read_schema(pa.py_buffer(base64.b64decode(record["schema"])))})


@dataclass(frozen=True, kw_only=True)
class Form:
    """The form of files of rows.

    Attributes:
        schema: of Parquet; None if the rows decide.
        is_parquet: whether rows become Parquet where those of a row group have one type for each column.
        level: of gzip, for JSON lines.
        text_key: the column of the texts.
        score_column: the column of scores, float32 in Parquet; None if there is none.
    """

    schema: pa.Schema | None = None
    is_parquet: bool = False
    level: int = LEVEL
    text_key: str = "text"
    score_column: str | None = None


class _Batch(NamedTuple):
    """Rows of a row group, their schema, and what is the matter with columns of no one type."""

    rows: list[Row]
    schema: pa.Schema
    mixed: dict[str, str]


def write_parts(rows: Iterable[Row], folder: Path, prefix: str, form: Form) -> list[WrittenFile]:
    """Write rows into files of at most `PART_ROWS` rows and some `PART_BYTES` of text; no rows make no file.

    Parquet has one schema, so where that of the rows changes, another file begins.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = list[WrittenFile]()

    def schema_of(batch: _Batch) -> pa.Schema | None:
        return None if not form.is_parquet or batch.mixed else batch.schema

    for schema, batches in groupby(_batches(rows, form), key=schema_of):
        suffix = SUFFIX["jsonl" if schema is None else "parquet"]
        for batch in batches:
            path = folder / f"{prefix}-{len(parts):05d}{suffix}"
            parts.append(_write_part(path, chain([batch], batches), schema, form))  # noqa: B031  takes what it writes
    return parts


def _batches(rows: Iterable[Row], form: Form) -> Iterator[_Batch]:
    """Yield the rows of each row group."""
    batch, size = list[Row](), 0
    for row in rows:
        batch.append(row)
        size += len(row.values[form.text_key])
        if len(batch) >= _GROUP_ROWS or size >= _GROUP_BYTES:
            yield _batch(batch, form)
            batch, size = [], 0
    if batch:
        yield _batch(batch, form)


def _batch(rows: list[Row], form: Form) -> _Batch:
    if form.schema is not None:
        return _Batch(rows, form.schema, {})
    schema, mixed = infer(rows)
    if form.is_parquet and form.score_column is not None:
        schema = schema.set(schema.get_field_index(form.score_column), pa.field(form.score_column, pa.float32()))
    return _Batch(rows, schema, mixed)


def _write_part(path: Path, batches: Iterable[_Batch], schema: pa.Schema | None, form: Form) -> WrittenFile:
    """Write one file, and take no more batches than it holds."""
    rows, size, first = 0, 0, ""
    found, mixed = pa.schema([]) if schema is None else schema, dict[str, str]()
    temporary = path.with_name(f".{path.name}")
    with temporary.open("wb") as file:  # an open one, for pyarrow takes a name with a colon for an address
        with _sink(file, schema, form.level) as sink:
            for batch in batches:
                begin = str(batch.rows[0])
                first = first or begin
                if schema is None:
                    sink.write(b"".join(map(_line, batch.rows)))
                    found, more = unify([("", found), (begin, batch.schema)])
                    mixed = batch.mixed | more | mixed
                else:
                    sink.write_table(table(batch.rows, schema))
                rows += len(batch.rows)
                size += sum(len(row.values[form.text_key]) for row in batch.rows)
                if rows >= PART_ROWS or size >= PART_BYTES:
                    break
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    return WrittenFile(path.name, rows, first, found, mixed, entry(path))


def _sink(file: Any, schema: pa.Schema | None, level: int) -> Any:
    if schema is None:
        return gzip.GzipFile("", "wb", level, file, mtime=0)
    return pq.ParquetWriter(file, schema, compression="zstd", write_page_index=True)


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a part, whose source files are not known any more."""
    with path.open("rb") as file:
        if path.name.endswith(SUFFIX["parquet"]):
            for batch in pq.ParquetFile(file).iter_batches(batch_size=_GROUP_ROWS):
                yield from (Row(values, "") for values in batch.to_pylist())
        else:
            with gzip.open(file, "rb") as lines:
                yield from (Row(orjson.loads(line), "") for line in lines)


def _holds_no_number(value: Any) -> bool:
    """Return whether a value is or holds a float that is not finite, for which JSON lines would have null."""
    if isinstance(value, float):
        return not math.isfinite(value)
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return any(map(_holds_no_number, inside))


def _line(row: Row) -> bytes:
    try:
        line = orjson.dumps(row.values, default=_plain, option=orjson.OPT_APPEND_NEWLINE)
        if b"null" in line and _holds_no_number(row.values):
            raise CorpusError(f"{row} holds NaN or an infinite number, which JSON cannot say: give --format parquet")
        return line
    except TypeError as error:
        if (depth := depth_of(row.values)) > _JSON_DEEPEST:
            raise CorpusError(
                f"{row} holds values nested {depth} deep, which few programs read: mend it, or leave it out"
            ) from error
        raise CorpusError(f"{row} cannot be written as JSON ({error}): give --format parquet") from error


def _plain(value: Any) -> str:
    if isinstance(value, datetime):  # of nanoseconds: pandas' own
        return value.isoformat()
    if isinstance(value, Decimal | timedelta):
        return str(value)
    raise TypeError(type(value).__name__)
