"""Training runs of a second or two, in this process, in others, and killed."""

import multiprocessing
import os
import socket
import subprocess
import sys
from multiprocessing.connection import wait
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from train import pretrain
from train.run_directory import read_rows


ROOT = Path(__file__).parent.parent.parent
STEPS, BATCH, LENGTH = 30, 6, 32
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch"]
GENTLE = 1_000_000  # warmup_steps: at T5's usual rate, rounding grows tenfold in a few steps of so small a batch
TIMES = {"seconds", "tokens_per_second", "tflops", "mfu", "data_wait", "processes"}
TOTAL = STEPS * BATCH * LENGTH
FORKS = multiprocessing.get_context("forkserver")  # which imports once what takes seconds
FORKS.set_forkserver_preload(["train.loop", "training_runs"])
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
    AcceleratorState._reset_state(reset_partial_state=True)  # it is one to a process
    with pytest.raises(SystemExit) as caught:
        pretrain.main(list(argv))
    return caught.value.code


def launch(processes, argv, script=("-m", "train.pretrain")):
    """Run under `accelerate launch` on so many processes."""
    # `--cpu --num_processes 2` would start one process; this way it is two, over gloo
    many = ["--multi_gpu", "--main_process_port", "0"] if processes > 1 else ["--cpu"]
    accelerate = [*ACCELERATE, *many, "--num_processes", str(processes)]
    environment = ENVIRONMENT | {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # bits depend on it
    return subprocess.run(
        [*accelerate, *script, *argv], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def run_ranks(processes, argv, patch, folder):
    """Run processes that belong together, without a launcher; their exit codes, and what they wrote to stderr."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    logs = [folder / f"stderr-{rank}" for rank in range(processes)]
    ranks = [
        FORKS.Process(target=_rank, args=(rank, processes, port, argv, patch, str(log)))
        for rank, log in enumerate(logs)
    ]
    for rank in ranks:
        rank.start()
    left = ranks
    while left and wait([rank.sentinel for rank in left], 60 if any(rank.exitcode for rank in ranks) else 300):
        left = [rank for rank in left if rank.is_alive()]
    for rank in ranks:
        rank.kill()  # one whose companions have died and that has not noticed
        rank.join()
    return [rank.exitcode for rank in ranks], "".join(log.read_text() for log in logs)


def _rank(rank, processes, port, argv, patch, log):
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    names |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
    os.environ.update({name: str(value) for name, value in names.items()})
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), sys.stderr.fileno())
    exec(DIE + patch, {})
    pretrain.main(argv)


DIE = "import os, signal, sys\ndef die(*_): os.kill(os.getpid(), signal.SIGKILL)\n"


def launch_to_die(processes, argv, patch, folder):
    """Run processes under a launcher, of which one kills itself, with SIGKILL, where `patch` says `die()`."""
    script = folder / "dying.py"
    script.write_text(f"{DIE}{patch}\nfrom train.pretrain import main\nif __name__ == '__main__': main()\n")
    finished = launch(processes, argv, [str(script)])
    assert finished.returncode != 0
    assert "SIGKILL" in finished.stderr or "-9" in finished.stderr, finished.stderr


def rows(run_dir):
    return read_rows(Path(run_dir) / "metrics.jsonl")


def untimed(run_dir):
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows(run_dir)]


def outcome(run_dir):
    """Bytes of everything but the environment and timings."""
    files = [path for path in sorted(Path(run_dir).rglob("*")) if path.is_file()]
    kept = {str(path.relative_to(run_dir)): path.read_bytes() for path in files}
    del kept["environment.json"], kept["metrics.jsonl"], kept[".lock"]
    return kept
