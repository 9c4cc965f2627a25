"""The rows of a file, by its format: each as a mapping, or as what is wrong with it.

A row that cannot be read costs no other row. A file that is damaged, or was cut short, raises whatever its library
raises.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_steps.errors import CorpusError
from pipeline_steps.readers.bad_rows import BadRow
from pipeline_steps.readers.compressed import opened, opened_anywhere, without_compression


Rows = Iterator[tuple[int, Any]]
"""Pairs of a row's number, from 0, and a mapping of its values or a BadRow."""

KINDS = {
    ".jsonl": "jsonl",
    ".json": "jsonl",  # one object a line, as C4 on the Hub
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".csv": "csv",
    ".warc": "warc",
    ".wet": "warc",
}
TYPED = ("parquet", "arrow")
"""Formats whose files say the types of their columns."""
_BOM = b"\xef\xbb\xbf"
_BATCH = 1000  # rows of Arrow that become Python's at a time
_NO_VALUE = (pa.ArrowException, ValueError, OverflowError, UnicodeError)  # e.g. of a date, or of text that is none
_ENDS_OF_STREAM = (b"\xff\xff\xff\xff\0\0\0\0", b"\0\0\0\0")  # of Arrow, the second before version 0.15


def kind_of(name: str) -> str | None:
    """Return the format of a file by its name; None if it is no known one."""
    plain = without_compression(name).lower()
    return next((kind for suffix, kind in KINDS.items() if plain.endswith(suffix)), None)


def json_lines(folder: Any, name: str) -> Rows:
    """Yield the lines of a file that are not blank."""
    with opened(folder, name) as file:
        for row, line in enumerate(file):
            if row == 0:
                line = line.removeprefix(_BOM)
            try:
                yield row, orjson.loads(line)
            except orjson.JSONDecodeError as error:
                if line.strip():
                    yield row, BadRow("not JSON", f"the line is not JSON: {error}")


def comma_separated(folder: Any, name: str) -> Rows:
    """Yield the rows of a file below its first, which names the columns; all values are strings.

    A column token_count holds numbers.

    Raises:
        CorpusError: a row breaks the rules of quotes, or a quote is not closed until the end of the file.
    """
    csv.field_size_limit(sys.maxsize)
    with opened(folder, name) as file:
        # Line ends inside quotes stay as they are
        lines = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
        cells, row = csv.reader(lines, strict=True), 0
        columns = next(cells, [])
        _refuse_twice(columns, folder.resolve_paths(name))
        while True:
            try:
                values = next(cells)
            except StopIteration:
                return
            except csv.Error as error:
                what = "a quote is opened and never closed" if "unexpected end" in str(error) else str(error)
                raise CorpusError(
                    f"{folder.resolve_paths(name)}, row {row + 1}, is not CSV ({what}), so nothing says where "
                    "the next row begins: correct it"
                ) from error
            if not values:  # a blank line
                continue
            yield row, _csv_row(columns, values)
            row += 1


def _csv_row(columns: list[str], cells: list[str]) -> dict[str, Any] | BadRow:
    if len(cells) != len(columns):
        detail = f"the row has {len(cells)} cells, and the header has {len(columns)}"
        return BadRow("another number of cells than the header", detail)
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        return BadRow("not UTF-8", "the row holds bytes that are not UTF-8")
    values: dict[str, Any] = dict(zip(columns, cells, strict=True))
    if (count := values.get("token_count", "")).isdecimal():
        values["token_count"] = int(count)
    return values


def parquet(folder: Any, name: str) -> Rows:
    """Yield the rows of a Parquet file."""
    with opened_anywhere(folder, name) as file, pq.ParquetFile(file) as found:
        _refuse_twice(found.schema_arrow.names, folder.resolve_paths(name))
        yield from _numbered(found.iter_batches(batch_size=_BATCH))


