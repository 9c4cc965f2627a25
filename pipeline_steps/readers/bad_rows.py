"""Rows that are no documents: what is wrong with them, and the record of those that a run has left out.

A file's record follows from the file alone: whichever task reads it, and how often, writes the same bytes to the same
place.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import xxhash

from pipeline_steps.errors import CorpusError
from pipeline_steps.stores.files import DELETE, read_json, write_json
from pipeline_steps.terminal import one_line


MOST_LISTED = 100_000  # rows of a file, and of a run
_FIRST, _FEWEST, _TOLERATED = 10_000, 100, 0.1  # of the first so many rows of a file, so large a share may be bad
_SKIP = "--on-bad-row skip leaves such rows out"


class BadRow(NamedTuple):
    """What is wrong with a row.

    Attributes:
        reason: what rows are counted by.
        detail: the same about this row, a sentence.
        help: what to do about it.
    """

    reason: str
    detail: str
    help: str = _SKIP

    def error(self, path: str, row: int) -> CorpusError:
        """Return the error that names a row, counted from 0, of a file."""
        return CorpusError(f"{path}, row {row + 1}: {one_line(self.detail)} ({self.help})")


def bad_text(values: dict[str, Any], key: str) -> BadRow:
    """Return what is wrong with the text of a row that has none under `key`."""
    if key not in values:
        return no_key(values, key, "--text-key")
    value = values[key]
    if isinstance(value, str):
        return BadRow(f"{key!r} is empty", f"{key!r} is empty")
    kind = "null" if value is None else f"{type(value).__name__}, not text"
    return BadRow(f"{key!r} is {kind}", f"{key!r} is {kind}")


def no_key(values: dict[str, Any], key: str, flag: str) -> BadRow:
    """Return what is wrong with a row without `key`; a flag names another."""
    keys = ", ".join(map(str, list(values)[:20])) or "none"
    detail = f"there is no key {key!r}; its keys are {keys}"
    return BadRow(f"no key {key!r}", detail, f"{flag} names another, and {_SKIP}")


class FileOfBadRows:
    """The bad rows of a file that is being read.

    Args:
        path: of the file.
        folder: where its record goes; None for none.
    """

    def __init__(self, path: str, folder: str | None) -> None:
        self.path = path
        self._record = None if folder is None else Path(record_of(folder, path))
        self._counts: Counter[str] = Counter()
        self._rows: list[tuple[int, str]] = []
        self._all = 0

    def add(self, row: int, seen: int, bad: BadRow) -> None:
        """Note a row, which is counted from 0.

        Args:
            row: its number in the file.
            seen: rows of the file until there, this one too.
            bad: what is wrong with it.

        Raises:
            CorpusError: too many of the file's first rows are bad.
        """
        self._all += 1
        self._counts[bad.reason] += 1
        if len(self._rows) < MOST_LISTED:
            self._rows.append((row + 1, bad.reason))
        if seen <= _FIRST and self._all > _FIRST * _TOLERATED:
            raise self._too_many(seen)

    def finish(self, seen: int, is_whole: bool) -> None:
        """Write the record once as much of the file as is wanted has been read; a file without bad rows has none.

        Raises:
            CorpusError: too many of a smaller file's rows are bad.
        """
        if is_whole and _FEWEST <= seen < _FIRST and self._all > seen * _TOLERATED:
            raise self._too_many(seen)
        if self._record is None:
            return
        if self._all:
            self._record.parent.mkdir(parents=True, exist_ok=True)
            write_json(str(self._record), {"file": self.path, "counts": dict(self._counts), "rows": self._rows})
        else:
            self._record.unlink(missing_ok=True)

    def _too_many(self, seen: int) -> CorpusError:
        ((reason, count),) = self._counts.most_common(1)
        return CorpusError(
            f"{self.path}: {self._all:,} of its first {seen:,} rows are bad ({count:,} times: {reason}), and "
            "more than one in ten are not left out: give another --text-key, or mend the file"
        )


def record_of(folder: str, path: str) -> str:
    """Return the place of the record of a file's bad rows."""
    return f"{folder}/{xxhash.xxh3_64_hexdigest(path.encode())}.json"


def read_record(folder: str, path: str) -> dict[str, Any] | None:
    """Return a file's record: its reasons with their `counts`, and `rows` of (number, reason); None if none is bad."""
    with suppress(FileNotFoundError):
        return read_json(record_of(folder, path), DELETE)
    return None
