"""A run must end on its exact sample, with the same bytes whatever happened on the way, and refuse what is wrong."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from damage import flip, warnings_of
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_runs import (
    BATCH,
    GENTLE,
    LENGTH,
    ROOT,
    STEPS,
    TIMES,
    TOTAL,
    flags,
    launch,
    main,
    outcome,
    rows,
    untimed,
)
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, T5ForConditionalGeneration
from transformers.optimization import Adafactor as ReferenceAdafactor

from evaluate_suite.checkpoint import find_checkpoints
from evaluate_suite.perplexity import HeldOut, window_losses
from pipeline_steps.stores.files import read_json
from pipeline_steps.stores.selection import Selection
from train import pretrain
from train.arguments import PretrainArguments, parse
from train.batches import Batches
from train.checkpoints import load_checkpoint
from train.loop import Trainer
from train.losses import TokenLosses
from train.model import build_model
from train.presets import PRESETS, Z_LOSS, is_causal
from train.pretrain import PretrainPlan
from train.run_directory import latest_checkpoint, read_rows
from train.token_store import open_artefact, stage


@pytest.fixture(scope="module")
def whole(store, tmp_path_factory):
    """A run that nobody disturbs."""
    run_dir = tmp_path_factory.mktemp("run")
    assert main(*flags(store, run_dir)) == 0
    return run_dir


def test_counts_every_token(whole, store):
    checkpoints = sorted(path.name for path in (whole / "checkpoints").iterdir())
    assert checkpoints == ["LATEST", "step-00000010", "step-00000020", "step-00000030"]
    _, _, state = load_checkpoint(whole / "checkpoints" / checkpoints[-1])
    assert state["encoder_tokens"] == TOTAL
    assert state["samples"] == STEPS * BATCH
    assert (state["selected_documents"], state["corpus_documents"]) == (store.documents, store.documents)
    assert [row["step"] for row in rows(whole)] == list(range(1, STEPS + 1))
    last = rows(whole)[-1]
    assert {name: state[name] for name in ("raw_tokens", "target_tokens", "epoch")}.items() <= last.items()
    assert state["raw_tokens"] / store.tokens == pytest.approx(state["epoch"], rel=0.01)


def test_the_last_batch_may_be_smaller(whole, store, tmp_path):
    total = TOTAL - 2 * LENGTH
    assert main(*flags(store, tmp_path, total_tokens=total)) == 0
    last = rows(tmp_path)[-1]
    assert (last["step"], last["samples"], last["encoder_tokens"]) == (STEPS, STEPS * BATCH - 2, total)
    same = [name for name in last if name not in TIMES]
    for one, other in zip(rows(whole)[:-1], rows(tmp_path)[:-1], strict=True):
        assert [one[name] for name in same] == [other[name] for name in same]
    plan = PretrainPlan.make(parse(PretrainArguments, flags(store, tmp_path, total_tokens=total), "", ""))
    assert last["raw_tokens"] == last["samples"] * plan.objective.raw_length


def test_the_loss_of_a_smaller_batch_is_the_mean_over_its_own_tokens(store, tmp_path):
    """Adafactor forgives a wrong scale; the norm of the last gradient, found anew, does not."""
    argv = flags(store, tmp_path, total_tokens=(3 * BATCH - 4) * LENGTH, save_every=1, keep_last=2)
    assert main(*argv) == 0
    plan = PretrainPlan.make(parse(PretrainArguments, argv, "", ""))
    model = load_checkpoint(tmp_path / "checkpoints" / "step-00000002")[0]
    (batch,) = Batches(plan, 0, 1, pin=False).rows(3)
    assert len(batch.samples) == 2
    output = model(input_ids=batch.inputs, labels=batch.targets)
    (output.loss + Z_LOSS * output.logits.logsumexp(-1).square().mean()).backward()
    norm = torch.stack([weight.grad.norm() for weight in model.parameters()]).norm().item()
    assert rows(tmp_path)[-1]["grad_norm"] == pytest.approx(norm, rel=1e-4)


def test_passes_of_fewer_rows_add_up(store, tmp_path):
    settings = {"total_tokens": 10 * BATCH * LENGTH, "warmup_steps": GENTLE}
    assert main(*flags(store, tmp_path / "one", **settings)) == 0
    assert main(*flags(store, tmp_path / "two", micro_batch_size=4, **settings)) == 0
    for one, other in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        assert one["nll"] == pytest.approx(other["nll"], abs=1e-5)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)


def test_learns_as_transformers_does(store, tmp_path):
    """80 steps of T5 v1.0 on the same batches: transformers' forward pass, loss and Adafactor."""
    steps = 80
    argv = flags(store, tmp_path, total_tokens=steps * BATCH * LENGTH, save_every=0, warmup_steps=40_000)
    assert main(*argv) == 0
    ours = np.array([row["nll"] for row in rows(tmp_path)])
    plan = PretrainPlan.make(parse(PretrainArguments, argv, "", ""))
    model = build_model("t5-tiny", store.vocab_size, 0)
    optimizer = ReferenceAdafactor(
        model.parameters(), lr=40_000**-0.5, scale_parameter=True, relative_step=False, warmup_init=False
    )
    theirs = []
    for step in range(1, steps + 1):
        (batch,) = Batches(plan, 0, 1, pin=False).rows(step)
        output = model(input_ids=batch.inputs, labels=batch.targets)
        (output.loss + Z_LOSS * output.logits.logsumexp(-1).square().mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
        theirs.append(output.loss.item())
    assert np.abs(ours[:2] - theirs[:2]).max() < 1e-4  # transformers factors the position bias too, T5 does not
    by_40 = [np.mean(losses, axis=1) for losses in (ours.reshape(-1, 40), np.reshape(theirs, (-1, 40)))]
    assert np.abs(by_40[0] - by_40[1]).max() < 0.01
    assert by_40[0][-1] < by_40[0][0] - 0.5


def test_learns(whole):
    losses = [row["nll"] for row in rows(whole)]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.5


def test_a_finished_run_says_so_and_returns_at_once(whole, store, monkeypatch, capsys):
    before = outcome(whole)
    capsys.readouterr()
    monkeypatch.setattr(Trainer, "__init__", lambda *_: pytest.fail("trained again"))
    assert main(*flags(store, whole)) == 0
    assert outcome(whole) == before
    assert capsys.readouterr().err == f"{whole} is finished: {STEPS} steps, {TOTAL:,} tokens; nothing to do\n"
    assert main(*flags(store, whole, total_tokens=TOTAL + 1)) == 0  # rounded, it is the same run
    assert outcome(whole) == before


@pytest.mark.parametrize("name", ["config.json", "state.json", "model.safetensors", "tokenizer.json"])
def test_a_finished_run_whose_last_checkpoint_is_damaged_trains_its_end_again(whole, store, tmp_path, name):
    run_dir = tmp_path / "run"
    shutil.copytree(whole, run_dir)
    file = run_dir / "checkpoints" / "step-00000030" / name
    flip(file, np.random.default_rng(0))
    assert f"{file} is damaged" in warnings_of(lambda: main(*flags(store, run_dir)))
    shutil.rmtree(run_dir / "checkpoints" / "step-00000030.damaged")
    assert outcome(run_dir) == outcome(whole)
    assert untimed(run_dir) == untimed(whole)


def test_a_file_added_to_a_checkpoint_stops_the_run_if_it_would_be_read(whole, store, tmp_path, capsys):
    run_dir = tmp_path / "run"
    shutil.copytree(whole, run_dir)
    folder = run_dir / "checkpoints" / "step-00000030"
    (folder / "README.md").write_text("mine")
    assert main(*flags(store, run_dir)) == 0
    (folder / "adapter_config.json").write_text("{}")
    assert main(*flags(store, run_dir)) == 2
    assert f"{folder}/adapter_config.json was not written with" in capsys.readouterr().err
    assert {"README.md", "adapter_config.json"} < {file.name for file in folder.iterdir()}


def test_a_damaged_row_is_named_when_a_run_goes_on(whole, store, tmp_path, capsys):
    run_dir = tmp_path / "run"
    shutil.copytree(whole, run_dir)
    shutil.rmtree(run_dir / "checkpoints" / "step-00000030")
    lines = (run_dir / "metrics.jsonl").read_text().splitlines(keepends=True)
    lines[6] = lines[6].replace('"nll": ', '"nll": 1')
    (run_dir / "metrics.jsonl").write_text("".join(lines))
    assert main(*flags(store, run_dir)) == 2
    assert f"{run_dir}/metrics.jsonl, line 7, is damaged" in capsys.readouterr().err


def test_sigterm_saves_and_the_rest_is_the_same(whole, store, tmp_path, monkeypatch):
    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(Trainer, "_update", at_step(13, lambda _: os.kill(os.getpid(), signal.SIGTERM)))
    coarse = {"log_every": 5}  # stopped in the middle of an interval
    assert main(*flags(store, tmp_path / "stopped", **coarse)) == pretrain.REQUEUE
    assert signal.getsignal(signal.SIGTERM) is handler
    assert (tmp_path / "stopped" / "checkpoints" / "step-00000013").exists()
    monkeypatch.undo()
    assert main(*flags(store, tmp_path / "stopped", **coarse)) == 0
    assert main(*flags(store, tmp_path / "undisturbed", **coarse)) == 0
    assert outcome(tmp_path / "stopped") == outcome(tmp_path / "undisturbed")
    assert untimed(tmp_path / "stopped") == untimed(tmp_path / "undisturbed")


def test_usr1_asks_for_a_requeue(store, tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "_update", at_step(4, lambda _: os.kill(os.getpid(), signal.SIGUSR1)))
    assert main(*flags(store, tmp_path)) == pretrain.REQUEUE == 75
    assert read_json(f"{tmp_path}/preempted.json") == {"signal": signal.SIGUSR1}
    monkeypatch.undo()
    assert main(*flags(store, tmp_path, seed=8)) == 2
    assert not (tmp_path / "preempted.json").exists()  # a job script would requeue a refused run for ever
    assert main(*flags(store, tmp_path)) == 0
    assert not (tmp_path / "preempted.json").exists()


def at_step(number, action):
    """`Trainer._update`, with something done before one of the steps."""
    update = Trainer._update

    def interrupted(self, step, rows, measure):
        if step == number:
            action(self)
        return update(self, step, rows, measure)

    return interrupted


def test_dropout_resumes_too(store, tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "t5-tiny", PRESETS["t5-tiny"] | {"dropout_rate": 0.1})
    total = 8 * BATCH * LENGTH
    update = Trainer._update
    assert main(*flags(store, tmp_path / "whole", total_tokens=total)) == 0
    monkeypatch.setattr(Trainer, "_update", at_step(5, lambda _: os.kill(os.getpid(), signal.SIGTERM)))
    assert main(*flags(store, tmp_path / "stopped", total_tokens=total)) == pretrain.REQUEUE
    monkeypatch.setattr(Trainer, "_update", update)
    torch.manual_seed(99)
    assert main(*flags(store, tmp_path / "stopped", total_tokens=total)) == 0
    assert outcome(tmp_path / "stopped") == outcome(tmp_path / "whole")


def test_another_run_is_refused_by_name(whole, store, capsys):
    assert main(*flags(store, whole, seed=8, batch_size=3)) == 2
    message = capsys.readouterr().err
    assert "batch_size: 6 there, 3 now" in message
    assert "seed: 7 there, 8 now" in message


def test_a_selection_is_replayed_and_recorded(whole, store, tmp_path, capsys):
    mask = np.arange(store.documents) % 5 == 0
    file = tmp_path / "selection.safetensors"
    Selection(mask, store.corpus_digest, {"mode": "random", "rate": 0.2}).save(str(file))
    total = 3 * BATCH * LENGTH
    assert main(*flags(store, tmp_path / "run", selection=file, total_tokens=total)) == 0
    _, _, state = load_checkpoint(tmp_path / "run" / "checkpoints" / "step-00000003")
    assert state["selected_documents"] == mask.sum()
    assert state["selected_tokens"] == np.concatenate(list(store.lengths_by_source()))[mask].sum()
    assert state["cut"] == {"mode": "random", "rate": 0.2}
    assert main(*flags(store, whole, selection=file)) == 2
    assert "selection_digest: None there" in capsys.readouterr().err


def test_runs_begin_with_the_same_weights(store, tmp_path):
    arguments = [parse(PretrainArguments, flags(store, tmp_path, seed=seed), "", "") for seed in (1, 2)]
    trainers = [Trainer(PretrainPlan.make(one)) for one in arguments]
    expected = build_model("t5-tiny", store.vocab_size, 0)
    for trainer in trainers:
        pairs = zip(trainer.raw_model.parameters(), expected.parameters(), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)


def test_nan_is_an_error_and_the_checkpoint_stays(store, tmp_path, monkeypatch, capsys):
    def poison(trainer):
        trainer.raw_model.shared.weight.data[5] = float("nan")

    monkeypatch.setattr(Trainer, "_update", at_step(13, poison))
    assert main(*flags(store, tmp_path)) == 2
    assert "the loss is nan at step 13" in capsys.readouterr().err
    assert torch.isfinite(load_checkpoint(tmp_path / "checkpoints" / "step-00000012")[0].shared.weight).all()


def test_nan_between_two_rows_is_never_saved(store, tmp_path, monkeypatch, capsys):
    def poison(trainer):
        trainer.raw_model.shared.weight.data[5] = float("nan")

    monkeypatch.setattr(Trainer, "_update", at_step(13, poison))
    assert main(*flags(store, tmp_path, log_every=100, save_every=1)) == 2
    assert "the loss is nan at step 13" in capsys.readouterr().err
    assert (tmp_path / "checkpoints" / "LATEST").read_text() == "step-00000012\n"


def test_a_full_disk_leaves_the_last_checkpoint(whole, store, tmp_path, capsys):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount a small disk")
    try:
        assert main(*flags(store, disk, save_every=1, keep_last=9)) == 2  # a checkpoint takes 2 MB
        message = capsys.readouterr().err
        assert "cannot be written" in message
        assert "No space left on device" in message
        assert latest_checkpoint(disk).name == (disk / "checkpoints" / "LATEST").read_text().strip()
        assert main(*flags(store, disk, save_every=0, keep_last=1)) == 2
        shutil.copytree(disk, tmp_path / "larger")
    finally:
        subprocess.run(["umount", disk], check=True)
    assert main(*flags(store, tmp_path / "larger", save_every=4)) == 0
    assert outcome(tmp_path / "larger") == outcome(whole)


def test_a_damaged_store_is_refused(store, tmp_path, capsys):
    copy = tmp_path / "tokens"
    shutil.copytree(store.path, copy)
    file = sorted(copy.glob("parts/*/tokens.npy"))[1]
    blob = bytearray(file.read_bytes())
    blob[-3] ^= 1
    file.write_bytes(blob)
    assert main(*flags(store, tmp_path / "run", tokens=copy)) == 2
    assert f"{file} is damaged" in capsys.readouterr().err
    assert main(*flags(store, tmp_path / "run", tokens=copy, stage_to=tmp_path / "local")) == 2
    assert not [path for path in (tmp_path / "local").iterdir() if not path.name.startswith(".")]
    file.write_bytes(blob[:-2])
    assert main(*flags(store, tmp_path / "run", tokens=copy)) == 2
    assert f"{file}" in capsys.readouterr().err


def test_staged_once_and_the_same(whole, store, tmp_path):
    staged = {"stage_to": tmp_path / "local", "total_tokens": 3 * BATCH * LENGTH}
    assert main(*flags(store, tmp_path / "run", **staged)) == 0
    (copy,) = (tmp_path / "local").glob("[!.]*")
    before = copy.stat().st_mtime_ns
    assert [row["nll"] for row in rows(tmp_path / "run")] == [row["nll"] for row in rows(whole)[:3]]
    assert main(*flags(store, tmp_path / "again", **staged)) == 0
    assert [path.stat().st_mtime_ns for path in (tmp_path / "local").glob("[!.]*")] == [before]
    (file,) = copy.glob("parts/*b.jsonl-*/offsets.npy")
    intact = file.read_bytes()
    flip(file, np.random.default_rng(0))
    assert stage(str(store.path), str(tmp_path / "local")).path == copy  # is copied again
    assert file.read_bytes() == intact


def test_staged_by_several_processes_at_once(store, tmp_path):
    killed = tmp_path / f".{open_artefact(str(store.path)).fingerprint}.tmp-killed"
    killed.mkdir()
    killed.with_suffix(".tmp-killed.lock").touch()
    command = f"from train.token_store import stage; print(stage({str(store.path)!r}, {str(tmp_path)!r}).path)"
    jobs = [subprocess.Popen([sys.executable, "-c", command], stdout=subprocess.PIPE, cwd=ROOT) for _ in range(3)]
    (said,) = {job.communicate()[0] for job in jobs}
    assert [path.name for path in sorted(tmp_path.iterdir())] == [".lock", Path(said.decode().strip()).name]
    copies = {path.relative_to(tmp_path) for path in tmp_path.glob("*/**/*") if path.is_file()}
    assert len(copies) == sum(path.is_file() for path in store.path.rglob("*"))


def test_held_out_perplexity_along_the_way(store, tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "t5-tiny", PRESETS["t5-tiny"] | {"dropout_rate": 0.1})  # in training only
    settings = {"held_out": f"same={store.path}", "eval_every": 5, "eval_windows": 40, "report_to": "tensorboard"}
    assert main(*flags(store, tmp_path, **settings)) == 0
    found = read_rows(tmp_path / "held_out.jsonl")
    assert [row["step"] for row in found] == [5, 10, 15, 20, 25, 30]
    assert found[-1]["nll"] < found[0]["nll"] - 0.3
    assert found[-1]["perplexity"] == pytest.approx(math.exp(found[-1]["nll"]))
    split = HeldOut("same", str(store.path), max_windows=40, seed=7)
    (last,) = find_checkpoints("random", str(tmp_path), "last")
    measured = window_losses(last, split, LENGTH, tmp_path / "cache")
    assert found[-1]["nll"] == pytest.approx(measured.mean(), rel=1e-5)
    events = EventAccumulator(str(tmp_path / "pretrain")).Reload()
    assert [event.step for event in events.Scalars("metrics/nll")] == list(range(1, STEPS + 1))
    assert [event.step for event in events.Scalars("held_out/same/perplexity")] == [5, 10, 15, 20, 25, 30]


@pytest.mark.parametrize(
    ("preset", "optimizer", "apart"),
    [
        ("t5-v1_1-tiny", "adamw", False),
        ("llama-tiny", "adamw", True),
        ("qwen3", "adamw", True),
        pytest.param("t5-tiny", "muon", False, marks=pytest.mark.slow),
        pytest.param("llama-tiny", "muon", True, marks=pytest.mark.slow),
    ],
)
def test_other_models_learn_resume_and_load(
    store, ended_store, qwen3, tmp_path, monkeypatch, preset, optimizer, apart
):
    store, preset = ended_store if apart else store, qwen3 if preset == "qwen3" else preset
    changes = {"preset": preset, "optimizer": optimizer, "warmup_steps": 5, "learning_rate": 3e-3}
    changes |= {"max_grad_norm": 1.0, "mask_documents": apart, "held_out": f"same={store.path}", "eval_windows": 40}
    assert main(*flags(store, tmp_path / "whole", **changes)) == 0
    monkeypatch.setattr(Trainer, "_update", at_step(13, lambda _: os.kill(os.getpid(), signal.SIGTERM)))
    assert main(*flags(store, tmp_path / "stopped", **changes)) == pretrain.REQUEUE
    monkeypatch.undo()
    assert main(*flags(store, tmp_path / "stopped", **changes)) == 0
    assert outcome(tmp_path / "stopped") == outcome(tmp_path / "whole")
    losses = [row["nll"] for row in rows(tmp_path / "whole")]
    assert losses[-1] < losses[0] - 1
    split = HeldOut("same", str(store.path), max_windows=40, seed=7)
    (last,) = find_checkpoints("random", str(tmp_path / "whole"), "last")
    found = read_rows(tmp_path / "whole" / "held_out.jsonl")[-1]
    assert found["nll"] == pytest.approx(window_losses(last, split, LENGTH, tmp_path / "cache").mean(), rel=1e-5)
    auto = AutoModelForCausalLM if is_causal(preset) else AutoModelForSeq2SeqLM
    folder = tmp_path / "whole" / "checkpoints" / "step-00000030"
    theirs, ours = auto.from_pretrained(folder), load_checkpoint(folder)[0]
    inputs, targets = torch.randint(3, 256, (2, 2, 40))
    torch.testing.assert_close(
        TokenLosses(theirs).by_token(inputs, targets), TokenLosses(ours).by_token(inputs, targets)
    )


def test_another_shape_of_the_same_name_is_refused(ended_store, qwen3, tmp_path, capsys):
    folder = tmp_path / "model"
    shutil.copytree(qwen3.removeprefix("hf:"), folder)
    argv = flags(ended_store, tmp_path / "run", preset=f"hf:{folder}", total_tokens=2 * BATCH * LENGTH)
    assert main(*argv) == 0
    shape = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(shape | {"torch_dtype": "float32", "eos_token_id": 3}))
    assert main(*argv) == 0  # which decide nothing
    (folder / "config.json").write_text(json.dumps(shape | {"intermediate_size": 104}))
    assert main(*argv) == 2
    assert "model.intermediate_size: 96 there, 104 now" in capsys.readouterr().err