def arrow(folder: Any, name: str) -> Rows:
    """Yield the rows of an Arrow file, or of an Arrow stream, as `datasets.save_to_disk` writes them.

    Raises:
        EOFError: a stream has no end.
    """
    with opened_anywhere(folder, name) as file:
        is_file = file.read(6) == b"ARROW1"
        if not is_file:
            file.seek(-8, io.SEEK_END)
            if not file.read().endswith(_ENDS_OF_STREAM):
                raise EOFError("the file ends before its Arrow stream does")
        file.seek(0)
        with (pa.ipc.open_file if is_file else pa.ipc.open_stream)(file) as found:
            _refuse_twice(found.schema.names, folder.resolve_paths(name))
            batches = map(found.get_batch, range(found.num_record_batches)) if is_file else iter(found)
            yield from _numbered(_shorter(batches))


def schema_of(folder: Any, name: str) -> pa.Schema:
    """Return the types of the columns of a file of a typed format."""
    with opened_anywhere(folder, name) as file:
        if kind_of(name) == "parquet":
            return pq.read_schema(file)
        is_file = file.read(6) == b"ARROW1"
        file.seek(0)
        return (pa.ipc.open_file if is_file else pa.ipc.open_stream)(file).schema


def _shorter(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for start in range(0, batch.num_rows, _BATCH):
            yield batch.slice(start, _BATCH)


def _numbered(batches: Iterator[pa.RecordBatch]) -> Rows:
    row = 0
    for batch in batches:
        yield from enumerate(_values(batch), row)
        row += batch.num_rows


def _values(batch: pa.RecordBatch) -> list[Any]:
    """Return rows as Python's values; one by one if one of them holds what Python has no value for."""
    try:
        return batch.to_pylist()
    except _NO_VALUE:
        return [_value(batch.slice(number, 1)) for number in range(batch.num_rows)]


def _value(row: pa.RecordBatch) -> Any:
    try:
        return row.to_pylist()[0]
    except _NO_VALUE as error:
        return BadRow("a value that cannot be read", f"a value cannot be read: {error}")


def _refuse_twice(columns: list[str], path: str) -> None:
    if len(set(columns)) < len(columns):
        twice = min(name for name in columns if columns.count(name) > 1)
        raise CorpusError(f"{path} has two columns {twice!r}: rename one")


def pages(folder: Any, name: str) -> Rows:
    """Yield the pages of a WARC file, as HTML, and the texts of a WET file.

    Raises:
        OSError: the file was cut short, or a record has another length than it says.
    """
    from datatrove.pipeline.readers.warc import process_record
    from warcio.archiveiterator import ArchiveIterator

    with opened(folder, name) as file:
        archive = _Archive(file)
        records = ArchiveIterator(archive)
        for row, record in enumerate(records):
            page: Any
            try:
                page = process_record(record)
            except KeyError as error:
                page = BadRow("a header is missing", f"the record lacks the header {error}")
            records.read_to_end()
            if records.err_count or getattr(record.raw_stream, "limit", 0) > 0:
                raise OSError(f"record {row + 1} does not end where it says")
            if page and (isinstance(page, BadRow) or page["text"].strip()):
                yield row, page
        if not archive.end.endswith(b"\r\n\r\n"):
            raise OSError("the file ends before its last record does")


class _Archive:
    """A file as warcio reads it, which takes an EOFError for the end of all records, and nothing else for an error."""

    def __init__(self, file: Any) -> None:
        self._file, self.end = file, b"\r\n\r\n"

    def read(self, size: int) -> bytes:
        try:
            chunk: bytes = self._file.read(size)
        except EOFError as error:
            raise OSError(str(error)) from error
        self.end = (self.end + chunk)[-4:]
        return chunk

    def tell(self) -> int:
        return self._file.tell()


ROWS: dict[str, Callable[[Any, str], Rows]] = {
    "jsonl": json_lines,
    "csv": comma_separated,
    "parquet": parquet,
    "arrow": arrow,
    "warc": pages,
}
