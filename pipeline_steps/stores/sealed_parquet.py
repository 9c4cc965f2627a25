"""A Parquet file that knows the digest of each of its columns: whole and unchanged, or not used.

Plain Parquet to every other reader. What is verified is the values as they were decoded, column by column, so a
flipped bit is found wherever it sits, and reading one column verifies one column.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from pipeline_steps.errors import StoreDamaged
from pipeline_steps.stores.files import AGAIN
from pipeline_steps.stores.files import digest as digest_of


ID = "id"  # the column of documents' ids
_VECTOR_ROWS = 8192  # in a row group, the least Arrow reads: 13 MB of 768 dimensions
_SEAL, _SEAL_DIGEST = b"winnow.seal", b"winnow.seal.digest"
# What Arrow and Thrift raise over damaged bytes; a missing file or a refused one is not among them
_DAMAGE = (pa.ArrowException, OSError, ValueError, KeyError, IndexError, TypeError, OverflowError)


def encode(schema: pa.Schema, columns: Mapping[str, np.ndarray], header: Any) -> bytes:
    """Return the bytes of a sealed file; `header` is any JSON value, carried in the file's metadata."""
    arrays = [_to_arrow(columns[field.name], field.type) for field in schema]
    digests = {field.name: Digest() for field in schema}
    for field, array in zip(schema, arrays, strict=True):
        digests[field.name].update(array)
    said = {"header": header, "digests": {name: digest.hexdigest() for name, digest in digests.items()}}
    seal = json.dumps(said, sort_keys=True).encode()
    metadata = {_SEAL: seal, _SEAL_DIGEST: digest_of(seal)}
    buffer = io.BytesIO()
    table = pa.Table.from_arrays(arrays, schema=schema.with_metadata(metadata))
    # Keys, scores and vectors hardly compress, and uncompressed pages are read at the speed of memory
    strings = [field.name for field in schema if pa.types.is_string(field.type) and field.name != ID]
    group = _VECTOR_ROWS if any(pa.types.is_fixed_size_binary(field.type) for field in schema) else None
    options: dict[str, Any] = {"use_dictionary": strings or False, "write_statistics": False}
    # Ids are all different, and begin alike: 40 hexadecimal digits take 20 bytes, path/row 0.1
    options["compression"] = {field.name: "zstd" if field.name == ID else "none" for field in schema}
    if ID in schema.names:
        options["column_encoding"] = {ID: "DELTA_BYTE_ARRAY"}
    pq.write_table(table, buffer, row_group_size=group, **options)
    return buffer.getvalue()


