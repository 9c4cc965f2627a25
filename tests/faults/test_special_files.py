"""Pipes, devices and sockets are refused before they are opened; so are names that would be read as others."""

import os
import socket
import threading

import pytest

from launch.cli import main
from pipeline_steps.errors import CorpusError
from pipeline_steps.readers.corpus import list_corpus
from pipeline_steps.readers.special_files import refuse_special_files

from .cases import good_lines, write


@pytest.fixture(autouse=True)
def _no_waiting():
    """Opening a pipe waits for ever, so a test that opens one must end all the same."""
    timer = threading.Timer(20, os._exit, (99,))
    timer.start()
    yield
    timer.cancel()


def pipe(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet", "a.warc"])
def test_a_corpus_of_pipes_or_devices(tmp_path, name):
    pipe(tmp_path / "one" / name)
    for path in ("one", f"one/{name}", "one/*"):
        with pytest.raises(CorpusError, match=f"{name} is a pipe"):
            list_corpus(str(tmp_path / path))
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / name).symlink_to("/dev/zero")
    with pytest.raises(CorpusError, match=f"{name} is a device"):
        list_corpus(str(tmp_path / "two"))


def test_links_to_nowhere_and_folders_called_like_files(tmp_path):
    (tmp_path / "a.jsonl").symlink_to("a.jsonl")
    with pytest.raises(CorpusError, match="a link that leads nowhere"):
        list_corpus(str(tmp_path))
    (tmp_path / "a.jsonl").unlink()
    (tmp_path / "a.jsonl").symlink_to(tmp_path)
    with pytest.raises(CorpusError, match="a folder, not a file"):
        list_corpus(str(tmp_path))


def test_a_folder_is_searched_and_ordinary_links_pass(tmp_path):
    write(tmp_path / "store" / "deep" / "x", b"x")
    (tmp_path / "store" / "link").symlink_to(tmp_path / "store" / "deep" / "x")
    (tmp_path / "store" / "loop").symlink_to(tmp_path)
    for path in (str(tmp_path), "google/flan-t5-small", "hf://datasets/a/b", "s3://bucket/key", "memory://x"):
        refuse_special_files(path)
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(str(tmp_path / "store" / "deep" / "s"))
    with pytest.raises(CorpusError, match="is a socket"):
        refuse_special_files(str(tmp_path))


@pytest.mark.parametrize(
    "words",
    [
        ("inspect", "PLACE"),
        ("compare", "PLACE", "PLACE"),
        ("coverage", "PLACE", "--clusters", "x", "--embeddings", "x", "--density", "x"),
        ("select", "--corpus", "x", "--scores", "PLACE", "--k", "1", "--output", "o"),
        ("select", "--corpus", "x", "--sampler", "random", "--labels", "PLACE", "--k", "1", "--output", "o"),
        ("score", "--corpus", "x", "--sampler", "ask-llm", "--proxy", "PLACE", "--output", "o"),
        ("score", "--corpus", "x", "--sampler", "density", "--embedder", "PLACE", "--output", "o"),
        ("tokenize", "--corpus", "x", "--tokenizer", "PLACE", "--output", "o"),
        ("materialise", "--tokens", "PLACE", "--output", "o"),
        ("materialise", "--tokens", "x", "--selection", "PLACE", "--output", "o"),
        ("verify-resume", "--tokens", "PLACE", "--output", "o"),
        ("plan", "PLACE"),
        ("run", "PLACE"),
        ("status", "PLACE"),
        ("report", "PLACE", "--output", "o"),
        ("report", "x", "--output", "o", "--scores", "a=PLACE"),
        ("evaluate", "perplexity", "--runs", "a=PLACE", "--tokens", "t=x", "--output", "o"),
        ("evaluate", "perplexity", "--runs", "a=x", "--tokens", "t=x,PLACE", "--output", "o"),
    ],
)
def test_every_argument_that_is_opened_is_looked_at(tmp_path, capsys, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    for place in (pipe(tmp_path / "alone"), pipe(tmp_path / "folder" / "one").parent):
        assert main([word.replace("PLACE", str(place)) for word in words]) == 2
        said = capsys.readouterr().err
        assert "is a pipe, which cannot be read to an end" in said
        assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("a::b.jsonl", "fsspec reads :: as a chain"),
        (os.fsdecode(b"\xff.jsonl"), r"\\xff.jsonl: the name of this file is not UTF-8"),
        ("a\nb.jsonl", "a line break"),
        ("a\u2028b.jsonl", "a line break"),
        (" a.jsonl", "a space at an end"),
    ],
)
def test_names_that_would_be_read_as_others(tmp_path, name, why):
    write(tmp_path / name, *good_lines(1))
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(CorpusError, match=why):
            list_corpus(str(path))


@pytest.mark.parametrize("name", ["-x.jsonl", "[a].jsonl", "*.jsonl", "é" * 124 + ".jsonl", "%20.jsonl", "a:b.jsonl"])
def test_names_that_are_only_odd(tmp_path, name):
    write(tmp_path / "corpus" / name, *good_lines(1))
    assert list(list_corpus(str(tmp_path / "corpus" / name)).sizes) == [name]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything; faults.malformed gives that right up")
def test_a_folder_that_may_not_be_listed(tmp_path):
    write(tmp_path / "a.jsonl", *good_lines(1))
    write(tmp_path / "deep" / "b.jsonl", *good_lines(1))
    (tmp_path / "deep").chmod(0)
    with pytest.raises(CorpusError, match="Permission denied"):
        list_corpus(str(tmp_path))
