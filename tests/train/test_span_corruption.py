"""Span corruption must be T5's: its lengths, its law, its sentinels, and nothing but (seed, index) may matter."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pipeline_steps.errors import InvalidCut
from train.objectives import SpanCorruption, _compositions


T5 = SpanCorruption(512, first_sentinel=32_099)
PINNED = ([[2, 27], [13, 16]], [[1, 4], [3, 2]])


def spelled_out(raw, kept, dropped, first_sentinel):
    """Inputs and targets of one window, token by token, as the paper's Figure 2 draws them."""
    inputs, targets, place = [], [], 0
    for span, (keep, drop) in enumerate(zip(kept, dropped, strict=True)):
        inputs += [*raw[place : place + keep], first_sentinel - span]
        targets += [first_sentinel - span, *raw[place + keep : place + keep + drop]]
        place += keep + drop
    return [*inputs, 1], [*targets, 1]


def restored(inputs, targets, lowest_sentinel):
    """The raw tokens, from inputs and targets alone."""
    spans, raw = {}, []
    for token in targets[:-1]:
        if token >= lowest_sentinel:
            spans[token] = current = []
        else:
            current.append(token)
    for token in inputs[:-1]:
        raw += spans.pop(token) if token >= lowest_sentinel else [token]
    assert not spans
    return raw


def test_t5_lengths():
    assert (T5.raw_length, T5.noise_tokens, T5.spans, T5.target_length) == (568, 85, 28, 114)  # t5 operative_config


@pytest.mark.parametrize("input_length", [4, 5, 17, 64, 128, 256, 511, 513, 1024, 1790])
def test_inputs_are_always_filled(input_length):
    corruption = SpanCorruption(input_length, first_sentinel=32_099)
    raw = np.arange(2 * corruption.raw_length, dtype=np.int32).reshape(2, -1) + 2
    inputs, targets = corruption.rows(raw, np.array([3, 9]), 0)
    assert inputs.shape == (2, input_length)
    assert targets.shape == (2, corruption.target_length)
    for row in range(2):
        assert restored(inputs[row].tolist(), targets[row].tolist(), 32_000) == raw[row].tolist()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**64 - 1), st.lists(st.integers(0, 2**62), min_size=1, max_size=5), st.integers(4, 600))
def test_equals_the_spelled_out_row(seed, samples, input_length):
    corruption = SpanCorruption(input_length, first_sentinel=32_099)
    raw = np.random.default_rng(0).integers(2, 32_000, (len(samples), corruption.raw_length), dtype=np.int32)
    sample = np.array(samples)
    kept, dropped = corruption.span_lengths(sample, seed)
    assert (kept > 0).all()
    assert (dropped > 0).all()
    assert (dropped.sum(axis=1) == corruption.noise_tokens).all()
    assert (kept.sum(axis=1) == corruption.raw_length - corruption.noise_tokens).all()
    inputs, targets = corruption.rows(raw, sample, seed)
    assert inputs.dtype == targets.dtype == np.int32
    for row in range(len(samples)):
        expected = spelled_out(raw[row].tolist(), kept[row], dropped[row], 32_099)
        assert (inputs[row].tolist(), targets[row].tolist()) == expected


def test_ten_thousand_windows_are_restored():
    raw = np.random.default_rng(1).integers(2, 32_000, (10_000, 568), dtype=np.int32)
    inputs, targets = T5.rows(raw, np.arange(10_000), 5)
    is_text = inputs < 32_000
    dropped = targets < 32_000
    is_text[:, -1] = dropped[:, -1] = False  # EOS
    kept_sum = np.where(is_text, inputs, 0).sum(axis=1) + np.where(dropped, targets, 0).sum(axis=1)
    np.testing.assert_array_equal(kept_sum, raw.sum(axis=1))
    for row in range(10_000):
        assert restored(inputs[row].tolist(), targets[row].tolist(), 32_000) == raw[row].tolist()


