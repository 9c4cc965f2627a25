"""Can this experiment decide? What each metric of each task says of the recipes, from rows of results alone.

    rows ──► readings: task x metric x model (noise, signal, verdict) ──► transfers: a smaller model to the largest

A *recipe* is a sampler at a rate. The paired interval of two recipes is about these questions and other seeds.
`evaluate_suite.noise` and `evaluate_suite.agreement` have the statistics; docs/decide.md explains every number.

    for reading in decisions(read_results("results.jsonl")).readings: print(reading.task, reading.verdict)
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluate_suite.agreement import SizeAgreement, decision_accuracy, size_agreement
from evaluate_suite.extrapolation import extrapolate
from evaluate_suite.model_sizes import family
from evaluate_suite.model_sizes import sizes as model_sizes
from evaluate_suite.noise import (
    LEVEL,
    Noise,
    above_chance,
    compare_pairs,
    expected_accuracy,
    holm,
    least_p,
    paired_noise,
    permutation_p,
    reliability,
    snr,
    snr_of_equals,
)
from evaluate_suite.recipe_scores import RANK_BY, Recipe, RecipeScores, chance_of, recipe_scores
from evaluate_suite.results import ResultRow
from pipeline_steps.errors import InvalidCut


SIGNAL, WEAK, NONE, UNKNOWN = "signal", "weak", "no signal", "cannot tell"
WEAK_BELOW = 0.5  # reliability: half of what recipes differ by is noise


@dataclass(frozen=True, eq=False)
class TaskReading:
    """The evidence of one metric of one task about the recipes that models of one size were trained on.

    Attributes:
        task: its name, or a suite's for the mean over its tasks.
        metric: the metric's name.
        model: the models' size.
        ranks: whether this is the metric that ranks the task's recipes, by the order stated beforehand.
        recipes: sampler and rate, sorted.
        mean_R: float64 [R], mean over seeds as `oriented` turns it.
        runs_R: int64 [R], seeds of each.
        noise: of one run.
        snr: range of the means over the noise.
        snr_of_equals: what recipes that do not differ show on average.
        reliability: share of the variance between means that is not noise.
        right: share of pairs that these means are expected to rank as endless seeds would.
        chance: score of guessing; None if there is none.
        above_chance: recipes that are better than guessing.
        p: of recipes that do not differ, corrected for the number of tasks; None if no recipe has two seeds.
        better_RR: int64 [R, R]: 1 where the row's recipe is better than the column's, -1 worse, 0 undecided.
        verdict: "signal", "weak", "no signal" or "cannot tell".
        why: the reason for the verdict.
        left_out: runs that do not count; see `RecipeScores`.
    """

    task: str
    metric: str
    model: str
    ranks: bool
    recipes: tuple[Recipe, ...]
    mean_R: np.ndarray
    runs_R: np.ndarray
    noise: Noise
    snr: float
    snr_of_equals: float
    reliability: float
    right: float
    chance: float | None
    above_chance: int | None
    p: float | None
    better_RR: np.ndarray
    verdict: str
    why: str
    left_out: int

    @property
    def pairs(self) -> int:
        """The number of pairs of recipes."""
        return len(self.recipes) * (len(self.recipes) - 1) // 2

    @property
    def undecided(self) -> int:
        """The number of pairs whose 95 % interval holds 0."""
        return self.pairs - int(np.count_nonzero(np.tril(self.better_RR, k=-1)))


@dataclass(frozen=True)
class Transfer:
    """The agreement of a smaller model's metric with the largest model's order of recipes.

    Attributes:
        task: its name.
        metric: the smaller model's metric.
        target: the larger model's metric.
        smaller: the smaller model.
        larger: the larger model.
        agreement: of both orders.
        extrapolated: decision accuracy of a power law through the smaller model and those below it; None if it was
            not asked for or cannot be fitted.
    """

    task: str
    metric: str
    target: str
    smaller: str
    larger: str
    agreement: SizeAgreement
    extrapolated: float | None


@dataclass(frozen=True, eq=False)
class Decisions:
    """The decisions that an experiment allows.

    Attributes:
        readings: by task, metric and model, sizes ascending.
        transfers: by task, metric and smaller model.
        models: from small to large, those of unknown size last.
        unordered: models whose size is not known: they are not compared with others.
    """

    readings: tuple[TaskReading, ...]
    transfers: tuple[Transfer, ...]
    models: tuple[str, ...]
    unordered: tuple[str, ...]


def decisions(
    rows: Iterable[ResultRow],
    sizes: Mapping[str, float] | None = None,
    checkpoints: int = 1,
    rank_by: Sequence[str] = RANK_BY,
    target: str | None = None,
    extrapolated: bool = False,
    seed: int = 0,
) -> Decisions:
    """Work out what results can decide; the order of rows does not matter.

    Args:
        rows: of runs of two recipes or more; several seeds and sizes say more. Rows of costs may be among them.
        sizes: parameters by model, where neither rows of costs nor the presets tell them.
        checkpoints: last checkpoints of each run that are averaged; 1 after a decay of the learning rate.
        rank_by: metrics in the order in which one is taken to rank a task's recipes.
        target: metric of the largest model that smaller ones are to predict; the same metric if not given.
        extrapolated: fit a power law through the smaller models too.
        seed: of permutations and resamples.

    Raises:
        StoreMismatch: one number was measured twice with different outcomes.
        InvalidCut: the results have no such target.
    """
    rows = list(rows)
    cells, known = recipe_scores(rows, checkpoints), model_sizes(rows) | dict(sizes or {})
    if cells and target is not None and target not in (metrics := sorted({metric for _, metric, _ in cells})):
        raise InvalidCut(f"no recipes are compared in {target!r}: give one of {', '.join(metrics)}")
    models = sorted({model for _, _, model in cells}, key=lambda model: (known.get(model, math.inf), model))
    there = defaultdict[tuple[str, str], list[str]](list)  # T5s and decoders do not have the same metrics
    for task, metric, model in cells:
        there[task, family(model)].append(metric)
    p = _corrected(cells, seed)
    readings = {
        (task, metric, model): _read(
            cells[task, metric, model], task, metric, model, metric == _first(rank_by, there[task, family(model)]), p
        )
        for task, metric, model in sorted(cells, key=lambda key: (key[0], key[1], models.index(key[2])))
    }
    unordered = tuple(model for model in models if model not in known)
    transfers = _transfers(readings, known, target, extrapolated, seed)
    return Decisions(tuple(readings.values()), tuple(transfers), tuple(models), unordered)


def records(found: Decisions) -> dict[str, list[dict[str, Any]]]:
    """Return readings and transfers as JSON can hold them; what is not known is None."""
    readings = [
        {
            "task": one.task,
            "metric": one.metric,
            "model": one.model,
            "ranks": one.ranks,
            "recipes": len(one.recipes),
            "seeds": int(one.runs_R.max()),
            "noise": _known(one.noise.sd),
            "noise_source": one.noise.source,
            "snr": _known(one.snr),
            "snr_of_equals": one.snr_of_equals,
            "reliability": _known(one.reliability),
            "pairs_ranked_right": _known(one.right),
            "chance": one.chance,
            "above_chance": one.above_chance,
            "p": one.p,
            "pairs": one.pairs,
            "undecided": one.undecided,
            "verdict": one.verdict,
            "why": one.why,
            "left_out": one.left_out,
            "means": [
                {"sampler": sampler, "rate": rate, "oriented": float(mean), "seeds": int(runs)}
                for (sampler, rate), mean, runs in zip(one.recipes, one.mean_R, one.runs_R, strict=True)
            ],
        }
        for one in found.readings
    ]
    transfers = [{**vars(one), "agreement": vars(one.agreement)} for one in found.transfers]
    return {"readings": readings, "transfers": transfers}


def _read(
    cell: RecipeScores, task: str, metric: str, model: str, ranks: bool, p: Mapping[Any, tuple[float, int]]
) -> TaskReading:
    """Judge one cell; `p` has the corrected p-value and the number of tests of each cell that has one."""
    mean_R, runs_R = np.nanmean(cell.value_RK, axis=1), np.isfinite(cell.value_RK).sum(axis=1)
    chance = chance_of(task, metric)
    above = None if chance is None else above_chance(mean_R, runs_R, cell.stderr_R, cell.noise, chance)
    share = reliability(mean_R, runs_R, cell.noise)
    corrected, tests = p.get((task, metric, model), (None, 0))
    if above == 0:
        verdict, why = NONE, f"no recipe is better than guessing, {chance:g}"
    elif corrected is None:
        verdict, why = UNKNOWN, "one seed"
    elif not cell.noise.decides and np.ptp(mean_R):
        verdict, why = UNKNOWN, "seeds make no difference: runs are copies, or scores too coarse"
    elif corrected <= LEVEL:
        verdict, why = (WEAK, "over half of the variance is noise") if share < WEAK_BELOW else (SIGNAL, "")
    elif tests * least_p(runs_R) > LEVEL:
        verdict, why = UNKNOWN, f"too few runs for a test{f' of {tests} tasks' if tests > 1 else ''}"
    else:
        verdict, why = NONE, f"seeds alone make such differences, p = {corrected:.2g}"
    return TaskReading(
        task=task,
        metric=metric,
        model=model,
        ranks=ranks,
        recipes=cell.recipes,
        mean_R=mean_R,
        runs_R=runs_R,
        noise=cell.noise,
        snr=snr(mean_R, cell.noise),
        snr_of_equals=snr_of_equals(runs_R),
        reliability=share,
        right=expected_accuracy(share) if math.isfinite(share) else math.nan,
        chance=chance,
        above_chance=above,
        p=corrected,
        better_RR=compare_pairs(
            mean_R, runs_R, paired_noise(cell.value_RK) if cell.noise.source == "seeds" else cell.noise
        ),
        verdict=verdict,
        why=why,
        left_out=cell.left_out,
    )


def _corrected(
    cells: Mapping[tuple[str, str, str], RecipeScores], seed: int
) -> dict[tuple[str, str, str], tuple[float, int]]:
    """Return p of equal recipes and the number of tests it is corrected for: a metric's, over all tasks of a model."""
    plain: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for (task, metric, model), cell in cells.items():
        there_RK = np.isfinite(cell.value_RK)
        if cell.noise.source == "seeds":
            plain[metric, model][task] = permutation_p(cell.value_RK[there_RK], np.nonzero(there_RK)[0], seed)
    return {
        (task, metric, model): (float(p), len(found))
        for (metric, model), found in plain.items()
        for task, p in zip(found, holm(np.array(list(found.values()))), strict=True)
    }


