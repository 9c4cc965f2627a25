"""Equal trainings must not be told apart: one selection, trained for real under many seeds."""

import json
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from accelerate.state import AcceleratorState
from datatrove.pipeline.readers import JsonlReader

from evaluate_suite.bootstrap import mean_interval
from evaluate_suite.checkpoint import find_checkpoints
from evaluate_suite.measure import perplexity
from evaluate_suite.noise import Noise, difference_interval, paired_noise, seed_noise
from evaluate_suite.noise_levels import RECIPE, recipe_number
from evaluate_suite.perplexity import HeldOut, window_losses
from evaluate_suite.report.comparisons import window_losses as window_means
from evaluate_suite.report.points import measurements_of
from evaluate_suite.report.verdicts import flat, verdicts
from evaluate_suite.results import read_results
from pipeline_steps import EMBEDDED_PROXY
from pipeline_steps.stores.files import read_json
from train.pretrain import main as pretrain
from train.token_store_writer import TokenStoreWriter


LENGTH, BATCH, STEPS = 32, 4, 24
WORDS = "the river ran past an old mill and on through quiet fields to its harbour by the northern sea".split()


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    """A store to train on and one to measure on."""
    folder = tmp_path_factory.mktemp("tokens")
    for name, first, count in (("train", 0, 120), ("held_out", 1000, 40)):
        (folder / f"{name}-text").mkdir()
        lines = []
        for number in range(first, first + count):
            words = np.random.default_rng(number).choice(WORDS, 50)
            lines.append(json.dumps({"id": str(number), "text": " ".join(words)}))
        (folder / f"{name}-text" / "a.jsonl").write_text("\n".join(lines))
        reader = JsonlReader(str(folder / f"{name}-text"))
        list(TokenStoreWriter(str(folder / name), EMBEDDED_PROXY).run(reader.run()))
    return folder


def trained(tokens, run, seed, steps=STEPS):
    """Train t5-tiny for a second or two."""
    AcceleratorState._reset_state(reset_partial_state=True)
    settings = {"tokens": tokens / "train", "run_dir": run, "total_tokens": steps * BATCH * LENGTH, "seed": seed}
    settings |= {"batch_size": BATCH, "input_length": LENGTH, "warmup_steps": 1000, "checkpoints": 1}
    settings |= {"report_to": "none", "mixed_precision": "no"}
    with pytest.raises(SystemExit) as ended:
        pretrain([f"--{name}={value}" for name, value in settings.items()])
    assert ended.value.code == 0
    return run


def losses(tokens, run, cache):
    """Return the mean loss of each held-out window at a run's end."""
    split = HeldOut("high_quality", str(tokens / "held_out"), max_windows=32)
    return window_losses(find_checkpoints(run.name, str(run))[-1], split, LENGTH, cache)


def test_a_study_of_equal_trainings_has_no_winner(tokens, tmp_path):
    """Two samplers that chose the same documents, two seeds each, from trainings to sentences."""
    places = {("random", 0): 0, ("random", 1): 1, ("full", 0): 2, ("full", 1): 3}
    output, held_out = tmp_path / "results.jsonl", {"high_quality": str(tokens / "held_out")}
    for (sampler, seed), place in places.items():
        run = trained(tokens, tmp_path / f"{sampler}-{seed}", place, steps=6)
        perplexity([(sampler, str(run))], held_out, str(output), str(tmp_path / f"evaluation/{run.name}"), 32)
    rows = [replace(row, seed=row.seed % 2) for row in read_results(str(output))]  # as if paired
    costs = [row for row in read_results(str(tmp_path / "costs.jsonl")) if row.metric == RECIPE]
    assert {int(row.value) for row in costs} == {recipe_number(read_json(f"{run}/resolved.json"))}
    study = replace(measurements_of(rows), evaluations=(str(tmp_path / "evaluation"),))
    assert set(window_means(study, "t5-tiny", 1.0, "hq_perplexity")) == {"random", "full"}
    said = verdicts(study, {}, "t5-tiny", 1.0)["High-quality perplexity"]
    assert said[0].startswith("Cannot be told from Random, 1 of 1: Full data")
    assert said[1].startswith("2 seeds of each run; the noise between trainings is a standard deviation of")
    alone = measurements_of([row for row in [*rows, *costs] if row.seed == 0])
    (sentence,) = flat(verdicts(alone, {}, "t5-tiny", 1.0))
    assert "no comparison can be made" in sentence  # 768 tokens are not those that a level was measured with


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_intervals_hold_zero_for_pairs_of_equal_trainings(tokens, tmp_path):
    """36 trainings that differ in their seed: 95 % intervals of pairs hold zero 90 to 99 times in 100."""
    seeds, one = 36, np.array(1)
    nll_SN = np.stack(
        [losses(tokens, trained(tokens, tmp_path / f"s{seed}", seed), tmp_path) for seed in range(seeds)]
    )
    value_S = -nll_SN.mean(axis=1)
    rng, held = np.random.default_rng(0), []
    for _ in range(400):  # studies of two recipes and three seeds: 6 disjoint ones of each deal of the 36
        for six in rng.permutation(seeds).reshape(6, 6):
            value_RK = value_S[six].reshape(2, 3)
            gap = np.array(value_RK[0].mean() - value_RK[1].mean())
            low, high = difference_interval(gap, paired_noise(value_RK), 3 * one, 3 * one)
            held.append(low <= 0 <= high)
    level, alone = [], []
    for _ in range(20):  # a level from half of the trainings, and all pairs of the others
        order = rng.permutation(seeds)
        known = seed_noise(value_S[order[:18]][None])
        noise = Noise(known.sd, known.freedom, "level")
        for a, b in combinations(order[18:], 2):
            windows = mean_interval(nll_SN[a] - nll_SN[b])
            low, high = difference_interval(np.array(value_S[a] - value_S[b]), noise, one, one, windows.stderr)
            level.append(low <= 0 <= high)
            alone.append(windows.low <= 0 <= windows.high)
    assert 0.90 <= np.mean(held) <= 0.99
    assert 0.90 <= np.mean(level) <= 0.99
    assert np.mean(alone) < 0.9  # what windows alone would have said
