"""A checkpoint must load as it lies, be whole or absent, and be passed over when damaged."""

import json

import pytest
import torch
from transformers import AutoTokenizer, T5ForConditionalGeneration

from pipeline_steps.errors import ModelError, StoreDamaged, StoreIncomplete, StoreMismatch
from train import folders
from train.adafactor import Adafactor
from train.checkpoints import (
    latest_checkpoint,
    load_checkpoint,
    load_optimizer,
    prune,
    save_checkpoint,
    sweep,
    whole_weights,
)
from train.losses import TokenLosses
from train.model import build_model
from train.presets import PRESETS
from train.run_directory import Metrics, last_row, list_checkpoints, read_rows


@pytest.fixture
def save(tmp_path, tokenizer_folder):
    """Save the same tiny model as the checkpoint of a step."""
    model = build_model("t5-tiny", 500, init_seed=0)
    tensors = whole_weights(model), Adafactor(model.named_parameters()).state_dict()
    return lambda step: save_checkpoint(tmp_path, model, tensors, tokenizer_folder, {"step": step})


@pytest.mark.parametrize("family", ["t5-small", "t5-v1_1-small"])
def test_loads_as_it_lies(tmp_path, tokenizer_folder, monkeypatch, family):
    small = PRESETS[family] | {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 2}
    monkeypatch.setitem(PRESETS, "small", small)
    model = build_model("small", 500, init_seed=0).eval()
    folder = save_checkpoint(tmp_path, model, (whole_weights(model), {}), tokenizer_folder, {"step": 3})
    assert folder.name == "step-00000003"
    inputs, targets = torch.randint(3, 400, (2, 40)), torch.randint(3, 400, (2, 12))
    expected = TokenLosses(model).by_token(inputs, targets)
    ours, tokenizer, state = load_checkpoint(folder)
    theirs = T5ForConditionalGeneration.from_pretrained(folder)
    for loaded in (ours, theirs):
        assert not loaded.training
        assert torch.equal(TokenLosses(loaded).by_token(inputs, targets), expected)
        assert (loaded.lm_head.weight is loaded.shared.weight) == (family == "t5-small")
    assert state["step"] == 3
    assert tokenizer("ban gar").input_ids == AutoTokenizer.from_pretrained(tokenizer_folder)("ban gar").input_ids


def test_the_newest_valid_one_is_taken(tmp_path, save):
    assert latest_checkpoint(tmp_path) is None
    saved = [save(step) for step in (5, 10, 100)]
    assert latest_checkpoint(tmp_path) == saved[2]
    weights = saved[2] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    (saved[1] / "optimizer.safetensors").unlink()
    assert latest_checkpoint(tmp_path) == saved[0]
    with pytest.raises(StoreMismatch, match="step-00000100 is damaged"):
        load_checkpoint(saved[2])
    sweep(tmp_path, 5)
    assert list_checkpoints(tmp_path) == saved[:1]
    assert (saved[0].parent / "LATEST").read_text() == f"{saved[0].name}\n"


def test_the_grid_and_the_last_few_stay(tmp_path, save):
    for step in (5, 10, 15, 20, 25):
        save(step)
        prune(tmp_path, grid={10, 25}, keep_last=2)
    assert [folder.name[-2:] for folder in list_checkpoints(tmp_path)] == ["10", "20", "25"]
    save(30)
    prune(tmp_path, grid={10, 25}, keep_last=2)
    assert [folder.name[-2:] for folder in list_checkpoints(tmp_path)] == ["10", "25", "30"]


def test_not_a_checkpoint(tmp_path):
    with pytest.raises(StoreIncomplete, match="has no state.json"):
        load_checkpoint(tmp_path)


def test_optimizer_comes_back(tmp_path, save):
    stored = load_optimizer(save(1))
    assert stored.keys() == Adafactor(build_model("t5-tiny", 500, 0).named_parameters()).state_dict().keys()


def test_disk_full_leaves_the_last_one(tmp_path, save, monkeypatch):
    good = save(5)

    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folders, "_sync", full)
    with pytest.raises(ModelError, match="step 10 cannot be written .*No space left"):
        save(10)
    assert latest_checkpoint(tmp_path) == good
    assert sorted(path.name for path in good.parent.iterdir()) == ["LATEST", good.name]
    assert (good.parent / "LATEST").read_text() == f"{good.name}\n"


def test_metrics_are_cut_after_the_step(tmp_path):
    rows = [{"step": step, "nll": step / 3} for step in (10, 20, 30)]
    with Metrics(tmp_path, "metrics", 0) as metrics:
        for row in rows:
            metrics.append(row)
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 4')  # killed while writing
    with Metrics(tmp_path, "metrics", 20):
        pass
    assert [json.loads(line) for line in path.read_text().splitlines()] == rows[:2]


@pytest.mark.parametrize("line", ["{", "[]", '{"tokens": 5}', '{"step": "5"}', "\x00\xff", "[" * 100_000])
def test_a_damaged_row_is_named_by_its_line(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n' + line + "\n" + '{"step": 3}\n', encoding="latin-1")
    with pytest.raises(StoreDamaged, match=r"metrics\.jsonl, line 2, is damaged"):
        Metrics(tmp_path, "metrics", 10)
    assert last_row(tmp_path / "metrics.jsonl") == {"step": 3}


def test_a_row_that_a_kill_has_cut_short_is_no_damage(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2, "lo')
    assert read_rows(tmp_path / "metrics.jsonl") == [{"step": 1}]
    assert last_row(tmp_path / "metrics.jsonl") == {"step": 1}
    assert last_row(tmp_path / "nowhere.jsonl") == {}
