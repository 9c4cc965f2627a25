"""`winnow verify-resume`: proof, on this very machine, that a killed run goes on as if nothing had happened.

A small run is made twice: once undisturbed, once with every process killed (SIGKILL) twice, at moments drawn from
the seed, one of them while a checkpoint is being written. Every logged loss and every weight must be the same to the
bit.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console

from pipeline_steps.errors import InvalidCut, StageFailed, StoreMismatch
from train.arguments import PretrainArguments, parse
from train.run_directory import last_row, read_rows
from train.token_store import TokenStore


STEPS, BATCH, LENGTH = 30, 8, 128
_POLL = 0.002  # seconds between two looks: a checkpoint of a small model is written in some 20 ms
_PATIENCE = 600.0  # seconds for a run of this size


@dataclass(frozen=True)
class Verdict:
    """The outcome of a proof.

    Attributes:
        killed_at: last step logged when the processes were killed.
        in_a_save: which of the kills left a half-written checkpoint.
        steps: whose losses were compared.
    """

    killed_at: list[int]
    in_a_save: list[bool]
    steps: int


def verify_resume(tokens: str, folder: str, processes: int, flags: list[str], seed: int, console: Console) -> Verdict:
    """Make both runs in `folder` and compare them.

    Args:
        tokens: a token store.
        folder: a new folder.
        processes: of each run.
        flags: further arguments of train.pretrain: another preset, bf16 ...
        seed: of the moments of the kills.
        console: told what happens.

    Raises:
        WinnowError: there is no token store, the folder exists, or there is no process to run.
        StageFailed: a run died of anything but our kills.
        StoreMismatch: the runs differ; names the first step or file that does.
    """
    root = Path(folder)
    if root.exists():
        raise StoreMismatch(f"{root} exists already: give a new folder")
    if processes < 1:
        raise InvalidCut(f"--processes {processes} trains nothing: give at least 1")
    TokenStore.open(tokens)
    parse(PretrainArguments, flags, "winnow verify-resume", str(__doc__), _words(tokens, root))  # tells of a mistake
    whole, killed = root / "undisturbed", root / "killed"
    console.print(f"undisturbed run: {STEPS} steps on {processes} process{'es' * (processes > 1)}")
    with _run(tokens, whole, processes, flags) as process:
        _finish(process, whole)
    draw = random.Random(seed)
    at, in_a_save = [], []
    for share, saving in ((0.3, False), (0.6, True)):
        step = round(STEPS * (share + 0.2 * draw.random()))
        with _run(tokens, killed, processes, flags) as process:
            in_a_save.append(_kill(process, killed, step, saving))
        at.append(_last_step(killed))
        console.print(f"killed after step {at[-1]}{', while a checkpoint was being written' * in_a_save[-1]}")
    with _run(tokens, killed, processes, flags) as process:
        _finish(process, killed)
    return Verdict(at, in_a_save, _compare(whole, killed))


@contextmanager
def _run(tokens: str, run_dir: Path, processes: int, flags: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Start a training run, which does not outlive the block."""
    launcher = [sys.executable, "-P"]  # a user's own train.py is never run
    if processes > 1:
        launcher += ["-m", "accelerate.commands.launch", "--multi_gpu", "--main_process_port", "0"]
        launcher += ["--num_processes", str(processes)]
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{run_dir}.log", "ab") as log:
        process = subprocess.Popen(
            [*launcher, "-m", "train.pretrain", *_words(tokens, run_dir), *flags],
            stdout=log,
            stderr=log,
            env=_environment(processes) | {"PYTHONSAFEPATH": "1"},
        )
    try:
        yield process
    finally:
        _kill_all(process)


def _words(tokens: str, run_dir: Path) -> list[str]:
    """Return the arguments of train.pretrain."""
    settings = {
        "tokens": tokens,
        "run_dir": run_dir,
        "total_tokens": STEPS * BATCH * LENGTH,
        "batch_size": BATCH,
        "input_length": LENGTH,
        "save_every": 3,
        "log_every": 1,
        "report_to": "none",
    }
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


def _environment(processes: int) -> dict[str, str]:
    """Return an environment of as many threads in every run, for bits of a sum depend on them.

    Without a GPU, processes talk over gloo.
    """
    import torch

    environment = {"OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // processes))} | os.environ
    return environment if torch.cuda.is_available() else environment | {"ACCELERATE_USE_CPU": "true"}


def _finish(process: subprocess.Popen[bytes], run_dir: Path) -> None:
    if status := process.wait(_PATIENCE):
        raise StageFailed(f"the training run failed with status {status}: see {run_dir}.log")


def _kill(process: subprocess.Popen[bytes], run_dir: Path, step: int, saving: bool) -> bool:
    """Kill all processes of a run after a step, in the middle of a save if asked; return whether it was in one."""
    until = time.monotonic() + _PATIENCE
    while _last_step(run_dir) < step or (saving and not _half_written(run_dir)):
        if process.poll() is not None or time.monotonic() > until:
            raise StageFailed(f"the training run ended before it could be killed: see {run_dir}.log")
        time.sleep(_POLL)
    _kill_all(process)
    return _half_written(run_dir)


def _kill_all(process: subprocess.Popen[bytes]) -> None:
    """Kill the launcher and its workers, which are in sessions of their own and would go on."""
    with suppress(psutil.NoSuchProcess):
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(family)
    process.wait()


def _half_written(run_dir: Path) -> bool:
    return any(run_dir.glob("checkpoints/.step-*.tmp-*"))


def _last_step(run_dir: Path) -> int:
    return int(last_row(run_dir / "metrics.jsonl").get("step", 0))


def _compare(whole: Path, killed: Path) -> int:
    """Compare two runs and their branches; return how many losses they have logged."""
    places = [Path(), *(place.relative_to(whole) for place in sorted(whole.glob("branches/*")))]
    for place in places:
        _compare_rows(whole / place, killed / place)
    for file in sorted(whole.glob("**/checkpoints/*/*.safetensors")):
        if file.read_bytes() != (killed / file.relative_to(whole)).read_bytes():
            raise StoreMismatch(f"{file.relative_to(whole)} differs between {whole} and {killed}")
    return sum(len(read_rows(whole / place / "metrics.jsonl")) for place in places)


def _compare_rows(whole: Path, killed: Path) -> None:
    one, other = (read_rows(run / "metrics.jsonl") for run in (whole, killed))
    for first, second in zip(one, other, strict=True):
        for name in ("step", "samples", "nll", "z_loss", "grad_norm"):
            if first[name] != second[name]:
                raise StoreMismatch(
                    f"the runs differ at step {first['step']}: {name} is {first[name]!r} undisturbed and "
                    f"{second[name]!r} after the kills; see {whole} and {killed}"
                )