class SealedFile:
    """An open sealed file, at a path on an fsspec filesystem.

    `header` is the JSON value it was written with, `digests` are those of its columns.

    Raises:
        FileNotFoundError: there is none.
        StoreDamaged: it is not what was written, now or while it is read; names the file.
    """

    def __init__(self, fs: fsspec.AbstractFileSystem, path: str) -> None:
        self.path = path
        self._file = fs.open(path, "rb")
        with self._intact():
            self._parquet = pq.ParquetFile(self._file)
            metadata = self._parquet.schema_arrow.metadata
            if digest_of(metadata[_SEAL]).encode() != metadata[_SEAL_DIGEST]:
                raise ValueError("its seal is not what was written")
            seal = json.loads(metadata[_SEAL])
            self.header: Any = seal["header"]
            self.digests: dict[str, str] = seal["digests"]
            self.rows: int = self._parquet.metadata.num_rows

    def __enter__(self) -> SealedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self, columns: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Return whole columns as numpy arrays; strings as objects."""
        names = list(self.digests) if columns is None else list(columns)
        with self._intact():
            table = self._parquet.read(columns=names, use_threads=False)
            for name in names:
                digest = Digest()
                for chunk in table.column(name).chunks:
                    digest.update(chunk)
                self._check(name, digest)
            return {name: _to_numpy(table.column(name)) for name in names}

    def categories(self, name: str) -> tuple[list[str], np.ndarray]:
        """Return a column of strings as its different values and, for each row, the index of its own (int32 [N])."""
        with self._intact():
            column = self._parquet.read(columns=[name], use_threads=False).column(name).combine_chunks()
            digest = Digest()
            digest.update(column)
            self._check(name, digest)
            encoded = column.dictionary_encode()
            return encoded.dictionary.to_pylist(), encoded.indices.to_numpy()

    def batches(self, columns: Sequence[str], size: int) -> Iterator[dict[str, np.ndarray]]:
        """Yield columns, at most `size` rows at a time; damage may show only at the end."""
        digests = {name: Digest() for name in columns}
        with self._intact():
            for batch in self._parquet.iter_batches(size, columns=list(columns), use_threads=False):
                for name in columns:
                    digests[name].update(batch.column(name))
                yield {name: _to_numpy(batch.column(name)) for name in columns}
            for name, digest in digests.items():
                self._check(name, digest)

    def _check(self, name: str, digest: Digest) -> None:
        if digest.hexdigest() != self.digests[name]:
            raise ValueError(f"column {name!r} is not what was written")

    @contextmanager
    def _intact(self) -> Iterator[None]:
        try:
            yield
        except _DAMAGE as error:
            is_named = isinstance(error, OSError) and (error.errno or isinstance(error, FileNotFoundError))
            if is_named:  # the disk's or the network's; Arrow's have no number
                raise
            raise StoreDamaged(
                f"{self.path} is damaged or cannot be read ({str(error).splitlines()[0] if str(error) else error!r}): "
                f"{AGAIN}; only this file is made anew"
            ) from error


class Digest:
    """A running xxh3-128 of a column's values, the same however the column is cut into arrays."""

    def __init__(self) -> None:
        self._state = xxhash.xxh3_128()

    def update(self, array: pa.Array) -> None:
        """Add the values of an array; the values of a string column end in a zero byte each."""
        if not len(array):
            return
        if pa.types.is_string(array.type):
            joined = pc.binary_join(pa.ListArray.from_arrays([0, len(array)], array), "\0")
            self._state.update(joined[0].as_buffer())
            self._state.update(b"\0")
        else:
            self._state.update(np.ascontiguousarray(_flat(array)).data)

    def hexdigest(self) -> str:
        """Return 32 hex digits."""
        return self._state.hexdigest()


def vectors(dimension: int) -> pa.DataType:
    """Return the type of a column of float16 vectors: their bytes, little-endian.

    Arrow reads lists of numbers element by element, four to nine times as slowly. `np.frombuffer(b"".join(column),
    "<f2").reshape(-1, dimension)` reads one without this package.
    """
    return pa.binary(2 * dimension)


def _flat(array: pa.Array) -> np.ndarray:
    if not pa.types.is_fixed_size_binary(array.type):
        return array.to_numpy(zero_copy_only=False)
    width = array.type.byte_width // 2
    return np.frombuffer(array.buffers()[1], "<f2")[array.offset * width : (array.offset + len(array)) * width]


def _to_arrow(values: np.ndarray, type: pa.DataType) -> pa.Array:
    if not pa.types.is_fixed_size_binary(type):
        return pa.array(values, type=type)
    if values.shape != (len(values), type.byte_width // 2):
        raise ValueError(f"vectors are of shape {values.shape}, the column of dimension {type.byte_width // 2}")
    data = pa.py_buffer(np.ascontiguousarray(values, dtype="<f2").tobytes())
    return pa.FixedSizeBinaryArray.from_buffers(type, len(values), [None, data])


def _to_numpy(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts = [_flat(chunk) for chunk in chunks]
    of_vectors = pa.types.is_fixed_size_binary(column.type)
    dtype = np.float16 if of_vectors else column.type.to_pandas_dtype()
    flat = parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, dtype), *parts])
    return flat.reshape(-1, column.type.byte_width // 2) if of_vectors else flat
