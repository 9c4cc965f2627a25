"""Files of rows, as JSON lines or Parquet: the same bytes whenever they are written, and a schema in common."""

from __future__ import annotations

import base64
import gzip
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO, Literal

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from launch.one_off.columns import depth_of, infer, named, table, unify
from pipeline_steps.errors import CorpusError


Format = Literal["parquet", "jsonl"]
SUFFIX = {"parquet": ".parquet", "jsonl": ".jsonl.gz"}
PART_ROWS = 100_000
PART_BYTES = 1 << 29  # of text
_JSON_DEEPEST = 254  # orjson writes no more
_GROUP_ROWS, _GROUP_BYTES = 10_000, 1 << 25  # of a row group: what is in memory


@dataclass(frozen=True)
class Part:
    """A finished file.

    Attributes:
        name: of the file.
        rows: in it.
        first: where the first of them is from, in words.
        schema: Arrow's, of its rows.
        mixed: columns that hold values of several types, null in `schema`, and what is the matter with each.
    """

    name: str
    rows: int
    first: str
    schema: pa.Schema
    mixed: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self) | {"schema": base64.b64encode(self.schema.serialize().to_pybytes()).decode()}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Part:
        """What `to_json` made."""
        return cls(**record | {"schema": pa.ipc.read_schema(pa.py_buffer(base64.b64decode(record["schema"])))})


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
        self._sources: list[str] = []
        self._bytes = self._rows = self._part_bytes = 0
        self._file: BinaryIO | None = None
        self._sink: Any = None
        self._first = ""
        self._found: tuple[pa.Schema, dict[str, str]] = pa.schema([]), {}

    def write(self, row: dict[str, Any], source: str) -> None:
        """Take one row of a source file."""
        self._waiting.append(row)
        self._sources.append(source)
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
            self._first = named(self._waiting[0], self._sources[0])
        if self._schema is not None:
            self._sink.write_table(table(self._waiting, self._schema, self._sources))
        else:
            self._sink.write(b"".join(map(_line, self._waiting, self._sources)))
            self._learn()
        self._rows += len(self._waiting)
        self._part_bytes += self._bytes
        self._waiting, self._sources, self._bytes = [], [], 0

    def _learn(self) -> None:
        schema, mixed = infer(self._waiting, self._sources)
        known, already = self._found
        first = named(self._waiting[0], self._sources[0])
        both, more = unify({"": known, first: schema})
        self._found = both, mixed | more | already

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
        schema, mixed = self._found if self._schema is None else (self._schema, {})
        self.parts.append(Part(self._name, self._rows, self._first, schema, mixed))
        self._file, self._rows, self._part_bytes = None, 0, 0
        self._found = pa.schema([]), {}

    @property
    def _name(self) -> str:
        return f"{self._prefix}-{len(self.parts):05d}{SUFFIX[self._format]}"


def rewrite(folder: Path, part: Part, schema: pa.Schema) -> None:
    """A part as Parquet of another schema, beside it, under its name with the ending of Parquet."""
    target = folder / parquet_name(part.name)
    temporary = target.with_name(f".{target.name}")
    with (  # files, for pyarrow takes a name with a colon for an address
        temporary.open("wb") as file,
        pq.ParquetWriter(file, schema, compression="zstd", write_page_index=True) as sink,
    ):
        for rows in _batches(folder / part.name):
            sink.write_table(table(rows, schema))
    os.replace(temporary, target)


def parquet_name(name: str) -> str:
    """Of what `rewrite` makes of a part."""
    return f"{name.removesuffix(SUFFIX['jsonl']).removesuffix(SUFFIX['parquet'])}.final{SUFFIX['parquet']}"


def _batches(path: Path) -> Iterator[list[dict[str, Any]]]:
    if path.name.endswith(SUFFIX["parquet"]):
        with path.open("rb") as parquet:
            for batch in pq.ParquetFile(parquet).iter_batches(batch_size=_GROUP_ROWS):
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


def _line(row: dict[str, Any], source: str) -> bytes:
    try:
        return orjson.dumps(row, default=_plain, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError as error:
        if (depth := depth_of(row)) > _JSON_DEEPEST:
            raise CorpusError(
                f"{named(row, source)} holds values nested {depth} deep, which few programs read: mend it, or leave "
                "it out"
            ) from error
        raise CorpusError(
            f"{named(row, source)} cannot be written as JSON ({error}): give --format parquet"
        ) from error


def _plain(value: Any) -> str:
    if isinstance(value, datetime):  # of nanoseconds: pandas' own
        return value.isoformat()
    if isinstance(value, Decimal | timedelta):
        return str(value)
    raise TypeError(type(value).__name__)
