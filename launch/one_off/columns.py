"""Rows as columns: the one type that all values of a column fit, or the document whose value does not fit."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipeline_steps.errors import CorpusError


KEEP = "mend it, or give --format jsonl, which keeps it as it is"
# What Arrow reads back, and Parquet below its root (arrow/ipc and parquet/arrow refuse more, after writing it)
_DEEPEST, _PARQUET_DEEPEST = 62, 99


def infer(rows: Sequence[dict[str, Any]], sources: Sequence[str]) -> tuple[pa.Schema, dict[str, str]]:
    """Schema of rows, their columns in the order they are met; columns of no one type, and the document at fault.

    Raises:
        CorpusError: a column has a name that other programs would cut short.
    """
    fields, mixed = [], dict[str, str]()
    for name in dict.fromkeys(name for row in rows for name in row):
        kind, at, why = _kind([row.get(name) for row in rows])
        if why:
            mixed[name] = f"{named(rows[at], sources[at])}: column {name!r} {why}"
        if "\0" in name or _has_zero_byte(kind):
            at = next(number for number, row in enumerate(rows) if name in row)
            raise CorpusError(
                f"{named(rows[at], sources[at])}: column {name!r} has a name with a zero byte, at which other "
                "programs end it: rename it"
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


def _has_zero_byte(kind: pa.DataType) -> bool:
    """Return whether a name in a mapping holds a zero byte."""
    inner = [kind.field(number) for number in range(kind.num_fields)]
    return any("\0" in field.name or _has_zero_byte(field.type) for field in inner)


def _odd_one(values: Sequence[Any], error: Exception) -> tuple[int, str]:
    """The first value that does not go with those before it, and why."""
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
    if not isinstance(value, dict | list | tuple):
        return 0
    depth, level = 0, [value]
    while level := [one for outer in level for one in _parts(outer)]:
        depth += 1
    return depth


def _parts(value: Any) -> Collection[Any]:
    if isinstance(value, dict):
        return value.values() or (None,)
    if isinstance(value, list | tuple):
        return value or (None,)
    return ()


def _parquet_depth(kind: pa.DataType) -> int:
    """Return the levels of Parquet's schema that a type takes: two for a list, one for a mapping or a value."""
    inner = [kind.field(number).type for number in range(kind.num_fields)]
    levels = 1 if pa.types.is_struct(kind) or not inner else 2
    return levels + max(map(_parquet_depth, inner), default=0)


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
            where = named(rows[at], sources[at] if sources else "")
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


def named(row: Mapping[str, Any], source: str) -> str:
    """Return where a row is from, in words."""
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