def _transfers(
    readings: Mapping[tuple[str, str, str], TaskReading],
    sizes: Mapping[str, float],
    target: str | None,
    extrapolated: bool,
    seed: int,
) -> list[Transfer]:
    found = []
    for task, metric, model in readings:
        wanted = target or metric
        kin = [one for one in sizes if family(one) == family(model)]
        larger = [one for one in kin if (task, wanted, one) in readings and sizes[one] > sizes.get(model, math.inf)]
        if not larger:
            continue
        small, large = readings[task, metric, model], readings[task, wanted, max(larger, key=lambda one: sizes[one])]
        shared = sorted(set(small.recipes) & set(large.recipes))
        if len(shared) < 2:
            continue
        at_small, at_large = ([one.recipes.index(recipe) for recipe in shared] for one in (small, large))
        cluster_R = np.unique([sampler for sampler, _ in shared], return_inverse=True)[1]
        decided_RR = large.better_RR[np.ix_(at_large, at_large)] != 0
        agreement = size_agreement(small.mean_R[at_small], large.mean_R[at_large], cluster_R, decided_RR, seed)
        law = None
        if extrapolated and wanted == metric:
            below = [
                readings[task, metric, m] for m in kin if sizes[m] <= sizes[model] and (task, metric, m) in readings
            ]
            law = _law(below, large, shared, sizes)
        found.append(Transfer(task, metric, wanted, model, large.model, agreement, law))
    return found


def _law(
    smaller: Sequence[TaskReading], large: TaskReading, shared: Sequence[Recipe], sizes: Mapping[str, float]
) -> float | None:
    """Return the decision accuracy of a power law through the smaller models; None where there is no law to fit."""
    used = [one for one in smaller if set(shared) <= set(one.recipes)]
    loss_SR = -np.array([[one.mean_R[one.recipes.index(recipe)] for recipe in shared] for one in used])
    size_S = np.array([sizes[one.model] for one in used])
    try:
        predicted_R = extrapolate(size_S, loss_SR, sizes[large.model])
    except InvalidCut:
        return None
    return decision_accuracy(-predicted_R, large.mean_R[[large.recipes.index(recipe) for recipe in shared]])


def _first(wanted: Sequence[str], there: Sequence[str]) -> str:
    """Return the first metric that is wanted, or else the first there is by name."""
    return next((metric for metric in wanted if metric in there), min(there))


def _known(number: float) -> float | None:
    return number if math.isfinite(number) else None
