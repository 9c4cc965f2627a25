"""Verdicts must survive another seed: intervals of differences must hold the truth as often as they say."""

from dataclasses import asdict, replace

import numpy as np
import pytest
from scipy.stats import norm, ttest_1samp, ttest_rel

from evaluate_suite.bootstrap import mean_interval
from evaluate_suite.decide import decisions
from evaluate_suite.noise import Noise, difference_interval, paired_noise, seed_noise
from evaluate_suite.noise_levels import LEVELS, RECIPE, find_level, recipe_number
from evaluate_suite.report.comparisons import compare
from evaluate_suite.report.decision import sentences
from evaluate_suite.report.outcomes import run_noise
from evaluate_suite.report.points import measurements_of
from evaluate_suite.report.scores import Score, differences
from evaluate_suite.report.tables import main_table
from evaluate_suite.report.verdicts import flat, verdicts
from evaluate_suite.results import ResultRow
from train.arguments import PretrainArguments


SEED_NOISE, WINDOW_NOISE, WINDOWS = 0.05, 0.1, 64  # of ln perplexity; a mean over windows has 0.0125
TINY = LEVELS[0]
NAMES = tuple(enumerate(("random", "ask-llm")))
PINNED = 8998066594725488


def row(sampler, seed, loss, tokens=786_432):
    of = sampler, 0.2, "t5-tiny", seed, tokens // 2048, tokens, 1.0
    value = np.exp(loss)
    return ResultRow(*of, "high_quality", "perplexity", value, 0.05 * value, 0.9 * value, 1.1 * value, 64, 0, "v")


def simulated(rng, samplers, seeds, gain=0.0, shared=0.0):
    """Rows of trainings that differ by a seed's luck of SEED_NOISE, a part of which all samplers share."""
    own_SK = rng.normal(size=(len(samplers), seeds)) * (1 - shared) ** 0.5 + rng.normal(size=seeds) * shared**0.5
    return [
        row(sampler, seed, 5 + SEED_NOISE * own_SK[place, seed] - gain * place)
        for place, sampler in enumerate(samplers)
        for seed in range(seeds)
    ]


def covered(studies, truth=0.0):
    """Return in how many studies all intervals against Random hold the truth, by sampler after Random."""
    held = [
        all(one.low <= truth * place <= one.high for place, one in enumerate(compared.found.values(), start=1))
        for compared in (compare(study, "t5-tiny", 0.2, "hq_perplexity") for study in studies)
    ]
    return np.mean(held)


def bound(share, n):
    """Four standard errors of a share."""
    return 4 * (share * (1 - share) / n) ** 0.5


@pytest.mark.parametrize(("samplers", "seeds", "shared"), [(2, 3, 0.0), (2, 3, 0.8), (5, 3, 0.5), (3, 2, 0.0)])
def test_intervals_over_seeds_hold_the_truth(samplers, seeds, shared):
    """Whatever part of the luck a seed brings to all, and all intervals of a study at once."""
    rng, n, gain = np.random.default_rng([samplers, seeds]), 300, 0.03
    names = ["random", *(f"s{number}" for number in range(1, samplers))]
    share = covered([measurements_of(simulated(rng, names, seeds, gain, shared)) for _ in range(n)], gain)
    assert 0.95 - bound(0.95, n) <= share <= 0.99


def test_a_sampler_of_which_a_run_has_diverged_is_not_compared():
    made = simulated(np.random.default_rng(4), ("random", "ask-llm", "density", "dsir"), 3)
    broken = [replace(r, value=np.nan) if (r.sampler, r.seed) == ("density", 1) else r for r in made]
    compared = compare(measurements_of(broken), "t5-tiny", 0.2, "hq_perplexity")
    assert set(compared.found) == {"ask-llm", "dsir"}
    assert all(np.isfinite([one.low, one.gain, one.high]).all() for one in compared.found.values())


