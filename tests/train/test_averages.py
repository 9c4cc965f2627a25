"""An average is a model like any other, says of what it is, and is never made of anything else."""

import json
import shutil

import numpy as np
import pytest
from damage import flip
from safetensors.numpy import load_file
from training_runs import BATCH, LENGTH, flags, main
from transformers import AutoModelForCausalLM

from evaluate_suite.checkpoint import find_checkpoints
from evaluate_suite.perplexity import HeldOut, perplexity_rows
from pipeline_steps.errors import InvalidCut, StoreDamaged, StoreIncomplete, StoreMismatch
from train.averages import average
from train.checkpoints import load_checkpoint


WSD = {"preset": "llama-tiny", "optimizer": "adamw", "schedule": "wsd", "decay_fraction": 0.4, "warmup_steps": 2}
WSD |= {"total_tokens": 10 * BATCH * LENGTH, "checkpoints": 5, "save_every": 0}  # steps 2, 4, 6, 8, 10; stable to 6


@pytest.fixture(scope="module")
def run(store, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("run")
    assert main(*flags(store, run_dir, **WSD)) == 0
    return run_dir


@pytest.mark.parametrize(("stable", "steps"), [(False, [6, 8, 10]), (True, [2, 4, 6])])
def test_the_mean_is_a_model_that_says_of_what(run, store, tmp_path, stable, steps):
    made = average(run, 3, tmp_path / "mean", stable)
    assert made == tmp_path / f"mean/checkpoints/step-{steps[-1]:08d}"
    folders = [run / f"checkpoints/step-{step:08d}" for step in steps]
    weights = [load_file(folder / "model.safetensors") for folder in folders]
    found = load_file(made / "model.safetensors")
    assert found.keys() == weights[0].keys()
    for name, mean in found.items():
        exact = np.mean([one[name].astype(np.float64) for one in weights], axis=0, dtype=np.float64)
        np.testing.assert_array_max_ulp(mean, exact.astype(np.float32), maxulp=1)
    _, _, state = load_checkpoint(made)
    digests = [json.loads((folder / "state.json").read_text())["files"]["model.safetensors"] for folder in folders]
    assert state["averaged"] == [{"step": step, "weights": one} for step, one in zip(steps, digests, strict=True)]
    assert "optimizer.safetensors" not in state["files"]
    AutoModelForCausalLM.from_pretrained(made)
    (measured,) = find_checkpoints("mean", str(tmp_path / "mean"))
    row = perplexity_rows(measured, HeldOut("same", str(store.path), max_windows=20), tmp_path / "cache")[0]
    assert (row.step, row.sampler) == (steps[-1], "mean")
    before = content(tmp_path / "mean")
    assert average(run, 3, tmp_path / "mean", stable) == made
    assert content(tmp_path / "mean") == before


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_it_is_never_trained_on(run, store, tmp_path, capsys):
    average(run, 2, tmp_path / "mean")
    assert main(*flags(store, tmp_path / "mean", **WSD)) == 2
    assert "averaged: [{" in capsys.readouterr().err


def test_what_cannot_be_averaged_is_refused(run, store, tmp_path):
    output = tmp_path / "mean"
    with pytest.raises(InvalidCut, match="has 5 checkpoints, which are less than 6"):
        average(run, 6, output)
    with pytest.raises(InvalidCut, match="has 3 checkpoints of its stable phase, which are less than 4"):
        average(run, 4, output, stable=True)
    with pytest.raises(InvalidCut, match="give at least 2"):
        average(run, 1, output)
    with pytest.raises(StoreIncomplete, match="holds no run"):
        average(tmp_path, 2, output)
    mixed = tmp_path / "mixed"
    assert main(*flags(store, tmp_path / "other", **WSD | {"seed": 8, "total_tokens": 4 * BATCH * LENGTH})) == 0
    shutil.copytree(run, mixed)
    shutil.rmtree(mixed / "checkpoints/step-00000008")
    shutil.copytree(tmp_path / "other/checkpoints/step-00000004", mixed / "checkpoints/step-00000008")
    with pytest.raises(StoreMismatch, match="step-00000008 is of another run than .*step-00000010 .*branch, trunk"):
        average(mixed, 2, output)
    flip(mixed / "checkpoints/step-00000010/model.safetensors", np.random.default_rng(0))
    with pytest.raises(StoreDamaged, match="step-00000010/model.safetensors is damaged"):
        average(mixed, 2, output)
    assert not output.exists()
    with pytest.raises(StoreMismatch, match="is not the average of these checkpoints"):
        average(run, 2, mixed)
    with pytest.raises(StoreMismatch, match="is not the average of these checkpoints"):
        average(run, 2, tmp_path)
