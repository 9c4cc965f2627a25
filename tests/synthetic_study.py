"""Results of a study whose truth is known: each run is worth a model of so many parameters trained on everything."""

import math
from dataclasses import replace

from evaluate_suite.model_sizes import parameters
from evaluate_suite.registry import registry
from evaluate_suite.results import ResultRow
from pipeline_steps.samplers import FAMILIES, FULL


EVERY_SAMPLER = [name for names in FAMILIES.values() for name in names]
RATES = (0.1, 0.2, 0.4, 0.6, 0.8)
TOKENS_PER_STEP = 1024 * 512
EPOCHS = 3.16  # of the whole corpus: 581.6B raw tokens of C4's 184B


def factor(sampler, rate):
    """What a run is worth, as a multiple of its own parameters: planted, not realistic."""
    if sampler == FULL:
        return 1.0
    place = EVERY_SAMPLER.index(sampler) if sampler in EVERY_SAMPLER else 3
    return (0.8 + 0.05 * place) * (1 - 0.5 * (0.6 - rate) ** 2)


def score(task, size):
    """Falls (perplexity) or rises with the logarithm of size, at a pace that depends on the task."""
    pace = 1 + (len(task.name) * 7 % 5) / 4
    if task.direction == "lower":
        return 40 * math.exp(-0.08 * pace * math.log(size / 1e6))
    return 10 + 8 * pace * math.log10(size / 1e6)


def rows(
    samplers=EVERY_SAMPLER,
    rates=RATES,
    models=("t5-small", "t5-large"),
    references=("t5-base", "t5-xl"),
    tasks=None,
    steps=(200_000, 400_000, 600_000, 800_000, 1_000_000),
    seeds=(0,),
    jitter=0.0,
    error=None,
    along=(),
):
    """Everything at the last step, perplexities and the tasks of some suites at the others.

    Scores differ from seed to seed by up to `jitter`; `error` is their standard error over examples.
    """
    wanted = [task for task in registry().values() if task.scored and (tasks is None or task.name in tasks)]
    runs = [(s, r, m) for m in models for s in samplers for r in rates] + [(FULL, 1.0, m) for m in models]
    runs += [(FULL, 1.0, model) for model in references]
    made = []
    for sampler, rate, model in runs:
        size = parameters(model) * factor(sampler, rate)
        for seed in seeds:
            for step in steps:
                grown = size * (step / steps[-1]) ** 1.5
                for number, task in enumerate(wanted):
                    if step == steps[-1] or task.direction == "lower" or task.suite in along:
                        value = score(task, grown) + jitter * math.sin(97 * seed + 13 * number + 7 * len(sampler))
                        run = sampler, rate, model, seed, step
                        made += [_row(*run, task, metric, value, error) for metric in task.metrics]
    return made


def costs(scoring, training):
    """Rows of accelerator hours: scoring by sampler, training by model."""
    paid = [(s, 0.4, "t5-small", "scoring_accelerator_hours", h) for s, h in scoring.items()]
    paid += [(FULL, 1.0, model, "training_accelerator_hours", h) for model, h in training.items()]
    return [
        ResultRow(s, rate, model, 0, 1_000_000, 0, 1.0, "cost", metric, hours, 0.0, hours, hours, 1, 0, "v")
        for s, rate, model, metric, hours in paid
    ]


def amounts(made):
    """Rows of the tokens that each run of some rows was trained on."""
    last = {(row.sampler, row.rate, row.model, row.seed): row for row in sorted(made)}
    return [replace(row, task="cost", metric="selected_tokens", value=184e9 * row.rate) for row in last.values()]


def _row(sampler, rate, model, seed, step, task, metric, value, error):
    error = error or (0.02 * value if task.direction == "lower" else 0.8)
    return ResultRow(
        sampler=sampler,
        rate=rate,
        model=model,
        seed=seed,
        step=step,
        encoder_tokens=step * TOKENS_PER_STEP,
        epoch=EPOCHS * step / 1_000_000 / rate,
        task=task.name,
        metric=metric,
        value=value,
        stderr=error,
        ci95_low=value - 1.96 * error,
        ci95_high=value + 1.96 * error,
        n=1000,
        n_shot=task.shots,
        harness_version="winnow-llm test",
    )
