"""Agreement and averages must be what their definitions count, on small cases by hand and large ones in time."""

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluate_suite.agreement import kendall_tau, kendall_tau_matrix, overlap, rank_change, speed_up
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
