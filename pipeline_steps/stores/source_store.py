"""Columns per document, kept as one sealed Parquet file per source file: scores, embeddings, clusters, labels.

An Artefact whose parts are sources, and beside its files:

    <path>/parts/<source>.parquet           a finished source: rows in document order
    <path>/windows/<source>/000007.parquet  a committed window of a source that is still being written

A *source* is the file a document was read from (`metadata["file_path"]`), never a rank, so the content does not
depend on the number of tasks. Two tasks that write the same source write the same bytes. A killed task loses at most
one window.

Where the source file of a document is unknown (datasets, lists, rows with a `file_path` of their own), the documents
of a task are kept in windows in the order they arrive. The last task puts the rows of all tasks, those of known files
too, in order of their keys: the sources of such a store are ranges of keys, and copies share the columns of one. Its
content depends on the number of tasks by the rounding of what is computed together, and by nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property, partial
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from datatrove.utils.logging import logger

from pipeline_steps.errors import MissingScore, StoreDamaged, StoreMismatch
from pipeline_steps.stores.artefact import Artefact, part_name
from pipeline_steps.stores.files import AGAIN, canonical, digest, write_atomically
from pipeline_steps.stores.key_ranges import KeyRanges, contains, is_key_range
from pipeline_steps.stores.sealed_parquet import SealedFile, encode


Columns = Mapping[str, np.ndarray]
# Names of folders and files, as `part_name` makes them: of a task's documents of unknown files, of a range of keys
_ARRIVALS = re.compile(r"(\d{5,}-of-\d{5,}(?:\+[0-9a-f]{8})?)-[0-9a-f]{16}")
_RANGE = re.compile(r"key=[0-9a-f]{16}-")
_BATCH = 1 << 17  # rows read at a time: 2 MB of scores


class _OtherWindowsError(Exception):
    """Windows are not those that a task's record speaks of."""


