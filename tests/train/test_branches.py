"""A branched decay must be the run that nobody branched, to the bit, whatever is killed on the way."""

import os
import shutil
import signal

import numpy as np
import pytest
from damage import flip
from training_runs import BATCH, LENGTH, TOTAL, flags, main, rows, run_ranks, untimed

from evaluate_suite.checkpoint import cost_rows, find_checkpoints
from pipeline_steps.stores.files import read_json
from train.loop import Trainer
from train.run_directory import list_checkpoints, step_of
from train.signals import REQUEUE


# Steps 14 and 20 of 30, the first with a smaller last batch; their decays begin after steps 11 and 16, and the trunk's
# after 24
BUDGETS = [(14 * BATCH - 2) * LENGTH, 20 * BATCH * LENGTH]
STARTS = [11, 16]
WSD = {"schedule": "wsd", "decay_fraction": 0.2, "warmup_steps": 3, "log_every": 3, "checkpoints": 2}
KINDS = {
    "t5-adafactor": {"preset": "t5-tiny", "optimizer": "adafactor"},
    "llama-adamw": {"preset": "llama-tiny", "optimizer": "adamw", "learning_rate": 3e-3, "max_grad_norm": 1.0},
    "t5-adamw": {"preset": "t5-tiny", "optimizer": "adamw"},
    "llama-adafactor": {"preset": "llama-tiny", "optimizer": "adafactor"},
    "llama-muon": {"preset": "llama-tiny", "optimizer": "muon", "decay_norms": True},
}


def trunk_words(store, run_dir, **changes):
    return [*flags(store, run_dir, **WSD | changes), "--decay-at", *map(str, BUDGETS)]


def assert_same(branch, alone, start):
    """Compare everything after the branch point: weights, moments, states, rows of both files."""
    made = [folder for folder in list_checkpoints(alone) if step_of(folder) > start]
    assert [folder.name for folder in list_checkpoints(branch)] == [folder.name for folder in made]
    for folder in made:
        files = sorted(folder.iterdir())
        assert {file.name for file in files} > {"model.safetensors", "optimizer.safetensors", "state.json"}
        for file in files:
            assert (branch / "checkpoints" / folder.name / file.name).read_bytes() == file.read_bytes(), file
    assert (branch / "resolved.json").read_bytes() == (alone / "resolved.json").read_bytes()
    after = [[row for row in untimed(run) if row["step"] > start] for run in (branch, alone)]
    assert after[0] == after[1]
    assert after[0][-1]["lr"] == 0.0


@pytest.fixture(scope="module")
def trunk(store, tmp_path_factory):
    """A T5's run to three budgets that nobody disturbs."""
    run_dir = tmp_path_factory.mktemp("trunk")
    assert main(*trunk_words(store, run_dir, **KINDS["t5-adafactor"])) == 0
    return run_dir


@pytest.mark.parametrize(
    "kind", ["t5-adafactor", "llama-adamw", *(pytest.param(kind, marks=pytest.mark.slow) for kind in list(KINDS)[2:])]
)
def test_branches_are_the_runs_that_nobody_branched(trunk, store, tmp_path, kind):
    if kind != "t5-adafactor":
        trunk = tmp_path / "trunk"
        assert main(*trunk_words(store, trunk, **KINDS[kind])) == 0
    kept = [step_of(folder) for folder in list_checkpoints(trunk)]
    assert kept == [11, 15, 16, 24, 30]  # branch points, an even grid, and where its own decay begins
    for total, start in zip(BUDGETS, STARTS, strict=True):
        alone, branch = tmp_path / str(total), trunk / "branches" / str(total)
        assert main(*flags(store, alone, **WSD | KINDS[kind], total_tokens=total)) == 0
        assert_same(branch, alone, start)
        assert rows(branch)[-1]["encoder_tokens"] == total
        assert [row for row in rows(branch) if row["step"] <= start] == [
            row for row in rows(trunk) if row["step"] <= start
        ]


def test_a_branch_is_a_run_like_any_other(trunk, store, capsys):
    branch = trunk / "branches" / str(BUDGETS[0])
    (measured,) = find_checkpoints("random", str(branch))
    assert (measured.state["step"], measured.state["encoder_tokens"]) == (14, BUDGETS[0])
    hours = cost_rows(measured)[0].value
    assert hours == pytest.approx(sum(row["seconds"] for row in rows(branch)) / 3600)  # its steps in the trunk too
    capsys.readouterr()
    assert main(*trunk_words(store, trunk, **KINDS["t5-adafactor"])) == 0
    assert capsys.readouterr().err.count("nothing to do") == 3


