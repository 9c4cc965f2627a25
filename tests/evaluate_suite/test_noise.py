"""Noise, signal and verdicts must find what was planted: recipes that differ by so much, or not at all."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import f_oneway, kstest

from evaluate_suite.agreement import decision_accuracy
from evaluate_suite.noise import (
    Noise,
    above_chance,
    checkpoint_noise,
    compare_pairs,
    difference_interval,
    expected_accuracy,
    holm,
    least_p,
    permutation_p,
    reliability,
    seed_noise,
    snr,
    snr_of_equals,
    spread,
)


def runs(recipes, seeds, between, within=1.0, seed=0, studies=()):
    """Scores [*studies, R, K] of recipes whose true spread and noise are planted, and the truth [*studies, R]."""
    rng = np.random.default_rng(seed)
    true_R = between * rng.standard_normal((*studies, recipes))
    return true_R[..., None] + within * rng.standard_normal((*studies, recipes, seeds)), true_R


def test_variance_components_are_found():
    value_RK, _ = runs(4000, 3, between=2.0)
    counts_R = np.full(4000, 3)
    noise = seed_noise(value_RK)
    assert (noise.freedom, noise.source) == (8000, "seeds")
    assert noise.sd == pytest.approx(1.0, rel=0.05)
    assert spread(value_RK.mean(axis=1), counts_R, noise) == pytest.approx(2.0, rel=0.05)
    assert reliability(value_RK.mean(axis=1), counts_R, noise) == pytest.approx(4 / (4 + 1 / 3), rel=0.02)
    ragged_RK = value_RK.copy()
    ragged_RK[:2000, 0] = np.nan
    ragged_RK[:1000, 1] = np.nan  # one seed says nothing of noise
    assert seed_noise(ragged_RK).freedom == 1000 + 2 * 2000
    assert seed_noise(ragged_RK).sd == pytest.approx(1.0, rel=0.05)


def test_one_seed_has_its_checkpoints_or_nothing():
    rng = np.random.default_rng(0)
    step_S = np.array([100, 200, 300, 400, 500])
    value_RS = np.linspace(0, 9, 3000)[:, None] * step_S + 0.5 * rng.standard_normal((3000, 5))
    assert checkpoint_noise(value_RS, step_S).sd == pytest.approx(0.5, rel=0.05)
    assert checkpoint_noise(value_RS, step_S).source == "checkpoints"
    unknown = checkpoint_noise(value_RS[:, :2], step_S[:2])
    assert (unknown.source, math.isnan(unknown.sd)) == ("", True)
    assert math.isnan(seed_noise(value_RS[:, :1]).sd)
    assert math.isnan(snr(value_RS[:, 0], unknown))
    assert not compare_pairs(value_RS[:9, 0], np.ones(9), unknown).any()


def test_snr_is_that_within_runs():
    """25 recipes of 5 runs: with noise over all runs together, these ratios would be 1.8, 3.1 and 4.0."""
    for between, expected in ((0.0, 1.76), (1.0, 4.4), (20.0, 79.0)):
        value_DRK, _ = runs(25, 5, between, studies=(200,))
        found = [snr(one.mean(axis=1), seed_noise(one)) for one in value_DRK]
        assert np.mean(found) == pytest.approx(expected, rel=0.05)
    assert snr_of_equals(np.full(25, 5)) == pytest.approx(1.76, abs=0.01)
    assert snr_of_equals(np.full(2, 1)) == pytest.approx(2 / math.sqrt(math.pi), abs=1e-4)


@pytest.mark.parametrize(("seeds", "within", "right"), [(1, 0.5, 0.85), (1, 2, 0.64), (3, 1, 0.83), (5, 0.25, 0.96)])
def test_expected_accuracy_is_that_of_planted_recipes(seeds, within, right):
    value_DRK, true_DR = runs(22, seeds, 1.0, within, studies=(300,))
    mean_DR = value_DRK.mean(axis=2)
    agreed = np.mean([decision_accuracy(m, t) for m, t in zip(mean_DR, true_DR, strict=True)])
    assert agreed == pytest.approx(right, abs=0.01)
    assert expected_accuracy(1 / (1 + within**2 / seeds)) == pytest.approx(agreed, abs=0.008)


def test_p_is_uniform_where_recipes_are_equal_and_finds_those_that_are_not():
    recipe_N = np.repeat(np.arange(8), 3)
    equal_DN = runs(8, 3, between=0.0, studies=(200,))[0].reshape(200, -1)
    p_D = np.array([permutation_p(one, recipe_N, draws=499) for one in equal_DN])
    assert kstest(p_D, "uniform").pvalue > 0.01
    assert (p_D <= 0.05).mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)
    assert (holm(p_D) > 0.05).all()
    theory_D = np.array([f_oneway(*one.reshape(8, 3)).pvalue for one in equal_DN])
    assert np.abs(p_D - theory_D).max() < 0.12  # normal noise: F's own p, up to 499 draws
    clear_N = runs(8, 3, between=5.0)[0].ravel()
    assert permutation_p(clear_N, recipe_N) == 1e-4
    assert permutation_p(np.full(24, 0.1), recipe_N) == 1.0
    order_N = np.random.default_rng(1).permutation(24)
    assert permutation_p(clear_N[order_N], recipe_N[order_N]) == 1e-4


def test_few_runs_cannot_reach_the_level():
    assert least_p(np.array([3, 3])) == pytest.approx(0.1)  # 20 deals, two of them this one
    assert least_p(np.array([2, 1])) == pytest.approx(1 / 3)
    assert least_p(np.full(3, 3)) == pytest.approx(1 / 280)
    assert permutation_p(np.array([0, 0.1, 0.2, 9, 9.1, 9.2]), np.array([0, 0, 0, 1, 1, 1])) == pytest.approx(
        0.1, abs=0.01
    )


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_by_hand(p):
    p_T = np.array(p)
    ranked = sorted(p)
    by_hand = [max(min(1, (len(p) - i) * ranked[i]) for i in range(ranked.index(one) + 1)) for one in p]
    assert holm(p_T) == pytest.approx(by_hand)


def test_pairs_hold_the_truth_and_ties_are_undecided():
    """A 95 % interval of 45 x 200 dependent pairs misses between 3 and 7 in 100."""
    value_DRK, true_DR = runs(10, 3, 1.0, studies=(200,))
    counts_R, covered = np.full(10, 3), []
    for value_RK, true_R in zip(value_DRK, true_DR, strict=True):
        gap_RR = value_RK.mean(axis=1)[:, None] - value_RK.mean(axis=1)
        low_RR, high_RR = difference_interval(gap_RR, seed_noise(value_RK), counts_R[:, None], counts_R)
        truth_RR = true_R[:, None] - true_R
        covered.append(((low_RR <= truth_RR) & (truth_RR <= high_RR))[np.tri(10, k=-1, dtype=bool)].mean())
    assert 0.93 < np.mean(covered) < 0.97
    noise = Noise(1.0, 20, "seeds")
    verdict_RR = compare_pairs(np.array([0.0, 0.0, 9.0]), np.full(3, 3), noise)
    assert verdict_RR.tolist() == [[0, 0, -1], [0, 0, -1], [1, 1, 0]]
    assert not compare_pairs(np.full(4, 0.3), np.full(4, 3), Noise(0.0, 8, "seeds")).any()
    wide = difference_interval(np.array(1.0), noise, np.array(3), np.array(3), stderr=2.0)
    narrow = difference_interval(np.array(1.0), noise, np.array(3), np.array(3))
    assert wide[0] < narrow[0]
    assert wide[1] > narrow[1]


def test_above_chance_counts_questions_and_seeds():
    mean_R, counts_R, stderr_R = np.array([25.0, 26.0, 29.5]), np.full(3, 4), np.full(3, 1.0)
    assert above_chance(mean_R, counts_R, stderr_R, Noise(0.0, 9, "seeds"), 25.0) == 1
    assert above_chance(mean_R, counts_R, stderr_R, Noise(4.5, 9, "seeds"), 25.0) == 0
    assert above_chance(mean_R, counts_R, np.full(3, math.nan), Noise(math.nan, 0, ""), 25.0) == 2


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 99), st.floats(0.1, 10), st.floats(-50, 50))
def test_units_and_order_do_not_matter(seed, scale, offset):
    value_RK, _ = runs(6, 3, 0.7, seed=seed)
    order_R = np.random.default_rng(seed).permutation(6)
    counts_R = np.full(6, 3)
    changed_RK = scale * value_RK[order_R] + offset
    one, other = seed_noise(value_RK), seed_noise(changed_RK)
    assert snr(changed_RK.mean(axis=1), other) == pytest.approx(snr(value_RK.mean(axis=1), one))
    assert reliability(changed_RK.mean(axis=1), counts_R, other) == pytest.approx(
        reliability(value_RK.mean(axis=1), counts_R, one), abs=1e-9
    )
    pairs_RR = compare_pairs(value_RK.mean(axis=1), counts_R, one)
    assert (compare_pairs(changed_RK.mean(axis=1), counts_R, other) == pairs_RR[np.ix_(order_R, order_R)]).all()
