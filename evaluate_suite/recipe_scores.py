"""From rows of results to scores of recipes: by task, metric and model, a number per recipe and seed.

A *recipe* is a sampler at a rate. Shapes: R recipes, K seeds (NaN where a recipe lacks one).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby
from typing import Any

import numpy as np

from evaluate_suite.metrics import METRICS
from evaluate_suite.noise import LINE, Noise, checkpoint_noise, seed_noise
from evaluate_suite.noise_levels import find_level, recipe_numbers
from evaluate_suite.registry import all_tasks, asked_for_a_further_suite, by_suite, extra_suites, registry
from evaluate_suite.results import DOMAIN, MACRO, ResultRow
from pipeline_steps.errors import StoreMismatch


Recipe = tuple[str, float]  # sampler, rate
# The first of these that a task has ranks its recipes. Stated beforehand, so that no result chooses it: below 1B,
# continuous metrics keep an order where accuracies are flat (DataDecide, arXiv 2504.11393)
RANK_BY = ("bits_per_byte", "choice_probability", "accuracy_per_character", "accuracy", "perplexity")
# Of rows of tasks that are not registered; metrics of other names count prompts, bytes or steps
_QUALITY = {*METRICS, "perplexity", "centred_accuracy"}
_APART = ("cost", "core_v1")  # tasks of rows without a quality of their own: hours; CORE once more, otherwise centred
_QUALITIES = ("accuracy", "choice_probability", "bits_per_")  # how names of metrics of ranked answers and text begin


@dataclass(frozen=True, eq=False)
class RecipeScores:
    """The scores of one task, metric and model.

    Attributes:
        recipes: sampler and rate, sorted.
        value_RK: float64 [R, K], oriented scores by seed.
        stderr_R: float64 [R], standard error over questions, mean over seeds, 0 where it is not known.
        noise: of one run, within recipes: over seeds or, of one seed, a level that was measured before or checkpoints.
        left_out: runs that do not count: they have not reached the last step, their score is not finite, or it was
            measured on fewer or more units than that of most.
    """

    recipes: tuple[Recipe, ...]
    value_RK: np.ndarray
    stderr_R: np.ndarray
    noise: Noise
    left_out: int


def recipe_scores(rows: Iterable[ResultRow], checkpoints: int = 1) -> dict[tuple[str, str, str], RecipeScores]:
    """Return the scores of all recipes by task, metric and model, where there are two or more.

    Args:
        rows: in any order; those that do not say how good a model is are passed over, but for the costs of runs, by
            which levels of noise are found.
        checkpoints: last checkpoints of each run that are averaged.

    Raises:
        StoreMismatch: one number was measured twice with different outcomes.
    """
    rows = list(rows)
    kept, numbers = _without_repetitions(row for row in rows if is_quality(row.task, row.metric)), recipe_numbers(rows)
    groups = groupby(sorted([*kept, *suite_means(kept)], key=_of_scores), key=_of_scores)
    found = {key: _scores(list(group), checkpoints, numbers) for key, group in groups}
    return {key: scores for key, scores in found.items() if scores is not None}


def is_quality(task: str, metric: str) -> bool:
    """Return whether a row says how good a model is, and not what it cost or how many prompts were cut."""
    known = all_tasks().get(task)
    return task not in _APART and (
        metric in _QUALITY or metric.startswith(_QUALITIES) or (known is not None and metric in known.reported)
    )


def lower_is_better(metric: str) -> bool:
    """Return whether a lower value of a metric is better."""
    return metric == "perplexity" or metric.startswith("bits_per_")


def oriented(value: float, metric: str) -> float:
    """Return a score of which higher is better: of perplexities the log with its sign changed, in nats a token.

    Noise of a perplexity is a factor; that of its logarithm does not grow with it.
    """
    if metric == "perplexity":
        return -math.log(value)
    return -value if lower_is_better(metric) else value


def training_noise(
    value_RK: np.ndarray,
    metric: str,
    last: Iterable[ResultRow],
    numbers: Mapping[tuple[str, str, float, int], int],
) -> Noise:
    """Return the noise between trainings: within these recipes over seeds, else a level that holds for all of them.

    Args:
        value_RK: float64 [R, K], oriented.
        metric: of the values, or a suite.
        last: a row of each run's last checkpoint.
        numbers: of the runs' settings, of `recipe_numbers`.
    """
    noise = seed_noise(value_RK)
    if noise.source:
        return noise
    keys = [((row.model, row.sampler, row.rate, row.seed), row.encoder_tokens) for row in last]
    return find_level(metric, [(key[0], numbers.get(key), tokens) for key, tokens in keys])


def suite_means(rows: Sequence[ResultRow]) -> list[ResultRow]:
    """Return rows of the mean over each suite's tasks, where results hold none.

    A suite has a mean in a metric if all of its tasks that were measured have that metric, and if there are two of
    them. A checkpoint that lacks one has none: means of different tasks do not compare. Tasks that were measured for
    a further suite alone, which has rows of its own, make no mean of theirs.
    """
    there, tasks = {(row.task, row.metric) for row in rows}, defaultdict[str, set[str]](set)
    aside = asked_for_a_further_suite({row.task for row in rows})
    counted = [row for row in rows if row.task not in aside]
    for row in counted:
        tasks[_suite(row)].add(row.task)
    means = []
    for (suite, metric, _), group in groupby(sorted(counted, key=_of_suite), key=_of_suite):
        mine, all_have_it = list(group), all((task, metric) in there for task in tasks[suite])
        if not suite or (suite, metric) in there or not all_have_it or not 1 < len(tasks[suite]) == len(mine):
            continue
        value = float(np.mean([row.value for row in mine]))
        stderr = float(np.sqrt(sum(row.stderr**2 for row in mine)) / len(mine))
        means.append(replace(mine[0], task=suite, value=value, stderr=stderr, n=sum(row.n for row in mine)))
    return means


@cache
def means_over(task: str) -> frozenset[str]:
    """Return the names of the means that a task counts in: those of its suites, of a domain that over all domains."""
    suites = {suite for suite, tasks in (by_suite() | extra_suites()).items() if task in {one.name for one in tasks}}
    return frozenset(suites | ({f"{DOMAIN}{MACRO}"} if task.startswith(DOMAIN) else set())) - {task}


def chance_of(task: str, metric: str) -> float | None:
    """Return the score of guessing, of a suite's mean the mean of its tasks'; None if there is none."""
    known_tasks, suites = all_tasks(), by_suite() | extra_suites()
    tasks = [known_tasks[task]] if task in known_tasks else suites.get(task, [])
    found = [one.chance_of(metric) for one in tasks if one.scored]
    known = [chance for chance in found if chance is not None]
    return float(np.mean(known)) if known and len(known) == len(found) else None


def _scores(
    rows: Sequence[ResultRow], checkpoints: int, numbers: Mapping[tuple[str, str, float, int], int]
) -> RecipeScores | None:
    """Bring the rows of one task, metric and model into recipes and seeds; None below two recipes.

    Only runs that reach the last step count: others were trained on fewer tokens, or have diverged. Of their scores
    only those on as many units as most: a score on the first hundred questions, or over other domains, is another.
    """
    end = max(row.step for row in rows)
    every: dict[tuple[Recipe, int], list[ResultRow]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.step):
        every[(row.sampler, row.rate), row.seed].append(row)
    units = Counter(row.n for row in rows if row.step == end)
    most = max(units, key=lambda n: (units[n], n))
    runs = {
        key: found
        for key, found in every.items()
        if found[-1].step == end and all(math.isfinite(row.value) and row.n == most for row in found[-checkpoints:])
    }
    recipes, seeds = sorted({recipe for recipe, _ in runs}), sorted({seed for _, seed in runs})
    if len(recipes) < 2:
        return None
    value_RK, stderr_RK = np.full((2, len(recipes), len(seeds)), np.nan)
    for (recipe, seed), found in runs.items():
        at = recipes.index(recipe), seeds.index(seed)
        value_RK[at] = np.mean([oriented(row.value, row.metric) for row in found[-checkpoints:]])
        stderr_RK[at] = found[-1].stderr
    last = [found[-1] for found in runs.values()]
    noise = training_noise(value_RK, rows[0].metric, last, numbers)
    if not noise.source:
        finite = [{row.step for row in found if math.isfinite(row.value)} for found in runs.values()]
        steps = sorted(set.intersection(*finite))[-LINE:]
        scores = [[oriented(r.value, r.metric) for r in runs[key] if r.step in steps] for key in sorted(runs)]
        one = checkpoint_noise(np.array(scores), np.array(steps))
        noise = replace(one, sd=one.sd / checkpoints**0.5)
    known_RK = np.isfinite(stderr_RK)
    stderr_R = np.nansum(stderr_RK, axis=1) / np.maximum(known_RK.sum(axis=1), 1)
    return RecipeScores(tuple(recipes), value_RK, stderr_R, noise, len(every) - len(runs))


def _without_repetitions(rows: Iterable[ResultRow]) -> list[ResultRow]:
    found: dict[tuple[Any, ...], ResultRow] = {}
    for row in sorted(rows):
        first = found.setdefault((*_of_scores(row), row.sampler, row.rate, row.seed, row.step), row)
        if not first.repeats(row):
            raise StoreMismatch(
                f"{row.task} {row.metric} of {row.sampler}, {row.model}, seed {row.seed}, step {row.step:,} is "
                f"{first.value:g} and {row.value:g}: leave one of the rows out"
            )
    return list(found.values())


def _suite(row: ResultRow) -> str:
    """Return the suite of a scored task; "" if there is none."""
    known = registry().get(row.task)
    return known.suite if known is not None and known.scored else ""


def _of_scores(row: ResultRow) -> tuple[str, str, str]:
    return row.task, row.metric, row.model


def _of_suite(row: ResultRow) -> tuple[str, str, tuple[Any, ...]]:
    return _suite(row), row.metric, (row.model, row.sampler, row.rate, row.seed, row.step)
