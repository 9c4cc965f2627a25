"""A cut keeps exactly what it says: against a brute-force sort, nested across rates, in the promised proportions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_steps.cuts import Cut
from pipeline_steps.errors import InvalidCut
from pipeline_steps.numerics.cuts import MODES, documents_within, keep_largest, priority
from pipeline_steps.numerics.keys import document_key, mix, uniform


@st.composite
def scored_documents(draw):
    """Scores with heavy ties, and keys of which some stand for byte-identical documents."""
    n = draw(st.integers(1, 60))
    scores = np.array(draw(st.lists(st.sampled_from([-2.5, 0.0, 0.25, 3.0]), min_size=n, max_size=n)), np.float32)
    keys = np.array(
        draw(st.lists(st.integers(0, 2**64 - 1) | st.sampled_from([5, 6]), min_size=n, max_size=n)), np.uint64
    )
    return scores, keys


def brute_force(priorities, keys, k, seed):
    """Sort everything by (priority, hash of the key, place in the corpus) and take k."""
    hashes = mix(keys, seed ^ 0x71E5)
    order = sorted(range(len(keys)), key=lambda i: (-priorities[i], int(hashes[i]), i))
    return set(order[:k])


@given(scored_documents(), st.sampled_from(MODES), st.integers(0, 2**32), st.data())
def test_exactly_k_as_a_full_sort_would_have_it(documents, mode, seed, data):
    scores, keys = documents
    k = data.draw(st.integers(0, len(keys)))
    priorities = priority(mode, scores, keys, seed)
    kept = set(np.flatnonzero(keep_largest(priorities, keys, k, seed)))
    assert kept == brute_force(priorities, keys, k, seed)


@given(scored_documents(), st.sampled_from(MODES), st.integers(0, 99), st.data())
def test_a_smaller_cut_is_inside_a_larger_one(documents, mode, seed, data):
    scores, keys = documents
    large = data.draw(st.integers(0, len(keys)))
    small = data.draw(st.integers(0, large))
    priorities = priority(mode, scores, keys, seed)
    assert not (keep_largest(priorities, keys, small, seed) & ~keep_largest(priorities, keys, large, seed)).any()


@given(scored_documents(), st.sampled_from(MODES), st.randoms())
def test_order_of_the_corpus_does_not_matter_but_for_identical_documents(documents, mode, random):
    scores, keys = documents
    scores = np.array([scores[np.flatnonzero(keys == key)[0]] for key in keys])  # identical documents score the same
    order = np.array(random.sample(range(len(keys)), len(keys)))
    k = len(keys) // 2
    here = keys[keep_largest(priority(mode, scores, keys), keys, k)]
    there = keys[order][keep_largest(priority(mode, scores[order], keys[order]), keys[order], k)]
    assert sorted(here) == sorted(there)


@given(scored_documents(), st.integers(0, 5000), st.data())
def test_token_budget_is_the_longest_prefix_that_fits(documents, budget, data):
    scores, keys = documents
    tokens = np.array(data.draw(st.lists(st.integers(1, 300), min_size=len(keys), max_size=len(keys))), np.uint32)
    k = documents_within(budget, priority("top", scores, keys), keys, tokens)
    assert tokens[keep_largest(priority("top", scores, keys), keys, k)].sum() <= budget
    if k < len(keys):
        assert tokens[keep_largest(priority("top", scores, keys), keys, k + 1)].sum() > budget


@pytest.mark.parametrize(("mode", "shares"), [("ips", [4, 2, 1]), ("direct", [1, 2, 4])])
def test_first_draw_is_in_proportion_to_the_weight(mode, shares):
    log_density, keys, trials = np.log([1.0, 2.0, 4.0]), np.array([11, 22, 33], np.uint64), 20_000
    first = [priority(mode, log_density, keys, seed).argmax() for seed in range(trials)]
    share = np.bincount(first, minlength=3) / trials
    np.testing.assert_allclose(share, np.array(shares) / 7, atol=4 * 0.5 / trials**0.5)  # 4 standard errors


def test_random_keeps_every_document_equally_often():
    keys, trials = np.arange(40, dtype=np.uint64), 4_000
    times = sum(keep_largest(priority("random", keys, keys, seed), keys, 10).astype(int) for seed in range(trials))
    np.testing.assert_allclose(times / trials, 0.25, atol=4.5 * (0.25 * 0.75 / trials) ** 0.5)  # 4.5 standard errors


def test_samples_of_one_seed_are_independent_of_each_other():
    """A weighted sample of equal weights is a uniform sample, but another one than `random` draws."""
    keys, equal = np.arange(5000, dtype=np.uint64), np.zeros(5000)
    uniform_sample = keep_largest(priority("random", equal, keys), keys, 1000)
    weighted_sample = keep_largest(priority("ips", equal, keys), keys, 1000)
    # hypergeometric: 200 in common, standard deviation 11.3
    assert (uniform_sample & weighted_sample).sum() == pytest.approx(200, abs=4.5 * 11.3)


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
        ({"k": -1}, "k=-1"),
        ({"mode": "topk", "k": 1}, "'topk'"),
    ],
)
def test_senseless_cuts_are_refused_by_name(arguments, message):
    with pytest.raises(InvalidCut, match=message):
        Cut(**{"mode": "top", **arguments})