class SourceStore(Artefact):
    """A folder of sealed columns on any fsspec path.

    Args:
        path: the folder.
        schema: Arrow fields of the columns, to write; the first is `key` (uint64, `document_key`).
    """

    def __init__(self, path: str, schema: pa.Schema | None = None) -> None:
        super().__init__(path, ".parquet")
        self.schema = schema
        self._entries: dict[str, dict[str, Any]] = {}
        self._damaged: set[str] = set()

    def commit_window(self, source: str, window: int, columns: Columns) -> None:
        """Publish the `window`-th run of rows of a source."""
        self.announce()
        write_atomically(self._window(source, window), self._encode(source, columns))

    def read_window(self, source: str, window: int) -> dict[str, np.ndarray] | None:
        """Return a committed window; None if there is none, or (with a warning) if it is damaged."""
        return self.read_own(self._window(source, window), source)

    def read_to_continue(self, source: str) -> dict[str, np.ndarray] | None:
        """Return all columns of a sealed source; None if it is not sealed, or (with a warning) if it is damaged."""
        return self.read_own(self.part(source), source)

    def seal(self, source: str, columns: Columns) -> None:
        """Publish all rows of a finished source and drop its windows.

        A part that somebody else has published meanwhile stays, unless it is of other documents (StoreMismatch): a
        model's last bits differ between two devices.
        """
        path = self.part(source)

        def is_theirs_kept() -> bool:
            theirs = None if path in self._damaged else self.read_own(path, source)
            if theirs is None or np.array_equal(theirs["key"], columns["key"]):
                return theirs is not None
            known = len(theirs["key"])
            if known > len(columns["key"]) or not np.array_equal(theirs["key"], columns["key"][:known]):
                raise StoreMismatch(
                    f"another task has stored other documents of {source} in {self.path}: the file has changed while "
                    f"it was read; {self.restore(source)}"
                )
            return False  # the file was read with a limit then

        self.publish(source, self._encode(source, columns), is_theirs_kept)
        self.drop_windows(source)
        with self._open(path, source) as part:
            self._entries[source] = _entry(part)

    def restore(self, source: str) -> str:
        """Say what to do about a source file that is not the one that was stored."""
        name = part_name(source)
        return (
            f"restore the file, or delete parts/{name}{self.suffix} and windows/{name} in {self.path} to compute this "
            "file again"
        )

    def drop_windows(self, source: str) -> None:
        """Remove the windows of a sealed source."""
        with suppress(OSError):  # there is none, another task was faster, or is writing there
            self.fs.rm(f"{self.root}/windows/{part_name(source)}", recursive=True)

    def finish_task(
        self, rank: int, tasks: int, sources: Iterable[str], arrived: Mapping[str, Any] | None = None
    ) -> None:
        """Record that a task has stored these sources, and documents of unknown files as `Arrivals.entries` says.

        Raises:
            StoreMismatch: a store of ranges of keys holds documents that this run has not read.
            CorpusError, StoreMismatch: see `Artefact.finish`.
        """
        self.finish(rank, tasks, {source: self._entries[source] for source in sources} | dict(arrived or {}))

    def sealed(self) -> dict[str, dict[str, Any]]:
        """Return what `manifest` would say of the sources that are finished, whether or not a run is."""
        found = {}
        for name in sorted(self._names("parts")):
            with SealedFile(self.fs, f"{self.root}/parts/{name}") as part:
                found[part.header["source"]] = _entry(part)
        return dict(sorted(found.items()))

    def begun(self) -> dict[str, int]:
        """Return the number of windows of each source that has not been sealed, by `part_name`."""
        return {name: len(self._names(f"windows/{name}")) for name in sorted(self._names("windows"))}

    @property
    def is_by_key(self) -> bool:
        """Return whether the sources are ranges of keys, since the source file of some document was unknown."""
        return any(map(_RANGE.match, self._names("parts")))

    def is_settled(self) -> bool:
        """Return whether the run that `begin` has joined is finished, by key, and whole: tasks need only look up."""
        parts = self._published_parts() if self._announced else None
        if not parts or not any(map(is_key_range, parts)):
            return False
        return all(self._keys(self.part(source)) is not None for source in parts)

    def arrivals_name(self, task: str) -> str:
        """Return the source that stands for a task's documents of unknown files, in this run."""
        return f"{self._run['run']}/{task}"

    def files_elsewhere(self, task: str, moved: bool) -> dict[str, np.ndarray]:
        """Return the keys of files that may hold a task's documents, by path: of parts, and of other runs' windows.

        Args:
            task: as `arrivals_name` takes it.
            moved: whether the documents have come in another order before, so that any task of this run, and an
                earlier attempt of this one, may have had them.
        """
        paths = [f"{self.path}/parts/{part}" for part in sorted(self._names("parts"))]
        for folder in sorted(self._names("windows")):
            of = _ARRIVALS.fullmatch(folder)
            is_ours = of is not None and folder == part_name(self.arrivals_name(of[1]))
            is_alike = is_ours and of is not None and of[1].partition("+")[0][6:] == task[6:]  # of as many tasks
            if of and (moved or not is_alike or "+" in of[1]):
                paths += [f"{self.path}/windows/{folder}/{one}" for one in sorted(self._names(f"windows/{folder}"))]
        return {path: keys for path in paths if (keys := self._keys(path)) is not None}

    def read_file(self, path: str) -> dict[str, np.ndarray]:
        """Return all columns of a file of this store. Raises StoreDamaged if it is not what was written."""
        with SealedFile(self.fs, f"{self.root}{path.removeprefix(self.path)}") as file:
            return file.read()

    def state(self) -> str:
        """Say how far an unfinished store is, and what may keep it from its end."""
        if begun := list(self.begun()):
            return f"half written ({len(begun)} sources, first {begun[0]})"
        return super().state()

    @property
    def sources(self) -> dict[str, int]:
        """Return the documents of each source, sorted by name: corpus order."""
        return {source: entry["documents"] for source, entry in self.manifest.items()}

    @property
    def documents(self) -> int:
        """Return how many rows all sources have."""
        return sum(self.sources.values())

    def read(self, source: str, columns: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Return columns of a source in document order. Raises MissingScore if the store does not hold it."""
        with self._part(source) as part:
            return part.read(columns)

    def categories(self, source: str, column: str) -> tuple[list[str], np.ndarray]:
        """Return the different values of a string column of a source, and the index of each row's (int32 [N])."""
        with self._part(source) as part:
            return part.categories(column)

    def batches(self, source: str, columns: Sequence[str], rows: int = _BATCH) -> Iterator[dict[str, np.ndarray]]:
        """Yield columns of a source, some rows at a time."""
        with self._part(source) as part:
            yield from part.batches(columns, rows)

    def column(self, name: str) -> np.ndarray:
        """Return one column over the whole corpus: sources sorted by name, rows in document order."""
        parts = [self.read(source, [name])[name] for source in self.manifest]
        return np.concatenate(parts) if parts else np.empty(0)

    def verify(self) -> None:
        """Read every byte. Raises StoreDamaged, naming the first file that is not what was written."""
        for source in self.manifest:
            self.read(source)

    @cached_property
    def corpus_digest(self) -> str:
        """`keys_digest` of all document keys in corpus order."""
        state = xxhash.xxh3_128()
        for source in self.manifest:
            for batch in self.batches(source, ["key"]):
                state.update(batch["key"].tobytes())
        return state.hexdigest()

    def check_same_corpus(self, other: SourceStore) -> None:
        """Raise StoreMismatch unless both stores are of the same documents; names the first source that differs."""
        for source in sorted(self.manifest.keys() | other.manifest.keys()):
            here, there = self.manifest.get(source, {}), other.manifest.get(source, {})
            if here.get("keys") != there.get("keys"):
                raise StoreMismatch(
                    f"{self.path} and {other.path} are not of the same documents: {source} has "
                    f"{here.get('documents', 0):,} in the one and {there.get('documents', 0):,} in the other"
                    f"{', with other ids or texts' if here.get('documents') == there.get('documents') else ''}"
                )

    # ------------------------------------------------------------------------------------ documents of unknown files

    def _gathered(self, parts: dict[str, Any]) -> dict[str, Any] | None:
        """Write the rows of all parts into ranges of keys, if some are of unknown files, and return these ranges.

        Return None if windows are missing or others: another task has gathered them, or all tasks must run again.
        """
        if not any("windows" in entry for entry in parts.values()):
            return parts
        try:
            self._refuse_to_lose(parts)
            return self._write_ranges(parts)
        except (FileNotFoundError, _OtherWindowsError):
            logger.warning(f"{self.path}: documents that other tasks have stored are gone; run all tasks again")
            return None

    def _write_ranges(self, parts: Mapping[str, Any]) -> dict[str, Any]:
        assert self.schema is not None  # only a writer finishes
        gathered: dict[str, Any] = {}
        with KeyRanges(self.schema, sum(entry["documents"] for entry in parts.values())) as ranges:
            for source, entry in parts.items():
                keys, is_whole = xxhash.xxh3_128(), "windows" in entry
                for path in self._files_of(source, entry):
                    with self._open(path, source) as file:
                        columns = file.read()
                        is_whole = is_whole or _entry(file) == entry
                    keys.update(columns["key"].tobytes())
                    ranges.add(columns)
                if not is_whole or ("windows" in entry and keys.hexdigest() != entry["keys"]):
                    raise _OtherWindowsError
            for source, columns in ranges.sorted():
                keep = partial(self._holds, source, columns["key"])
                self.publish(source, self._encode(source, columns), keep)
                with self._open(self.part(source), source) as part:
                    gathered[source] = _entry(part)
        return gathered

    def _derived(self, parts: dict[str, Any] | None) -> dict[str, Any] | None:
        """Return None for documents of unknown files: their tasks find all rows stored, and gather them once more."""
        return None if parts and any("windows" in entry for entry in parts.values()) else parts

    def _disposes(self, parts: Mapping[str, Any]) -> bool:
        return super()._disposes(parts) or any(map(is_key_range, parts))

    def _tidy(self, parts: Mapping[str, Any]) -> None:
        """Remove what ranges of keys were gathered from: windows of this run and of earlier ones, and other parts."""
        if not any(map(is_key_range, parts)):
            return
        runs = [run for number, run in self._runs() if number <= self._number + 1]
        for folder in self._names("windows"):
            if (task := _ARRIVALS.fullmatch(folder)) and folder in {part_name(f"{run}/{task[1]}") for run in runs}:
                self._remove(f"windows/{folder}")
        named = {self._file(source) for source in parts}
        for file in sorted(self._names("parts") - named):
            self._remove(f"parts/{file}")

    def tidy_settled(self) -> None:
        """Remove what a run that is settled has left, since it was killed before it could."""
        self._tidy(self.manifest)

    def _refuse_to_lose(self, parts: Mapping[str, Any]) -> None:
        """Raise StoreMismatch if the store holds rows of documents that are in none of these parts."""
        ours = {self._file(source) for source, entry in parts.items() if "windows" not in entry}
        if not (there := sorted(self._names("parts") - ours)):
            return
        paths = [path for source, entry in parts.items() for path in self._files_of(source, entry)]
        known = [keys for path in paths if (keys := self._keys(path)) is not None]
        sorted_N = np.sort(np.concatenate([np.empty(0, np.uint64), *known]))
        lost = 0
        for file in there:
            keys = self._keys(f"{self.path}/parts/{file}")
            lost += 0 if keys is None else int((~contains(sorted_N, keys)).sum())
        if lost:
            raise StoreMismatch(
                f"{self.path} holds {lost:,} documents that this run has not read: if other tasks are still running, "
                "wait for them; otherwise use another folder for a part of the corpus, or delete "
                f"{self.path}/parts/key=* to forget them"
            )

    def _files_of(self, source: str, entry: Mapping[str, Any]) -> list[str]:
        """Return the paths of the files that hold a source's rows, as its task has written them."""
        if "windows" not in entry:
            return [self.part(source)]
        return [self._window(source, window) for window in range(entry["windows"])]

    def _keys(self, path: str) -> np.ndarray | None:
        """Return the keys of a file's rows; None if it is not there, or (with a warning) damaged."""
        try:
            with SealedFile(self.fs, f"{self.root}{path.removeprefix(self.path)}") as file:
                return file.read(["key"])["key"] if file.header["made"] == self.made_digest else None
        except FileNotFoundError:
            return None
        except StoreDamaged as error:
            logger.warning(f"{error} (done now)")
            return None

    def _holds(self, source: str, key_N: np.ndarray) -> bool:
        """Return whether the part of a range of keys is whole, and of these documents."""
        theirs = self.read_own(self.part(source), source)
        return theirs is not None and np.array_equal(theirs["key"], key_N)

    def _window(self, source: str, window: int) -> str:
        return f"{self.path}/windows/{part_name(source)}/{window:06d}.parquet"

    def _encode(self, source: str, columns: Columns) -> bytes:
        if self.schema is None:
            raise ValueError(f"{self.path} was opened for reading: pass a schema to write")
        return encode(self.schema, columns, self._header(source))

    def _header(self, source: str) -> dict[str, str]:
        """Return what a file says of itself: should artefact.json be lost, other settings are still told apart."""
        return {"source": source, "made": self.made_digest}

    def read_own(self, path: str, source: str) -> dict[str, np.ndarray] | None:
        """Return what an earlier task wrote into a file; None if it is not there, or (with a warning) is damaged.

        The step can make it again, so damage is no reason to stop.
        """
        try:
            with self._open(path, source) as file:
                columns = file.read()
                self._entries[source] = _entry(file)
                return columns
        except FileNotFoundError:
            return None
        except StoreDamaged as error:
            logger.warning(f"{error} (done now)")
            self._damaged.add(path)
            return None

    def _part(self, source: str) -> SealedFile:
        if source not in self.manifest:
            raise MissingScore(f"{self.path} holds nothing of {source}: run its step over this file first")
        part = self._open(self.part(source), source)
        if _entry(part) != self.manifest[source]:
            part.close()
            raise StoreDamaged(f"{part.path} is not the file the manifest speaks of: {AGAIN}")
        return part

    def _open(self, path: str, source: str) -> SealedFile:
        file = SealedFile(self.fs, f"{self.root}{path.removeprefix(self.path)}")
        if file.header != self._header(source):
            file.close()
            of = "other settings" if file.header.get("source") == source else f"{file.header}, not of {source}"
            raise StoreDamaged(f"{file.path} is of {of}: {AGAIN}")
        return file


def _entry(part: SealedFile) -> dict[str, Any]:
    """Return a manifest's entry: `documents`, `keys` (digest of the keys), `columns` (digest of them all)."""
    return {"documents": part.rows, "keys": part.digests["key"], "columns": digest(canonical(part.digests))}
