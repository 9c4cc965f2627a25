"""The fine-tuning runs of a checkpoint: start `evaluate_suite.fine_tune` under accelerate, and read what it leaves."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluate_suite.checkpoint import Checkpoint
from evaluate_suite.data import data_digest
from evaluate_suite.registry import by_suite, registry, training_data
from evaluate_suite.results import ResultRow
from evaluate_suite.units import once
from pipeline_steps import __version__
from pipeline_steps.errors import ModelError, StoreIncomplete
from train.run_directory import list_checkpoints, read_rows
from train.signals import REQUEUE, run_launcher


# Arguments of accelerate launch; it would otherwise warn that it assumes these
ONE_PROCESS = "--num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no"
_SINGLE = ("invalid_share", "majority")  # numbers without an error of their own


@dataclass(frozen=True)
class FineTuning:
    """The settings that checkpoints are fine-tuned with.

    Attributes:
        launch: arguments of `accelerate launch`; one process unless given.
        flags: further arguments of `evaluate_suite.fine_tune`.
        data_root: see `evaluate_suite.data`.
        budget: name in `train.fine_tune.BUDGETS`.
    """

    launch: str = ONE_PROCESS
    flags: Sequence[str] = ()
    data_root: str | None = None
    budget: str = "paper"

    def made(self, suite: str) -> dict[str, Any]:
        """Return everything that the outcome depends on."""
        data = {
            task.name: data_digest(task, self.data_root)
            for task in [*by_suite().get(suite, []), *training_data(suite)]
        }
        return {"flags": list(self.flags), "budget": self.budget, "launch": self.launch, "data": data}

    @property
    def words(self) -> list[str]:
        """Return all flags of `evaluate_suite.fine_tune`."""
        return [*self.flags, "--budget", self.budget, *(["--data_root", self.data_root] if self.data_root else [])]


def run_fine_tuning(checkpoint: Checkpoint, suite: str, cache: Path, how: FineTuning) -> list[dict[str, Any]]:
    """Fine-tune a checkpoint on a suite in `tuning_folder`, or continue, and return what was measured along the way.

    Raises:
        ModelError: fine-tuning ended before its time; why is on the terminal.
        StoreDamaged: a row of its held_out.jsonl is not what was written.
        SystemExit: fine-tuning was told to stop, and has saved.
    """
    run_dir = tuning_folder(checkpoint, suite, cache)

    def launch() -> list[dict[str, Any]]:
        command = [sys.executable, "-P", "-m", "accelerate.commands.launch", *shlex.split(how.launch)]
        command += ["-m", "evaluate_suite.fine_tune", "--suite", suite, "--model", checkpoint.model]
        code = run_launcher([*command, "--run_dir", str(run_dir), *how.words], run_dir, _environment())
        if code == REQUEUE:
            raise SystemExit(REQUEUE)
        if code:
            raise ModelError(
                f"fine-tuning {checkpoint.model} on {suite} ended with code {code}: see above; the same command goes "
                f"on in {run_dir}, other settings need another --cache"
            )
        file = run_dir / "held_out.jsonl"
        return read_rows(file) if file.exists() else []

    # A launch takes ten seconds to find out that all is done
    measured: list[dict[str, Any]] = once(run_dir / "finished.json", checkpoint.identity | how.made(suite), launch)
    return measured


def tuning_folder(checkpoint: Checkpoint, suite: str, cache: Path) -> Path:
    """Return the folder of a fine-tuning run, <cache>/<sampler>/<checkpoint>/<suite>."""
    return cache / checkpoint.sampler / checkpoint.name / suite


def fine_tuned_rows(checkpoint: Checkpoint, suite: str, cache: Path, how: FineTuning) -> list[ResultRow]:
    """Return the rows of a checkpoint on the tasks of a suite, each from the step at which it was best.

    This is T5's rule (Raffel et al. 2020, Sec. 3.1.2); earlier steps win ties.
    """
    best: dict[str, dict[str, Any]] = {}
    for row in run_fine_tuning(checkpoint, suite, cache, how):
        if row["split"] not in best or row["score"] > best[row["split"]]["score"]:
            best[row["split"]] = row
    return [row for name, found in best.items() for row in _rows(checkpoint, name, found, how.budget)]


def tuned_checkpoints(checkpoint: Checkpoint, run_dir: Path) -> dict[int, Checkpoint]:
    """Return the checkpoints of a fine-tuning run by step; their rows are those of what was tuned.

    Raises:
        StoreIncomplete: the run has no checkpoint.
    """
    found = list_checkpoints(run_dir)
    if not found:
        raise StoreIncomplete(f"{run_dir} has no checkpoint: fine-tune first")
    return {int(folder.name.rsplit("-", 1)[1]): checkpoint.tuned(folder) for folder in found}


def _rows(checkpoint: Checkpoint, name: str, found: dict[str, Any], budget: str) -> list[ResultRow]:
    task, harness = registry()[name], f"winnow-llm {__version__}" + ("" if budget == "paper" else f", {budget} budget")
    numbers = {metric: (found[metric], found[f"{metric}_stderr"]) for metric in task.reported}
    numbers |= {metric: (found[metric], 0.0) for metric in _SINGLE if metric in found}
    numbers["fine_tuning_step"] = (found["step"], 0.0)
    return [
        checkpoint.row(name, metric, (value, stderr, found["units"]), 0, harness)
        for metric, (value, stderr) in numbers.items()
    ]


def _environment() -> dict[str, str]:
    """Return the environment of the processes that compute.

    Their path does not begin with the working directory, whose modules could be named as ours; -P alone does not reach
    what accelerate starts. On a machine without a GPU, accelerate must be told so.
    """
    import torch

    cpu = {} if torch.cuda.is_available() else {"ACCELERATE_USE_CPU": "true"}
    return {**os.environ, "PYTHONSAFEPATH": "1", **cpu}
