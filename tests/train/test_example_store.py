"""Examples of any length: every one once an epoch, in an order that depends on nothing but the seed."""

import numpy as np
import pytest
from damage import damages, warnings_of
from hypothesis import given
from hypothesis import strategies as st

from pipeline_steps import EMBEDDED_PROXY
from pipeline_steps.errors import InvalidCut
from train.fine_tune import ExampleStore
from train.tokenizers import EOS, PAD, TextTokenizer


@pytest.fixture(scope="module")
def encoder():
    return TextTokenizer(EMBEDDED_PROXY)


@pytest.fixture(scope="module")
def store(encoder):
    pairs = [("one word more " * number, f"target {number}") for number in range(1, 14)]
    return ExampleStore.make(iter(pairs), encoder, (20, 8), {"suite": "none"})


def test_rows_are_the_tokenizers_cut_at_the_end_and_padded(store, encoder):
    inputs, targets = store.rows(np.array([0, 12, 3]))
    assert inputs.shape[1] % 8 == targets.shape[1] % 8 == 0
    for row, number in zip(inputs, (1, 13, 4), strict=True):
        expected = [*encoder.encode(["one word more " * number])[0][:19].tolist(), EOS]
        assert row.tolist() == expected + [PAD] * (len(row) - len(expected))
    assert store.lengths(np.array([0, 12, 3])) == ((inputs != PAD).sum(), (targets != PAD).sum())


@given(epoch=st.integers(0, 50), seed=st.integers(0, 2**32))
def test_an_epoch_shows_each_example_once(store, epoch, seed):
    shown = store.shown(np.arange(13 * epoch, 13 * (epoch + 1)), seed)
    assert sorted(shown.tolist()) == list(range(13))
    assert store.shown(np.array([13 * epoch + 5]), seed)[0] == shown[5]  # alone or in a batch


def test_orders_differ_by_epoch_and_seed(store):
    orders = {tuple(store.shown(np.arange(13 * e, 13 * e + 13), s)) for e in range(4) for s in range(4)}
    assert len(orders) == 16


def test_saved_and_loaded(store, tmp_path):
    store.save(str(tmp_path / "examples.safetensors"))
    again = ExampleStore.find(str(tmp_path / "examples.safetensors"), store.made)
    assert (again.digest, again.made, len(again)) == (store.digest, {"suite": "none"}, 13)
    np.testing.assert_array_equal(again.rows(np.arange(13))[1], store.rows(np.arange(13))[1])


def test_found_if_intact_and_made_of_the_same(store, tmp_path):
    path = tmp_path / "examples.safetensors"
    assert ExampleStore.find(str(path), store.made) is None
    store.save(str(path))
    assert ExampleStore.find(str(path), store.made).digest == store.digest
    assert ExampleStore.find(str(path), {"suite": "another"}) is None
    found = []
    for _ in damages(path):
        said = warnings_of(lambda: found.append(ExampleStore.find(str(path), store.made)))
        assert f"{path} is damaged" in said
        assert found.pop() is None


def test_no_example_is_an_error(encoder):
    with pytest.raises(InvalidCut, match="not one example"):
        ExampleStore.make([], encoder, (20, 8), {})
