"""Trainings, and what is measured of them."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from launch.stages.base import Stage, free, open_sealed
from launch.stages.corpora import Text, TokenStage
from launch.stages.scores import Selected
from pipeline_steps.errors import CorpusError, InvalidStudy, StoreIncomplete
from pipeline_steps.readers.special_files import refuse_special_files
from pipeline_steps.stores.files import read_json


if TYPE_CHECKING:
    from evaluate_suite.results import ResultRow

RESULTS, COSTS = "results.jsonl", "costs.jsonl"


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


@dataclass(frozen=True, eq=False, kw_only=True)
class Measurement(Stage):
    """Something that is measured of a training: rows of results.jsonl, from sealed units."""

    kind, names, groups = "measured", "measured/{self.training.run.name}/{self.what}", "measured/{self.what}"
    what: str
    training: Training

    def runs(self, output: str) -> dict[str, str]:
        """Return the folder of the run by its sampler."""
        return {self.training.run.sampler: self.training.folder(output)}

    def cache(self, output: str) -> Path:
        """Return the folder of the units that have been measured."""
        return Path(output, "evaluation", self.training.run.name)

    def units(self, output: str) -> Iterator[tuple[Path | None, list[ResultRow]]]:
        """Yield each unit's file and the rows that come from it, without their numbers."""
        raise NotImplementedError

    @override
    def check_output(self, output: str, whole: bool) -> None:
        known = _known_rows(output)
        for file, rows in self.units(output):
            if file is not None:
                read_json(str(file))
            if missing := [row for row in rows if _place(row) not in known]:
                raise StoreIncomplete(
                    f"the results hold no {missing[0].task} of {missing[0].sampler}, step {missing[0].step}"
                )


@dataclass(frozen=True, eq=False, kw_only=True)
class Perplexity(Measurement):
    """The perplexity of held-out text at each checkpoint.

    Attributes:
        held_out: token stores by task; several of a task are its sources.
    """

    what: str = "perplexity"
    held_out: tuple[tuple[str, tuple[TokenStage, ...]], ...]

    @property
    @override
    def imports(self) -> tuple[str, ...]:
        return ("evaluate_suite.measure", "train.checkpoints", "train.layers")

    def _tokens(self, output: str) -> dict[str, str]:
        return {task: ",".join(one.folder(output) for one in stores) for task, stores in self.held_out}

    @override
    def run_task(self, output: str, task: int) -> None:
        from evaluate_suite.measure import perplexity

        tokens, results = self._tokens(output), os.path.join(output, RESULTS)
        perplexity(self.runs(output), tokens, results, cache=str(self.cache(output)))

    @override
    def units(self, output: str) -> Iterator[tuple[Path | None, list[ResultRow]]]:
        from evaluate_suite.checkpoint import cost_rows, find_checkpoints
        from evaluate_suite.perplexity import HeldOut
        from evaluate_suite.units import unit_file

        splits = [HeldOut(task, folders) for task, folders in self._tokens(output).items()]
        sampler = self.training.run.sampler
        for checkpoint in find_checkpoints(sampler, self.training.folder(output)):
            yield None, cost_rows(checkpoint)
            for split in splits:
                yield None, [checkpoint.row(split.task, "", (0.0, 0.0, 0), 0, "")]
                for one in split.sources:
                    row = checkpoint.row(one.task, "", (0.0, 0.0, 0), 0, "")
                    yield unit_file(self.cache(output), sampler, checkpoint.name, one.task), [row]


@dataclass(frozen=True, eq=False, kw_only=True)
class BitsPerByte(Measurement):
    """The bits per byte of held-out text at the last checkpoint; of a T5, per masked byte.

    Attributes:
        domains: corpora by domain.
    """

    what: str = "bits-per-byte"
    domains: tuple[tuple[str, Text], ...]

    @property
    @override
    def imports(self) -> tuple[str, ...]:
        return ("evaluate_suite.measure", "train.checkpoints", "pipeline_steps.engines.t5")

    @override
    def run_task(self, output: str, task: int) -> None:
        from evaluate_suite.measure import bits_per_byte

        texts = {name: corpus.reader(output) for name, corpus in self.domains}
        bits_per_byte(self.runs(output), texts, os.path.join(output, RESULTS), cache=str(self.cache(output)))

    @override
    def units(self, output: str) -> Iterator[tuple[Path | None, list[ResultRow]]]:
        from evaluate_suite.bits_per_byte import domain_file
        from evaluate_suite.checkpoint import cost_rows, find_checkpoints
        from evaluate_suite.results import DOMAIN, MACRO

        last = find_checkpoints(self.training.run.sampler, self.training.folder(output))[-1]
        yield None, cost_rows(last)
        yield None, [last.row(f"{DOMAIN}{MACRO}", "", (0.0, 0.0, 0), 0, "")]
        for name, _ in self.domains:
            yield domain_file(self.cache(output), last, name), [last.row(f"{DOMAIN}{name}", "", (0.0, 0.0, 0), 0, "")]


