"""Files of rows, as JSON lines or Parquet: the same bytes whenever they are written, and a schema in common."""

from __future__ import annotations

import base64
import gzip
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO, Literal

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_steps.errors import CorpusError


Format = Literal["parquet", "jsonl"]
SUFFIX = {"parquet": ".parquet", "jsonl": ".jsonl.gz"}
KEEP = "mend it, or give --format jsonl, which keeps it as it is"
PART_ROWS = 100_000
PART_BYTES = 1 << 29  # of text
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
            self._first = _named(self._waiting[0], self._sources[0])
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
        first = _named(self._waiting[0], self._sources[0])
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
    with pq.ParquetWriter(temporary, schema, compression="zstd", write_page_index=True) as sink:
        for rows in _batches(folder / part.name):
            sink.write_table(table(rows, schema))
    os.replace(temporary, target)


def parquet_name(name: str) -> str:
    """Of what `rewrite` makes of a part."""
    return f"{name.removesuffix(SUFFIX['jsonl']).removesuffix(SUFFIX['parquet'])}.final{SUFFIX['parquet']}"


def infer(rows: Sequence[dict[str, Any]], sources: Sequence[str]) -> tuple[pa.Schema, dict[str, str]]:
    """Schema of rows, their columns in the order they are met; columns of no one type, and the document at fault."""
    fields, mixed = [], dict[str, str]()
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [_filled(row.get(name)) for row in rows]
        try:
            kind = pa.array(values).type
        except (pa.ArrowException, OverflowError) as error:
            kind, (at, why) = pa.null(), _odd_one(values, error)
            mixed[name] = f"{_named(rows[at], sources[at])}: column {name!r} {why}"
        fields.append(pa.field(name, kind))
    return pa.schema(fields), mixed


def _odd_one(values: Sequence[Any], error: Exception) -> tuple[int, str]:
    """The first value that does not go with those before it, and why."""
    kind = pa.null()
    for number, value in enumerate(values):
        try:
            kind = _both(kind, own := pa.array([value]).type)
        except pa.ArrowException:
            return number, f"holds {_short(value)}, {own}, after {kind}"
        except OverflowError:
            return number, f"holds {_short(value)}, which is too large"
    return 0, f"does not go with what comes after it: {error}"


def _both(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """The type of both. Raises ArrowException: there is none."""
    schemas = [pa.schema([pa.field("", kind)]) for kind in (one, other)]
    return pa.unify_schemas(schemas, promote_options="permissive").field(0).type


def unify(schemas: Mapping[str, pa.Schema]) -> tuple[pa.Schema, dict[str, str]]:
    """The schema that rows of all of these fit, by where each is from in words; any column may be null.

    Columns that have no one type are null in it, and named with what is the matter.
    """
    kinds, mixed = dict[str, pa.DataType](), dict[str, str]()
    for where, schema in schemas.items():
        for name, kind in zip(schema.names, schema.types, strict=True):
            before = kinds.get(name, pa.null())
            try:
                kinds[name] = _both(before, kind)
            except pa.ArrowException:
                mixed.setdefault(name, f"{where}: column {name!r} is {kind} from there on, and {before} before")
    made = pa.schema([pa.field(name, pa.null() if name in mixed else kind) for name, kind in kinds.items()])
    return made, mixed


def table(rows: Sequence[dict[str, Any]], schema: pa.Schema, sources: Sequence[str] | None = None) -> pa.Table:
    """Rows of a schema; what a row does not have is null. Raises CorpusError, naming the document, if one does not
    fit."""
    columns = []
    for field in schema:
        values = [_filled(row.get(field.name)) for row in rows]
        try:
            columns.append(pa.array(values, field.type))
        except (pa.ArrowException, OverflowError) as error:
            at = next(number for number, value in enumerate(values) if not _fits(value, field.type))
            where = _named(rows[at], sources[at] if sources else "")
            raise CorpusError(
                f"{where}: column {field.name!r} holds {_short(values[at])}, which cannot be written as {field.type} "
                f"({error}): {KEEP}"
            ) from error
    return pa.Table.from_arrays(columns, schema=schema)


def _fits(value: Any, kind: pa.DataType) -> bool:
    try:
        pa.array([value], kind)
    except (pa.ArrowException, OverflowError):
        return False
    return True


def _named(row: Mapping[str, Any], source: str) -> str:
    return f"{source}, document {row.get('id')}" if source else f"document {row.get('id')}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


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


def _line(row: dict[str, Any], source: str) -> bytes:
    try:
        return orjson.dumps(row, default=_plain, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError as error:
        raise CorpusError(
            f"{_named(row, source)} cannot be written as JSON ({error}): give --format parquet"
        ) from error


def _plain(value: Any) -> str:
    if isinstance(value, datetime):  # of nanoseconds: pandas' own
        return value.isoformat()
    if isinstance(value, Decimal | timedelta):
        return str(value)
    raise TypeError(type(value).__name__)
