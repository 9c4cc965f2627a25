"""Intervals must hold the truth as often as they say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluate_suite.bootstrap import mean_interval, perplexity_interval, resampled_means


def test_a_95_percent_interval_holds_the_mean_95_times_in_100():
    rng, trials = np.random.default_rng(0), 800
    held = 0
    for trial in range(trials):
        estimate = mean_interval(rng.gamma(2.0, size=60), seed=trial)
        held += estimate.low <= 2.0 <= estimate.high
    # percentile intervals of 60 skewed values are known to fall a little short; 4 standard errors around 0.94
    assert held / trials == pytest.approx(0.94, abs=4 * (0.94 * 0.06 / trials) ** 0.5)


def test_standard_error_is_the_textbooks():
    values = np.random.default_rng(1).normal(size=200)
    assert mean_interval(values).stderr == pytest.approx(values.std(ddof=1) / 200**0.5, rel=0.06)


def test_perplexity_is_exp_of_the_mean():
    nll = np.array([1.0, 2.0, 3.0])
    estimate = perplexity_interval(nll)
    assert estimate.value == pytest.approx(np.exp(2.0))
    assert estimate.low < estimate.value < estimate.high


@given(st.integers(0, 50))
def test_a_seed_draws_the_same_units_whatever_the_values(seed):
    values = np.arange(30.0)
    np.testing.assert_allclose(
        resampled_means(3 * values + 1, seed), 3 * resampled_means(values, seed) + 1, rtol=1e-12
    )