def test_a_signal_in_a_branch_asks_for_a_requeue_of_the_run(trunk, store, tmp_path, monkeypatch):
    run_dir, branch = tmp_path / "run", f"branches/{BUDGETS[0]}"
    shutil.copytree(trunk, run_dir)
    shutil.rmtree(run_dir / branch)
    update = Trainer._update

    def interrupted(self, step, *rest, **named):
        if step == 13:
            os.kill(os.getpid(), signal.SIGTERM)
        return update(self, step, *rest, **named)

    monkeypatch.setattr(Trainer, "_update", interrupted)
    words = trunk_words(store, run_dir, **KINDS["t5-adafactor"])
    assert main(*words) == REQUEUE
    assert (run_dir / "preempted.json").exists()
    monkeypatch.undo()
    assert main(*words) == 0
    assert not (run_dir / "preempted.json").exists()
    assert_same(run_dir / branch, trunk / branch, STARTS[0])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["t5-adafactor", "llama-adamw"])
def test_killed_in_trunk_and_branch(store, tmp_path, kind):
    words = trunk_words(store, tmp_path / "run", **KINDS[kind])
    in_a_step = (
        "from train.loop import Trainer\nupdate = Trainer._update\n"
        "Trainer._update = lambda self, step, *a, **k: die() if (self.plan.run_dir.name, step) == {place!r} "
        "else update(self, step, *a, **k)"
    )
    in_a_save = (
        "import train.folders\nrename = train.folders._rename\n"
        "train.folders._rename = lambda a, b: die() if (b.parent.parent.name, b.name) == {place!r} else rename(a, b)"
    )
    for patch, place in [
        (in_a_save, ("run", "step-00000011")),
        (in_a_step, ("run", 14)),
        (in_a_step, (str(BUDGETS[0]), 13)),
        (in_a_save, (str(BUDGETS[1]), "step-00000020")),
    ]:
        codes, said = run_ranks(1, words, patch.format(place=place), tmp_path)
        assert codes == [-signal.SIGKILL], said
    codes, said = run_ranks(1, words, "", tmp_path)
    assert codes == [0], said
    for total, start in zip(BUDGETS, STARTS, strict=True):
        alone = tmp_path / str(total)
        codes, said = run_ranks(1, flags(store, alone, **WSD | KINDS[kind], total_tokens=total), "", tmp_path)
        assert codes == [0], said
        assert_same(tmp_path / "run" / "branches" / str(total), alone, start)


@pytest.mark.slow
def test_two_processes_branch_too(store, tmp_path):
    changes = KINDS["llama-adamw"] | {"total_tokens": 8 * BATCH * LENGTH}
    total = 5 * BATCH * LENGTH
    words = [*flags(store, tmp_path / "run", **WSD | changes), "--decay-at", str(total)]
    for argv in (words, flags(store, tmp_path / "alone", **WSD | changes | {"total_tokens": total})):
        codes, said = run_ranks(2, argv, "", tmp_path)
        assert codes == [0, 0], said
    assert_same(tmp_path / "run" / "branches" / str(total), tmp_path / "alone", 4)


def test_a_branch_of_ones_own(trunk, store, tmp_path):
    """With another decay, to a larger budget, and from an earlier checkpoint if the one where it begins is damaged."""
    longer = {"total_tokens": TOTAL * 6 // 5, "decay_fraction": 0.3, "decay_shape": "1-sqrt", "final_lr_ratio": 0.1}
    changes = WSD | KINDS["t5-adafactor"] | longer | {"save_every": 0}
    copy = tmp_path / "trunk"
    shutil.copytree(trunk, copy)
    flip(copy / "checkpoints" / "step-00000024" / "optimizer.safetensors", np.random.default_rng(0))
    assert main(*flags(store, tmp_path / "branch", **changes, branch_from=copy)) == 0
    assert read_json(f"{tmp_path}/branch/environment.json")["begun_in"] == str(copy)
    assert main(*flags(store, tmp_path / "alone", **changes)) == 0
    made = [folder.name for folder in list_checkpoints(tmp_path / "branch")]
    assert made == [folder.name for folder in list_checkpoints(tmp_path / "alone")]
    assert made == ["step-00000018", "step-00000025", "step-00000036"]  # it went on from step 16
    for name in made:
        for file in (tmp_path / "alone" / "checkpoints" / name).glob("*.safetensors"):
            assert (tmp_path / "branch" / "checkpoints" / name / file.name).read_bytes() == file.read_bytes()


def test_other_settings_than_the_trunks_are_refused_by_name(trunk, store, tmp_path, capsys):
    changes = WSD | KINDS["t5-adafactor"] | {"total_tokens": BUDGETS[1], "branch_from": trunk}
    assert main(*flags(store, tmp_path / "run", **changes | {"seed": 8, "decay_fraction": 0.3, "batch_size": 5})) == 2
    said = capsys.readouterr().err
    assert f"{trunk} was made with other settings" in said
    assert "batch_size: 6 there, 5 now" in said
    assert "seed: 7 there, 8 now" in said
    assert "decay" not in said
    assert "total_tokens" not in said
    assert main(*flags(store, tmp_path / "run", **changes | {"branch_from": tmp_path / "nowhere"})) == 2
    assert "nowhere holds no run to branch from" in capsys.readouterr().err
    assert main(*flags(store, tmp_path / "run", **changes | {"total_tokens": 8 * BATCH * LENGTH})) == 2
    assert f"{trunk} has no intact checkpoint up to step 6" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
