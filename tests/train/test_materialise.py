"""Materialised selections must be what other trainers read, and selections must cost next to nothing beside them."""

import json
import multiprocessing
import os
import signal
from copy import copy
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from datatrove.pipeline.tokens.megatron_tokenizer import MegatronTokenizedFile
from datatrove.utils.dataset import DatatroveFileDataset

from pipeline_steps.errors import InvalidCut, StoreMismatch
from pipeline_steps.stores.selection import Selection
from train import exports
from train.exports import Block, chosen_documents, materialise


def selection(store, keep):
    return Selection(np.arange(store.documents) % 3 == keep, store.corpus_digest, {"mode": "test"})


def documents_of(store, chosen, append_eos):
    """The chosen documents in corpus order, read the way a training run reads them."""
    ids, lengths = np.empty(store.tokens, dtype=np.int32), np.concatenate(list(store.lengths_by_source()))
    store.copy(0, ids)
    every = np.split(ids, np.cumsum(lengths)[:-1])
    return [[*one.tolist(), *([store.eos] * append_eos)] for one, kept in zip(every, chosen.mask, strict=True) if kept]


@pytest.mark.parametrize("append_eos", [False, True])
def test_datatrove_reads_ds(store, tmp_path, append_eos):
    chosen = selection(store, 1)
    expected = documents_of(store, chosen, append_eos)
    counted = materialise(store, chosen, tmp_path / "out", append_eos=append_eos)
    assert counted == (len(expected), sum(map(len, expected)))
    found = []
    for name, _, _ in store.by_source():
        file = tmp_path / "out" / f"{name}.ds"
        if not file.exists():  # none of its documents is chosen
            continue
        dataset = DatatroveFileDataset(str(file), seq_len=0, token_size=2)  # windows of one token
        ids = [int(dataset[i]["input_ids"][0]) for i in range(len(dataset))]
        ends = np.fromfile(f"{file}.index", dtype="<u8").tolist()
        assert ends[-1] == len(ids)
        assert Path(f"{file}.metadata").read_text().split("\n")[:2] == [f"{store.tokenizer_name}|2", str(len(ids))]
        found += [ids[begin:end] for begin, end in pairwise([0, *ends])]
    assert found == expected


def with_ids(store, vocab_size):
    """The same store, as if its tokenizer had so many ids."""
    other = copy(store)
    other.vocab_size = vocab_size
    return other


@pytest.mark.parametrize(("vocab_size", "token_size"), [(65_499, 2), (65_500, 4)])
def test_megatron_files_are_those_of_datatrove_and_megatron_reads_them(store, tmp_path, vocab_size, token_size):
    chosen = selection(store, 2)
    expected = documents_of(store, chosen, append_eos=True)
    assert materialise(with_ids(store, vocab_size), chosen, tmp_path / "out", "megatron")[0] == len(expected)
    peer = MegatronTokenizedFile(str(tmp_path / "peer"), "text_document", token_size=token_size)
    for one in expected:
        peer.write(one)
    peer.close()
    for name in ("text_document.bin", "text_document.idx"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "peer" / name).read_bytes()
    indexed = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    dataset = indexed.IndexedDataset(str(tmp_path / "out" / "text_document"))
    assert [dataset[i].tolist() for i in range(len(dataset))] == expected
    assert dataset.document_indices.tolist() == list(range(len(expected) + 1))


def read_mds(folder):
    """Samples of a folder, by the description of the format in MosaicML Streaming's documentation."""
    for shard in json.loads((folder / "index.json").read_text())["shards"]:
        blob = (folder / shard["raw_data"]["basename"]).read_bytes()
        assert len(blob) == shard["raw_data"]["bytes"]
        (count,) = np.frombuffer(blob, "<u4", 1)
        assert count == shard["samples"]
        places = np.frombuffer(blob, "<u4", count + 1, 4).tolist()
        said = json.loads(blob[4 * (count + 2) : places[0]])
        assert said.items() <= shard.items()
        for begin, end in pairwise(places):
            (size,) = np.frombuffer(blob, "<u4", 1, begin)
            assert begin + 4 + size == end
            axes, width = divmod(blob[begin + 4], 4)
            assert axes == 1
            (length,) = np.frombuffer(blob, f"<u{1 << width}", 1, begin + 5)
            values = np.frombuffer(blob[begin + 5 + (1 << width) : end], said["column_encodings"][0].split(":")[1])
            assert len(values) == length
            yield values.tolist()


