"""Materialised selections must be what datatrove reads, and selections must cost next to nothing beside them."""

import numpy as np
import pytest
from datatrove.utils.dataset import DatatroveFileDataset

from pipeline_steps.errors import StoreMismatch
from pipeline_steps.stores.selection import Selection
from train.token_store import materialise


def selection(store, keep):
    return Selection(np.arange(store.documents) % 3 == keep, store.corpus_digest, {"mode": "test"})


def test_datatrove_reads_it(store, tmp_path):
    chosen = selection(store, 1)
    documents, tokens = materialise(store, chosen, tmp_path / "out")
    assert documents == chosen.documents
    everything, lengths = np.empty(store.tokens, dtype=np.int32), np.concatenate(list(store.lengths_by_source()))
    store.copy(0, everything)
    expected = everything[np.repeat(chosen.mask, lengths)]
    assert tokens == expected.size
    read, ends = [], []
    for file in sorted((tmp_path / "out").glob("*.ds")):
        dataset = DatatroveFileDataset(str(file), seq_len=0, token_size=2)  # windows of one token
        read += [int(dataset[i]["input_ids"][0]) for i in range(len(dataset))]
        ends.append(np.fromfile(f"{file}.index", dtype="<u8"))
        assert ends[-1][-1] == len(dataset)
        assert (tmp_path / "out" / f"{file.name}.metadata").read_text().split("\n")[1] == str(len(dataset))
    assert sorted(read) == sorted(expected.tolist())
    assert sum(map(len, ends)) == documents
    found = np.concatenate([np.diff(end, prepend=0) for end in ends])
    assert sorted(found.tolist()) == sorted(lengths[chosen.mask].tolist())


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
    """Documents of 490 tokens, C4's mean (184e9 tokens of 365M documents, with T5's), 22 of them at each rate."""
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