def test_the_z_loss_is_an_option_that_no_nll_contains(ended_store, tmp_path):
    """At its default it is what it always was, and is not noted: older runs go on."""
    found = {}
    for name, change in {
        "default": {},
        "same": {"z_loss": Z_LOSS},
        "more": {"z_loss": 0.1},
        "none": {"z_loss": 0},
    }.items():
        argv = flags(ended_store, tmp_path / name, preset="llama-tiny", total_tokens=2 * BATCH * LENGTH, **change)
        assert main(*argv) == 0
        found[name] = rows(tmp_path / name)
        assert read_json(f"{tmp_path}/{name}/resolved.json").get("z_loss") == change.get("z_loss")
    assert [row["nll"] for row in found["default"]] == [row["nll"] for row in found["same"]]
    first = {name: rows[0] for name, rows in found.items()}
    assert len({row["nll"] for row in first.values()}) == 1  # before the first step all weights are the same
    assert first["more"]["z_loss"] == pytest.approx(0.1 / Z_LOSS * first["default"]["z_loss"])
    assert first["none"]["z_loss"] == 0
    assert len({rows[1]["nll"] for rows in found.values()}) == 3
    assert parse(PretrainArguments, flags(ended_store, tmp_path, preset="olmo-4m"), "", "").loop.z_loss == 0


