"""Measure how well scores agree with labels: AUC or Spearman's rank correlation, in groups, with intervals.

A *group* is a stratum, or a run of documents of like length: only documents of one group are compared. All numbers
are of the same documents and the same resamples, so differences have intervals of their own.
Shapes: N documents, B resamples at a time, R resamples, G groups.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from evaluate_suite.agreement import kendall_tau
from evaluate_suite.bootstrap import Estimate, interval, resampled_counts
from pipeline_steps.errors import InvalidCut, InvalidScore
from pipeline_steps.numerics.keys import mix


Array = np.ndarray
Measure = Callable[[Array, Array, Array, Array], Array]
LENGTH = "length alone"
# Documents of a group of like length. The fewer, the less length still says within a group; of 1 + M, comparisons
# keep M / (M + 1) of their precision (Ury 1975, of M controls to a case)
LIKE_LENGTH = 5
# Documents whose label is not the commonest one. Resamples say nothing of how a handful of documents might have been
# others: with 1, 2, 3, 5 and 10 such labels of 200, 89, 50, 24, 9 and 4 in 100 intervals of scores that know nothing
# leave chance out (simulated, 120 studies each)
FEWEST = 10


@dataclass(frozen=True, eq=False)
class LabelledDocuments:
    """Documents that have a label, and a score of every scorer, in the order of their keys.

    Attributes:
        key_N: uint64 [N], rising.
        label_N: float64 [N], higher is better.
        scores: float64 [N] by scorer, turned so that higher is better.
        length_N: float64 [N]; None if nobody knows it.
        unit: of the length.
        stratum_N: intp [N], place in `strata`; None if there are no strata.
        strata: names of the strata.
    """

    key_N: Array
    label_N: Array
    scores: Mapping[str, Array]
    length_N: Array | None = None
    unit: str = ""
    stratum_N: Array | None = None
    strata: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.scores:
            raise InvalidScore("no scores are given: nothing is compared with the labels")
        if np.unique(self.label_N).size < 2:
            said = f"all {self.label_N.size:,} labels are {self.label_N[0]:g}" if self.label_N.size else "no labels"
            raise InvalidCut(f"{said}: scores are compared with labels that differ")

    @property
    def is_binary(self) -> bool:
        """Return whether there are two different labels."""
        return np.unique(self.label_N).size == 2


@dataclass(frozen=True)
class Agreement:
    """The agreement of one score with the labels; None stands for a number that cannot be computed.

    Attributes:
        overall: AUC or Spearman over all documents.
        within_strata: the same, comparing documents of one stratum only.
        length_fixed: the same, comparing documents of like length only.
        above_length: `overall` minus that of length alone.
        between_strata: `overall` minus `within_strata`.
        strata: the same in each stratum; None where fewer than `FEWEST` documents have another label than most.
    """

    overall: Estimate
    within_strata: Estimate | None = None
    length_fixed: Estimate | None = None
    above_length: Estimate | None = None
    between_strata: Estimate | None = None
    strata: Mapping[str, Estimate | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Pair:
    """The agreement of two scores about the order of the labelled documents.

    Attributes:
        one: a scorer.
        other: another scorer.
        spearman: rank correlation.
        tau: Kendall's tau-b; None if all scores of one are the same.
        difference: agreement with the labels of the one, minus that of the other.
    """

    one: str
    other: str
    spearman: Estimate | None
    tau: float | None
    difference: Estimate | None


@dataclass(frozen=True)
class Agreements:
    """The agreement of several scores with the labels, and with each other.

    Attributes:
        measure: "AUC" of two different labels, else "Spearman".
        chance: what a score that knows nothing has.
        documents: N.
        labels: documents of each label, of two; else empty.
        scores: by scorer, in the order given.
        length: length alone, longer or shorter first, whichever agrees better; None if nobody knows the length.
        longer: whether longer is better, by the labels.
        strata: documents of each stratum.
        pairs: of scorers.
    """

    measure: str
    chance: float
    documents: int
    labels: Mapping[float, int]
    scores: Mapping[str, Agreement]
    length: Agreement | None
    longer: bool
    strata: Mapping[str, int]
    pairs: tuple[Pair, ...]


def auc(score_N: Array, label_N: Array, group_N: Array, weight_BN: Array) -> Array:
    """Return float64 [B]: the probability that a document of the higher label has the higher score, ties one half.

    Of several groups, pairs of one group count only. Groups are weighed as in van Elteren's stratified rank test
    (1960): pairs over documents + 1, so that one large group does not decide alone.

    Args:
        score_N: scores.
        label_N: labels of two different values.
        group_N: group of each document, any integers.
        weight_BN: how often each document counts.
    """
    order = np.lexsort((score_N, group_N))
    group, weight = group_N[order], weight_BN[:, order].astype(np.float64)
    positive = label_N[order] == label_N.max()
    above, below = weight * positive, weight * ~positive
    starts = _starts(group)
    won_BG = np.add.reduceat(above * _below(score_N[order], group, below), starts, axis=1)
    above_BG, below_BG = (np.add.reduceat(one, starts, axis=1) for one in (above, below))
    size_BG = above_BG + below_BG + 1
    return _ratio((won_BG / size_BG).sum(axis=1), (above_BG * below_BG / size_BG).sum(axis=1))


def spearman(score_N: Array, label_N: Array, group_N: Array, weight_BN: Array) -> Array:
    """Return float64 [B]: the correlation of ranks, ties at the middle of theirs.

    Of several groups, ranks are those within the group, from -1 to 1 in each: Spearman's correlation given the group
    (Liu, Li, Wanga & Shepherd 2018, of probability-scale residuals). Arguments are those of `auc`.
    """
    ranks = [_ranks(value_N, group_N, weight_BN) for value_N in (score_N, label_N)]
    return _correlation(ranks[0], ranks[1], weight_BN)


def partial_spearman(score_N: Array, label_N: Array, group_N: Array, weight_BN: Array) -> Array:
    """Return float64 [B]: the correlation of ranks among all documents, less their means in each group.

    It is for groups of a few documents, within which ranks are too coarse: the expected rank correlation of n
    documents is not that of many (Kendall, Rank Correlation Methods, 1948). Arguments are those of `auc`.
    """
    whole = np.zeros(group_N.size, dtype=np.intp)
    order = np.argsort(group_N, kind="stable")
    weight = weight_BN[:, order].astype(np.float64)
    starts, run_N = _starts(group_N[order]), np.cumsum(_begins(group_N[order])) - 1
    size_BG = np.maximum(np.add.reduceat(weight, starts, axis=1), 1.0)
    centred = []
    for value_N in (score_N, label_N):
        rank_BN = _ranks(value_N, whole, weight_BN)[:, order]
        mean_BG = np.add.reduceat(weight * rank_BN, starts, axis=1) / size_BG
        centred.append(rank_BN - mean_BG[:, run_N])
    return _correlation(centred[0], centred[1], weight)


def like_lengths(length_N: Array, key_N: Array, size: int = LIKE_LENGTH) -> Array | None:
    """Return a group number for each document, int64 [N], of runs of about `size` documents in the order of length.

    Equal lengths stand in an order drawn from the keys. None if there are too few documents for two groups.

    Groups have a size and not a number: what length still says within one then vanishes faster than the intervals
    do when documents are added, as size / N against 1 / sqrt(N).
    """
    groups = length_N.size // size
    if groups < 2:
        return None
    rank_N = np.empty(length_N.size, dtype=np.int64)
    rank_N[np.lexsort((mix(key_N, 0), length_N))] = np.arange(length_N.size)
    return rank_N * groups // length_N.size


def agreements(docs: LabelledDocuments, seed: int = 0) -> Agreements:
    """Compare scores with labels; the same for the same documents in any order of the label file.

    Args:
        docs: the documents.
        seed: of the resamples.

    Raises:
        InvalidCut: all scores of a scorer are the same, or fewer than `FEWEST` documents have another label than most.
        InvalidScore: a scorer has the name of the length.
    """
    if LENGTH in docs.scores:
        raise InvalidScore(f"a score cannot be called {LENGTH!r}, as the length is: rename its folder")
    if (apart := _apart(docs.label_N)) < FEWEST:
        raise InvalidCut(
            f"{apart:,} of {docs.label_N.size:,} labelled documents have another label than most, and intervals need "
            f"{FEWEST}: label more documents of the rarer labels"
        )
    measure, chance = (auc, 0.5) if docs.is_binary else (spearman, 0.0)
    for name, score_N in docs.scores.items():
        if np.unique(score_N).size < 2:
            raise InvalidCut(f"{name}: all {score_N.size:,} labelled documents have the same score {score_N[0]:g}")
    columns, longer = dict(docs.scores), True
    if docs.length_N is not None and np.unique(docs.length_N).size > 1:
        whole = np.zeros(docs.label_N.size, dtype=np.intp)
        longer = bool(measure(docs.length_N, docs.label_N, whole, np.ones((1, whole.size)))[0] >= chance)
        columns[LENGTH] = docs.length_N if longer else -docs.length_N
    drawn = _resampled(docs, columns, measure, seed)
    found = {name: _agreement(docs, drawn, name, LENGTH in columns) for name in columns}
    values, counts = np.unique(docs.label_N, return_counts=True)
    sizes = [] if docs.stratum_N is None else np.bincount(docs.stratum_N, minlength=len(docs.strata)).tolist()
    return Agreements(
        measure="AUC" if docs.is_binary else "Spearman",
        chance=chance,
        documents=docs.label_N.size,
        labels=dict(zip(values.tolist(), counts.tolist(), strict=True)) if docs.is_binary else {},
        scores={name: found[name] for name in docs.scores},
        length=found.get(LENGTH),
        longer=longer,
        strata=dict(zip(docs.strata, sizes, strict=True)),
        pairs=tuple(_pair(docs, drawn, one, other) for one, other in combinations(docs.scores, 2)),
    )


Name = tuple[str, str]
"""Key of a number: a scorer, and "" for all documents, "strata", "length", "=STRATUM", or "~OTHER" for a scorer."""


def _resampled(
    docs: LabelledDocuments, columns: Mapping[str, Array], measure: Measure, seed: int
) -> dict[Name, Array]:
    """Return float64 [1 + R] of everything that is measured: the value itself, then the resampled ones."""
    n = docs.label_N.size
    whole = np.zeros(n, dtype=np.intp)
    groups = {"": whole}
    if docs.stratum_N is not None:
        groups["strata"] = docs.stratum_N
    if LENGTH in columns and docs.length_N is not None:
        alike = like_lengths(docs.length_N, docs.key_N)
        groups |= {} if alike is None else {"length": alike}
    places = {name: np.flatnonzero(docs.stratum_N == at) for at, name in enumerate(docs.strata)}
    found: dict[Name, list[Array]] = {}

    def add(weight_BN: Array) -> None:
        for name, score_N in columns.items():
            for what, group_N in groups.items():
                by = partial_spearman if what == "length" and measure is spearman else measure
                found.setdefault((name, what), []).append(by(score_N, docs.label_N, group_N, weight_BN))
            for stratum, at in places.items():
                value = _within(measure, score_N[at], docs.label_N[at], weight_BN[:, at])
                found.setdefault((name, f"={stratum}"), []).append(value)
        for one, other in combinations(docs.scores, 2):
            value = spearman(columns[one], columns[other], whole, weight_BN)
            found.setdefault((one, f"~{other}"), []).append(value)

    add(np.ones((1, n)))
    for count_BN in resampled_counts(n, seed):
        add(count_BN)
    return {name: np.concatenate(values) for name, values in found.items()}


def _within(measure: Measure, score_n: Array, label_n: Array, weight_Bn: Array) -> Array:
    """Measure one stratum, in which there may be too few labels to tell."""
    if _apart(label_n) < FEWEST:
        return np.full(len(weight_Bn), np.nan)
    return measure(score_n, label_n, np.zeros(score_n.size, dtype=np.intp), weight_Bn)


def _apart(label_n: Array) -> int:
    """Return how many documents have another label than most."""
    counts = np.unique(label_n, return_counts=True)[1]
    return int(label_n.size - counts.max(initial=0))


def _agreement(docs: LabelledDocuments, drawn: Mapping[Name, Array], name: str, has_length: bool) -> Agreement:
    overall = drawn[name, ""]
    within, alike = drawn.get((name, "strata")), drawn.get((name, "length"))
    estimate = _estimate(overall)
    assert estimate is not None  # labels and scores differ
    return Agreement(
        overall=estimate,
        within_strata=None if within is None else _estimate(within),
        length_fixed=None if alike is None else _estimate(alike),
        above_length=_estimate(overall - drawn[LENGTH, ""]) if has_length and name != LENGTH else None,
        between_strata=None if within is None else _estimate(overall - within),
        strata={stratum: _estimate(drawn[name, f"={stratum}"]) for stratum in docs.strata},
    )


def _pair(docs: LabelledDocuments, drawn: Mapping[Name, Array], one: str, other: str) -> Pair:
    try:
        tau: float | None = kendall_tau(docs.scores[one], docs.scores[other])
    except InvalidCut:
        tau = None
    alike, difference = drawn[one, f"~{other}"], drawn[one, ""] - drawn[other, ""]
    return Pair(one, other, _estimate(alike), tau, _estimate(difference))


def _estimate(drawn: Array) -> Estimate | None:
    """Return a value with the percentile interval of its resamples, those left out that hold one label only."""
    value, resampled = drawn[0], drawn[1:][np.isfinite(drawn[1:])]
    return interval(value, resampled) if np.isfinite(value) and resampled.size else None


def _begins(sorted_N: Array, *more: Array) -> Array:
    """Return bool [N]: whether a run of equal values begins there."""
    begins = np.ones(sorted_N.size, dtype=bool)
    begins[1:] = sorted_N[1:] != sorted_N[:-1]
    for one in more:
        begins[1:] |= one[1:] != one[:-1]
    return begins


def _starts(group_N: Array) -> Array:
    return np.flatnonzero(_begins(group_N))


def _below(value_N: Array, group_N: Array, weight_BN: Array) -> Array:
    """Return float64 [B, N]: the weight in a document's group of lower values, and half of that of equal ones.

    Values must be sorted within groups, and groups together.
    """
    total = np.concatenate([np.zeros((len(weight_BN), 1)), np.cumsum(weight_BN, axis=1)], axis=1)
    begins = _begins(value_N, group_N)
    first, run_N = np.flatnonzero(begins), np.cumsum(begins) - 1
    last = np.append(first[1:], value_N.size)
    start_N = _starts(group_N)[np.cumsum(_begins(group_N)) - 1]
    below: Array = (total[:, first[run_N]] + total[:, last[run_N]]) / 2 - total[:, start_N]
    return below


def _ranks(value_N: Array, group_N: Array, weight_BN: Array) -> Array:
    """Return float64 [B, N]: ranks within groups, from -1 to 1, their mean 0; ties share the middle of theirs."""
    order = np.lexsort((value_N, group_N))
    value, group, weight = value_N[order], group_N[order], weight_BN[:, order].astype(np.float64)
    size_BG = np.add.reduceat(weight, _starts(group), axis=1)
    size_BG[size_BG == 0] = 1.0  # nobody is drawn of such a group, so its ranks count nothing
    ranks = np.empty_like(weight)
    ranks[:, order] = 2 * _below(value, group, weight) / size_BG[:, np.cumsum(_begins(group)) - 1] - 1
    return ranks


def _correlation(one_BN: Array, other_BN: Array, weight_BN: Array) -> Array:
    """Return the correlation of values whose weighted means are 0, float64 [B]."""
    both, one, other = (
        (weight_BN * a * b).sum(axis=1) for a, b in ((one_BN, other_BN), (one_BN, one_BN), (other_BN, other_BN))
    )
    return _ratio(both, np.sqrt(one * other))


def _ratio(top_B: Array, bottom_B: Array) -> Array:
    """Return a ratio, NaN where there is nothing to divide by."""
    return np.divide(top_B, bottom_B, out=np.full(top_B.shape, np.nan), where=bottom_B > 0)