def test_mds_shards(store, tmp_path, monkeypatch):
    monkeypatch.setattr("train.exports._SHARD", 2000)
    chosen = selection(store, 0)
    expected = documents_of(store, chosen, append_eos=True)
    assert len({len(one) > 255 for one in expected} | {len(one) < 256 for one in expected}) == 2  # widths of lengths
    materialise(store, chosen, tmp_path / "out", "mds")
    files = sorted((tmp_path / "out").glob("shard.*.mds"))
    assert len(files) > 3
    assert all(file.stat().st_size <= 2000 for file in files)
    assert list(read_mds(tmp_path / "out")) == expected
    streaming = pytest.importorskip("streaming", reason="needs older versions of numpy and transformers than we do")
    dataset = streaming.StreamingDataset(local=str(tmp_path / "out"), shuffle=False, batch_size=1)
    assert [one["tokens"].tolist() for one in dataset] == expected


def test_what_a_format_cannot_hold(store, tmp_path, monkeypatch):
    nothing = Selection(np.zeros(store.documents, dtype=bool), store.corpus_digest, {})
    for format in ("ds", "megatron", "mds"):
        with pytest.raises(InvalidCut, match="no documents"):
            materialise(store, nothing, tmp_path / "out", format)
    empty = Block("a", np.empty(0, dtype=np.uint16), np.zeros(1, dtype=np.int64))
    monkeypatch.setattr("train.exports.chosen_documents", lambda *_: iter([empty]))
    with pytest.raises(InvalidCut, match="has no tokens, which MDS cannot hold"):
        materialise(store, None, tmp_path / "out", "mds")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("format", ["ds", "megatron", "mds"])
def test_killed_it_leaves_nothing_and_then_ends_the_same(store, tmp_path, monkeypatch, format):
    monkeypatch.setattr("train.exports._BLOCK", 16)
    monkeypatch.setattr("train.exports._SHARD", 2000)
    materialise(store, None, tmp_path / "whole", format)
    for blocks in (1, 3, 5):
        child = multiprocessing.get_context("fork").Process(target=die_after, args=(blocks, store, tmp_path, format))
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL
        assert not (tmp_path / "out").exists()
    materialise(store, None, tmp_path / "out", format)
    whole, out = ({file.name: file.read_bytes() for file in (tmp_path / one).iterdir()} for one in ("whole", "out"))
    assert whole == out
    assert {file.name for file in tmp_path.iterdir()} == {"whole", "out"}


def die_after(blocks, store, folder, format):
    def dying(*given):
        for number, some in enumerate(chosen_documents(*given)):
            if number == blocks:
                os.kill(os.getpid(), signal.SIGKILL)
            yield some

    exports.chosen_documents = dying
    materialise(store, None, folder / "out", format)


def test_a_document_that_is_selected_several_times_is_written_as_often(store, tmp_path):
    counts, lengths = np.arange(store.documents) % 4, np.concatenate(list(store.lengths_by_source()))
    assert materialise(store, Selection(counts, store.corpus_digest, {}), tmp_path / "out") == (
        counts.sum(),
        (counts * lengths).sum(),
    )
    everything = np.empty(store.tokens, dtype=np.int32)
    store.copy(0, everything)
    read = np.concatenate([np.fromfile(file, dtype=np.uint16) for file in (tmp_path / "out").glob("*.ds")])
    np.testing.assert_array_equal(np.sort(read), np.sort(np.repeat(everything, np.repeat(counts, lengths))))
    name, _, offsets = next(store.by_source())
    layers = [np.diff(offsets)[counts[: len(offsets) - 1] >= layer] for layer in (1, 2, 3)]
    ends = np.fromfile(tmp_path / "out" / f"{name}.ds.index", dtype="<u8")
    np.testing.assert_array_equal(np.diff(ends, prepend=0), np.concatenate(layers))


def test_all_documents_and_nothing_overwritten(store, tmp_path):
    assert materialise(store, None, tmp_path / "out") == (store.documents, store.tokens)
    before = {file: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    with pytest.raises(StoreMismatch, match="exists already"):
        materialise(store, None, tmp_path / "out")
    assert {file: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before
    with pytest.raises(StoreMismatch, match="was made for a corpus"):
        materialise(store, Selection(np.ones(store.documents, dtype=bool), "other", {}), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_hundred_and_ten_selections_cost_a_thousandth_of_their_copies(tmp_path):
    """Block of 490 tokens, C4's mean (184e9 tokens of 365M documents, with T5's), 22 of them at each rate."""
    documents, tokens = 1_000_000, 490
    copies = bitmaps = 0
    rng = np.random.default_rng(0)
    for rate in (0.1, 0.2, 0.4, 0.6, 0.8):
        mask = rng.random(documents) < rate
        file = tmp_path / f"{rate}.safetensors"
        Selection(mask, "digest", {"mode": "random", "rate": rate}).save(str(file))
        bitmaps += 22 * file.stat().st_size
        copies += 22 * int(mask.sum()) * tokens * 2
    assert bitmaps <= 1e-3 * copies
