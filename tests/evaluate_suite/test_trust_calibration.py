"""Calibrated scores: monotone, right on labels that they have not seen, honest about strata with few labels."""

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression
from test_trust_agreement import documents

from evaluate_suite.trust.calibration import POOLED, calibrate, held_out, share_below
from pipeline_steps.errors import InvalidCut


def domains(sizes=(900, 900), seed=0):
    """Two domains in which equal scores mean different shares of good documents."""
    rng = np.random.default_rng(seed)
    stratum = np.repeat(np.arange(len(sizes)), sizes)
    score = rng.normal(size=len(stratum)) + 2 * stratum
    chance = 1 / (1 + np.exp(-(score - 3 * stratum)))
    return documents(rng.random(len(stratum)) < chance, stratum=stratum, score=score), chance


def test_a_fit_is_isotonic_regression_and_never_loses_the_order_of_scores():
    docs, _ = domains()
    fits = calibrate(docs, "score")
    mine = docs.stratum_N == 1
    score, label = docs.scores["score"][mine], docs.label_N[mine]
    expected = IsotonicRegression(out_of_bounds="clip").fit(score, label).predict(score)
    np.testing.assert_allclose(fits.of("s1")(score), expected, atol=1e-12)
    found = fits.calibrated(score, "s1", share_below(score, np.sort(score)))
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert (found >= 0).all()
    assert (found <= 1).all()
    assert (np.diff(found.astype(np.float32)[np.argsort(score)]) > 0).all()
    beyond = fits.of("s1")(np.array([-1e9, 1e9]))
    np.testing.assert_allclose(beyond, [expected.min(), expected.max()])


def test_held_out_scores_are_calibrated_and_tell_domains_apart():
    docs, chance = domains((3000, 3000))
    judged = held_out(docs, "score")
    assert judged.bias.low < 0 < judged.bias.high
    assert judged.explained.low > 0
    for documents_, score, label in judged.bins:
        assert abs(score - label) < 4 * (0.25 / documents_) ** 0.5
    for stratum in (0, 1):
        mine = docs.stratum_N == stratum
        assert judged.score_N[mine].mean() == pytest.approx(chance[mine].mean(), abs=0.03)
    np.testing.assert_allclose(judged.score_N, chance, atol=0.35)
    assert np.abs(judged.score_N - chance).mean() < 0.05


def test_labels_of_a_fold_do_not_move_its_own_scores():
    docs, _ = domains((200, 200))
    changed, _ = domains((200, 200))
    before = held_out(docs, "score").score_N
    changed.label_N[5] = 1 - changed.label_N[5]
    after = held_out(changed, "score").score_N
    assert after[5] == before[5]
    assert (after != before).any()


def test_scores_that_know_nothing_explain_nothing():
    rng = np.random.default_rng(1)
    label, score = rng.random(500) < 0.5, rng.normal(size=500)
    judged = held_out(documents(label, score=score), "score")
    assert judged.explained.low < 0
    # The fit to all labels flatters itself; the folds do not
    fits = calibrate(documents(label, score=score), "score")
    flattered = 1 - ((fits.of(POOLED)(score) - label) ** 2).mean() / label.var()
    assert flattered > 0 > judged.explained.value


def test_a_small_stratum_has_the_fit_of_all_labels():
    docs, _ = domains((300, 99))
    fits = calibrate(docs, "score")
    assert set(fits.fits) == {POOLED, "s0"}
    assert fits.too_few == {"s1": 99}
    assert fits.of("s1") is fits.of(POOLED)
    assert fits.of("a stratum without any label") is fits.of(POOLED)
    assert set(calibrate(docs, "score", min_labels=99).fits) == {POOLED, "s0", "s1"}


def test_an_inverted_score_gets_a_level_fit():
    rng = np.random.default_rng(2)
    score = rng.normal(size=300)
    assert calibrate(documents(score < 0, score=score), "score").of(POOLED).is_level


def test_too_few_labels_are_refused():
    docs, _ = domains((40, 40))
    with pytest.raises(InvalidCut, match=r"80 labelled documents are too few to calibrate by \(100 are needed\)"):
        calibrate(docs, "score")
    with pytest.raises(InvalidCut, match="1 labels are no sample"):
        held_out(docs, "score", min_labels=1)
