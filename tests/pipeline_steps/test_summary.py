"""Quantiles of a corpus that is never in memory, against numpy on one that is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_steps.numerics.statistics import summarise


FRACTIONS = (0.0, 0.01, 0.25, 0.5, 0.9, 1.0)


@given(st.lists(st.lists(st.floats(-1e6, 1e6, width=32), max_size=20), min_size=1, max_size=5).filter(any))
def test_quantiles_are_exact(pieces):
    pieces = [np.array(piece, np.float32) for piece in pieces]
    scores = np.concatenate(pieces)
    summary = summarise(lambda: iter(pieces), FRACTIONS)
    expected = np.quantile(scores, FRACTIONS, method="inverted_cdf")
    assert list(summary.quantiles.values()) == expected.tolist()
    assert summary.documents == scores.size
    assert summary.mean == pytest.approx(scores.mean(dtype=float), rel=1e-6, abs=1e-6)
    assert summary.counts.sum() == scores.size


def test_deviation_and_histogram():
    scores = np.random.default_rng(0).normal(3, 2, 10_000).astype(np.float32)
    summary = summarise(lambda: iter([scores]), FRACTIONS, bins=7)
    assert summary.deviation == pytest.approx(scores.std(dtype=float), rel=1e-6)
    np.testing.assert_array_equal(summary.counts, np.histogram(scores, summary.edges)[0])


def test_nothing_has_no_quantiles():
    with pytest.raises(ValueError, match="no scores"):
        summarise(lambda: iter([np.empty(0, np.float32)]), FRACTIONS)
