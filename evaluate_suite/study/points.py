"""A study: the results of many runs, brought into the form that figures and tables are drawn from.

    results.jsonl, one or many -> rows -> checkpoints (mean over seeds, one score per measure) -> over-scaling, size

A *measure* is a suite of `registry.SUITES` or a perplexity on text that is not registered; a *run* is a sampler, a
rate and a model. Rows of costs have the task "cost" and one of `COSTS` as metric.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby

import fsspec
import numpy as np

from evaluate_suite.normalised import LOWER_IS_BETTER
from evaluate_suite.registry import SUITES, by_suite, registry
from evaluate_suite.results import ResultRow, read_results
from evaluate_suite.study.scores import Score, common_tasks, over_seeds, scores_of_seed
from pipeline_steps.errors import CorpusError, ModelError, StoreIncomplete, StoreMismatch
from pipeline_steps.paper import RATES
from pipeline_steps.samplers import FULL


_COSTS = "costs.jsonl"  # beside the results: hours differ from run to run
COSTS = ("training_accelerator_hours", "scoring_accelerator_hours")
_SAME_RATE = 0.05  # a cut keeps whole documents, and as many tokens as asked, not as many documents
_T5_VOCABULARY = 32_100  # ids of every published T5: t5/data/utils.py
_TITLES = {"in_distribution": "In-distribution perplexity", "high_quality": "High-quality perplexity"}


@dataclass(frozen=True)
class Point:
    """What was measured of a run at one step.

    Attributes:
        sampler: its name.
        rate: share of the documents kept; the paper's where it is within 5 % of one.
        model: architecture.
        step: optimizer steps.
        encoder_tokens: encoder positions it has been trained on.
        epoch: repetitions of its selection.
        scores: by measure.
    """

    sampler: str
    rate: float
    model: str
    step: int
    encoder_tokens: int
    epoch: float
    scores: Mapping[str, Score]


@dataclass(frozen=True, eq=False)
class Study:
    """Everything that was measured.

    Attributes:
        rows: as they were read, without repetitions; those of costs too.
        checkpoints: sorted by model, sampler, rate and step.
        partial: suites that are averaged over some of their scored tasks: (k, n).
        dropped: suites that are not averaged at all, and why.
        scoring_hours: accelerator hours of scoring the corpus, by sampler.
        training_hours: of training on everything, by model.
    """

    rows: tuple[ResultRow, ...]
    checkpoints: tuple[Point, ...]
    partial: Mapping[str, tuple[int, int]]
    dropped: Mapping[str, str]
    scoring_hours: Mapping[str, float]
    training_hours: Mapping[str, float]


def read_study(paths: Sequence[str], partial: bool = False) -> Study:
    """The study in files of results, or in all `results.jsonl` of folders, with the `costs.jsonl` beside them; any
    fsspec paths.

    Args:
        paths: files and folders.
        partial: average suites that lack tasks, over the tasks that every checkpoint with the suite has.

    Raises:
        StoreIncomplete: nothing is there, or a suite is incomplete and `partial` is not set.
        StoreMismatch: one number was measured twice with different outcomes, or a file holds no results.
    """
    rows: dict[tuple[str | float, ...], tuple[ResultRow, str]] = {}
    for path in [file for given in paths for file in _files(given)]:
        for row in read_results(path):
            key = (row.sampler, row.rate, row.model, row.seed, row.step, row.task, row.metric)
            known, where = rows.setdefault(key, (row, path))
            if known.value != row.value:
                raise StoreMismatch(
                    f"{row.task} {row.metric} of {row.sampler}, {row.model}, seed {row.seed}, step {row.step:,} is "
                    f"{known.value:g} in {where} and {row.value:g} in {path}: leave one of the files out"
                )
    if not rows:
        raise StoreIncomplete(f"no results in {', '.join(paths)}: winnow evaluate writes results.jsonl")
    return make_study([row for row, _ in rows.values()], partial)


def make_study(rows: Iterable[ResultRow], partial: bool = False) -> Study:
    """The study of rows; raises as `read_study`."""
    rows = tuple(sorted(rows))
    measured = [row for row in rows if row.task != "cost"]
    groups = {key: list(group) for key, group in groupby(sorted(measured, key=_of_seed), key=_of_seed)}
    common, dropped = common_tasks(groups.values()) if partial else (None, {})
    single: dict[tuple[str, str, float, int], list[tuple[ResultRow, dict[str, Score]]]] = defaultdict(list)
    for group in groups.values():
        row = group[0]
        single[row.model, row.sampler, nominal_rate(row.rate), row.step].append((row, scores_of_seed(group, common)))
    checkpoints = [
        Point(
            sampler=sampler,
            rate=rate,
            model=model,
            step=step,
            encoder_tokens=seeds[0][0].encoder_tokens,
            epoch=float(np.mean([row.epoch for row, _ in seeds])),
            scores=over_seeds([scores for _, scores in seeds]),
        )
        for (model, sampler, rate, step), seeds in sorted(single.items())
    ]
    scored = {suite: sum(task.scored for task in tasks) for suite, tasks in by_suite().items()}
    there = {suite: sum(registry()[name].suite == suite for name in common or ()) for suite in SUITES}
    return Study(
        rows=rows,
        checkpoints=tuple(checkpoints),
        partial={s: (there[s], scored[s]) for s in SUITES if 0 < there[s] < scored[s]},
        dropped=dropped,
        scoring_hours=_mean_hours(rows, COSTS[1], "sampler", sorted({row.sampler for row in rows})),
        training_hours=_mean_hours(rows, COSTS[0], "model", [FULL]),
    )


def finals(study: Study, model: str | None = None, rate: float | None = None) -> list[Point]:
    """The last checkpoint of each run; of one model; at one rate, where everything is at any."""
    last = {(point.model, point.sampler, point.rate): point for point in study.checkpoints}
    return [
        point
        for point in last.values()
        if model in (None, point.model) and (rate in (None, point.rate) or point.sampler == FULL)
    ]


def references(study: Study) -> dict[str, Point]:
    """The last checkpoint of the run on everything, by model, from small to large."""
    found = {point.model: point for point in finals(study) if point.sampler == FULL}
    return {model: found[model] for model in models(study) if model in found}


def models(study: Study) -> list[str]:
    """From small to large; those of unknown size last."""
    names = {point.model for point in study.checkpoints}
    return sorted(names, key=lambda name: (parameters(name) or float("inf"), name))


def measures(study: Study, model: str | None = None) -> list[str]:
    """Those of the last checkpoints: the ten suites in order, then other perplexities by name."""
    there = {measure for point in finals(study, model) for measure in point.scores}
    return [suite for suite in SUITES if suite in there] + sorted(there - SUITES.keys())


def title(measure: str) -> str:
    """In words."""
    return SUITES.get(measure) or _TITLES.get(measure) or f"Perplexity, {measure}"


def unit(measure: str) -> str:
    """Of its numbers; a perplexity has none."""
    return "" if lower_is_better(measure) else "points"


def lower_is_better(measure: str) -> bool:
    """Of perplexities."""
    return measure in LOWER_IS_BETTER or measure not in SUITES


def nominal_rate(rate: float) -> float:
    """The paper's rate that a share of documents stands for, or the share to three digits."""
    nearest = min((*RATES, 1.0), key=lambda one: abs(one - rate))
    return nearest if abs(rate - nearest) <= _SAME_RATE * nearest else float(f"{rate:.3g}")


