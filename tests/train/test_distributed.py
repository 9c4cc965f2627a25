"""Several processes: the same samples, the same losses, and nothing lost when one of them is killed."""

import json
import shutil
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest
import torch
from training_runs import (
    ACCELERATE,
    BATCH,
    ENVIRONMENT,
    GENTLE,
    LENGTH,
    ROOT,
    flags,
    launch,
    launch_to_die,
    outcome,
    rows,
    run_ranks,
    untimed,
)

from train.arguments import PretrainArguments, parse
from train.batches import Batches, shares
from train.pretrain import PretrainPlan
from train.run_directory import latest_checkpoint


DECODER = {"preset": "llama-tiny", "mask_documents": True}


@pytest.fixture(scope="module")
def two(request, store, ended_store, tmp_path_factory):
    """A run on two processes that nobody disturbs, and a function from a folder to the arguments of such a run."""
    run_dir = tmp_path_factory.mktemp("two")
    changes = {"warmup_steps": GENTLE} | (DECODER if request.param == "decoder" else {})
    argv = partial(flags, ended_store if request.param == "decoder" else store, **changes)
    codes, said = run_ranks(2, argv(run_dir), "", tmp_path_factory.mktemp("logs"))
    assert codes == [0, 0], said
    assert json.loads((run_dir / "environment.json").read_text())["processes"] == 2
    return run_dir, argv


def ranks_die(argv, patch, folder):
    codes, said = run_ranks(2, argv, patch, folder)
    assert -signal.SIGKILL in codes, said
    assert 0 not in codes, said


def ranks_end(argv, folder):
    codes, said = run_ranks(2, argv, "", folder)
    assert codes == [0, 0], said


def launched_end(argv, folder):
    finished = launch(2, argv)
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize(
    ("two", "to_die", "to_end"),
    [
        pytest.param("t5", ranks_die, ranks_end, id="ranks"),
        pytest.param("t5", partial(launch_to_die, 2), launched_end, id="launched", marks=pytest.mark.slow),
        pytest.param("decoder", ranks_die, ranks_end, id="decoder", marks=pytest.mark.slow),
    ],
    indirect=["two"],
)
def test_killed_twice_ends_with_the_same_bytes(two, tmp_path, to_die, to_end):
    two, arguments = two
    argv = arguments(tmp_path / "run")
    inside_a_save = (
        "import train.folders\nrename = train.folders._rename\n"
        "train.folders._rename = lambda a, b: die() if b.name == 'step-00000016' else rename(a, b)"
    )
    another_process_between_saves = (
        "from train.loop import Trainer\nupdate = Trainer._update\n"
        "Trainer._update = lambda self, step, *a, **k: "
        "die() if step == 23 and os.environ['RANK'] == '1' else update(self, step, *a, **k)"
    )
    to_die(argv, inside_a_save, tmp_path)
    assert any(path.name.startswith(".step-00000016.tmp") for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert rows(tmp_path / "run")[-1]["step"] == 16
    to_die(argv, another_process_between_saves, tmp_path)
    assert 20 <= rows(tmp_path / "run")[-1]["step"] <= 23
    to_end(argv, tmp_path)
    assert [row["nll"].hex() for row in rows(tmp_path / "run")] == [row["nll"].hex() for row in rows(two)]
    assert untimed(tmp_path / "run") == untimed(two)
    assert outcome(tmp_path / "run") == outcome(two)


@pytest.mark.parametrize("two", ["t5"], indirect=True)
def test_a_checkpoint_that_one_process_cannot_read_stops_all(two, tmp_path):
    two, arguments = two
    run_dir = tmp_path / "run"
    shutil.copytree(two, run_dir)
    shutil.rmtree(run_dir / "checkpoints" / "step-00000030")
    unreadable = (
        "import train.loop\nfrom pipeline_steps.errors import StoreDamaged\n"
        "def unreadable(folder): raise StoreDamaged(f'{folder} is damaged here')\n"
        "train.loop.read_state = unreadable  # what all processes but the first call\n"
    )
    before = outcome(run_dir)
    codes, said = run_ranks(2, arguments(run_dir), unreadable, tmp_path)
    assert codes == [2, 2]
    assert said.count("is damaged here") == 2
    assert outcome(run_dir) == before


@pytest.mark.parametrize("two", ["t5", "decoder"], indirect=True)
@pytest.mark.parametrize(("processes", "more"), [(1, {}), (4, {}), (2, {"shard": "true", "micro_batch_size": 2})])
def test_losses_do_not_depend_on_the_processes(two, tmp_path, processes, more):
    two, arguments = two
    settings = {"total_tokens": 6 * BATCH * LENGTH, "save_every": 0}
    codes, said = run_ranks(processes, arguments(tmp_path / "run", **settings, **more), "", tmp_path)
    assert codes == [0] * processes, said
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["processes"] == processes
    for one, other in zip(rows(two), rows(tmp_path / "run"), strict=False):
        assert (one["samples"], one["epoch"]) == (other["samples"], other["epoch"])
        assert one["nll"] == pytest.approx(other["nll"], abs=1e-5)
        # Adafactor forgives a wrong scale of the gradient; its norm tells
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)


