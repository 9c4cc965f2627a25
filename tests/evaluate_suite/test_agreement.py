"""Agreement and averages must be what their definitions count, on small cases by hand and large ones in time."""

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau

from evaluate_suite.agreement import (
    decision_accuracy,
    kendall_tau,
    kendall_tau_matrix,
    overlap,
    rank_change,
    size_agreement,
    speed_up,
)
from evaluate_suite.averages import suite_scores
from evaluate_suite.registry import by_suite, registry
from evaluate_suite.results import ResultRow
from pipeline_steps.errors import InvalidCut, StoreIncomplete


def tau_by_pairs(a, b):
    """Kendall's tau-b, pair by pair."""
    pairs = list(itertools.combinations(range(len(a)), 2))
    signs = [(np.sign(a[i] - a[j]), np.sign(b[i] - b[j])) for i, j in pairs]
    agree = sum(x * y for x, y in signs)
    return agree / np.sqrt(sum(x != 0 for x, _ in signs) * sum(y != 0 for _, y in signs))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=25))
def test_tau_pair_by_pair(pairs):
    a, b = np.array(pairs).T
    if len(set(a.tolist())) == 1 or len(set(b.tolist())) == 1:
        with pytest.raises(InvalidCut, match="no order to compare"):
            kendall_tau(a, b)
        return
    assert kendall_tau(a, b) == pytest.approx(tau_by_pairs(a, b))


def test_tau_of_half_a_million_documents():
    rng = np.random.default_rng(0)
    base = rng.normal(size=500_000)
    scores = {name: base + noise * rng.normal(size=base.size) for name, noise in (("a", 0), ("b", 1), ("c", 3))}
    start = time.perf_counter()
    tau = kendall_tau_matrix(scores)
    assert time.perf_counter() - start < 60
    np.testing.assert_array_equal(tau, tau.T)
    # of normal scores: tau = 2 / pi arcsin(correlation)
    assert tau[0, 1] == pytest.approx(2 / np.pi * np.arcsin(1 / np.sqrt(2)), abs=0.005)
    assert tau[0, 2] == pytest.approx(2 / np.pi * np.arcsin(1 / np.sqrt(10)), abs=0.005)
    with pytest.raises(InvalidCut, match="same documents"):
        kendall_tau(base, base[1:])


def test_overlap():
    small, large = np.arange(100) < 10, np.arange(100) % 2 == 0
    assert overlap(small, large) == overlap(large, small) == 0.5
    assert overlap(small, small) == 1
    with pytest.raises(InvalidCut, match="different corpora"):
        overlap(small, large[1:])
    with pytest.raises(InvalidCut, match="empty"):
        overlap(small, np.zeros(100, dtype=bool))


def test_rank_change():
    small = {"xl": [3.0, 1.0], "small": [2.0, 2.0], "random": [1.0, 3.0]}
    large = {"xl": [9.0, 9.0], "small": [5.0, 5.0], "random": [1.0, 5.0]}
    # ranks of small models: 2, 2, 2; of large ones: 3, 1.75 (a tie), 1.25
    assert rank_change(small, large) == pytest.approx({"xl": 1.0, "small": -0.25, "random": -0.75})
    with pytest.raises(InvalidCut, match="same scorers and tasks"):
        rank_change(small, {"xl": [1.0, 2.0]})


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=3, max_size=12))
def test_decision_accuracy_pair_by_pair(pairs):
    small_R, large_R = np.array(pairs, dtype=float).T
    both = list(itertools.combinations(range(len(pairs)), 2))
    by_hand = [
        0.5
        if small_R[i] == small_R[j] or large_R[i] == large_R[j]
        else (small_R[i] > small_R[j]) == (large_R[i] > large_R[j])
        for i, j in both
    ]
    assert decision_accuracy(small_R, large_R) == pytest.approx(np.mean(by_hand))
    assert decision_accuracy(small_R, large_R) == decision_accuracy(large_R, small_R)
    if len(set(small_R)) == len(set(large_R)) == len(pairs):
        assert kendalltau(small_R, large_R).statistic == pytest.approx(2 * decision_accuracy(small_R, large_R) - 1)


def test_sizes_that_agree_oppose_and_say_nothing():
    large_R, every_RR = np.arange(10.0), ~np.eye(10, dtype=bool)
    cluster_R = np.arange(10)
    same = size_agreement(large_R * 3, large_R, cluster_R, every_RR)
    assert (same.accuracy, same.interval, same.tau_interval, same.p) == (1, (1, 1), (1, 1), None)
    assert same.tau == pytest.approx(1)
    opposed = size_agreement(-large_R, large_R, cluster_R, every_RR)
    assert (opposed.accuracy, opposed.interval, opposed.decided_accuracy) == (0, (0, 0), 0)
    assert opposed.tau == pytest.approx(-1)
    constant = size_agreement(np.full(10, 0.3), large_R, cluster_R, every_RR)
    assert (constant.accuracy, constant.interval, constant.tau, constant.tau_interval) == (0.5, (0.5, 0.5), None, None)
    undecided = size_agreement(large_R, large_R, cluster_R, np.zeros((10, 10), dtype=bool))
    assert (undecided.decided, undecided.decided_accuracy) == (0, None)
    decided_RR = np.abs(large_R[:, None] - large_R) > 1  # neighbours are not
    swapped_R = large_R[[1, 0, 3, 2, 5, 4, 7, 6, 9, 8]]
    found = size_agreement(swapped_R, large_R, cluster_R, decided_RR)
    assert (found.decided, found.decided_accuracy) == (36, 1)
    assert found.accuracy == pytest.approx(40 / 45)
    assert found.tau == pytest.approx(kendalltau(swapped_R, large_R).statistic)
    with pytest.raises(InvalidCut, match="the same ones"):
        decision_accuracy(large_R, large_R[1:])