@pytest.mark.parametrize(
    ("broken", "change", "said"),
    [
        ("density", {"value": np.nan}, "Not compared: Density, which has a run that diverged."),
        ("random", {"value": np.nan}, "Nothing is compared with Random, which has a run that diverged."),
        ("density", {"step": 100, "encoder_tokens": 204_800}, "Not compared: Density, which ends at step 100 of 384."),
        ("random", {"step": 100, "encoder_tokens": 204_800}, "Nothing is compared with Random, which ends at step"),
    ],
)
def test_runs_that_are_not_compared_are_named(broken, change, said):
    """A run that ended early was trained on fewer tokens: whatever it shows is no work of its sampler."""
    made = simulated(np.random.default_rng(4), ("random", "ask-llm", "density"), 3, gain=1.0)
    study = measurements_of([replace(r, **change) if r.sampler == broken else r for r in made])
    compared = compare(study, "t5-tiny", 0.2, "hq_perplexity")
    assert set(compared.found) == ({"ask-llm"} if broken == "density" else set())
    sentences_ = flat(verdicts(study, {}, "t5-tiny", 0.2))
    assert any(said in sentence for sentence in sentences_)
    assert all("Density −" not in sentence for sentence in sentences_)
    notes = main_table(study, {}, "t5-tiny", 0.2).notes
    assert any(said in note for note in notes)
    assert broken == "density" or not any("Nothing is bold" in note for note in notes)


@pytest.mark.parametrize("of_seed", [0.0, 0.1])
def test_seeds_between_which_no_noise_shows_decide_nothing(of_seed):
    """Copies of one training, or scores so coarse that differences are the same with every seed, by luck."""
    made = [row(name, seed, 5 + of_seed * seed - 0.001 * place) for place, name in NAMES for seed in range(3)]
    assert paired_noise(np.array([[-5 - of_seed * k + 0.001 * place for k in range(3)] for place, _ in NAMES])).sd == 0
    (said,) = flat(verdicts(measurements_of(made), {}, "t5-tiny", 0.2))
    assert "3 seeds of each run, between which no noise shows" in said
    assert not any(cell.best for line in main_table(measurements_of(made), {}, "t5-tiny", 0.2).rows for cell in line)


def test_a_task_in_which_seeds_make_no_difference_has_no_signal_to_noise():
    recipes = enumerate(("random", "ask-llm", "density", "full"))
    found = decisions([row(name, seed, 5 - 0.01 * place) for place, name in recipes for seed in range(3)])
    assert sentences(found)[0].startswith("t5-tiny: in 1 of 1 tasks nothing can be told: high_quality (seeds make")
    (one,) = found.readings
    assert (one.verdict, one.undecided) == ("cannot tell", one.pairs)
    assert one.why.startswith("seeds make no difference")


def test_coarse_scores_of_equal_recipes_are_not_told_apart_by_luck():
    rng, told, n = np.random.default_rng(9), 0, 2000
    for value_RK in np.round(rng.normal(50, 1, (n, 2, 2))):  # accuracies of a hundred questions
        gap = np.array(value_RK[0].mean() - value_RK[1].mean())
        low, high = difference_interval(gap, paired_noise(value_RK), np.array(2), np.array(2))
        told += not low <= 0 <= high
    assert told / n <= 0.05 + bound(0.05, n)


@pytest.mark.parametrize("windows_sd", [0.05, 0.3, 1.0])
def test_paired_windows_hold_the_truth_of_other_windows(windows_sd):
    """A sampler is good at some windows and bad at others, whatever its seed, by less or more than seeds differ."""
    rng, n, held, these = np.random.default_rng(7), 600, 0, 0
    for _ in range(n):
        nll_2N = 5 + rng.normal(0, 0.5, WINDOWS) + rng.normal(0, windows_sd, (2, WINDOWS))
        luck_2K = SEED_NOISE * rng.normal(size=(2, 3))
        scores = {
            name: Score(0, 0, 0, 0, dict(enumerate(np.exp(nll_N.mean() + luck_K))))
            for name, nll_N, luck_K in zip("ab", nll_2N, luck_2K, strict=True)
        }
        losses = dict(zip("ab", nll_2N + luck_2K.mean(axis=1, keepdims=True), strict=True))
        (one,), (other,) = (differences(scores, "a", "hq", nll=nll)[0].values() for nll in (losses, None))
        held += one.low <= 0 <= one.high
        these += other.low <= 0 <= other.high
    assert 0.95 - bound(0.95, n) <= held / n <= 0.99
    assert these < held  # an interval for these windows is no interval for others


