"""A cut keeps exactly what it says: against a brute-force sort, nested across amounts, in the promised proportions."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_steps.errors import InvalidCut
from pipeline_steps.filters.cuts import Cut
from pipeline_steps.numerics import priority as threshold
from pipeline_steps.numerics.keys import document_key, uniform
from pipeline_steps.numerics.priority import MODES, find_thresholds, keeps, order_code, priority_code, tie_hash


EXACT = [mode for mode in MODES if mode != "poisson"]


@pytest.fixture(autouse=True, params=[3, 1 << 20], ids=["sorts-few", "sorts-many"])
def few(request, monkeypatch):
    """With hardly anything sorted in memory, every digit is counted, down to the last of the tie."""
    monkeypatch.setattr(threshold, "_FEW", request.param)


@st.composite
def corpora(draw, strata=(1,)):
    """Scores with heavy ties, and keys of which some stand for byte-identical documents."""
    n, s = draw(st.integers(1, 60)), draw(st.sampled_from(strata))

    def column(values, dtype):
        return np.array(draw(st.lists(values, min_size=n, max_size=n)), dtype)

    columns = {
        "score": column(st.sampled_from([-2.5, -0.0, 0.0, 0.25, 3.0]) | st.floats(-1e6, 1e6, width=32), np.float32),
        "key": column(st.integers(0, 2**64 - 1) | st.sampled_from([5, 6]), np.uint64),
        "tokens": column(st.integers(1, 300), np.uint32),
    }
    return columns | ({"stratum": column(st.integers(0, s - 1), np.intp)} if s > 1 else {}), s


def reader(columns, size=7):
    """Chunks of a few documents; without those that hold none of the rows asked for."""

    def read(names, rows):
        for start in range(0, len(columns["key"]), size):
            if rows is None or ((rows >= start) & (rows < start + size)).any():
                yield start, {name: columns[name][start : start + size] for name in names}

    return read


def kept(columns, mode, amounts, seed=0, weight=None, size=7):
    found = find_thresholds(reader(columns, size), mode, amounts, seed, weight)
    return keeps(found, priority_code(mode, columns, seed), columns["key"], 0, seed, columns.get("stratum", 0))


def brute_force(columns, mode, amounts, seed, weight):
    """Sort everything by (priority, hash of the key, place in the corpus) and take what fits."""
    code, tie = priority_code(mode, columns, seed).tolist(), tie_hash(columns["key"], seed).tolist()
    left, keep = list(amounts), np.zeros(len(code), dtype=bool)
    stopped = set()
    for i in sorted(range(len(code)), key=lambda i: (-code[i], -tie[i], i)):
        stratum = int(columns["stratum"][i]) if "stratum" in columns else 0
        left[stratum] -= int(columns[weight][i]) if weight else 1
        if left[stratum] < 0:
            stopped.add(stratum)
        keep[i] = stratum not in stopped
    return keep


@given(corpora((1, 3, 20)), st.sampled_from(EXACT), st.integers(0, 2**32), st.data())
def test_exactly_what_a_full_sort_would_keep(corpus, mode, seed, data):
    columns, strata = corpus
    weight = data.draw(st.sampled_from([None, "tokens"]))
    most = int(columns["tokens"].sum()) if weight else len(columns["key"])
    amounts = data.draw(st.lists(st.integers(0, most), min_size=strata, max_size=strata))
    mask = kept(columns, mode, amounts, seed, weight)
    np.testing.assert_array_equal(mask, brute_force(columns, mode, amounts, seed, weight))
    if strata == 1 and weight is None:
        assert mask.sum() == amounts[0]


@given(corpora(), st.sampled_from(MODES), st.integers(0, 99), st.data())
def test_a_smaller_cut_is_inside_a_larger_one(corpus, mode, seed, data):
    columns, _ = corpus
    large = data.draw(st.integers(0, len(columns["key"])))
    small = data.draw(st.integers(0, large))
    assert not (kept(columns, mode, [small], seed) & ~kept(columns, mode, [large], seed)).any()


@given(corpora(), st.sampled_from(EXACT), st.randoms())
def test_order_of_the_corpus_does_not_matter_but_for_identical_documents(corpus, mode, random):
    columns, _ = corpus
    keys = columns["key"]
    columns["score"] = np.array([columns["score"][np.flatnonzero(keys == key)[0]] for key in keys])
    order = np.array(random.sample(range(len(keys)), len(keys)))
    shuffled = {name: values[order] for name, values in columns.items()}
    k = len(keys) // 2
    here, there = keys[kept(columns, mode, [k])], shuffled["key"][kept(shuffled, mode, [k])]
    assert sorted(here) == sorted(there)


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=2, max_size=9))
def test_codes_sort_as_the_numbers_do(values):
    values = np.array(values, np.float32)
    np.testing.assert_array_equal(np.sort(values)[::-1], values[np.argsort(~order_code(values), kind="stable")])
    assert order_code(np.float32([-0.0]))[0] == order_code(np.float32([0.0]))[0]


@pytest.mark.parametrize(("mode", "sign"), [("ips", -1), ("direct", 1)])
def test_inclusion_is_that_of_successive_sampling(mode, sign):
    """Against the exact probabilities: all orders of five documents, drawn in proportion to their weights."""
    scores, k, trials = np.log(np.float32([1, 2, 4, 8, 16])), 2, 2_000
    weight = np.exp(sign * scores.astype(float))
    exact = np.zeros(5)
    for order in permutations(range(5), k):
        left, chance = weight.sum(), 1.0
        for i in order:
            chance *= weight[i] / left
            left -= weight[i]
        exact[list(order)] += chance
    columns = {"score": np.tile(scores, trials), "key": np.arange(5 * trials, dtype=np.uint64)}
    columns["stratum"] = np.repeat(np.arange(trials), 5)  # each trial is one, with keys of its own
    times = kept(columns, mode, [k] * trials, size=5 * trials).reshape(trials, 5).sum(axis=0)
    sigma = np.sqrt(exact * (1 - exact) / trials)
    assert (np.abs(times / trials - exact) < 4 * sigma).all(), (times / trials, exact)


def test_pareto_keeps_as_gpt_3_did():
    """A document of probability p stays with (1 + t - p) ** -9, t set by the amount (GPT-3's is 1)."""
    count, probability = 50_000, np.repeat([0.05, 0.5, 0.95], 50_000)
    columns = {
        "score": np.log(probability / (1 - probability)).astype(np.float32),
        "key": np.random.default_rng(1).integers(0, 2**64, 3 * count, np.uint64),
    }
    chance = (2 - probability) ** -9.0
    k = round(chance.sum())  # so that t is 1
    mask = kept(columns, "pareto", [k], size=10_000)
    for start in range(0, 3 * count, count):
        expected = chance[start]
        sigma = np.sqrt(expected * (1 - expected) / count)
        assert abs(mask[start : start + count].mean() - expected) < 5 * sigma


def test_random_keeps_every_place_of_the_corpus_equally_often():
    columns, k, trials = {"key": np.arange(40, dtype=np.uint64)}, 10, 1_000
    times = sum(kept(columns, "random", [k], seed, size=40).astype(int) for seed in range(trials))
    expected = trials * k / 40
    chi2 = ((times - expected) ** 2).sum() / (expected * (1 - k / 40)) * (39 / 40)
    assert chi2 < 73  # 39 degrees of freedom: one in a thousand


def test_poisson_meets_the_amount_in_expectation_and_each_probability():
    rng = np.random.default_rng(5)
    columns = {"score": rng.normal(0, 2, 300).astype(np.float32), "key": rng.integers(0, 2**64, 300, np.uint64)}
    k, trials = 90, 2_000
    found = find_thresholds(reader(columns), "poisson", [k])  # the same for every seed
    codes = (priority_code("poisson", columns, seed) for seed in range(trials))
    masks = np.array([keeps(found, code, columns["key"], 0, seed) for seed, code in enumerate(codes)])
    inverse = np.exp(-columns["score"].astype(float))
    low, high = 0.0, 1e6  # c by bisection
    for _ in range(200):
        c = (low + high) / 2
        low, high = (c, high) if np.minimum(1, c * inverse).sum() < k else (low, c)
    chance = np.minimum(1, c * inverse)
    assert (chance == 1).any(), "some documents must saturate for this to test anything"
    assert abs(masks.sum(axis=1).mean() - k) < 4 * np.sqrt((chance * (1 - chance)).sum() / trials)
    sigma = np.sqrt(chance * (1 - chance) / trials)
    assert (np.abs(masks.mean(axis=0) - chance) <= 4.5 * sigma + 1e-12).all()


@given(corpora((1, 3)), st.data())
def test_poisson_takes_nothing_and_everything(corpus, data):
    columns, strata = corpus
    weight = data.draw(st.sampled_from([None, "tokens"]))
    assert not kept(columns, "poisson", [0] * strata, 0, weight).any()
    assert kept(columns, "poisson", [int(columns["tokens"].sum())] * strata, 0, weight).all()


def test_poisson_takes_everything_however_far_scores_are_apart():
    columns = {
        "score": np.array([-2.5] * 23 + [524_293.0] * 2, np.float32),
        "key": np.array([0] * 24 + [1081], np.uint64),
        "tokens": np.array([1] * 24 + [81], np.uint32),
    }
    assert kept(columns, "poisson", [105], 0, "tokens").all()


@pytest.mark.parametrize("span", [700.0, 2_000.0, 1e30])
def test_poisson_with_one_document_far_from_the_others(span):
    columns = {"score": np.array([-span] + [0.0] * 100, np.float32), "key": np.arange(101, dtype=np.uint64)}
    assert np.mean([kept(columns, "poisson", [50], seed).sum() for seed in range(50)]) == pytest.approx(50, abs=4)


def test_poisson_ends_where_rounding_lets_documents_go_again():
    scores = np.array([-4.236414909362793] * 29 + [0.0] * 6 + [1e-30] * 28, np.float32)
    columns = {"score": scores, "key": np.arange(63, dtype=np.uint64)}
    assert kept(columns, "poisson", [63]).sum() == 63


def test_samples_of_one_seed_are_independent_of_each_other():
    """A weighted sample of equal weights is a uniform sample, but another one than `random` draws."""
    columns = {"key": np.arange(5000, dtype=np.uint64), "score": np.zeros(5000, np.float32)}
    in_common = kept(columns, "random", [1000]) & kept(columns, "ips", [1000])
    assert in_common.sum() == pytest.approx(200, abs=4.5 * 11.3)  # hypergeometric: sd 11.3


def test_hashes_are_pinned():
    """A changed hash silently changes every published selection."""
    assert document_key("a", "b") == 15393423168975819601
    np.testing.assert_allclose(
        uniform(np.arange(3, dtype=np.uint64), 7), [0.7715465552, 0.5230671807, 0.7390873162], atol=1e-9
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one"),
        ({"k": 1, "rate": 0.1}, "exactly one"),
        ({"rate": 1.1}, "rate=1.1"),
        ({"rate": float("nan")}, "rate=nan"),
        ({"k": -1}, "k=-1"),
        ({"k": 1, "seed": -1}, "seed=-1"),
        ({"k": 1.5}, "k=1.5 is not a whole number"),
        ({"mode": "topk", "k": 1}, "'topk'"),
    ],
)
def test_senseless_cuts_are_refused_by_name(arguments, message):
    with pytest.raises(InvalidCut, match=message):
        Cut(**{"mode": "top", **arguments})


def test_numbers_of_numpy_are_numbers():
    assert Cut("top", k=np.int64(3), seed=np.uint8(1)) == Cut("top", k=3, seed=1)
    assert type(Cut("top", rate=np.float32(0.5)).rate) is float
