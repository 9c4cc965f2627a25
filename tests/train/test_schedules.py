"""Rates are functions of the step, and impossible settings are refused in a sentence."""

import json
import math
import shutil
from fractions import Fraction

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from training_runs import BATCH, LENGTH, flags, main

from pipeline_steps.errors import InvalidCut
from pipeline_steps.stores.files import read_json, write_json
from train.arguments import NEWER, PretrainArguments
from train.schedules import Schedule


def schedule(name, steps=1000, **settings):
    return Schedule(name=name, **{"optimizer": "adamw", "steps": steps, "warmup_steps": 50, "peak": 2.0} | settings)


def arguments(**changes):
    given = {"tokens": "", "run_dir": "", "total_tokens": 1000 * 16 * 128, "optimizer": "adamw", "warmup_steps": 50}
    return PretrainArguments(**given | changes)


def test_inverse_sqrt_is_t5s():
    rates = [Schedule(optimizer="adafactor", steps=50_000).rate(step) for step in (1, 10_000, 40_000)]
    assert rates == pytest.approx([0.01, 0.01, 0.005])  # 1 / sqrt(max(step, 10,000))
    assert Schedule(optimizer="adafactor", steps=100, warmup_steps=25).rate(100) == pytest.approx(0.1)
    rising = Schedule(optimizer="adamw", steps=400, warmup_steps=100, peak=1e-3)
    assert [rising.rate(step) for step in (1, 50, 100, 400)] == pytest.approx([1e-5, 5e-4, 1e-3, 5e-4])


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("constant", {}, {1: 0.04, 25: 1.0, 50: 2.0, 1000: 2.0}),
        ("cosine", {}, {25: 1.0, 50: 2.0, 525: 1.01, 1000: 0.02}),  # DataDecide's floor, 1 % of the peak
        ("cosine", {"final_lr_ratio": 0.5}, {50: 2.0, 525: 1.5, 1000: 1.0}),
        ("wsd", {}, {25: 1.0, 50: 2.0, 900: 2.0, 901: 1.98, 950: 1.0, 1000: 0.0}),
        ("wsd", {"decay_fraction": 0.4, "final_lr_ratio": 0.1}, {600: 2.0, 800: 1.1, 1000: 0.2}),
        ("wsd", {"decay_shape": "1-sqrt"}, {900: 2.0, 925: 1.0, 1000: 0.0}),
    ],
)
def test_rates(name, settings, expected):
    made = schedule(name, **settings)
    assert {step: made.rate(step) for step in expected} == pytest.approx(expected)


def test_the_usual_peaks():
    peaks = [schedule("constant", peak=None, optimizer=name).rate(500) for name in ("adafactor", "adamw", "muon")]
    assert peaks == [0.01, 6e-4, 6e-4]


@given(
    steps=st.integers(20, 10**7),
    percent=st.integers(1, 90),
    shape=st.sampled_from(["linear", "1-sqrt"]),
    floor=st.floats(0, 1),
)
def test_wsd_is_exact_and_falls(steps, percent, shape, floor):
    """Where the decay begins is a matter of integers; until there, budget, shape and floor change no bit."""
    settings = {"decay_fraction": percent / 100, "decay_shape": shape, "final_lr_ratio": floor, "warmup_steps": 1}
    made = schedule("wsd", steps, **settings)
    start = steps - math.ceil(Fraction(percent, 100) * steps)
    assert made.decay_start == start
    assert {made.rate(step) for step in {1, max(1, start // 2), start}} == {2.0}
    falling = [made.rate(step) for step in range(start, min(start + 5, steps) + 1)]
    assert falling == sorted(falling, reverse=True)
    assert made.rate(steps) == pytest.approx(2.0 * floor)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": "wsd", "warmup_steps": 901}, "warmup_steps 901 are too many .* begins after step 900"),
        ({"schedule": "cosine", "warmup_steps": 1000}, "warmup_steps 1,000 are too many for a run of 1,000 steps"),
        ({"decay_fraction": 0.1}, "decay_fraction is a setting of the schedule wsd, not of inverse-sqrt"),
        ({"schedule": "cosine", "decay_shape": "linear"}, "decay_shape is a setting of the schedule wsd"),
        ({"schedule": "constant", "final_lr_ratio": 0.0}, "a setting of the schedule cosine or wsd, not of constant"),
        ({"schedule": "wsd", "decay_fraction": 1.0}, "decay_fraction must be above 0 and below 1, not 1"),
        ({"schedule": "wsd", "final_lr_ratio": 1.5}, "final_lr_ratio must be from 0 to 1, not 1.5"),
        ({"decay_at": [2**20]}, "decay_at is a setting of the schedule wsd"),
        ({"branch_from": "run"}, "branch_from is a setting of the schedule wsd"),
        ({"schedule": "wsd", "decay_at": [2_048_000]}, "decay_at 2,048,000 must be less than total_tokens 2,048,000"),
        (
            {"schedule": "wsd", "decay_at": [100_000]},
            "too many for a run of 49 steps whose decay begins after step 44",
        ),
        ({"schedule": "wsd", "decay_at": [100]}, "100 tokens are less than one sample"),
        ({"schedule": "wsd", "decay_at": [2**20], "branch_from": "run"}, "a branch cannot have branches"),
        ({"optimizer": "adafactor", "weight_decay": 0.0}, "weight_decay is a setting of adamw and muon"),
        ({"muon_adjust_lr_fn": "original"}, "muon_adjust_lr_fn is a setting of muon, not of adamw"),
        ({"adam_beta2": 1.0}, "adam_beta2 must be at least 0 and below 1, not 1.0"),
        ({"adam_epsilon": 0.0}, "adam_epsilon must be above 0"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0 and finite, not 0.0"),
        ({"weight_decay": float("nan")}, "weight_decay must be at least 0 and finite, not nan"),
        ({"optimizer": "muon", "shard": True}, "muon needs whole matrices"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(InvalidCut, match=message):
        arguments(**changes)


def test_decays_begin_at_kept_checkpoints():
    asked = {"schedule": "wsd", "decay_at": [300 * 2048 + 7, 500 * 2048], "checkpoints": 2, "milestones": [20, 5000]}
    assert arguments(**asked).kept_steps == [20, 270, 450, 500, 900, 1000]
    assert arguments(checkpoints=2).kept_steps == [500, 1000]


def test_runs_from_before_there_were_schedules_go_on(store, tmp_path, capsys):
    """Their resolved.json does not name what is new, and their digests leave it out."""
    words = flags(store, tmp_path, total_tokens=4 * BATCH * LENGTH, checkpoints=2, save_every=0)
    assert main(*words) == 0
    file = tmp_path / "resolved.json"
    before = {name: value for name, value in read_json(str(file)).items() if name not in NEWER}
    configuration = {name: one for name, one in before.items() if not name.endswith(("digest", "sha256"))}
    expected = xxhash.xxh3_128_hexdigest(json.dumps(configuration, sort_keys=True).encode())
    state = read_json(str(tmp_path / "checkpoints/step-00000002/state.json"))
    assert state["hashes"].items() > {"config": expected}.items()
    write_json(str(file), before)
    shutil.rmtree(tmp_path / "checkpoints/step-00000004")
    assert main(*words) == 0
    assert main(*words, "--schedule", "constant", "--warmup-steps", "1") == 2
    assert "schedule: 'inverse-sqrt' there, 'constant' now" in capsys.readouterr().err
