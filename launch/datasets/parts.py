"""Files of rows, as JSON lines or Parquet: one version of pyarrow makes the same bytes of the same rows, always."""

from __future__ import annotations

import base64
import gzip
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import Any

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


def write_parts(
    rows: Iterable[Row],
    folder: Path,
    prefix: str,
    schema: pa.Schema | None = None,
    level: int = LEVEL,
    text_key: str = "text",
) -> list[WrittenFile]:
    """Write rows into files of at most `PART_ROWS` rows and some `PART_BYTES` of text; no rows make no file.

    Args:
        rows: in order, each with a text.
        folder: where the files go.
        prefix: of their names.
        schema: of the rows, for Parquet; None for JSON lines, which find theirs while they are written.
        level: of gzip, for JSON lines.
        text_key: the column of the texts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    suffix = SUFFIX["jsonl" if schema is None else "parquet"]
    batches, parts = _batches(rows, text_key), list[WrittenFile]()
    for batch in batches:
        path = folder / f"{prefix}-{len(parts):05d}{suffix}"
        parts.append(_write_part(path, chain([batch], batches), schema, level, text_key))
    return parts


def _batches(rows: Iterable[Row], text_key: str) -> Iterator[list[Row]]:
    """Yield the rows of each row group."""
    batch, size = list[Row](), 0
    for row in rows:
        batch.append(row)
        size += len(row.values[text_key])
        if len(batch) >= _GROUP_ROWS or size >= _GROUP_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _write_part(
    path: Path, batches: Iterable[list[Row]], schema: pa.Schema | None, level: int, text_key: str
) -> WrittenFile:
    """Write one file, and take no more batches than it holds."""
    rows, size, first = 0, 0, ""
    found, mixed = pa.schema([]) if schema is None else schema, dict[str, str]()
    temporary = path.with_name(f".{path.name}")
    with temporary.open("wb") as file:  # an open one, for pyarrow takes a name with a colon for an address
        with _sink(file, schema, level) as sink:
            for batch in batches:
                first = first or str(batch[0])
                if schema is None:
                    sink.write(b"".join(map(_line, batch)))
                    own, odd = infer(batch)
                    found, more = unify({"": found, str(batch[0]): own})
                    mixed = odd | more | mixed
                else:
                    sink.write_table(table(batch, schema))
                rows += len(batch)
                size += sum(len(row.values[text_key]) for row in batch)
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


def _line(row: Row) -> bytes:
    try:
        return orjson.dumps(row.values, default=_plain, option=orjson.OPT_APPEND_NEWLINE)
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
