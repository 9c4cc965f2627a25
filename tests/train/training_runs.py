"""Training runs of a second or two, in this process, in others, and killed."""

import os
import subprocess
import sys
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


def launch_to_die(processes, argv, patch, folder):
    """Run processes of which one kills itself, with SIGKILL, where `patch` says `die()`."""
    script = folder / "dying.py"
    script.write_text(
        "import os, signal, sys\n"
        "def die(*_): os.kill(os.getpid(), signal.SIGKILL)\n"
        f"{patch}\n"
        "from train.pretrain import main\n"
        "if __name__ == '__main__': main()\n"
    )
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
