"""Noise between trainings that was measured once, for runs that were trained with one seed.

A level holds for runs of its models, settings and tokens, and for no others. To add one: train a recipe or several
with three seeds or more, take `noise.seed_noise` of the logarithms of their perplexities, and note it in `LEVELS`.
Several texts that one training is measured on are no further trainings: they add no degrees of freedom.

    results: rows of the task "cost" hold each run's `recipe_number` ──► `find_level` ──► `noise.Noise`
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

import xxhash

from evaluate_suite.noise import UNKNOWN, Noise
from evaluate_suite.results import ResultRow
from pipeline_steps.stores.files import canonical


RECIPE = "recipe_number"
"""Metric of the rows of costs that hold the number of a run's settings."""

# Arguments of training that differ between runs of one recipe, or do not change its weights
_APART = {"total_tokens", "seed", "init_seed", "checkpoints", "log_every", "compile"}
_BITS = 53  # of a number that a float64 holds exactly


@dataclass(frozen=True, kw_only=True)
class NoiseLevel:
    """The standard deviation between trainings that differ in their seed alone.

    Attributes:
        models: names of the models that it holds for.
        settings: arguments of `train.pretrain` that are not its defaults; None if the level is taken to hold for any,
            since no other is published.
        tokens: least and most encoder tokens of a run.
        sd: by metric; of "perplexity", that of the logarithm. Suites are metrics of their own, in points.
        freedom: degrees of freedom.
        trainings: how many there were.
        measured: what they were, for the reader of a report.
        date: year and month.
    """

    models: frozenset[str]
    settings: Mapping[str, Any] | None
    tokens: tuple[float, float]
    sd: Mapping[str, float]
    freedom: int
    trainings: int
    measured: str
    date: str

    def holds(self, model: str, number: int | None, tokens: int) -> bool:
        """Return whether it holds for a run, by its model, the number of its settings and its encoder tokens."""
        alike = model in self.models and self.tokens[0] <= tokens <= self.tokens[1]
        return alike and (self.settings is None or number == self.number)

    @cached_property
    def number(self) -> int:
        """The number of its settings."""
        from train.arguments import PretrainArguments

        arguments = PretrainArguments(tokens="", run_dir="", total_tokens=int(self.tokens[0]), **(self.settings or {}))
        resolved = asdict(arguments) | arguments.schedule_to(arguments.budget).decay_settings
        return recipe_number(resolved | {"mixed_precision": arguments.mixed_precision or "no"})


LEVELS = (
    NoiseLevel(
        models=frozenset({"t5-tiny"}),
        settings={"preset": "t5-tiny", "batch_size": 16, "input_length": 128, "warmup_steps": 1000},
        tokens=(700_000, 870_000),  # a tenth around the 786,432 that were measured
        # On three texts each; seeds 0, 1, 2 of everything and of a random 10 %: 2 recipes x (3 - 1) seeds
        sd={"perplexity": 0.068},
        freedom=4,
        trainings=6,
        measured="t5-tiny on 22,111 documents of eleven sources and on a random 10 % of them, 786,432 tokens",
        date="2026-11",
    ),
    NoiseLevel(
        models=frozenset(
            f"{family}-{size}" for family in ("t5", "t5-v1_1") for size in ("small", "base", "large", "xl")
        ),
        settings=None,
        tokens=(2**35, math.inf),  # of T5's baseline, Raffel et al. 2020, Sec. 3.1.2
        sd={"glue": 0.235, "superglue": 0.416, "cnn_dailymail": 0.065, "squad": 0.343},
        freedom=9,
        trainings=10,
        measured="T5's baseline, whose settings are others (Raffel et al. 2020, Table 1)",
        date="2020-06",
    ),
)


def find_level(metric: str, runs: Iterable[tuple[str, int | None, int]]) -> Noise:
    """Return the level of a metric that holds for every run: model, number of its settings, encoder tokens.

    The noise is unknown where no level does.
    """
    runs = set(runs)
    for level in LEVELS:
        if runs and metric in level.sd and all(level.holds(*run) for run in runs):
            said = f"{level.trainings} earlier trainings of {level.measured}"
            return Noise(level.sd[metric], level.freedom, "level", said)
    return UNKNOWN


def recipe_numbers(rows: Iterable[ResultRow]) -> dict[tuple[str, str, float, int], int]:
    """Return the numbers of the settings of runs, by model, sampler, rate and seed, from rows of costs."""
    return {(row.model, row.sampler, row.rate, row.seed): int(row.value) for row in rows if row.metric == RECIPE}


def recipe_number(resolved: Mapping[str, Any]) -> int:
    """Return the number of the settings of a run, from its `resolved.json`: equal for runs of one recipe.

    Data, seeds and budget do not count, nor do settings that came later and are off: older numbers stay.
    """
    from train.arguments import FREE, NEWER, PretrainArguments

    names, found = {one.name for one in fields(PretrainArguments)} - FREE - _APART, NEWER | dict(resolved)
    settings = {name: found[name] for name in names if name not in NEWER or found[name] != NEWER[name]}
    settings |= {"averaged": len(resolved["averaged"])} if "averaged" in resolved else {}
    return xxhash.xxh3_64_intdigest(canonical(settings)) >> (64 - _BITS)
