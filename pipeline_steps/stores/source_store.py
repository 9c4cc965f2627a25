"""Columns per document, kept as one sealed Parquet file per source file: the ground under scores and embeddings.

An Artefact whose parts are sources, and beside its files:

    <path>/parts/<source>.parquet           a finished source: rows in document order
    <path>/windows/<source>/000007.parquet  a committed window of a source that is still being written

A *source* is the file a document was read from (`metadata["file_path"]`), never a rank, so the content does not
depend on the number of tasks. Two tasks that write the same source write the same bytes. A killed task loses at most
one window.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from datatrove.utils.logging import logger

from pipeline_steps.errors import MissingScore, StoreDamaged, StoreMismatch
from pipeline_steps.stores.artefact import Artefact, part_name
from pipeline_steps.stores.files import AGAIN, canonical, digest, write_atomically
from pipeline_steps.stores.sealed_parquet import SealedFile, encode


Columns = Mapping[str, np.ndarray]
_BATCH = 1 << 17  # rows read at a time: 2 MB of scores


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
        return self._read_own(self._window(source, window), source)

    def read_to_continue(self, source: str) -> dict[str, np.ndarray] | None:
        """Return all columns of a sealed source; None if it is not sealed, or (with a warning) if it is damaged."""
        return self._read_own(self.part(source), source)

    def seal(self, source: str, columns: Columns) -> None:
        """Publish all rows of a finished source and drop its windows.

        A part that somebody else has published meanwhile stays, unless it is of other documents (StoreMismatch): a
        model's last bits differ between two devices.
        """
        path = self.part(source)

        def is_theirs_kept() -> bool:
            theirs = None if path in self._damaged else self._read_own(path, source)
            if theirs is not None and not np.array_equal(theirs["key"], columns["key"]):
                raise StoreMismatch(
                    f"another task has stored other documents of {source} in {self.path}: the file has changed while "
                    f"it was read; {self.restore(source)}"
                )
            return theirs is not None

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

    def finish_task(self, rank: int, tasks: int, sources: Iterable[str]) -> None:
        """Record that a task has stored these sources. Raises what `Artefact.finish` raises."""
        self.finish(rank, tasks, {source: self._entries[source] for source in sources})

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

    def _window(self, source: str, window: int) -> str:
        return f"{self.path}/windows/{part_name(source)}/{window:06d}.parquet"

    def _encode(self, source: str, columns: Columns) -> bytes:
        if self.schema is None:
            raise ValueError(f"{self.path} was opened for reading: pass a schema to write")
        return encode(self.schema, columns, self._header(source))

    def _header(self, source: str) -> dict[str, str]:
        """Return what a file says of itself: should artefact.json be lost, other settings are still told apart."""
        return {"source": source, "made": self.made_digest}

    def _read_own(self, path: str, source: str) -> dict[str, np.ndarray] | None:
        """Return what an earlier task wrote; the step can make it again, so damage is no reason to stop."""
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
