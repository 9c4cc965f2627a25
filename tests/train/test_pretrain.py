"""A run must end with the same bytes whatever happened on the way, and see the same samples on two processes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline_steps.selection import Selection
from train import pretrain
from train.arguments import parse
from train.checkpoints import load_checkpoint
from train.loop import Trainer
from train.model import PRESETS, build_model
from train.plan import Plan, PretrainArguments


ROOT = Path(__file__).parent.parent.parent
STEPS, BATCH, LENGTH = 30, 6, 32
TIMES = {"seconds", "tokens_per_second", "tflops", "mfu", "data_wait"}
TOTAL = STEPS * BATCH * LENGTH
ENVIRONMENT = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"}


def flags(store, run_dir, **changes):
    values = {
        "tokens": store.path,
        "run_dir": run_dir,
        "total_tokens": TOTAL,
        "batch_size": BATCH,
        "input_length": LENGTH,
        "checkpoints": 3,
        "save_every": 4,
        "log_every": 1,
        "seed": 7,
        "report_to": "none",
    }
    return [f"--{name.replace('_', '-')}={value}" for name, value in (values | changes).items()]


def main(*argv):
    """Run in this process; the exit code."""
    with pytest.raises(SystemExit) as caught:
        pretrain.main(list(argv))
    return caught.value.code


def launch(*command):
    environment = ENVIRONMENT | {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # bits depend on it
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120)


def dying(patch, argv):
    """Run in a process that kills itself, with SIGKILL, where `patch` says `die()`."""
    script = (
        "import os, signal, sys\n"
        "def die(*_): os.kill(os.getpid(), signal.SIGKILL)\n"
        f"{patch}\n"
        "from train.pretrain import main\n"
        "main(sys.argv[1:])\n"
    )
    finished = launch(sys.executable, "-c", script, *argv)
    assert finished.returncode == -signal.SIGKILL, finished.stderr


def rows(run_dir):
    return [json.loads(line) for line in (Path(run_dir) / "metrics.jsonl").read_text().splitlines()]


def untimed(run_dir):
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows(run_dir)]


def outcome(run_dir):
    """Bytes of everything but the environment and timings."""
    files = [path for path in sorted(Path(run_dir).rglob("*")) if path.is_file()]
    kept = {str(path.relative_to(run_dir)): path.read_bytes() for path in files}
    del kept["environment.json"], kept["metrics.jsonl"]
    return kept


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


def test_learns(whole):
    losses = [row["nll"] for row in rows(whole)]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.5


def test_a_finished_run_returns_at_once(whole, store, monkeypatch):
    before = outcome(whole)
    monkeypatch.setattr(Trainer, "__init__", lambda *_: pytest.fail("trained again"))
    assert main(*flags(store, whole)) == 0
    assert outcome(whole) == before


def test_killed_twice_ends_with_the_same_bytes(whole, store, tmp_path):
    argv = flags(store, tmp_path)
    inside_a_save = (
        "import train.folders\nrename = train.folders._rename\n"
        "train.folders._rename = lambda a, b: die() if b.name == 'step-00000016' else rename(a, b)"
    )
    between_saves = (
        "from train.run_directory import Metrics\nwrite = Metrics.append\n"
        "Metrics.append = lambda self, row: die() if row['step'] == 23 else write(self, row)"
    )
    dying(inside_a_save, argv)
    assert any(path.name.startswith(".step-00000016.tmp") for path in (tmp_path / "checkpoints").iterdir())
    assert rows(tmp_path)[-1]["step"] == 16
    dying(between_saves, argv)
    assert rows(tmp_path)[-1]["step"] == 22
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    finished = launch(*accelerate, "-m", "train.pretrain", *argv)
    assert finished.returncode == 0, finished.stderr
    assert outcome(tmp_path) == outcome(whole)
    assert untimed(tmp_path) == untimed(whole)


def test_two_processes_see_the_same_samples(whole, store, tmp_path):
    # `--cpu --num_processes 2` would start one process; this way it is two, over gloo
    spawn = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    argv = flags(store, tmp_path, save_every=0)
    finished = launch(*spawn, "--main_process_port", "0", "-m", "train.pretrain", *argv)
    assert finished.returncode == 0, finished.stderr
    assert json.loads((tmp_path / "environment.json").read_text())["processes"] == 2
    for one, two in zip(rows(whole), rows(tmp_path), strict=True):
        assert one["samples"] == two["samples"]
        assert one["nll"] == pytest.approx(two["nll"], abs=1e-5 if one["step"] < 10 else 1e-3)
        if one["step"] < 10:  # Adafactor forgives a wrong scale of the gradient; its norm tells
            assert one["grad_norm"] == pytest.approx(two["grad_norm"], rel=1e-4)


def test_sigterm_saves_and_the_rest_is_the_same(whole, store, tmp_path, monkeypatch):
    update = Trainer._update

    def interrupted(self, step, rows, measure):
        if step == 13:
            os.kill(os.getpid(), signal.SIGTERM)
        return update(self, step, rows, measure)

    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(Trainer, "_update", interrupted)
    coarse = {"log_every": 5}  # stopped in the middle of an interval
    assert main(*flags(store, tmp_path / "stopped", **coarse)) == pretrain.REQUEUE
    assert signal.getsignal(signal.SIGTERM) is handler
    assert (tmp_path / "stopped" / "checkpoints" / "step-00000013").exists()
    monkeypatch.undo()
    assert main(*flags(store, tmp_path / "stopped", **coarse)) == 0
    assert main(*flags(store, tmp_path / "undisturbed", **coarse)) == 0
    assert outcome(tmp_path / "stopped") == outcome(tmp_path / "undisturbed")
    assert untimed(tmp_path / "stopped") == untimed(tmp_path / "undisturbed")


def test_dropout_resumes_too(store, tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "t5-tiny", PRESETS["t5-tiny"] | {"dropout_rate": 0.1})
    total = 8 * BATCH * LENGTH
    update = Trainer._update

    def interrupted(self, step, rows, measure):
        if step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return update(self, step, rows, measure)

    assert main(*flags(store, tmp_path / "whole", total_tokens=total)) == 0
    monkeypatch.setattr(Trainer, "_update", interrupted)
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
    trainers = [Trainer(Plan.make(one)) for one in arguments]
    expected = build_model("t5-tiny", store.vocab_size, 0)
    for trainer in trainers:
        pairs = zip(trainer.raw_model.parameters(), expected.parameters(), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)


def test_nan_is_an_error_and_the_checkpoint_stays(store, tmp_path, monkeypatch, capsys):
    update = Trainer._update

    def poisoned(self, step, rows, measure):
        if step == 13:
            self.raw_model.shared.weight.data[5] = float("nan")
        return update(self, step, rows, measure)

    monkeypatch.setattr(Trainer, "_update", poisoned)
    assert main(*flags(store, tmp_path)) == 2
    assert "the loss is nan at step 13" in capsys.readouterr().err
    assert torch.isfinite(load_checkpoint(tmp_path / "checkpoints" / "step-00000012")[0].shared.weight).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"total_tokens": TOTAL + 1}, f"ask for {TOTAL} or {TOTAL + LENGTH}"),
        ({"preset": "t5-huge"}, "no preset 't5-huge'"),
        ({"input_length": 100_000, "total_tokens": 100_000 * BATCH}, "choose another length"),
        ({"tokens": "nowhere"}, "nowhere is not a token store"),
        ({"checkpoints": 0}, "checkpoints must be at least 1, not 0"),
    ],
)
def test_mistakes_end_in_one_sentence(store, tmp_path, capsys, changes, message):
    assert main(*flags(store, tmp_path, **changes)) == 2
    assert message in capsys.readouterr().err