def test_bfloat16_stays_close_and_is_another_run(whole, store, tmp_path, capsys):
    assert main(*flags(store, tmp_path, mixed_precision="bf16")) == 0
    mean = [np.mean([row["nll"] for row in rows(run)[-10:]]) for run in (tmp_path, whole)]
    assert mean[0] == pytest.approx(mean[1], abs=0.1)
    assert rows(tmp_path)[0]["nll"] == pytest.approx(rows(whole)[0]["nll"], rel=5e-3)
    assert load_checkpoint(tmp_path / "checkpoints" / "step-00000030")[0].shared.weight.dtype == torch.float32
    assert main(*flags(store, tmp_path)) == 2
    assert "mixed_precision: 'bf16' there, 'no' now" in capsys.readouterr().err


def test_a_shipped_configuration_under_accelerate(store, tmp_path):
    named = ["--config", "tiny-cpu.yaml", "--tokens", str(store.path), "--run-dir", str(tmp_path)]
    finished = launch(1, [*named, "--total-tokens", str(4 * 16 * 128)])
    assert finished.returncode == 0, finished.stderr
    assert rows(tmp_path)[-1]["encoder_tokens"] == 4 * 16 * 128
    assert isinstance(
        AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "checkpoints" / "step-00000004"), T5ForConditionalGeneration
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"total_tokens": LENGTH - 1}, f"ask for at least {LENGTH}"),
        ({"preset": "t5-huge"}, "no preset 't5-huge'"),
        ({"input_length": 100_000, "total_tokens": 100_000 * BATCH}, "choose another length"),
        ({"tokens": "nowhere"}, "nowhere holds nothing yet"),
        ({"tokens": "nowhere", "stage_to": "local"}, "nowhere holds nothing yet"),
        ({"selection": "nowhere"}, "nowhere"),
        ({"held_out": "a=nowhere"}, "nowhere holds nothing yet"),
        ({"mixed_precision": "no", "report_to": "nobody"}, "no tracker 'nobody'"),
        ({"report_to": "wandb"}, "the tracker wandb is not installed"),
        ({"held_out": "nowhere"}, "held_out must be NAME=FOLDER"),
        ({"checkpoints": 0}, "checkpoints must be at least 1, not 0"),
        ({"mask_documents": True}, "t5-tiny is no causal model, which mask_documents is for"),
        ({"mask_documents": True, "preset": "llama-tiny"}, "do not end in EOS, by which those in one row are told"),
        ({"z_loss": -1}, "z_loss must be a finite number of 0 or more, not -1.0"),
        ({"preset": "hf:nowhere"}, "nowhere is neither a local folder nor to be had from the Hub"),
    ],
)
def test_mistakes_end_in_one_sentence_and_leave_no_folder(store, tmp_path, capsys, monkeypatch, changes, message):
    monkeypatch.chdir(tmp_path)
    assert main(*flags(store, tmp_path / "run", **changes)) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_tokens_are_rounded_to_whole_samples_which_is_said_once(store, tmp_path, capsys):
    total = 2 * BATCH * LENGTH
    assert main(*flags(store, tmp_path / "run", total_tokens=total + 7)) == 0
    said = capsys.readouterr().err
    assert said.count(f"{total + 7} tokens are rounded down to whole samples: {total} = {2 * BATCH} x {LENGTH}\n") == 1
    assert read_json(f"{tmp_path}/run/resolved.json")["total_tokens"] == total
    assert rows(tmp_path / "run")[-1]["encoder_tokens"] == total


def test_fp16_is_refused(store, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")  # as `accelerate launch --mixed_precision fp16` does
    assert main(*flags(store, tmp_path)) == 2
    assert "T5 diverges in fp16" in capsys.readouterr().err
