"""Rows of results whose truth is planted: which tasks can decide, which sizes agree, and what is not known."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from evaluate_suite.decide import decisions, records
from evaluate_suite.results import ResultRow
from pipeline_steps.errors import InvalidCut, StoreMismatch


SAMPLERS, RATES, SEEDS = ("random", "density", "ask-llm", "dsir"), (0.1, 0.3), (0, 1, 2)
RECIPES = [(sampler, rate) for sampler in SAMPLERS for rate in RATES] + [("full", 1.0)]
SIZES = {"tiny": 1e6, "small": 4e6, "large": 2e7}


def row(recipe, model, seed, task, metric, value, step=500, stderr=0.01):
    sampler, rate = recipe
    low, high = value - 2 * stderr, value + 2 * stderr
    return ResultRow(sampler, rate, model, seed, step, step * 99, 1, task, metric, value, stderr, low, high, 9, 0, "v")


def study(
    task, metric, score, noise, models=("small", "large"), seeds=SEEDS, recipes=RECIPES, steps=(500,), stderr=0.01
):
    """Rows of a score by recipe and model, with noise between seeds, the same whenever it is asked for."""
    rng = np.random.default_rng(list(f"{task} {metric}".encode()))
    return [
        row(recipe, model, seed, task, metric, score(number, model) + noise * rng.normal(), step, stderr)
        for model in models
        for number, recipe in enumerate(recipes)
        for seed in seeds
        for step in steps
    ]


def bits(number, model):
    """Bits per byte that fall with the recipe's number and with size."""
    return 1.0 - 0.01 * number + 10 * SIZES[model] ** -0.3


ROWS = [
    *study("arc_easy", "bits_per_byte", bits, 0.002),
    *study("arc_easy", "accuracy", lambda number, model: 40 + number, 0.3, stderr=0.5),
    *study("arc_challenge", "accuracy", lambda number, model: 25.2, 0.3, stderr=1.0),  # chance is 25
    *study("squad", "answer_f1", lambda number, model: 30.0, 0.5, stderr=0.2),
    *study("made", "accuracy", lambda number, model: 50.0, 0.0),
    *study("reversed", "perplexity", lambda number, model: 20 + (number if model == "small" else -number), 0.05),
]


def read(found, task, metric, model="small"):
    (one,) = [r for r in found.readings if (r.task, r.metric, r.model) == (task, metric, model)]
    return one


@pytest.fixture(scope="module")
def found():
    return decisions(ROWS, SIZES)


def test_signal_is_found_and_pairs_are_decided(found):
    one = read(found, "arc_easy", "bits_per_byte")
    assert (one.verdict, one.ranks, one.chance, one.noise.source) == ("signal", True, None, "seeds")
    assert [recipe for _, recipe in sorted(zip(one.mean_R, one.recipes, strict=True))] == RECIPES
    assert one.noise.sd == pytest.approx(0.002, rel=0.4)
    assert one.snr > 20 > one.snr_of_equals
    assert one.right > 0.97
    assert (one.pairs, one.undecided) == (36, 0)
    assert not read(found, "arc_easy", "accuracy").ranks


def test_no_signal_says_why(found):
    guessing = read(found, "arc_challenge", "accuracy")
    assert (guessing.verdict, guessing.above_chance) == ("no signal", 0)
    assert "no recipe is better than guessing, 25" in guessing.why
    equal = read(found, "squad", "answer_f1")
    assert equal.verdict == "no signal"
    assert equal.why == f"seeds alone make such differences, p = {equal.p:.2g}"
    assert equal.above_chance == len(RECIPES)
    constant = read(found, "made", "accuracy")
    assert (constant.verdict, constant.snr, constant.p, constant.undecided) == ("no signal", 0, 1, 36)


def test_sizes_agree_or_oppose(found):
    transfers = {(one.task, one.metric): one for one in found.transfers}
    same = transfers["arc_easy", "bits_per_byte"]
    assert (same.smaller, same.larger) == ("small", "large")
    assert (same.agreement.accuracy, same.agreement.interval, same.agreement.decided) == (1, (1, 1), 36)
    opposed = transfers["reversed", "perplexity"].agreement
    assert (opposed.accuracy, opposed.decided_accuracy) == (0, 0)
    assert opposed.tau == pytest.approx(-1)
    constant = transfers["made", "accuracy"].agreement
    assert (constant.accuracy, constant.tau, constant.decided_accuracy) == (0.5, None, None)


def test_order_of_rows_does_not_matter(found):
    shuffled = [ROWS[at] for at in np.random.default_rng(0).permutation(len(ROWS))]
    said = json.dumps(records(found))
    assert json.dumps(records(decisions(shuffled, SIZES))) == said
    with pytest.raises(StoreMismatch, match="leave one of the rows out"):
        decisions([*ROWS, replace(ROWS[0], value=0.5)])
    diverged = replace(ROWS[0], value=math.nan)
    for order in ([*ROWS, diverged], [diverged, *ROWS]):
        with pytest.raises(StoreMismatch, match="leave one of the rows out"):
            decisions(order)


def test_of_studies_without_differences_one_in_twenty_may_claim_a_signal():
    """20 studies of 5 equal tasks: with Holm's correction, more than 4 claim one once in 400 tries."""
    rng, claimed = np.random.default_rng(5), 0
    for _ in range(20):
        made = [
            row(recipe, "small", seed, f"task {number}", "accuracy", 50 + rng.normal())
            for number in range(5)
            for recipe in RECIPES
            for seed in SEEDS
        ]
        claimed += any(one.verdict in ("signal", "weak") for one in decisions(made, SIZES).readings)
    assert claimed <= 4


