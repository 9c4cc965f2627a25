"""Columns per document, kept as one sealed Parquet file per source file: the ground under scores and embeddings.

    <path>/config.json                      what made the columns; a store is never mixed
    <path>/windows/<source>/000007.parquet  a committed window of a source that is still being written
    <path>/shards/<source>.parquet          a finished source: rows in document order
    <path>/tasks/<world_size>/<rank>.json   the sources that a task has read to the end
    <path>/manifest.json                    the sources of the last run whose tasks have all finished
    <path>/superseded.json                  the manifest before, while a run adds documents

A *source* is the file a document was read from (`metadata["file_path"]`), never a rank, so the content does not
depend on the number of tasks. Every file is written whole or not at all; two tasks that write the same source
write the same bytes. A killed task loses at most one window.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import xxhash
from datatrove.utils.logging import logger

from pipeline_steps.errors import CorpusError, MissingScore, StoreDamaged, StoreIncomplete, StoreMismatch
from pipeline_steps.files import read_json, write_atomically, write_json
from pipeline_steps.sealed_parquet import SealedFile, encode


Columns = Mapping[str, np.ndarray]
_BATCH = 1 << 17  # rows read at a time: 2 MB of scores


def shard_name(source: str) -> str:
    """File name of a source's shard: readable, unique, and free of separators."""
    name = source.rstrip("/").rsplit("/", 1)[-1][-48:]  # in any alphabet short of the 255 bytes a name may have
    return f"{name}-{xxhash.xxh3_64_hexdigest(source.encode('utf-8', 'surrogatepass'))}"


