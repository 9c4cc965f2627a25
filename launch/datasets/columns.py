"""Rows as columns: the one type that all values of a column fit, or the document whose value does not fit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from pipeline_steps.errors import CorpusError


KEEP = "mend it, or give --format jsonl, which keeps it as it is"
# What Arrow reads back, and Parquet below its root (arrow/ipc and parquet/arrow refuse more, after writing it)
_DEEPEST, _PARQUET_DEEPEST = 62, 99


class Row(NamedTuple):
    """A document as its file has it, and the file; "" if that is not known."""

    values: dict[str, Any]
    source: str

    def __str__(self) -> str:
        """Say where the row is from."""
        return f"{self.source}, document {self.values.get('id')}".removeprefix(", ")


def infer(rows: Sequence[Row]) -> tuple[pa.Schema, dict[str, str]]:
    """Return the schema of rows, columns as they are met; and by name, what is the matter with columns of no one type.

    Raises:
        CorpusError: a column has a name that other programs would cut short.
    """
    fields, mixed = [], dict[str, str]()
    for name in dict.fromkeys(name for row in rows for name in row.values):
        kind, at, why = _kind([row.values.get(name) for row in rows])
        if why:
            mixed[name] = f"{rows[at]}: column {name!r} {why}"
        if "\0" in name or _has_zero_byte(kind):
            first = next(row for row in rows if name in row.values)
            raise CorpusError(
                f"{first}: column {name!r} has a name with a zero byte, at which other programs end it: rename it"
            )
        fields.append(pa.field(name, kind))
    return pa.schema(fields), mixed


def _kind(values: Sequence[Any]) -> tuple[pa.DataType, int, str]:
    """Return the type of a column; if it has none, null, the first row at fault, and what is the matter there."""
    for number, value in enumerate(values):
        if depth_of(value) > _DEEPEST:
            return pa.null(), number, f"holds values nested {depth_of(value)} deep, and Arrow reads {_DEEPEST} at most"
    filled = [_filled(value) for value in values]
    try:
        kind = pa.array(filled).type
    except (pa.ArrowException, OverflowError) as error:
        return pa.null(), *_odd_one(filled, error)
    if _parquet_depth(kind) > _PARQUET_DEEPEST:
        at = max(range(len(values)), key=lambda number: depth_of(values[number]))
        return pa.null(), at, f"holds values nested {depth_of(values[at])} deep, which Parquet cannot hold"
    return kind, 0, ""


def _odd_one(values: Sequence[Any], error: Exception) -> tuple[int, str]:
    """Return the place of the first value that does not go with those before it, and why."""
    kind = pa.null()
    for number, value in enumerate(values):
        try:
            own = pa.array([value]).type
        except pa.ArrowException:
            return number, f"holds {_short(value)}, whose own parts are of several types"
        except OverflowError:
            return number, f"holds {_short(value)}, which is too large"
        try:
            kind = _both(kind, own)
        except pa.ArrowException:
            return number, f"holds {_short(value)}, {own}, after {kind}"
    return 0, f"does not go with what comes after it: {error}"


def depth_of(value: Any) -> int:
    """Return how many lists and mappings a value is nested in; without recursion, for which it may be too deep."""
    depth, level = 0, [value]
    while inner := [
        one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list | tuple)
    ]:
        depth, level = depth + 1, [one for outer in inner for one in outer]
    return depth


def _inner(kind: pa.DataType) -> list[pa.Field]:
    return [kind.field(number) for number in range(kind.num_fields)]


def _has_zero_byte(kind: pa.DataType) -> bool:
    """Return whether a name in a mapping holds a zero byte."""
    return any("\0" in field.name or _has_zero_byte(field.type) for field in _inner(kind))


def _parquet_depth(kind: pa.DataType) -> int:
    """Return the levels of Parquet's schema that a type takes: two for a list, one for a mapping or a value."""
    inner = _inner(kind)
    levels = 1 if pa.types.is_struct(kind) or not inner else 2
    return levels + max((_parquet_depth(field.type) for field in inner), default=0)


def _both(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """Return the type that values of both types fit. Raises ArrowException if there is none."""
    schemas = [pa.schema([pa.field("", kind)]) for kind in (one, other)]
    return pa.unify_schemas(schemas, promote_options="permissive").field(0).type


def unify(schemas: Iterable[tuple[str, pa.Schema]]) -> tuple[pa.Schema, dict[str, str]]:
    """Return the schema that rows of all schemas fit, each schema given with where it is from; any column may be null.

    Columns that have no one type are null in it; what is the matter with them is returned by name.
    """
    kinds, mixed = dict[str, pa.DataType](), dict[str, str]()
    for where, schema in schemas:
        for name, kind in zip(schema.names, schema.types, strict=True):
            before = kinds.get(name, pa.null())
            try:
                kinds[name] = _both(before, kind)
            except pa.ArrowException:
                mixed.setdefault(name, f"{where}: column {name!r} is {kind} from there on, and {before} before")
    made = pa.schema([pa.field(name, pa.null() if name in mixed else kind) for name, kind in kinds.items()])
    return made, mixed


def table(rows: Sequence[Row], schema: pa.Schema) -> pa.Table:
    """Return rows as a table of a schema; what a row does not have is null.

    Raises:
        CorpusError: a value does not fit its column; names the document.
    """
    columns = []
    for field in schema:
        values = [_filled(row.values.get(field.name)) for row in rows]
        try:
            columns.append(pa.array(values, field.type))
        except (pa.ArrowException, OverflowError) as error:
            at = next(number for number, value in enumerate(values) if not _fits(value, field.type))
            raise CorpusError(
                f"{rows[at]}: column {field.name!r} holds {_short(values[at])}, which cannot be written as "
                f"{field.type} ({error}): {KEEP}"
            ) from error
    return pa.Table.from_arrays(columns, schema=schema)


def _fits(value: Any, kind: pa.DataType) -> bool:
    try:
        pa.array([value], kind)
    except (pa.ArrowException, OverflowError):
        return False
    return True


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _filled(value: Any) -> Any:
    """Return a value without its empty mappings, of which Parquet has none."""
    if isinstance(value, dict):
        return {key: _filled(one) for key, one in value.items()} or None
    if isinstance(value, list) and any(isinstance(one, dict | list) for one in value):
        return [_filled(one) for one in value]
    return value