def test_one_seed_cannot_tell():
    made = study("arc_easy", "bits_per_byte", bits, 0.002, seeds=(0,), steps=(100, 200, 300, 400, 500))
    one = read(decisions(made, SIZES), "arc_easy", "bits_per_byte")
    assert (one.verdict, one.noise.source, one.p) == ("cannot tell", "checkpoints", None)
    assert one.snr > one.snr_of_equals
    assert one.undecided == one.pairs
    single = read(
        decisions(study("arc_easy", "bits_per_byte", bits, 0.002, seeds=(0,)), SIZES), "arc_easy", "bits_per_byte"
    )
    assert (single.verdict, single.noise.source, single.undecided) == ("cannot tell", "", single.pairs)
    assert math.isnan(single.snr)
    assert "one seed" in single.why
    two = decisions(study("arc_easy", "bits_per_byte", bits, 0.002, recipes=RECIPES[:2]), SIZES)
    assert read(two, "arc_easy", "bits_per_byte").why == "too few runs for a test"
    assert records(two)["transfers"][0]["agreement"]["interval"] is None
    assert not decisions([one for one in made if one.sampler == "full"]).readings


def test_unfinished_diverged_and_otherwise_measured_runs_are_left_out_and_counted():
    made = study("arc_easy", "bits_per_byte", bits, 0.002, steps=(400, 500))
    broken = [
        replace(r, value=math.nan) if (r.sampler, r.seed, r.step) == ("full", 0, 500) else r
        for r in made
        if (r.sampler, r.rate, r.step) != ("dsir", 0.3, 500)
    ]
    broken = [replace(r, n=4) if (r.sampler, r.rate, r.seed) == ("random", 0.1, 1) else r for r in broken]
    one = read(decisions(broken, SIZES), "arc_easy", "bits_per_byte")
    assert one.left_out == 2 + len(SEEDS)
    assert one.runs_R[one.recipes.index(("random", 0.1))] == 2
    assert ("dsir", 0.3) not in one.recipes
    assert one.runs_R[one.recipes.index(("full", 1.0))] == 2


def test_checkpoints_are_averaged():
    made = study("arc_easy", "bits_per_byte", bits, 0.05, models=("small",), steps=(100, 200, 300, 400, 500))
    last, five = (decisions(made, SIZES, checkpoints=n).readings[0] for n in (1, 5))
    assert five.noise.sd < 0.7 * last.noise.sd
    values = [r.value for r in made if (r.sampler, r.rate) == five.recipes[0]]
    assert five.mean_R[0] == pytest.approx(-np.mean(values))


def test_suites_have_means():
    names = ("anatomy", "virology", "astronomy")  # of MMLU
    made = [r for name in names for r in study(name, "accuracy", lambda number, model: 40 + number, 0.3, stderr=0.6)]
    several = decisions(made, SIZES)
    mean = read(several, "mmlu", "accuracy")
    assert mean.mean_R == pytest.approx(np.mean([read(several, n, "accuracy").mean_R for n in names], axis=0))
    assert mean.noise.sd < 0.9 * np.mean([read(several, n, "accuracy").noise.sd for n in names])
    assert mean.chance == 25
    part = decisions([r for r in made if r.task != "virology" or r.seed], SIZES)
    assert read(part, "mmlu", "accuracy").runs_R.tolist() == [2] * len(RECIPES)
    other = [*made, *study("anatomy", "choice_probability", lambda number, model: 30.0, 0.3)]
    assert ("mmlu", "choice_probability") not in {(r.task, r.metric) for r in decisions(other, SIZES).readings}
    assert [r.task for r in decisions([r for r in made if r.task == "anatomy"], SIZES).readings] == ["anatomy"] * 2


def test_another_metric_may_predict_and_a_law_may():
    rows = [*study("arc_easy", "bits_per_byte", bits, 0.002, tuple(SIZES)), *ROWS[2 * 54 // 2 : 4 * 54 // 2]]
    found = decisions(rows, SIZES, target="accuracy", rank_by=("accuracy",))
    assert {(one.metric, one.target, one.smaller) for one in found.transfers} == {
        ("bits_per_byte", "accuracy", "tiny"),
        ("bits_per_byte", "accuracy", "small"),
        ("accuracy", "accuracy", "small"),
    }
    assert all(one.agreement.accuracy > 0.9 for one in found.transfers)
    assert read(found, "arc_easy", "accuracy").ranks
    with pytest.raises(InvalidCut, match="in 'acuracy': give one of accuracy, bits_per_byte"):
        decisions(rows, SIZES, target="acuracy")
    law = [one for one in decisions(rows, SIZES, extrapolated=True).transfers if one.metric == "bits_per_byte"]
    assert {one.smaller: one.extrapolated for one in law} == {"tiny": None, "small": 1.0}


def test_models_of_other_kinds_or_unknown_size_are_not_compared():
    made = study("arc_easy", "bits_per_byte", bits, 0.002)
    renamed = [replace(r, model={"small": "t5-small", "large": "llama-60m"}[r.model]) for r in made]
    assert not decisions(renamed).transfers
    assert decisions(made).unordered == ("large", "small")
    costs = [replace(r, task="cost", metric="parameters", value=SIZES[r.model]) for r in made]
    with_costs = decisions([*made, *costs])
    assert (with_costs.models, with_costs.unordered) == (("small", "large"), ())
    assert [(one.smaller, one.larger) for one in with_costs.transfers] == [("small", "large")]


def test_t5s_and_decoders_each_have_a_metric_that_ranks():
    decoders = study("domain/web", "bits_per_byte", bits, 0.002)
    t5s = [replace(r, model=f"t5-{r.model}", metric="bits_per_masked_byte") for r in decoders]
    ranks = {(one.model, one.metric): one.ranks for one in decisions([*decoders, *t5s]).readings}
    assert len(ranks) == 4
    assert all(ranks.values())
