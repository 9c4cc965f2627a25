"""Bars go forward only, whatever a store's files are doing meanwhile."""

import numpy as np
import pyarrow as pa
import pytest

from launch.progress import StoreRows
from pipeline_steps.stores.artefact import part_name
from pipeline_steps.stores.source_store import SourceStore


SCHEMA = pa.schema([("key", pa.uint64()), ("score", pa.float32())])


def columns(rows):
    return {"key": np.arange(rows, dtype=np.uint64), "score": np.zeros(rows, dtype=np.float32)}


@pytest.fixture
def store(tmp_path):
    store = SourceStore(str(tmp_path / "store"), SCHEMA)
    store.begin("scores", {}, None)
    for source in ("a", "b"):
        for window in range(2):
            store.commit_window(source, window, columns(10))
    return store


def test_rows_in_windows_and_in_parts(store, tmp_path):
    done = StoreRows(tmp_path / "store", 50)
    assert done() == 40 / 50
    store.seal("a", columns(25))
    assert not (tmp_path / "store" / "windows" / part_name("a")).exists()
    assert done() == 45 / 50
    store.seal("b", columns(25))
    assert done() == StoreRows(tmp_path / "store", 50)() == 1.0


def test_windows_that_are_still_there_are_not_counted_twice(store, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "drop_windows", lambda source: None)
    store.seal("a", columns(20))
    assert StoreRows(tmp_path / "store", 40)() == 1.0


def test_windows_sealed_while_they_are_read_are_not_missed(store, tmp_path):
    done = StoreRows(tmp_path / "store", 40)
    assert done() == 1.0
    store.drop_windows("a")  # as between the listings: neither window nor part is seen
    assert done() == 1.0


def test_a_damaged_part_is_no_error_of_the_bar(store, tmp_path):
    store.seal("a", columns(20))
    (part,) = (tmp_path / "store" / "parts").iterdir()
    part.write_bytes(part.read_bytes()[:-9])
    assert StoreRows(tmp_path / "store", 40)() == 20 / 40
