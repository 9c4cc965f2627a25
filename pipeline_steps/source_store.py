"""Columns per document, kept as one sealed Parquet file per source file: the ground under scores and embeddings.

    <path>/config.json                      what made the columns; a store is never mixed
    <path>/windows/<source>/000007.parquet  a committed window of a source that is still being written
    <path>/shards/<source>.parquet          a finished source: rows in document order
    <path>/tasks/<world_size>/<rank>.json   what each task of a finished run covered

A *source* is the file a document was read from (`metadata["file_path"]`), never a rank, so the content does not
depend on the number of tasks. Every file is written whole or not at all; two tasks that write the same source
write the same bytes. A killed task loses at most one window.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from pipeline_steps.errors import StoreIncomplete, StoreMismatch
from pipeline_steps.files import read_json, write_atomically, write_json
from pipeline_steps.numerics.keys import keys_digest


Columns = Mapping[str, np.ndarray]
SOURCE_KEY = b"winnow.source"


def shard_name(source: str) -> str:
    """File name of a source's shard: readable, unique, and free of separators."""
    return f"{source.rstrip('/').rsplit('/', 1)[-1]}-{xxhash.xxh3_64_hexdigest(source.encode())}"


class SourceStore:
    """A folder of sealed shards on any fsspec path.

    Args:
        path: the folder.
        schema: Arrow fields of the columns; the first is `key` (uint64, `document_key`).
    """

    def __init__(self, path: str, schema: pa.Schema | None = None) -> None:
        self.path = path.rstrip("/")
        self.schema = schema
        self.fs, self.root = fsspec.core.url_to_fs(self.path)

    # -- writing ---------------------------------------------------------------------------------------------

    def claim(self, config: dict[str, Any]) -> None:
        """Write `config.json`, or check that what is there says the same.

        Raises:
            StoreMismatch: naming every setting that differs, with both values.
        """
        config = json.loads(json.dumps(config, sort_keys=True))
        if not self.fs.exists(f"{self.root}/config.json"):
            write_json(f"{self.path}/config.json", config)
            return
        found = self.config
        differing = sorted(name for name in config.keys() | found.keys() if config.get(name) != found.get(name))
        if differing:
            said = "; ".join(f"{name}: {found.get(name)!r} there, {config.get(name)!r} now" for name in differing)
            raise StoreMismatch(f"{self.path} was made with other settings ({said}): use another folder for these")

    def commit_window(self, source: str, window: int, columns: Columns) -> None:
        """Publish the `window`-th run of rows of a source."""
        self._write(f"windows/{shard_name(source)}/{window:06d}.parquet", source, columns)

    def read_window(self, source: str, window: int) -> dict[str, np.ndarray] | None:
        """A committed window, or None."""
        name = f"windows/{shard_name(source)}/{window:06d}.parquet"
        return self._read(name) if self.fs.exists(f"{self.root}/{name}") else None

    def seal(self, source: str, columns: Columns) -> None:
        """Publish all rows of a finished source and drop its windows."""
        self._write(f"shards/{shard_name(source)}.parquet", source, columns)
        windows = f"{self.root}/windows/{shard_name(source)}"
        if self.fs.exists(windows):
            self.fs.rm(windows, recursive=True)
        self.__dict__.pop("sources", None)

    def finish_task(self, rank: int, world_size: int, rows: Mapping[str, int]) -> None:
        """Record that a task has read all its input: the rows of each source it covered."""
        write_json(f"{self.path}/tasks/{world_size}/{rank:05d}.json", dict(rows))

    def _write(self, name: str, source: str, columns: Columns) -> None:
        if self.schema is None:
            raise ValueError(f"{self.path} was opened for reading: pass a schema to write")
        arrays = [_to_arrow(columns[field.name], field.type) for field in self.schema]
        table = pa.Table.from_arrays(arrays, schema=self.schema.with_metadata({SOURCE_KEY: source.encode()}))
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        write_atomically(f"{self.path}/{name}", buffer.getvalue())

    # -- reading ---------------------------------------------------------------------------------------------

    @property
    def config(self) -> dict[str, Any]:
        """What made this store. Raises StoreIncomplete if there is none."""
        try:
            return read_json(f"{self.path}/config.json")
        except FileNotFoundError:
            raise StoreIncomplete(f"{self.path} is not a store: it has no config.json; run its step first") from None

    @cached_property
    def sources(self) -> dict[str, str]:
        """Sealed sources, sorted by name, with the file that holds each."""
        found = {}
        for name in self.fs.glob(f"{self.root}/shards/*.parquet"):
            with self.fs.open(name, "rb") as file:
                found[pq.read_schema(file).metadata[SOURCE_KEY].decode()] = name[len(self.root) + 1 :]
        return dict(sorted(found.items()))

    def read(self, source: str) -> dict[str, np.ndarray] | None:
        """All columns of a sealed source in document order, or None if it is not sealed."""
        name = f"shards/{shard_name(source)}.parquet"
        return self._read(name) if self.fs.exists(f"{self.root}/{name}") else None

    def column(self, name: str) -> np.ndarray:
        """One column over the whole corpus: sources sorted by name, rows in document order."""
        parts = [self._read(file, [name])[name] for file in self.sources.values()]
        return np.concatenate(parts) if parts else np.empty(0)

    @cached_property
    def corpus_digest(self) -> str:
        """Digest of all document keys in corpus order."""
        return keys_digest(self.column("key"))

    def check_complete(self) -> None:
        """Raise StoreIncomplete unless some run over all its tasks has finished and no window is left open."""
        sealed = {shard_name(source) for source in self.sources}
        begun = {name.split("/")[-2] for name in self.fs.glob(f"{self.root}/windows/*/*.parquet")}
        if unfinished := sorted(begun - sealed):
            raise StoreIncomplete(
                f"{self.path} is half written ({len(unfinished)} sources, first {unfinished[0]}): "
                "run its step to the end"
            )
        done: dict[str, set[int]] = {}
        for name in self.fs.glob(f"{self.root}/tasks/*/*.json"):
            *_, world_size, rank = name.split("/")
            done.setdefault(world_size, set()).add(int(rank.removesuffix(".json")))
        if not any(ranks == set(range(int(world_size))) for world_size, ranks in done.items()):
            state = "; ".join(f"{len(ranks)} of {size} tasks" for size, ranks in sorted(done.items())) or "no task"
            raise StoreIncomplete(f"{self.path} is incomplete ({state} finished): run its step to the end")

    def _read(self, name: str, columns: list[str] | None = None) -> dict[str, np.ndarray]:
        with self.fs.open(f"{self.root}/{name}", "rb") as file:
            table = pq.read_table(file, columns=columns)
        return {field: _to_numpy(table.column(field)) for field in table.column_names}


def _to_arrow(values: np.ndarray, type: pa.DataType) -> pa.Array:
    if not pa.types.is_fixed_size_list(type):
        return pa.array(values, type=type)
    flat = pa.array(np.ascontiguousarray(values).reshape(-1), type=type.value_type)
    return pa.FixedSizeListArray.from_arrays(flat, type.list_size)


def _to_numpy(column: pa.ChunkedArray) -> np.ndarray:
    if not pa.types.is_fixed_size_list(column.type):
        return column.to_numpy()
    chunks = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    flat = np.concatenate(chunks) if chunks else np.empty(0, column.type.value_type.to_pandas_dtype())
    return flat.reshape(-1, column.type.list_size)
