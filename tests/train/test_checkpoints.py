"""A checkpoint must load as it lies, be whole or absent, and be passed over when damaged."""

import json

import pytest
import torch
from damage import damages, refusal, warnings_of
from transformers import AutoTokenizer, T5ForConditionalGeneration

from pipeline_steps.errors import ModelError, StoreDamaged, StoreIncomplete, StoreMismatch
from pipeline_steps.stores.artefact import claim
from train import folders
from train.checkpoints import drop_after, load_checkpoint, load_optimizer, prune, save_checkpoint, whole_weights
from train.losses import TokenLosses
from train.model import build_model
from train.optimizers import Adafactor
from train.presets import PRESETS
from train.run_directory import (
    Metrics,
    is_finished,
    last_row,
    latest_checkpoint,
    list_checkpoints,
    read_rows,
    read_state,
    sealed_row,
    tidy,
)


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
    with pytest.raises(StoreDamaged, match="step-00000100/model.safetensors is damaged"):
        load_checkpoint(saved[2])
    with pytest.raises(StoreDamaged, match="step-00000010/optimizer.safetensors is missing"):
        load_checkpoint(saved[1])
    (saved[1].parent / "step-00000010.damaged").mkdir()  # of an earlier start
    said = warnings_of(lambda: drop_after(tmp_path, 5))
    assert said.count("lies in") == 2
    assert list_checkpoints(tmp_path) == saved[:1]
    aside = [saved[1].with_name(f"{saved[1].name}.damaged-2"), saved[2].with_name(f"{saved[2].name}.damaged")]
    assert all((folder / "state.json").exists() and str(folder) in said for folder in aside)
    assert (saved[0].parent / "LATEST").read_text() == f"{saved[0].name}\n"


FILES = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]
FILES += ["model.safetensors", "optimizer.safetensors", "state.json"]


@pytest.mark.parametrize("name", FILES)
def test_every_flip_and_truncation_is_found_by_name(tmp_path, save, name):
    older, newer = save(5), save(10)
    assert {file.name for file in newer.iterdir()} == set(FILES)
    assert is_finished(tmp_path, 10)
    file, state = newer / name, read_state(newer)
    for _ in damages(file):
        said = refusal(lambda: load_checkpoint(newer))
        if said is None:
            assert name == "state.json"
            assert read_state(newer) == state  # the same but for spaces
        else:
            assert str(file) in said
            assert "delete" in said
            assert latest_checkpoint(tmp_path) == older
            assert not is_finished(tmp_path, 10)
    assert latest_checkpoint(tmp_path) == newer


@pytest.mark.parametrize("name", FILES)
def test_missing_files_are_named(tmp_path, save, name):
    folder = save(5)
    (folder / name).rename(folder / f"other-{name}")
    assert latest_checkpoint(tmp_path) is None
    assert f"{folder / name} is missing" in warnings_of(lambda: is_finished(tmp_path, 5))
    assert not is_finished(tmp_path, 5)
    (folder / f"other-{name}").rename(folder / name)
    assert is_finished(tmp_path, 5)


@pytest.mark.parametrize("name", ["README.md", "eval/results.json", "model_card.md", "adapter/adapter_config.json"])
def test_other_files_in_a_checkpoint_do_no_harm(tmp_path, save, name):
    folder = save(5)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("mine")
    assert latest_checkpoint(tmp_path) == folder
    load_checkpoint(folder)
    drop_after(tmp_path, 5)
    assert (folder / name).read_text() == "mine"