def test_the_level_holds_for_one_seed_and_windows_alone_do_not():
    """The sd of a level has an error of its own: it is drawn anew for each study, from so many degrees of freedom."""
    rng, n = np.random.default_rng(1), 500
    gap_D = 2**0.5 * SEED_NOISE * rng.normal(size=n)
    windows_DN = gap_D[:, None] + 2**0.5 * WINDOW_NOISE * rng.normal(size=(n, WINDOWS))
    sd_D = SEED_NOISE * np.sqrt(rng.chisquare(TINY.freedom, n) / TINY.freedom)
    alone, held = 0, 0
    for gap_N, sd in zip(windows_DN, sd_D, strict=True):
        over_windows = mean_interval(gap_N)
        alone += over_windows.low <= 0 <= over_windows.high
        noise, one = Noise(sd, TINY.freedom, "level"), np.array(1)
        low, high = difference_interval(np.array(gap_N.mean()), noise, one, one, over_windows.stderr)
        held += low <= 0 <= high
    # A normal difference of sd s within +- 1.96 e: 2 Phi(1.96 e / s) - 1
    error, spread = (
        WINDOW_NOISE * (2 / WINDOWS) ** 0.5,
        np.hypot(2**0.5 * SEED_NOISE, WINDOW_NOISE * (2 / WINDOWS) ** 0.5),
    )
    assert alone / n == pytest.approx(2 * norm.cdf(1.96 * error / spread) - 1, abs=0.03 + bound(0.4, n))
    assert alone / n < 0.6
    assert 0.95 - bound(0.95, n) <= held / n <= 0.98


def test_two_recipes_are_the_paired_t_interval():
    value_RK = np.random.default_rng(2).normal(size=(2, 5)) + np.linspace(0, 9, 5)
    gap, runs = np.array(value_RK[0].mean() - value_RK[1].mean()), np.array(5)
    theirs = ttest_rel(*value_RK).confidence_interval(0.95)
    ours = difference_interval(gap, paired_noise(value_RK), runs, runs)
    assert ours == pytest.approx((theirs.low, theirs.high))
    assert seed_noise(value_RK).sd > 2 * paired_noise(value_RK).sd  # what a seed does to both alike falls out
    value_RK[1, 4] = np.nan
    assert paired_noise(value_RK) == seed_noise(value_RK)


def test_the_interval_of_one_recipe_is_the_t_interval_of_its_seeds():
    losses = np.array([4.1, 4.3, 4.0])
    (point,) = (
        study := measurements_of([replace(row("random", k, v), stderr=0) for k, v in enumerate(losses)])
    ).checkpoints
    score = point.scores["hq_perplexity"]
    reach = ttest_1samp(losses, 0).confidence_interval(0.95).high - losses.mean()
    assert np.log([score.low, score.high]) == pytest.approx(np.log(score.value) + np.array([-reach, reach]))
    assert run_noise(study, "t5-tiny") == {"hq_perplexity": pytest.approx(score.value * reach / norm.ppf(0.975))}


def test_noise_is_not_taken_from_runs_of_other_rates_that_ended_early():
    made = simulated(np.random.default_rng(4), ("random", "ask-llm"), 3)
    short = [replace(row("dsir", k, 3 + k), rate=0.4, step=100) for k in range(3)]
    alone, beside = (compare(measurements_of(r), "t5-tiny", 0.2, "hq_perplexity") for r in (made, made + short))
    assert beside.noise == alone.noise