def test_few_recipes_have_a_p_instead_of_an_interval():
    large_R, every_RR = np.arange(5.0), ~np.eye(5, dtype=bool)
    same = size_agreement(large_R, large_R, np.arange(5), every_RR)
    assert (same.interval, same.tau_interval) == (None, None)
    assert same.p == pytest.approx(1 / 120, abs=0.006)
    rng = np.random.default_rng(0)
    p = [size_agreement(rng.normal(size=5), large_R, np.arange(5), every_RR).p for _ in range(150)]
    assert np.mean(np.array(p) <= 0.05) <= 0.05 + 3 * (0.05 * 0.95 / 150) ** 0.5
    # two samplers at two rates change places as they are: one of two deals is this one
    assert size_agreement(large_R[:4], large_R[:4], np.array([0, 0, 1, 1]), every_RR[:4, :4]).p > 0.4


def test_rates_of_a_sampler_count_together():
    """12 samplers at 5 rates, of which the sampler decides: 60 recipes say as much as 12."""
    rng, every_RR = np.random.default_rng(0), ~np.eye(60, dtype=bool)
    small_R, large_R = np.repeat(rng.normal(size=(2, 12)), 5, axis=1) + 0.1 * rng.normal(size=(2, 60))
    by_sampler, by_recipe = (
        size_agreement(small_R, large_R, c, every_RR) for c in (np.arange(60) // 5, np.arange(60))
    )
    assert by_sampler.accuracy == by_recipe.accuracy
    assert np.ptp(by_sampler.interval) > 1.5 * np.ptp(by_recipe.interval)
    assert np.ptp(by_sampler.tau_interval) > 1.5 * np.ptp(by_recipe.tau_interval)


def test_the_interval_holds_the_truth():
    """22 recipes, small and large models of correlation 0.9; the truth is that of endless recipes."""
    rng, every_RR = np.random.default_rng(0), ~np.eye(22, dtype=bool)
    truth, covered = 0.5 + np.arcsin(0.9) / np.pi, 0
    for _ in range(60):
        large_R, rest_R = rng.normal(size=(2, 22))
        found = size_agreement(0.9 * large_R + 0.19**0.5 * rest_R, large_R, np.arange(22), every_RR)
        covered += found.interval[0] <= truth <= found.interval[1]
    assert covered >= 53  # of 95 %, fewer once in 170 tries


def test_speed_up():
    steps = [100, 200, 300, 400]
    assert speed_up(steps, [10, 20, 30, 40], 25) == pytest.approx(1 - 250 / 400)
    assert speed_up(steps, [40, 30, 20, 15], 25, lower_is_better=True) == pytest.approx(1 - 250 / 400)
    assert speed_up(steps, [10, 20, 30, 40], 40) == 0
    assert speed_up(steps, [10, 20, 30, 40], 50) is None
    assert speed_up(steps, [10, 20, 30, 40], 5) == 0.75  # at the first look at the latest


def row(task, metric, value):
    return ResultRow(
        "full",
        1.0,
        "t5-small",
        0,
        10,
        1,
        1.0,
        task,
        metric,
        value,
        0.0,
        value,
        value,
        n=1,
        n_shot=0,
        harness_version="x",
    )


def measured(suite, value):
    return [row(task.name, m, value(task, m)) for task in by_suite()[suite] if task.scored for m in task.metrics]


def test_glue_is_the_mean_of_eight_groups():
    values = {"mnli_matched": 80.0, "mnli_mismatched": 84.0, "mrpc": {"f1": 90.0, "accuracy": 86.0}}
    rows = measured(
        "glue", lambda task, metric: values.get(task.name, 50.0) if task.name != "mrpc" else values["mrpc"][metric]
    )
    assert suite_scores(rows) == {"glue": pytest.approx((82 + 88 + 6 * 50) / 8)}


def test_a_part_of_a_suite_is_no_suite():
    rows = measured("mmlu", lambda task, _: 25.0)[:-2]
    with pytest.raises(
        StoreIncomplete, match="MMLU: 55 of 57 tasks were measured; virology, world_religions are missing"
    ):
        suite_scores(rows)
    assert suite_scores(rows, partial=True) == {"mmlu": 25.0}
    assert suite_scores([*rows, row("something else", "accuracy", 1.0)], partial=True) == {"mmlu": 25.0}


def test_all_ten():
    rows = [row(task.name, m, 7.0) for task in registry().values() if task.scored for m in task.metrics]
    assert suite_scores(rows) == dict.fromkeys(by_suite(), 7.0)