def test_depends_on_seed_and_index_only():
    raw = np.random.default_rng(2).integers(2, 32_000, (8, 568), dtype=np.int32)
    sample = np.arange(100, 108)
    inputs, targets = T5.rows(raw, sample, 7)
    for part in (slice(0, 3), slice(3, 8)):
        np.testing.assert_array_equal(T5.rows(raw[part], sample[part], 7)[0], inputs[part])
        np.testing.assert_array_equal(T5.rows(raw[part], sample[part], 7)[1], targets[part])
    assert (T5.rows(raw, sample + 1, 7)[0] != inputs).any(axis=1).all()
    assert (T5.rows(raw, sample, 8)[0] != inputs).any(axis=1).all()


def test_compositions_are_uniform():
    """All 35 ways to write 8 as 4 positive parts, equally often: chi-squared, 34 degrees, fails once in 10,000."""
    base = np.random.default_rng(3).integers(0, 2**64, 35_000, dtype=np.uint64)
    _, counts = np.unique(_compositions(base, 0, 8, 4), axis=0, return_counts=True)
    assert len(counts) == 35
    assert ((counts - 1000) ** 2 / 1000).sum() < 73.5


def as_in_t5(total, parts, rng):
    """Another way to the same law, Raffel et al.'s: shuffle cut marks, count what lies between them."""
    marks = np.zeros(total - 1, dtype=int)
    marks[: parts - 1] = 1
    rng.shuffle(marks)
    return np.bincount(np.cumsum([0, *marks]), minlength=parts)


@pytest.mark.parametrize(("which", "total"), [(0, 483), (1, 85)])
@pytest.mark.parametrize("span", [0, 13, 27])
def test_lengths_are_distributed_as_in_t5(which, total, span):
    """One span of each of many windows, by chi-squared: against the law, and against an independent sampler."""
    rng, windows = np.random.default_rng(9), 4000
    ours = T5.span_lengths(np.arange(windows), 5)[which][:, span]
    theirs = np.array([as_in_t5(total, 28, rng)[span] for _ in range(windows)])
    # P(length k): the other 27 spans share total - k tokens
    law = np.array([math.comb(total - k - 1, 26) for k in range(1, total - 26)], dtype=float) / math.comb(
        total - 1, 27
    )
    edges = [0, *(np.searchsorted(np.cumsum(law), [0.2, 0.4, 0.6, 0.8, 0.95]) + 1).tolist(), total]
    expected = np.diff(np.concatenate([[0], np.cumsum(law)])[np.minimum(edges, len(law))]) * windows
    counts = [np.histogram(lengths, [edge + 0.5 for edge in edges])[0] for lengths in (ours, theirs)]
    kept = expected > 5
    for count in counts:
        assert stats.chisquare(count[kept], expected[kept] * count[kept].sum() / expected[kept].sum()).pvalue > 1e-4
    assert stats.chi2_contingency(np.array(counts)[:, kept]).pvalue > 1e-4


def test_span_lengths_follow_t5s_law():
    """Cutting n tokens at K - 1 of n - 1 places: P(length 1) = (K - 1) / (n - 1), uniform over places."""
    kept, dropped = T5.span_lengths(np.arange(20_000), 11)
    for lengths, total in ((kept, 483), (dropped, 85)):
        expected = 27 / (total - 1)
        error = (expected * (1 - expected) / lengths.size) ** 0.5
        assert abs((lengths == 1).mean() - expected) < 4.5 * error  # once in 100,000
    assert abs(np.corrcoef(kept[:, 0], dropped[:, 0])[0, 1]) < 4.5 / 20_000**0.5  # the two are drawn apart


def test_pinned():
    """A changed draw silently changes every published run."""
    kept, dropped = SpanCorruption(32, first_sentinel=99).span_lengths(np.array([0, 1]), 0)
    assert (kept.tolist(), dropped.tolist()) == PINNED


@pytest.mark.parametrize(("input_length", "sentinels"), [(3, 100), (4000, 100), (512, 27)])
def test_impossible_lengths_are_refused(input_length, sentinels):
    with pytest.raises(InvalidCut, match=f"inputs of {input_length} tokens"):
        SpanCorruption(input_length, first_sentinel=32_099, sentinels=sentinels)