@cache
def parameters(model: str) -> int | None:
    """Of a preset of `train.model`, with T5's vocabulary; None for other names. No weights are made."""
    import torch

    from train.model import model_config, model_of, untie

    try:
        config = model_config(model, _T5_VOCABULARY)
    except ModelError:
        return None
    with torch.device("meta"):
        built = model_of(config)
        if model.startswith("t5-v1_1"):
            untie(built)
    return sum(weight.numel() for weight in built.parameters())


def _files(path: str) -> list[str]:
    try:
        fs, root = fsspec.core.url_to_fs(path)
        if fs.isdir(root):
            found = sorted(name for name in fs.find(root) if name.rsplit("/", 1)[-1] in ("results.jsonl", _COSTS))
        else:
            beside = f"{root.rpartition('/')[0]}/{_COSTS}"
            found = [name for name in dict.fromkeys((root, beside)) if fs.exists(root) and fs.exists(name)]
    except (OSError, ImportError, ValueError) as error:
        raise CorpusError(f"{path} cannot be listed: {error}") from error
    if not found:
        raise StoreIncomplete(f"no results in {path}: give a results.jsonl, or a folder that holds one")
    return [name if "://" not in path else fs.unstrip_protocol(name) for name in found]


def _of_seed(row: ResultRow) -> tuple[str, str, float, int, int]:
    return row.model, row.sampler, row.rate, row.seed, row.step


def _mean_hours(rows: Sequence[ResultRow], metric: str, by: str, samplers: Sequence[str]) -> dict[str, float]:
    """Hours count up: those of a run are in the row of its last step."""
    last = {
        (row.sampler, row.rate, row.model, row.seed): row
        for row in rows
        if (row.task, row.metric) == ("cost", metric) and row.sampler in samplers
    }
    hours: dict[str, list[float]] = defaultdict(list)
    for row in last.values():
        hours[getattr(row, by)].append(row.value)
    return {name: float(np.mean(values)) for name, values in hours.items()}
