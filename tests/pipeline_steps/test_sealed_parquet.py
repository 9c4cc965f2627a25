"""A damaged file is noticed, whatever bit is flipped and wherever it ends, or says exactly what was written."""

from contextlib import suppress

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_steps.errors import StoreDamaged
from pipeline_steps.stores.sealed_parquet import SealedFile, encode, vectors


SCHEMA = pa.schema(
    [
        pa.field("key", pa.uint64()),
        pa.field("score", pa.float32()),
        pa.field("embedding", vectors(3)),
        pa.field("label", pa.string()),
    ]
)
COLUMNS = {
    "key": np.arange(40, dtype=np.uint64) * 7,
    "score": np.linspace(-1, 1, 40, dtype=np.float32),
    "embedding": np.arange(120, dtype=np.float16).reshape(40, 3),
    "label": np.array(["en", "de", "", "ä\x00b"] * 10, dtype=object),
}
BLOB = encode(SCHEMA, COLUMNS, {"source": "a"})


def read(blob):
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/sealed.parquet", blob)
    with SealedFile(fs, "/sealed.parquet") as file:
        return file.header, file.read(), list(file.batches(["key", "score"], 7)), file.categories("label")


def is_what_was_written(found):
    header, columns, batches, (values, index) = found
    assert header == {"source": "a"}
    for name, written in COLUMNS.items():
        np.testing.assert_array_equal(columns[name], written)
    np.testing.assert_array_equal(np.concatenate([batch["score"] for batch in batches]), COLUMNS["score"])
    assert [values[i] for i in index] == COLUMNS["label"].tolist()


def test_reads_what_was_written(tmp_path):
    is_what_was_written(read(BLOB))
    (tmp_path / "plain.parquet").write_bytes(BLOB)
    table = pq.read_table(tmp_path / "plain.parquet")
    assert table.column("label").to_pylist() == COLUMNS["label"].tolist()
    plain = np.frombuffer(b"".join(table.column("embedding").to_pylist()), "<f2")
    np.testing.assert_array_equal(plain.reshape(-1, 3), COLUMNS["embedding"])
    with pytest.raises(ValueError, match="vectors are of shape"):
        encode(SCHEMA, COLUMNS | {"embedding": np.zeros((40, 4), np.float16)}, {})


@settings(max_examples=300)
@given(st.integers(0, len(BLOB) - 1), st.integers(0, 7))
def test_a_flipped_bit_is_never_used(place, bit):
    blob = bytearray(BLOB)
    blob[place] ^= 1 << bit
    with suppress(StoreDamaged):
        is_what_was_written(read(bytes(blob)))  # or else a bit that no reader looks at


@given(st.integers(0, len(BLOB) - 1))
def test_a_truncated_file_is_never_used(length):
    with pytest.raises(StoreDamaged, match=r"sealed\.parquet"):
        read(BLOB[:length])


def test_a_missing_file_is_not_a_damaged_one(tmp_path):
    with pytest.raises(FileNotFoundError):
        SealedFile(fsspec.filesystem("file"), str(tmp_path / "none.parquet"))