class SourceStore:
    """A folder of sealed shards on any fsspec path.

    Args:
        path: the folder.
        schema: Arrow fields of the columns, to write; the first is `key` (uint64, `document_key`).
    """

    def __init__(self, path: str, schema: pa.Schema | None = None) -> None:
        self.path = path.rstrip("/")
        self.schema = schema
        # A listing that is remembered hides what other tasks have written since
        self.fs, self.root = fsspec.core.url_to_fs(self.path, use_listings_cache=False)
        self._entries: dict[str, dict[str, Any]] = {}
        self._retracted, self._after = False, ""

    def claim(self, config: dict[str, Any]) -> None:
        """Write `config.json`, or check that what is there says the same.

        Raises:
            StoreMismatch: naming every setting that differs, with both values.
        """
        self._after = xxhash.xxh3_64_hexdigest(self._last_manifest())  # whose successor this run's manifest will be
        config = json.loads(json.dumps(config, sort_keys=True))
        if not self.fs.exists(f"{self.root}/config.json"):
            if self.fs.glob(f"{self.root}/shards/*.parquet"):
                raise StoreMismatch(f"{self.path} holds columns but no config.json: use another folder for these")
            write_json(f"{self.path}/config.json", config)
            return
        found = self.config
        differing = sorted(name for name in config.keys() | found.keys() if config.get(name) != found.get(name))
        if differing:
            said = "; ".join(f"{name}: {found.get(name)!r} there, {config.get(name)!r} now" for name in differing)
            raise StoreMismatch(f"{self.path} was made with other settings ({said}): use another folder for these")

    def commit_window(self, source: str, window: int, columns: Columns) -> None:
        """Publish the `window`-th run of rows of a source."""
        self._retract_manifest()
        self._write(f"windows/{shard_name(source)}/{window:06d}.parquet", source, columns)

    def read_window(self, source: str, window: int) -> dict[str, np.ndarray] | None:
        """A committed window; None if there is none, or (with a warning) if it is damaged."""
        return self._read_own(f"windows/{shard_name(source)}/{window:06d}.parquet", source)

    def read_to_continue(self, source: str) -> dict[str, np.ndarray] | None:
        """All columns of a sealed source; None if it is not sealed, or (with a warning) if its shard is damaged."""
        return self._read_own(f"shards/{shard_name(source)}.parquet", source)

    def seal(self, source: str, columns: Columns) -> None:
        """Publish all rows of a finished source and drop its windows."""
        self._retract_manifest()
        name = f"shards/{shard_name(source)}.parquet"
        self._write(name, source, columns)
        self.drop_windows(source)
        with SealedFile(self.fs, f"{self.root}/{name}") as shard:
            self._entries[source] = _entry(shard)

    def drop_windows(self, source: str) -> None:
        """Remove the windows of a sealed source."""
        self._remove(f"windows/{shard_name(source)}")

    def finish_task(self, rank: int, world_size: int, sources: Iterable[str]) -> None:
        """Record that a task has read all its input. The last task of a run publishes the manifest.

        Records of an earlier run do not count: they were made after another manifest.

        Raises:
            CorpusError: two tasks have read different documents of one source.
        """
        folder = f"{self.path}/tasks/{world_size}"
        record = {"after": self._after, "sources": {source: self._entries[source] for source in sources}}
        write_json(f"{folder}/{rank:05d}.json", record)
        names = self.fs.glob(f"{self.root}/tasks/{world_size}/*.json")
        if len(names) < world_size:
            return
        records = [read_json(f"{folder}/{name.rsplit('/', 1)[-1]}") for name in names]
        if any(record["after"] != self._after for record in records):
            return
        merged: dict[str, dict[str, Any]] = {}
        for record in records:
            for source, entry in record["sources"].items():
                if merged.setdefault(source, entry) != entry:
                    raise CorpusError(
                        f"two tasks have read different documents of {source}: the corpus was rewritten into other "
                        "files after it was read from that one; write it without 'file_path', or read the original"
                    )
        write_json(f"{self.path}/manifest.json", merged)

    def _last_manifest(self) -> bytes:
        for name in ("manifest.json", "superseded.json"):
            with suppress(FileNotFoundError):
                return self.fs.cat_file(f"{self.root}/{name}")
        return b""

    def _retract_manifest(self) -> None:
        """Once there is something to write, the corpus is not the one that the last finished run has read."""
        if not self._retracted and (manifest := self._last_manifest()):
            write_atomically(f"{self.path}/superseded.json", manifest)
            self._remove("manifest.json")
        self._retracted = True

    def _write(self, name: str, source: str, columns: Columns) -> None:
        if self.schema is None:
            raise ValueError(f"{self.path} was opened for reading: pass a schema to write")
        write_atomically(f"{self.path}/{name}", encode(self.schema, columns, {"source": source}))

    def _read_own(self, name: str, source: str) -> dict[str, np.ndarray] | None:
        """What an earlier task wrote; the step can make it again, so damage is no reason to stop."""
        try:
            with self._open(name, source) as file:
                columns = file.read()
                self._entries[source] = _entry(file)
                return columns
        except FileNotFoundError:
            return None
        except StoreDamaged as error:
            logger.warning(f"{error} (done now)")
            return None

    def _remove(self, name: str) -> None:
        with suppress(OSError):  # there is none, another task was faster, or is writing there
            self.fs.rm(f"{self.root}/{name}", recursive=True)

    @property
    def config(self) -> dict[str, Any]:
        """What made this store. Raises StoreIncomplete if there is none."""
        try:
            return read_json(f"{self.path}/config.json")
        except FileNotFoundError:
            raise StoreIncomplete(f"{self.path} is not a store: it has no config.json; run its step first") from None

    @cached_property
    def manifest(self) -> dict[str, dict[str, Any]]:
        """Of each source, sorted by name: `documents`, `keys` (digest of the keys), `columns` (digest of them all).

        Raises:
            StoreIncomplete: no run over all its tasks has finished since documents were last added.
            StoreMismatch: the store holds a source that the last run did not read.
        """
        try:
            found = read_json(f"{self.path}/manifest.json")
        except FileNotFoundError:
            raise StoreIncomplete(f"{self.path} is {self._state()}: run its step to the end") from None
        sealed = {name.rsplit("/", 1)[-1] for name in self.fs.glob(f"{self.root}/shards/*.parquet")}
        expected = {f"{shard_name(source)}.parquet": source for source in found}
        if strange := sorted(sealed - expected.keys()):
            raise StoreMismatch(
                f"{self.path} holds {len(strange)} files that its last finished run did not read, first "
                f"shards/{strange[0]}: delete them if they were taken out of the corpus, or keep one store per corpus"
            )
        if lost := sorted(expected.keys() - sealed):
            raise StoreIncomplete(f"{self.path} has lost shards/{lost[0]} of {expected[lost[0]]}: run its step again")
        return dict(sorted(found.items()))

    def sealed(self) -> dict[str, dict[str, Any]]:
        """What `manifest` would say of the sources that are finished, whether or not a run is."""
        found = {}
        for name in self.fs.glob(f"{self.root}/shards/*.parquet"):
            with SealedFile(self.fs, name) as shard:
                found[shard.header["source"]] = _entry(shard)
        return dict(sorted(found.items()))

    def begun(self) -> dict[str, int]:
        """Windows of each source that has not been sealed, by `shard_name`."""
        names = [name.split("/")[-2] for name in self.fs.glob(f"{self.root}/windows/*/*.parquet")]
        return {name: names.count(name) for name in sorted(set(names))}

    def _state(self) -> str:
        if begun := list(self.begun()):
            return f"half written ({len(begun)} sources, first {begun[0]})"
        done: dict[int, int] = {}
        for name in self.fs.glob(f"{self.root}/tasks/*/*.json"):
            size = int(name.split("/")[-2])
            done[size] = done.get(size, 0) + 1
        tasks = "; ".join(f"{ranks} of {size} tasks" for size, ranks in sorted(done.items())) or "no task"
        return f"incomplete ({tasks} finished)"

    def check_complete(self) -> None:
        """Raise what `manifest` raises."""
        _ = self.manifest

    @property
    def sources(self) -> dict[str, int]:
        """Documents of each source, sorted by name: corpus order."""
        return {source: entry["documents"] for source, entry in self.manifest.items()}

    @property
    def documents(self) -> int:
        """How many rows all sources have."""
        return sum(self.sources.values())

    def read(self, source: str, columns: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Columns of a source in document order. Raises MissingScore if the store does not hold it."""
        with self._shard(source) as shard:
            return shard.read(columns)

    def categories(self, source: str, column: str) -> tuple[list[str], np.ndarray]:
        """A string column of a source: its different values, and the index of each row's (int32 [N])."""
        with self._shard(source) as shard:
            return shard.categories(column)

    def batches(self, source: str, columns: Sequence[str], rows: int = _BATCH) -> Iterator[dict[str, np.ndarray]]:
        """Columns of a source, some rows at a time."""
        with self._shard(source) as shard:
            yield from shard.batches(columns, rows)

    def column(self, name: str) -> np.ndarray:
        """One column over the whole corpus: sources sorted by name, rows in document order."""
        parts = [self.read(source, [name])[name] for source in self.manifest]
        return np.concatenate(parts) if parts else np.empty(0)

    @cached_property
    def corpus_digest(self) -> str:
        """`keys_digest` of all document keys in corpus order."""
        digest = xxhash.xxh3_128()
        for source in self.manifest:
            for batch in self.batches(source, ["key"]):
                digest.update(batch["key"].tobytes())
        return digest.hexdigest()

    @property
    def fingerprint(self) -> str:
        """Digest of what the columns were made with, and of every value."""
        return xxhash.xxh3_64_hexdigest(json.dumps([self.config, self.manifest], sort_keys=True).encode())

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

    def _shard(self, source: str) -> SealedFile:
        if source not in self.manifest:
            raise MissingScore(f"{self.path} holds nothing of {source}: run its step over this file first")
        shard = self._open(f"shards/{shard_name(source)}.parquet", source)
        if _entry(shard) != self.manifest[source]:
            shard.close()
            raise StoreDamaged(f"{shard.path} is not the file the manifest speaks of: run the step again")
        return shard

    def _open(self, name: str, source: str) -> SealedFile:
        file = SealedFile(self.fs, f"{self.root}/{name}")
        if file.header != {"source": source}:
            file.close()
            raise StoreDamaged(f"{file.path} is of {file.header}, not of {source}: delete it and run the step again")
        return file


def _entry(shard: SealedFile) -> dict[str, Any]:
    every = xxhash.xxh3_64_hexdigest(json.dumps(shard.digests, sort_keys=True).encode())
    return {"documents": shard.rows, "keys": shard.digests["key"], "columns": every}