def test_one_seed_decides_only_with_a_level_of_its_own_settings_and_tokens():
    def said(number=None, tokens=786_432, gain=0.6):
        made = [row("random", 0, 5.0, tokens), row("ask-llm", 0, 5.0 - gain, tokens)]
        if number is not None:
            facts = {"task": "cost", "metric": RECIPE, "value": float(number)}
            made += [ResultRow(**(vars(one) | facts)) for one in made]
        study = measurements_of(made)
        return " ".join(flat(verdicts(study, {}, "t5-tiny", 0.2)))

    number = TINY.number
    assert "Better than Random, 1 of 1: Ask-LLM −" in said(number)
    assert "taken from 6 earlier trainings of t5-tiny on 22,111 documents of eleven sources" in said(number)
    assert "6.8 % of the perplexity (4 degrees of freedom)" in said(number)
    assert "Cannot be told from Random" in said(number, gain=0.2)
    for other in (said(), said(number + 1), said(number, tokens=2_000_000)):
        assert "no comparison can be made; train with seeds: [0, 1, 2]" in other
        assert "than Random" not in other


def test_pairs_of_recipes_are_decided_by_the_same_level():
    """`winnow evaluate decide` holds pairs against it too; which tasks have a signal takes seeds."""
    made = [row("random", 0, 5.0), row("ask-llm", 0, 4.4), row("density", 0, 4.9)]
    (one,) = decisions(made).readings
    assert (one.noise.source, one.undecided, one.verdict) == ("", 3, "cannot tell")
    number = float(TINY.number)
    costs = [ResultRow(**(vars(one) | {"task": "cost", "metric": RECIPE, "value": number})) for one in made]
    found = decisions([*made, *costs])
    (one,) = found.readings
    assert (one.noise.source, one.noise.sd, one.verdict) == ("level", 0.068, "cannot tell")
    assert one.undecided == 1
    assert any("held against the noise between 6 earlier trainings of t5-tiny" in said for said in sentences(found))


def test_two_seeds_of_two_recipes_leave_an_end_open():
    """One degree of freedom: Student's quantile is 12.7, and noise of a factor of 2 is an interval without an end."""
    losses = {"random": (4.0, 5.4), "ask-llm": (5.0, 4.1)}
    made = [row(name, seed, loss) for name, pair in losses.items() for seed, loss in enumerate(pair)]
    (said, noise) = flat(verdicts(measurements_of(made), {}, "t5-tiny", 0.2))
    assert said.startswith(
        "High-quality perplexity. Cannot be told from Random, 1 of 1: Ask-LLM −13.9 % (95 % CI −100.0 to ∞)"
    )
    assert noise.endswith("(1 degree of freedom).")


def test_a_recipe_is_its_settings_without_data_seeds_and_budget():
    def number(**changes):
        arguments = {"tokens": "a", "run_dir": "b", "total_tokens": 786_432, "warmup_steps": 1000, **changes}
        return recipe_number(
            asdict(PretrainArguments(**arguments)) | {"mixed_precision": "no", "selected_documents": 9}
        )

    assert number() == TINY.number == PINNED  # a default that changes makes a level's runs others: measure it anew
    same = {
        "seed": 5,
        "total_tokens": 1 << 19,
        "save_every": 7,
        "model_name": "mine",
        "tokens": "c",
        "milestones": [3],
    }
    assert number(**same) == number()
    others = [
        {"batch_size": 32},
        {"learning_rate": 0.01},
        {"preset": "t5-mini"},
        {"schedule": "wsd", "warmup_steps": 9},
        {"z_loss": 0.0},
    ]
    numbers = {number(**one) for one in others}
    assert len(numbers | {number()}) == 1 + len(others)
    assert all(float(one).is_integer() and int(float(one)) == one for one in numbers)


def test_levels_say_where_they_are_from():
    for level in LEVELS:
        assert level.freedom < level.trainings
        assert all(sd > 0 for sd in level.sd.values())
    assert not find_level("perplexity", []).decides
    assert find_level("squad", [("t5-large", None, 2**39)]).sd == 0.343  # Raffel et al. 2020, Table 1
    assert not find_level("squad", [("t5-large", None, 2**39), ("t5-tiny", None, 2**39)]).decides
    assert not find_level("squad", [("t5-large", None, 2**20)]).decides
    assert not find_level("mmlu", [("t5-large", None, 2**39)]).decides
