"""Scores beside labels: other implementations, planted truths, and intervals that hold what they should."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau, pearsonr, rankdata, spearmanr
from sklearn.metrics import roc_auc_score

from evaluate_suite.bootstrap import resampled_counts, resampled_means
from evaluate_suite.trust.agreement import (
    LabelledDocuments,
    agreements,
    auc,
    like_lengths,
    partial_spearman,
    spearman,
)
from evaluate_suite.trust.documents import saturation
from pipeline_steps.errors import InvalidCut, InvalidScore


def documents(label, length=None, stratum=None, **scores):
    """Labelled documents of arrays."""
    n = len(label)
    names = () if stratum is None else tuple(f"s{number}" for number in range(int(max(stratum)) + 1))
    return LabelledDocuments(
        key_N=np.sort(np.random.default_rng(7).integers(0, 2**63, size=n).astype(np.uint64)),
        label_N=np.asarray(label, dtype=float),
        scores={name: np.asarray(score, dtype=float) for name, score in scores.items()},
        length_N=None if length is None else np.asarray(length, dtype=float),
        unit="tokens",
        stratum_N=None if stratum is None else np.asarray(stratum, dtype=np.intp),
        strata=names,
    )


def web(n=400, quality=0.0, by_length=1.0, graded=False, seed=0):
    """Labels that reward length and quality; a score that follows length, and quality as much as is asked for."""
    rng = np.random.default_rng(seed)
    length, good = rng.normal(size=n), rng.normal(size=n)
    label = length + good + rng.normal(size=n) / 2
    return documents(label if graded else label > 0, length=length, score=by_length * length + quality * good)


drawn = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 1), st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=40
)


@given(drawn)
def test_weighted_auc_is_sklearns_of_repeated_documents(rows):
    score, label, _, weight = np.array(rows).T
    repeated = np.repeat(label, weight)
    found = auc(score, label, np.zeros(len(score), dtype=int), weight[None])[0]
    if label.min() == label.max() or len(set(repeated.tolist())) < 2:
        return
    assert found == pytest.approx(roc_auc_score(repeated, np.repeat(score, weight)))


@given(drawn)
def test_auc_within_groups_counts_pairs_of_one_group_only(rows):
    score, label, group, weight = np.array(rows).T
    top = bottom = 0.0
    for one in range(4):
        good, bad = ((group == one) & (label == value) for value in (label.max(), label.min()))
        if label.max() == label.min():
            return
        pairs = weight[good][:, None] * weight[bad]
        won = (score[good][:, None] > score[bad]) + 0.5 * (score[good][:, None] == score[bad])
        size = weight[group == one].sum() + 1
        top, bottom = top + (pairs * won).sum() / size, bottom + pairs.sum() / size
    found = auc(score, label, group, weight[None])[0]
    assert np.isnan(found) if bottom == 0 else found == pytest.approx(top / bottom)


@given(drawn)
def test_weighted_spearman_is_scipys_of_repeated_documents(rows):
    score, _, label, weight = np.array(rows).T
    one, other = np.repeat(score, weight), np.repeat(label, weight)
    found = spearman(score, label, np.zeros(len(score), dtype=int), weight[None])[0]
    if len(set(one.tolist())) < 2 or len(set(other.tolist())) < 2:
        assert np.isnan(found)
    else:
        assert found == pytest.approx(spearmanr(one, other).statistic)


def test_spearman_within_equal_strata_is_that_of_ranks_within_each():
    rng = np.random.default_rng(0)
    score, label, group = rng.normal(size=90), rng.integers(0, 5, size=90), np.repeat([2, 0, 1], 30)
    ranks = [np.concatenate([rankdata(value[group == one]) for one in (2, 0, 1)]) for value in (score, label)]
    found = spearman(score, label, group, np.ones((1, 90)))[0]
    expected = np.array(
        [[np.corrcoef(rankdata(score[m]), rankdata(label[m]))[0, 1] for m in [group == one]][0] for one in range(3)]
    )
    assert found == pytest.approx(pearsonr(*ranks).statistic)
    assert expected.min() < found < expected.max()


def test_partial_spearman_is_the_correlation_of_residuals_on_group_dummies():
    rng = np.random.default_rng(1)
    score, label, group = rng.normal(size=60), rng.integers(0, 4, size=60), rng.permutation(np.arange(60) // 5)
    dummies = (group[:, None] == np.arange(12)).astype(float)
    residuals = []
    for value in (score, label):
        rank = rankdata(value)
        residuals.append(rank - dummies @ np.linalg.lstsq(dummies, rank, rcond=None)[0])
    found = partial_spearman(score, label, group, np.ones((1, 60)))[0]
    assert found == pytest.approx(pearsonr(*residuals).statistic)


def test_counts_are_the_draws_of_resampled_means():
    value = np.random.default_rng(2).normal(size=50)
    counts = np.concatenate(list(resampled_counts(50, seed=3)))
    assert (counts.sum(axis=1) == 50).all()
    spread = value.mean() + (counts @ value / 50 - value.mean()) * (50 / 49) ** 0.5
    np.testing.assert_allclose(spread, resampled_means(value, seed=3), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("graded", [False, True])
def test_a_score_that_is_only_length_is_no_more_than_chance_at_like_length(graded):
    held, chance = 0, 0.0 if graded else 0.5
    for seed in range(4):
        found = agreements(web(n=200, graded=graded, seed=seed))
        assert found.scores["score"].overall.low > chance
        assert found.scores["score"].above_length.value == pytest.approx(0)
        held += found.scores["score"].length_fixed.low <= chance
    assert held >= 3  # 1 in 40 is above chance by luck


@pytest.mark.parametrize("graded", [False, True])
def test_planted_quality_survives_at_like_length(graded):
    found = agreements(web(quality=1.0, graded=graded))
    one, chance = found.scores["score"], found.chance
    assert one.length_fixed.low > chance
    assert one.above_length.low > 0
    assert found.length.length_fixed.low <= chance
    assert found.longer


def test_length_alone_puts_shorter_documents_first_where_labels_do():
    docs = web(quality=1.0)
    found = agreements(replace(docs, length_N=-docs.length_N))
    assert not found.longer
    assert found.length.overall == agreements(docs).length.overall


def test_a_score_that_knows_only_the_domain_is_no_more_than_chance_within_it():
    rng = np.random.default_rng(3)
    domain = rng.integers(0, 4, size=600)
    label = rng.random(600) < 0.2 + 0.2 * domain
    found = agreements(documents(label, stratum=domain, score=domain + 0.1 * rng.normal(size=600)))
    one = found.scores["score"]
    assert one.overall.low > 0.6
    assert one.within_strata.low < 0.5 < one.within_strata.high
    assert one.between_strata.low > 0
    assert sum(estimate.low < 0.5 < estimate.high for estimate in one.strata.values()) >= 3
    assert found.strata == {f"s{number}": int((domain == number).sum()) for number in range(4)}


def test_a_stratum_of_one_label_has_no_agreement():
    label = [*[0, 1, 0, 1] * 6, 1, 1, *[0] * 20, *[1] * 9]
    score = [*[1, 2, 2, 3] * 6, 1, 2, *range(29)]
    stratum = [*[0] * 24, *[1] * 2, *[2] * 29]
    found = agreements(documents(label, stratum=stratum, score=score))
    assert found.scores["score"].strata["s0"].value == pytest.approx(3.5 / 4)
    assert found.scores["score"].strata["s1"] is None
    assert found.scores["score"].strata["s2"] is None  # nine good ones of 29, which no interval can be made from


def test_pairs_of_scorers():
    rng = np.random.default_rng(4)
    good = rng.normal(size=300)
    docs = documents(
        good > 0, a=good + rng.normal(size=300), b=good + 2 * rng.normal(size=300), c=rng.normal(size=300)
    )
    found = agreements(docs)
    assert [(pair.one, pair.other) for pair in found.pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    for pair in found.pairs:
        one, other = docs.scores[pair.one], docs.scores[pair.other]
        assert pair.spearman.value == pytest.approx(spearmanr(one, other).statistic)
        assert pair.tau == pytest.approx(kendalltau(one, other).statistic)
    a, b = (found.scores[name].overall for name in "ab")
    gap = found.pairs[0].difference
    assert gap.value == pytest.approx(a.value - b.value)
    # Paired: scores that share what is good differ by less than unrelated samples would
    assert gap.stderr < np.hypot(a.stderr, b.stderr)


def coverage(trials, n):
    """How often intervals of AUC and of its difference to length hold the value of the population."""
    big = web(n=100_000, quality=0.7)
    one = np.ones((1, 100_000))
    whole = np.zeros(100_000, dtype=int)
    truth = auc(big.scores["score"], big.label_N, whole, one)[0]
    gap = truth - auc(big.length_N, big.label_N, whole, one)[0]
    alike = auc(big.scores["score"], big.label_N, like_lengths(big.length_N, big.key_N), one)[0]
    held = np.zeros(3)
    for seed in range(trials):
        found = agreements(web(n=n, quality=0.7, seed=1000 + seed)).scores["score"]
        for at, (estimate, value) in enumerate(
            [(found.overall, truth), (found.above_length, gap), (found.length_fixed, alike)]
        ):
            held[at] += estimate.low <= value <= estimate.high
    return held / trials


def test_intervals_hold_the_truth():
    assert (coverage(trials=25, n=100) >= 0.8).all()  # 95 % of 25 falls below 20 once in 30,000 times


@pytest.mark.slow
def test_intervals_hold_the_truth_95_times_in_100():
    found = coverage(trials=400, n=200)
    np.testing.assert_allclose(found, 0.95, atol=4 * (0.95 * 0.05 / 400) ** 0.5)


def test_groups_of_like_length_are_of_neighbours_whatever_the_order_of_documents():
    rng = np.random.default_rng(5)
    length, key = rng.integers(0, 30, size=103), rng.integers(0, 2**63, size=103).astype(np.uint64)
    group = like_lengths(length, key)
    assert np.bincount(group).min() >= 5
    assert np.bincount(group).max() <= 6
    by_group = [length[group == one] for one in range(group.max() + 1)]
    assert all(low.max() <= high.min() for low, high in zip(by_group, by_group[1:], strict=False))
    order = rng.permutation(103)
    np.testing.assert_array_equal(like_lengths(length[order], key[order]), group[order])
    assert like_lengths(length[:9], key[:9]) is None


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(InvalidCut, match="all 3 labels are 1"):
        documents([1, 1, 1], score=[1, 2, 3])
    with pytest.raises(InvalidScore, match="no scores"):
        documents([0, 1, 1])
    with pytest.raises(InvalidCut, match="flat: all 20 labelled documents have the same score 2"):
        agreements(documents([0, 1] * 10, flat=[2] * 20))
    with pytest.raises(InvalidScore, match="cannot be called 'length alone'"):
        agreements(documents([0, 1] * 10, **{"length alone": range(20)}))


@pytest.mark.parametrize("label", [[0, 1, 1], [0] * 91 + [1] * 9, [0] * 91 + [1, 2, 3] * 3])
def test_so_few_labels_that_a_score_agrees_by_luck_are_refused(label):
    with pytest.raises(InvalidCut, match="labelled documents have another label than most, and intervals need 10"):
        agreements(documents(label, score=range(len(label))))


def test_scores_that_know_nothing_seldom_leave_chance_out_with_the_fewest_labels():
    rng, apart = np.random.default_rng(8), 0
    for _ in range(100):
        (one,) = agreements(documents([0] * 90 + [1] * 10, score=rng.normal(size=100))).scores.values()
        apart += not one.overall.low <= 0.5 <= one.overall.high
    assert apart <= 5 + 4 * (100 * 0.05 * 0.95) ** 0.5


def test_without_a_length_nothing_is_said_of_it():
    found = agreements(documents([0, 1, 1, 0] * 5, score=[1, 2, 3, 0] * 5))
    assert (found.length, found.scores["score"].above_length, found.scores["score"].length_fixed) == (None, None, None)
    assert found.labels == {0.0: 10, 1.0: 10}
    found = agreements(documents([0, 1, 1, 0] * 5, length=[7] * 20, score=[1, 2, 3, 0] * 5))
    assert (found.length, found.scores["score"].length_fixed) == (None, None)


def test_saturation_counts_documents_that_cannot_be_told_apart():
    found = saturation(np.array([0, 0, 0, 1, 2, 2, 3, 9], dtype=np.float32))
    assert (found.documents, found.values) == (8, 5)
    assert (found.lowest, found.highest, found.tied) == (3 / 8, 1 / 8, 5 / 8)
