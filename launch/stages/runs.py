"""Trainings."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from launch.stages.base import Stage, free, open_sealed
from launch.stages.corpora import TokenStage
from launch.stages.scores import Selected
from pipeline_steps.errors import InvalidStudy, StoreIncomplete
from pipeline_steps.stores.files import read_json


if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        sampler: the sampler's name, or "full".
        rate: the share of the documents that was asked for; 1 for everything.
        model: its name in the study.
        seed: the seed of order and masks.
    """

    sampler: str
    rate: float
    model: str
    seed: int

    @property
    def name(self) -> str:
        """Return a name that is unique in the study; a folder under runs/."""
        return f"{self.model}/{self.sampler}-{self.rate:g}-seed{self.seed}"


@dataclass(frozen=True, eq=False, kw_only=True)
class Training(Stage):
    """A model trained on a selection, or on everything.

    Attributes:
        run: what is trained on what.
        tokens: the corpus.
        selection: its selected documents; None for everything.
        arguments: arguments of train.pretrain that decide the weights.
        milestones: steps whose checkpoints are kept.
        trunk: the training from whose stable phase this one goes on to another budget.
        precision: of the matrix products.
        others: arguments of train.pretrain that decide nothing, such as its micro batches.
        launch: arguments of accelerate launch; "" to train in this process.
    """

    kind, names, groups = "runs", "runs/{self.run.name}", "runs/{self.run.model}"
    launched = True
    run: Run
    tokens: TokenStage
    selection: Selected | None = None
    arguments: Mapping[str, Any]
    milestones: tuple[int, ...] = ()
    trunk: Training | None = None
    precision: str = "no"
    others: Mapping[str, Any] = field(default_factory=dict, metadata={"decides": False})
    launch: str = free("")

    @property
    @override
    def note(self) -> str:
        from train.arguments import PretrainArguments

        said = PretrainArguments(tokens="", run_dir="", **self.arguments).budget.rounding
        return f"{self.run.model}: {said}" if said else ""

    @property
    @override
    def imports(self) -> tuple[str, ...]:
        return () if self.launch else ("train.pretrain", "train.loop")

    def settings(self, output: str) -> dict[str, Any]:
        """Return the arguments of train.pretrain, with the study's folders."""
        own = {**self.arguments, **self.others, "seed": self.run.seed, "milestones": list(self.milestones)}
        own |= {"tokens": self.tokens.folder(output), "run_dir": self.folder(output), "model_name": self.run.model}
        own |= {"selection": self.selection.file(output)} if self.selection else {}
        return own | ({"branch_from": self.trunk.folder(output)} if self.trunk else {})

    @override
    def run_task(self, output: str, task: int) -> None:
        from train.arguments import PretrainArguments
        from train.pretrain import PretrainPlan, run
        from train.run_directory import note_preemption
        from train.signals import run_launcher

        if not self.launch:
            note_preemption(Path(self.folder(output)), None)  # of another start
            sys.exit(run(PretrainPlan.make(PretrainArguments(**self.settings(output)))))
        command = [sys.executable, "-P", "-m", "accelerate.commands.launch", *launch_words(self.launch)]
        command += ["-m", "train.pretrain", *_flags(self.settings(output))]
        sys.exit(run_launcher(command, Path(self.folder(output))))

    @override
    def check_output(self, output: str, whole: bool) -> None:
        from train.run_directory import checkpoint_folder, is_finished

        run_dir = Path(self.folder(output))
        steps = read_json(f"{run_dir}/resolved.json")["steps"]
        open_sealed(str(checkpoint_folder(run_dir, steps)), "state.json", False)
        if whole and not is_finished(run_dir, steps):
            raise StoreIncomplete(f"the last checkpoint of {run_dir} is damaged")


def launch_words(launch: str) -> list[str]:
    """Return the arguments of accelerate launch; $MASTER_ADDR and others are those of the Slurm job.

    Raises:
        InvalidStudy: a variable is not set here.
    """
    found = os.path.expandvars(launch)
    if "$" in found:
        raise InvalidStudy(f"engine.launch has a variable that is not set here: {found}")
    return shlex.split(found)


def _flags(settings: Mapping[str, Any]) -> list[str]:
    words: list[str] = []
    for name, value in settings.items():
        if isinstance(value, list):
            words += [f"--{name}", *map(str, value)] if value else []
        elif value is not None:
            words.append(f"--{name}={value}")
    return words
