"""Calibrated scores: the mean label of documents of such a score, by isotonic regression, for each stratum.

A fit is a staircase that never falls. Documents on one of its steps keep the order of their scores: a thousandth of
the range of the labels is spent on that. No order within a stratum is turned, but scores are stored as float32: of
labels 0 and 1, documents of a step fall into some 16,000 places, and those of one place are tied.
Shapes: N documents with a label, M documents.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from evaluate_suite.bootstrap import Estimate, interval, resampled_counts
from evaluate_suite.trust.agreement import LabelledDocuments
from pipeline_steps.errors import InvalidCut
from pipeline_steps.numerics.keys import mix


Array = np.ndarray
POOLED = None
"""The name of the fit of all documents, in place of a stratum."""
MIN_LABELS = 100  # the mean of so many labels 0 and 1 has a standard error of at most 0.05
FOLDS = 5  # each fit that is judged has seen four fifths of the labels (Hastie et al. 2009, Sec. 7.10)
_ORDER = 1e-3  # share of the labels' range that keeps the order on a step; 2^14 float32 numbers fit into it
_BINS = 10


@dataclass(frozen=True, eq=False)
class Staircase:
    """A function that never falls: straight between knots, level beyond them.

    Attributes:
        score_K: float64 [K], rising.
        label_K: float64 [K], not falling.
        labels: how many labels it was fitted to.
    """

    score_K: Array
    label_K: Array
    labels: int

    def __call__(self, score_M: Array) -> Array:
        """Return the mean label of documents of these scores, float64 [M]."""
        return np.interp(score_M, self.score_K, self.label_K)

    @property
    def is_level(self) -> bool:
        """Return whether it says the same of every score."""
        return bool(self.label_K[0] == self.label_K[-1])


@dataclass(frozen=True)
class Calibration:
    """The fits of all strata.

    Attributes:
        fits: by stratum; under `POOLED` that of all labels, for strata that are not there.
        too_few: labels of each stratum that has too few of them, or none, for a fit of its own.
        low: the lowest label.
        high: the highest label.
    """

    fits: Mapping[str | None, Staircase]
    too_few: Mapping[str, int]
    low: float
    high: float

    def of(self, stratum: str | None) -> Staircase:
        """Return the fit of a stratum."""
        return self.fits.get(stratum, self.fits[POOLED])

    def calibrated(self, score_M: Array, stratum: str | None, below_M: Array) -> Array:
        """Return calibrated scores of documents of one stratum, float64 [M], between the lowest and highest label.

        Args:
            score_M: scores, turned so that higher is better.
            stratum: the stratum of all of them.
            below_M: share of the stratum's documents that score lower, 0 to 1, which keeps the order on a step.
        """
        order_M = self.low + (self.high - self.low) * below_M
        return (1 - _ORDER) * self.of(stratum)(score_M) + _ORDER * order_M


@dataclass(frozen=True, eq=False)
class CrossFitted:
    """The quality of calibrated scores on labels that their fits have not seen.

    Attributes:
        score_N: float64 [N], each document's calibrated score from fits to the other folds.
        bias: mean calibrated score minus mean label.
        explained: share of the squared error of the mean label that calibrated scores save; 0 or less is no use.
        bins: (documents, mean calibrated score, mean label) of tenths of the documents, by calibrated score.
    """

    score_N: Array
    bias: Estimate
    explained: Estimate
    bins: tuple[tuple[int, float, float], ...]


def calibrate(
    docs: LabelledDocuments, name: str, min_labels: int = MIN_LABELS, strata: Iterable[str] = ()
) -> Calibration:
    """Fit labels to scores, for each stratum that has enough labels, and for all documents together.

    Args:
        docs: the documents.
        name: the scorer.
        min_labels: of a stratum that gets a fit of its own.
        strata: those of the corpus; some may be without a label.

    Raises:
        InvalidCut: there are fewer labels in all, or `min_labels` is below 2.
    """
    if min_labels < 2:
        raise InvalidCut(f"{min_labels} labels are no sample: a stratum needs 2 or more")
    if docs.label_N.size < min_labels:
        raise InvalidCut(
            f"{docs.label_N.size:,} labelled documents are too few to calibrate by ({min_labels:,} are needed): label "
            "more documents, or lower --min-labels"
        )
    fits = _fit(docs, name, np.arange(docs.label_N.size), _large(docs, min_labels))
    return replace(fits, too_few=dict.fromkeys(sorted(set(strata) - set(docs.strata)), 0) | dict(fits.too_few))


def held_out(docs: LabelledDocuments, name: str, min_labels: int = MIN_LABELS, seed: int = 0) -> CrossFitted:
    """Judge `calibrate` on documents that its fits have not seen: every fold by fits to the others.

    Folds are drawn from the documents' keys. Raises as `calibrate` does.
    """
    n = docs.label_N.size
    calibrate(docs, name, min_labels)
    rank_N = np.empty(n, dtype=np.int64)
    rank_N[np.argsort(mix(docs.key_N, seed), kind="stable")] = np.arange(n)
    fold_N, large = rank_N % FOLDS, _large(docs, min_labels)
    score_N, mean_N = np.empty(n), np.empty(n)
    for fold in range(FOLDS):
        fit = _fit(docs, name, np.flatnonzero(fold_N != fold), large)
        mine = fold_N == fold
        mean_N[mine] = docs.label_N[~mine].mean()
        for stratum, at in _by_stratum(docs):
            below_M = share_below(docs.scores[name][at], np.sort(docs.scores[name][at]))
            score_N[at[mine[at]]] = fit.calibrated(docs.scores[name][at], stratum, below_M)[mine[at]]
    error_N, usual_N = (score_N - docs.label_N) ** 2, (mean_N - docs.label_N) ** 2
    biases, shares = [], []
    for count_BN in resampled_counts(n, seed):
        biases.append(count_BN @ (score_N - docs.label_N) / n)
        shares.append(1 - (count_BN @ error_N) / (count_BN @ usual_N))
    explained = interval(1 - error_N.sum() / usual_N.sum(), np.concatenate(shares))
    bias = interval(float((score_N - docs.label_N).mean()), np.concatenate(biases))
    return CrossFitted(score_N, bias, explained, _bins(score_N, docs.label_N))


def share_below(score_M: Array, sorted_N: Array) -> Array:
    """Return the share of sorted scores that are lower, from 0 (the lowest) to 1 (the highest), float64 [M]."""
    below: Array = np.searchsorted(sorted_N, score_M, side="left") / max(sorted_N.size - 1, 1)
    return below


def _fit(docs: LabelledDocuments, name: str, chosen_n: Array, large: Mapping[str, bool]) -> Calibration:
    """Fit the labels of some documents."""
    score_N, label_N = docs.scores[name], docs.label_N
    fits: dict[str | None, Staircase] = {POOLED: _staircase(score_N[chosen_n], label_N[chosen_n])}
    too_few = {}
    for stratum, at in _by_stratum(docs):
        if stratum is None:
            continue
        if large[stratum] and (some := np.intersect1d(at, chosen_n)).size:
            fits[stratum] = _staircase(score_N[some], label_N[some])
        else:
            too_few[stratum] = int(at.size)
    return Calibration(fits, too_few, float(label_N.min()), float(label_N.max()))


def _staircase(score_n: Array, label_n: Array) -> Staircase:
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(increasing=True, out_of_bounds="clip").fit(score_n, label_n)
    return Staircase(fitted.X_thresholds_.astype(np.float64), fitted.y_thresholds_.astype(np.float64), score_n.size)


def _large(docs: LabelledDocuments, min_labels: int) -> dict[str, bool]:
    """Return whether each stratum has labels enough for a fit of its own."""
    return {stratum: at.size >= min_labels for stratum, at in _by_stratum(docs) if stratum is not None}


def _by_stratum(docs: LabelledDocuments) -> list[tuple[str | None, Array]]:
    """Return the documents of each stratum; without strata, all of them under None."""
    if docs.stratum_N is None:
        return [(None, np.arange(docs.label_N.size))]
    return [(stratum, np.flatnonzero(docs.stratum_N == at)) for at, stratum in enumerate(docs.strata)]


def _bins(score_N: Array, label_N: Array) -> tuple[tuple[int, float, float], ...]:
    parts = np.array_split(np.argsort(score_N, kind="stable"), _BINS)
    return tuple((at.size, float(score_N[at].mean()), float(label_N[at].mean())) for at in parts if at.size)