@pytest.mark.slow
def test_muon_does_not_depend_on_the_processes(store, tmp_path):
    settings = {"total_tokens": 6 * BATCH * LENGTH, "optimizer": "muon", "warmup_steps": 5, "save_every": 0}
    for processes in (1, 2):
        codes, said = run_ranks(processes, flags(store, tmp_path / str(processes), **settings), "", tmp_path)
        assert codes == [0] * processes, said
    for one, other in zip(rows(tmp_path / "1"), rows(tmp_path / "2"), strict=True):
        assert one["nll"] == pytest.approx(other["nll"], abs=1e-3)  # rounded to bfloat16 in Newton-Schulz steps


@pytest.mark.slow
def test_workers_save_and_stop_when_their_launcher_is_killed(store, tmp_path):
    """torchrun's workers are in sessions of their own: kill -9 of the launcher would leave them training."""
    settings = flags(store, tmp_path, total_tokens=100_000 * BATCH * LENGTH, save_every=0)
    argv = [*ACCELERATE, "--multi_gpu", "--main_process_port", "0", "--num_processes", "2", "-m", "train.pretrain"]
    launcher = subprocess.Popen([*argv, *settings], cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    wait_for(lambda: (tmp_path / "metrics.jsonl").exists() and rows(tmp_path))
    another = [sys.executable, "-m", "train.pretrain", *settings]
    second = subprocess.run(another, cwd=ROOT, env=ENVIRONMENT, capture_output=True)
    assert second.returncode == 2
    assert b"another training run is running in" in second.stderr
    launcher.kill()
    launcher.wait()
    wait_for(lambda: (tmp_path / "preempted.json").exists())
    assert latest_checkpoint(tmp_path).name in (tmp_path / "checkpoints" / "LATEST").read_text()


def wait_for(condition, seconds=180):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize("decoder", [False, True])
@pytest.mark.parametrize("most", [0, 1, 3])
@pytest.mark.parametrize("total", [30 * BATCH, 30 * BATCH - 4, 29 * BATCH + 1])
def test_every_sample_is_shown_by_one_process(store, ended_store, tmp_path, decoder, most, total):
    """Whatever the number of processes and passes; the last step may have fewer samples than there are processes."""
    store, changes = (ended_store, DECODER) if decoder else (store, {})
    changes = {"total_tokens": total * LENGTH, "micro_batch_size": most} | changes
    plan = PretrainPlan.make(parse(PretrainArguments, flags(store, tmp_path, **changes), "", ""))
    expected = plan.objective.rows(plan.replay.batch(np.arange(total)), np.arange(total), plan.arguments.seed)[0]
    for world in (1, 2, 4):
        ranks = [Batches(plan, rank, world, pin=False) for rank in range(world)]
        shown = []
        for step in range(1, plan.budget.steps + 1):
            passes = [rank.rows(step) for rank in ranks]
            assert len({len(one) for one in passes}) == 1  # all meet for every pass
            shown += [rows for one in passes for rows in one if rows.counts]
            assert all(len(rows.samples) <= (most or BATCH) for one in passes for rows in one)
        assert np.concatenate([rows.samples for rows in shown]).tolist() == list(range(total))
        np.testing.assert_array_equal(torch.cat([rows.inputs for rows in shown]).numpy(), expected)


def test_the_thread_gives_what_is_made_at_once(store, tmp_path):
    plan = PretrainPlan.make(parse(PretrainArguments, flags(store, tmp_path), "", ""))
    batches = Batches(plan, 1, 2, pin=False)
    for step, passes in batches.steps(7, 30):
        assert torch.equal(passes[0].inputs, batches.rows(step)[0].inputs)
    assert step == 30
    assert batches.waited > 0


def test_shares():
    pieces = [shares(np.arange(10), 3, rank, 2) for rank in range(3)]
    assert [[piece.tolist() for piece in own] for own in pieces] == [[[0, 1], [2, 3]], [[4, 5], [6]], [[7, 8], [9]]]