@pytest.mark.parametrize(
    "name",
    ["model.safetensors.index.json", "model-00001-of-00002.safetensors", "pytorch_model.bin", "adapter_config.json"]
    + ["added_tokens.json", "special_tokens_map.json", "tokenizer.4.0.0.json", "spiece.model", "vocab.json"]
    + ["modeling_t5.py", "chat_template.jinja", "additional_chat_templates/rag.jinja", "processor_config.json"],
)
def test_a_file_that_transformers_would_read_stops_everything(tmp_path, save, name):
    save(5)
    folder = save(10)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("{}")
    for action in (lambda: load_checkpoint(folder), lambda: latest_checkpoint(tmp_path)):
        with pytest.raises(StoreMismatch, match=f"{name} was not written with .*: move it elsewhere"):
            action()
    assert (folder / name).exists()


def test_another_state_or_dropout_is_never_resumed_from(tmp_path, save):
    folder = save(5)
    for name, old, new in [
        ("state.json", '"step": 5', '"step": -3'),
        ("config.json", '"dropout_rate": 0', '"dropout_rate": 1'),
    ]:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))
        assert latest_checkpoint(tmp_path) is None
        with pytest.raises(StoreDamaged, match=name):
            load_checkpoint(folder)
        (folder / name).write_text(text)


def test_latest_is_not_trusted(tmp_path, save):
    save(5)
    newest = save(10)
    (newest.parent / "LATEST").write_text("step-00000005\n")
    assert latest_checkpoint(tmp_path) == newest


def test_what_kills_leave_behind_is_tidied_away(tmp_path, save):
    folder = save(5)
    for name in (".step-00000010.tmp-0", ".step-00000003.removed"):
        (folder.parent / name).mkdir()
        (folder.parent / name / "model.safetensors").write_text("x")
    (folder.parent / ".LATEST.tmp-0").write_text("x")
    tidy(tmp_path)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["LATEST", folder.name]


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

    monkeypatch.setattr(folders, "sync_folder", full)
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
    assert read_rows(path) == rows
    assert last_row(path) == rows[-1]
    with Metrics(tmp_path, "metrics", 20):
        pass
    assert read_rows(path) == rows[:2]
    assert [list(json.loads(line)) for line in path.read_text().splitlines()] == [["step", "nll", "xxh3"]] * 2


def test_damaged_rows_are_named_by_line(tmp_path):
    rows = [{"step": step, "nll": step / 3, "split": "c4", "lr": 1e-3, "norm": None} for step in range(4)]
    path = tmp_path / "held_out.jsonl"
    path.write_text("".join(map(sealed_row, rows)))
    for number in damages(path):
        said = refusal(lambda: read_rows(path))
        found = None if said else read_rows(path)
        if number < 30:
            assert found == rows or f"{path}, line " in said  # the same: "1e-3" is "1E-3"
            assert last_row(path) in ({}, *rows)
        else:
            assert found == rows[: len(found)]  # what is cut off leaves the rows before it


def test_every_flip_of_a_row_is_found(tmp_path):
    rows = [{"step": 1, "nll": 2.5}, {"step": 2, "nll": 1.25e-7, "perplexity": 1.5, "split": "c4"}]
    path = tmp_path / "metrics.jsonl"
    blob = "".join(map(sealed_row, rows)).encode()
    for place in range(len(blob)):
        for bit in range(8):
            damaged = bytearray(blob)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            said = refusal(lambda: read_rows(path))
            assert read_rows(path) == rows if said is None else f"{path}, line " in said


def test_a_row_has_no_infinity():
    """JSON does not, nor does duckdb read it."""
    row = {"step": 1, "grad_norm": float("inf"), "nll": 2.0}
    assert json.loads(sealed_row(row), parse_constant=pytest.fail)["grad_norm"] is None


def test_a_run_is_claimed_once(tmp_path):
    path = tmp_path / "resolved.json"

    def claim_it(seed):
        claim(str(path), {"seed": seed, "grid": (1, 2)}, "the run")

    claim_it(1)
    claim_it(1)
    with pytest.raises(StoreMismatch, match="seed: 1 there, 2 now"):
        claim_it(2)
    for _ in damages(path):
        said = refusal(lambda: claim_it(1))
        assert said is None or f"{path} is damaged" in said
