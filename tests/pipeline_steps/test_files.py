"""Whole or absent, created by one, and verified when they are read."""

import errno
import json
import multiprocessing
import os
from contextlib import suppress

import fsspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_steps.errors import StoreDamaged, StoreMismatch
from pipeline_steps.stores.files import (
    create,
    load_tensors,
    read_json,
    save_tensors,
    seal,
    unseal,
    write_atomically,
    write_json,
)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text().filter(lambda key: key != "xxh3"), JSON, max_size=4))
def test_json_comes_back(value):
    assert unseal(seal(value), "x") == value


@given(st.data())
def test_no_flipped_bit_of_a_json_file_goes_unnoticed(data):
    value = {"threshold": {"code": 7, "tie": 2**63}, "cut": "top"}
    blob = bytearray(seal(value))
    bit = data.draw(st.integers(0, 8 * len(blob) - 1))
    blob[bit // 8] ^= 1 << bit % 8
    with suppress(StoreDamaged):
        assert unseal(bytes(blob), "cut.json") == value  # white space, or a letter of an escape


@given(st.dictionaries(st.text(min_size=1), JSON, max_size=3), st.integers(0, 40), st.data())
def test_no_flipped_bit_or_lost_end_of_a_file_of_tensors_goes_unnoticed(header, size, data):
    fs = fsspec.filesystem("memory")
    digest = save_tensors("memory://t", {"a": np.arange(size, dtype=np.int16), "b": np.ones((2, 3))}, header)
    tensors, found, same = load_tensors("memory://t")
    assert tensors["a"].tolist() == list(range(size))
    assert (found, same) == (json.loads(json.dumps(header)), digest)
    blob = bytearray(fs.cat_file("/t"))
    bit = data.draw(st.integers(0, 8 * len(blob) - 1))
    blob[bit // 8] ^= 1 << bit % 8
    fs.pipe_file("/t", bytes(blob))
    with pytest.raises(StoreDamaged, match="memory://t is damaged"):
        load_tensors("memory://t")
    blob[bit // 8] ^= 1 << bit % 8
    fs.pipe_file("/t", bytes(blob[: data.draw(st.integers(0, len(blob) - 1))]))
    with pytest.raises(StoreDamaged, match="memory://t is damaged"):
        load_tensors("memory://t")


def _race(path, number, start, won):
    start.wait()
    if create(path, b"x" * 100_000 + bytes([number])):
        won.put(number)


@pytest.mark.parametrize("trial", range(10))
def test_one_of_many_creates_a_local_file_and_nobody_sees_half(tmp_path, trial):
    context = multiprocessing.get_context("fork")
    start, won, path = context.Event(), context.Queue(), str(tmp_path / "file")
    racers = [context.Process(target=_race, args=(path, number, start, won)) for number in range(4)]
    for racer in racers:
        racer.start()
    start.set()
    while not os.path.exists(path):
        pass
    seen = open(path, "rb").read()  # noqa: SIM115
    for racer in racers:
        racer.join()
    winner = won.get(timeout=10)
    assert won.empty()
    assert seen == open(path, "rb").read() == b"x" * 100_000 + bytes([winner])  # noqa: SIM115
    assert os.listdir(tmp_path) == ["file"]


def test_one_creates_an_object_of_s3(s3):
    s3.mkdir("create")
    assert create("s3://create/folder/one", b"first")
    assert not create("s3://create/folder/one", b"second")
    assert s3.cat_file("create/folder/one") == b"first"


def test_without_exclusive_creation_writers_name_themselves_first():
    path = "memory://claims/artefact.json"
    fs = fsspec.filesystem("memory")
    fs.makedirs("/claims/artefact.json.claims")
    fs.pipe_file("/claims/artefact.json.claims/somebody", b"")  # who was killed, or is at work
    with pytest.raises(StoreMismatch, match="another writer is creating .*artefact.json.claims"):
        create(path, b"first")
    fs.rm("/claims/artefact.json.claims", recursive=True)
    assert create(path, b"first")
    assert create(path, b"first") is False
    assert create(path, b"second") is False
    assert fs.cat_file("/claims/artefact.json") == b"first"
    assert fs.ls("/claims", detail=False) == ["/claims/artefact.json"]
    fs.rm_file("/claims/artefact.json")  # as an error may advise
    assert create(path, b"second")


def test_a_disk_without_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert create(str(tmp_path / "x"), b"first")
    assert not create(str(tmp_path / "x"), b"second")
    assert (tmp_path / "x").read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["x"]


def test_a_conflict_of_conditional_puts_is_tried_again(s3, monkeypatch):
    """AWS answers 409 to who comes while another's put is under way."""
    s3.mkdir("conflict")
    calls, put = [], type(s3).pipe_file

    def conflict(self, *arguments, **options):
        calls.append(arguments)
        if len(calls) < 3:
            raise OSError(errno.EIO, "An error occurred (ConditionalRequestConflict) when calling PutObject")
        return put(self, *arguments, **options)

    monkeypatch.setattr(type(s3), "pipe_file", conflict)
    assert create("s3://conflict/x", b"first")
    assert not create("s3://conflict/x", b"second")


def test_keys_of_numbers_come_back_as_json_has_them(tmp_path):
    write_json(str(tmp_path / "x.json"), {"rows": {2: "b", 10: "a"}})
    assert read_json(str(tmp_path / "x.json")) == {"rows": {"2": "b", "10": "a"}}


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    write_json(str(tmp_path / "x.json"), {"a": 1})
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        write_atomically(str(tmp_path / "x.json"), b"new")
    monkeypatch.undo()
    assert read_json(str(tmp_path / "x.json")) == {"a": 1}
    assert os.listdir(tmp_path) == ["x.json"]


@pytest.mark.parametrize("text", ["", "[]", "null", '{"a": 1}', '{"a": 1, "xxh3": 5}', "{" * 100_000, "\x00"])
def test_what_is_not_sealed_json_is_named(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(StoreDamaged, match=r"x\.json is damaged"):
        read_json(str(tmp_path / "x.json"))
