"""Replay must show every window of a selection once per repetition, and depend on (seed, index) alone."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_steps.errors import InvalidCut, StoreMismatch
from pipeline_steps.stores.selection import Selection
from train.replay import Replay, _runs


class Ring:
    """A store whose token ids are their positions, so that a window says where it is from."""

    path = "ring"
    corpus_digest = "digest"

    def __init__(self, lengths):
        self.lengths = np.array(lengths, dtype=np.int64)
        self.documents = len(lengths)

    def lengths_by_source(self):
        return np.array_split(self.lengths, 3)

    def copy(self, position, ids):
        ids[:] = np.arange(position, position + len(ids))


def selection(mask):
    return Selection(np.array(mask), "digest", {"mode": "test"})


PINNED = [40, 75, 96, 17, 54, 89, 12]
corpora = st.lists(st.tuples(st.integers(0, 40), st.booleans()), min_size=1, max_size=40)


@settings(max_examples=100, deadline=None)
@given(corpora, st.integers(1, 12), st.integers(0, 2**64 - 1), st.integers(0, 5))
def test_every_token_of_an_epoch_is_shown_once(corpus, raw_length, seed, epoch):
    lengths, mask = zip(*corpus, strict=True)
    selected = [position for position in _positions(lengths, mask)]
    if len(selected) < raw_length:
        with pytest.raises(InvalidCut, match="less than one window"):
            Replay(Ring(lengths), selection(mask), raw_length, seed)
        return
    replay = Replay(Ring(lengths), selection(mask), raw_length, seed)
    assert replay.windows == len(selected) // raw_length
    shown = replay.batch(epoch * replay.windows + np.arange(replay.windows))
    assert shown.shape == (replay.windows, raw_length)
    counts = Counter(shown.ravel().tolist())
    assert set(counts.values()) == {1}
    assert counts.keys() <= set(selected)
    rank = {position: place for place, position in enumerate(selected)}
    for window in shown.tolist():  # consecutive tokens of the selection, which is a ring
        places = [rank[position] for position in window]
        assert places == [(places[0] + step) % len(selected) for step in range(raw_length)]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 40), st.sampled_from([0, 1, 1, 2, 3, 7])), min_size=1, max_size=30),
    st.integers(1, 12),
    st.integers(0, 99),
    st.integers(0, 5),
)
def test_every_token_of_an_epoch_is_shown_as_often_as_it_is_selected(corpus, raw_length, seed, epoch):
    lengths, counts = zip(*corpus, strict=True)
    ring = [p for layer in range(1, 8) for p in _positions(lengths, [count >= layer for count in counts])]
    if len(ring) < raw_length:
        with pytest.raises(InvalidCut, match="less than one window"):
            Replay(Ring(lengths), selection(counts), raw_length, seed)
        return
    replay = Replay(Ring(lengths), selection(counts), raw_length, seed)
    assert replay.documents == sum(count > 0 for count in counts)
    shown = replay.batch(epoch * replay.windows + np.arange(replay.windows))
    missing = Counter(ring)
    missing.subtract(shown.ravel().tolist())
    assert min(missing.values()) >= 0
    assert missing.total() == replay.tokens % raw_length == len(ring) % raw_length
    start = replay.batch(
        epoch * replay.windows + np.argsort(replay.order(np.arange(replay.windows) + epoch * replay.windows))
    )
    around = "".join(map(chr, [*ring, *ring]))  # the windows in their order are the ring, from some place on
    assert "".join(map(chr, start.ravel().tolist())) in around


def test_a_document_that_is_selected_twice_comes_again_after_all_others():
    once, twice = (Replay(Ring([30] * 40), selection([count] * 40), 7, seed=4) for count in (1, 2))
    assert (twice.tokens, twice.documents) == (2 * once.tokens, 40)
    shown = twice.batch(np.arange(twice.windows))[np.argsort(twice.order(np.arange(twice.windows)))]
    assert all(len(set(window.tolist())) == 7 for window in shown)


def _positions(lengths, mask):
    begin = 0
    for length, kept in zip(lengths, mask, strict=True):
        if kept:
            yield from range(begin, begin + length)
        begin += length


def test_three_and_a_third_epochs_use_each_window_three_or_four_times():
    replay = Replay(Ring([30] * 400), selection(np.arange(400) % 3 == 0), 20, seed=1)
    samples = round(3.37 * replay.windows)
    assert replay.epoch(samples) == pytest.approx(3.37, abs=0.01)
    assert set(Counter(replay.order(np.arange(samples)).tolist()).values()) == {3, 4}


def test_epochs_differ_in_order_and_boundaries():
    replay = Replay(Ring([30] * 400), None, 23, seed=1)
    epochs = [replay.batch(e * replay.windows + np.arange(replay.windows)) for e in range(3)]
    assert len({tuple(epoch[:, 0].tolist()) for epoch in epochs}) == 3
    assert len({int(epoch[0, 0] % 23) for epoch in epochs}) > 1


def test_order_is_not_the_corpus_order():
    """Rank correlation of order and place: no more than chance allows, once in 100,000."""
    replay = Replay(Ring([23] * 5000), None, 23, seed=3)
    window = replay.order(np.arange(5000))
    assert sorted(window.tolist()) == list(range(5000))
    assert abs(np.corrcoef(window, np.arange(5000))[0, 1]) < 4.5 / 5000**0.5
    assert abs(np.corrcoef(window[1:], window[:-1])[0, 1]) < 4.5 / 5000**0.5


@pytest.mark.parametrize("counted", [False, True])
def test_no_batch_and_no_rank_matters(store, counted):
    counts = np.arange(store.documents) % 4
    replay = Replay(store, Selection(counts, store.corpus_digest, {}) if counted else None, 64, seed=5)
    sample = np.arange(replay.windows - 10, replay.windows + 30)  # across the end of an epoch
    whole = replay.batch(sample)
    for parts in (2, 4, 40):
        pieces = [replay.batch(part) for part in np.array_split(sample, parts)]
        np.testing.assert_array_equal(np.concatenate(pieces), whole)
    assert (Replay(store, None, 64, seed=6).batch(sample) != whole).any(axis=1).sum() >= 39


def test_shows_the_selected_documents_of_a_store(store):
    mask = np.arange(store.documents) % 4 == 1
    replay = Replay(store, Selection(mask, store.corpus_digest, {}), 1, seed=0)
    lengths = np.concatenate(list(store.lengths_by_source()))
    ids = np.empty(store.tokens, dtype=np.int32)
    store.copy(0, ids)
    expected = np.sort(ids[np.repeat(mask, lengths)])
    np.testing.assert_array_equal(np.sort(replay.batch(np.arange(replay.windows)).ravel()), expected)
    assert replay.documents == mask.sum()


def test_neighbours_are_one_run():
    lengths, mask = np.array([5, 0, 3, 4, 2]), np.array([True, False, True, False, True])
    for sources in ([lengths], [lengths[:2], lengths[2:]], [lengths[:4], lengths[4:]]):
        starts, shifts, tokens = _runs(sources, mask)
        assert (starts.tolist(), shifts.tolist(), tokens) == ([0, 8], [0, 4], 10)


def test_a_selection_of_another_corpus_is_refused(store):
    with pytest.raises(StoreMismatch, match="another|was made for a corpus"):
        Replay(store, Selection(np.ones(store.documents, dtype=bool), "other", {}), 64, seed=0)


def test_an_empty_selection_is_refused(store):
    with pytest.raises(InvalidCut, match="holds 0 tokens in 0 documents"):
        Replay(store, Selection(np.zeros(store.documents, dtype=bool), store.corpus_digest, {}), 64, seed=0)


def test_pinned():
    """A changed order silently changes every published run."""
    replay = Replay(Ring([100]), None, 7, seed=0)
    assert replay.batch(np.arange(28))[::4, 0].tolist() == PINNED