@dataclass(frozen=True, eq=False, kw_only=True)
class Tuned(Measurement):
    """A measurement for which a checkpoint is fine-tuned.

    Attributes:
        budget: of fine-tuning.
        data_root: folder of data sets laid out as on the Hub; None for the Hub.
        precision: of the matrix products.
        launch: arguments of accelerate launch; "" for one process.
    """

    launched = True
    budget: str
    data_root: str | None = None
    precision: str = "no"
    launch: str = free("")

    @override
    def check_start(self, output: str) -> None:
        if self.data_root is not None and not os.path.isdir(self.data_root):
            raise CorpusError(f"{self.data_root}, the evaluation's data_root, is no folder: correct it")
        if self.data_root is not None:
            refuse_special_files(self.data_root)

    def how(self) -> Any:
        """Return the settings of fine-tuning."""
        from evaluate_suite.fine_tuning_runs import FineTuning

        given: dict[str, Any] = {"data_root": self.data_root, "budget": self.budget}
        return FineTuning(shlex.join(launch_words(self.launch)), **given) if self.launch else FineTuning(**given)


@dataclass(frozen=True, eq=False, kw_only=True)
class FineTuned(Tuned):
    """A suite on which the last checkpoint is fine-tuned; `what` names the suite."""

    @override
    def run_task(self, output: str, task: int) -> None:
        from evaluate_suite.measure import fine_tune

        results, cache = os.path.join(output, RESULTS), str(self.cache(output))
        fine_tune(self.runs(output), [self.what], results, cache=cache, how=self.how())

    @override
    def units(self, output: str) -> Iterator[tuple[Path | None, list[ResultRow]]]:
        from evaluate_suite.checkpoint import find_checkpoints
        from evaluate_suite.fine_tuning_runs import tuning_folder
        from evaluate_suite.registry import by_suite

        last = find_checkpoints(self.training.run.sampler, self.training.folder(output))[-1]
        tasks = [task.name for task in by_suite()[self.what] if task.scored]
        rows = [last.row(task, "", (0.0, 0.0, 0), 0, "") for task in tasks]
        yield tuning_folder(last, self.what, self.cache(output)) / "finished.json", rows


@dataclass(frozen=True, eq=False, kw_only=True)
class FewShots(Tuned):
    """Few-shot tasks, after tuning on FLAN or without.

    Attributes:
        tasks_asked: tasks or suites.
        instruction_tune: whether the checkpoint is tuned on FLAN first.
        limit: questions of each task; 0 for all.
    """

    what: str = "few-shot"
    tasks_asked: tuple[str, ...]
    instruction_tune: bool = True
    limit: int = 0

    @property
    @override
    def imports(self) -> tuple[str, ...]:
        return ("evaluate_suite.measure", "evaluate_suite.encoder_decoder_lm", "lm_eval.tasks")

    def _settings(self) -> Any:
        from evaluate_suite.few_shot import FewShot

        return FewShot(data_root=self.data_root, limit=self.limit)

    @override
    def run_task(self, output: str, task: int) -> None:
        from evaluate_suite.measure import few_shot

        few_shot(
            self.runs(output),
            list(self.tasks_asked),
            os.path.join(output, RESULTS),
            cache=str(self.cache(output)),
            settings=self._settings(),
            instruction_tune=self.instruction_tune,
            how=self.how(),
        )

    @override
    def units(self, output: str) -> Iterator[tuple[Path | None, list[ResultRow]]]:
        from evaluate_suite.checkpoint import find_checkpoints
        from evaluate_suite.fine_tuning_runs import tuned_checkpoints, tuning_folder
        from evaluate_suite.registry import find_tasks
        from evaluate_suite.units import unit_file

        sampler, cache = self.training.run.sampler, self.cache(output)
        last = find_checkpoints(sampler, self.training.folder(output))[-1]
        asked = [last]
        if self.instruction_tune:
            folder = tuning_folder(last, "flan", cache)
            yield folder / "finished.json", []
            asked = list(tuned_checkpoints(last, folder).values())
        for task in find_tasks(self.tasks_asked):
            for checkpoint in asked:
                for name in self._settings().units(task):
                    file = unit_file(cache, sampler, checkpoint.name, name)
                    yield file, [last.row(task.name, "", (0.0, 0.0, 0), 0, "")]


def _known_rows(output: str) -> set[tuple[object, ...]]:
    from evaluate_suite.results import read_results

    files = [Path(output, name) for name in (RESULTS, COSTS)]
    return {_place(row) for file in files if file.exists() for row in read_results(str(file))}


def _place(row: ResultRow) -> tuple[object, ...]:
    return row.sampler, row.rate, row.model, row.seed, row.step, row.task
