"""What is measured of trainings."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from launch.stages.base import Stage, free
from launch.stages.corpora import Text, TokenStage
from launch.stages.runs import Training, launch_words
from pipeline_steps.errors import CorpusError, StoreIncomplete
from pipeline_steps.readers.special_files import refuse_special_files
from pipeline_steps.stores.files import read_json


if TYPE_CHECKING:
    from evaluate_suite.checkpoint import Checkpoint, Steps
    from evaluate_suite.results import ResultRow

RESULTS, COSTS = "results.jsonl", "costs.jsonl"


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
                yield None, [_row(checkpoint, split.task)]
                for one in split.sources:
                    file = unit_file(self.cache(output), sampler, checkpoint.name, one.task)
                    yield file, [_row(checkpoint, one.task)]


@dataclass(frozen=True, eq=False, kw_only=True)
class AtSteps(Measurement):
    """A measurement of the last checkpoint, or of several: a task for each.

    Attributes:
        steps: the steps of the checkpoints; () for the last one.
    """

    steps: tuple[int, ...] = ()

    def of_task(self, task: int) -> Steps:
        """Return the checkpoint that a task measures, as `evaluate_suite.measure` takes it."""
        return (self.steps[task],) if self.steps else "last"

    def checkpoints(self, output: str) -> list[Checkpoint]:
        """Return the checkpoints; raises what `find_checkpoints` raises."""
        from evaluate_suite.checkpoint import find_checkpoints

        return find_checkpoints(self.training.run.sampler, self.training.folder(output), self.steps or "last")


@dataclass(frozen=True, eq=False, kw_only=True)
class BitsPerByte(AtSteps):
    """The bits per byte of held-out text; of a T5, per masked byte.

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
        results, cache = os.path.join(output, RESULTS), str(self.cache(output))
        bits_per_byte(self.runs(output), texts, results, cache=cache, steps=self.of_task(task))

    @override
    def units(self, output: str) -> Iterator[tuple[Path | None, list[ResultRow]]]:
        from evaluate_suite.bits_per_byte import domain_file
        from evaluate_suite.checkpoint import cost_rows
        from evaluate_suite.results import DOMAIN, MACRO

        for one in self.checkpoints(output):
            yield None, cost_rows(one)
            yield None, [_row(one, f"{DOMAIN}{MACRO}")]
            for name, _ in self.domains:
                yield domain_file(self.cache(output), one, name), [_row(one, f"{DOMAIN}{name}")]


@dataclass(frozen=True, eq=False, kw_only=True)
class Tuned(AtSteps):
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
    """A suite on which checkpoints are fine-tuned; `what` names the suite."""

    @override
    def run_task(self, output: str, task: int) -> None:
        from evaluate_suite.measure import fine_tune

        results, cache = os.path.join(output, RESULTS), str(self.cache(output))
        fine_tune(self.runs(output), [self.what], results, cache=cache, steps=self.of_task(task), how=self.how())

    @override
    def units(self, output: str) -> Iterator[tuple[Path | None, list[ResultRow]]]:
        from evaluate_suite.fine_tuning_runs import tuning_folder
        from evaluate_suite.registry import by_suite

        tasks = [task.name for task in by_suite()[self.what] if task.scored]
        for one in self.checkpoints(output):
            folder = tuning_folder(one, self.what, self.cache(output))
            yield folder / "finished.json", [_row(one, task) for task in tasks]


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
            steps=self.of_task(task),
            how=self.how(),
        )

    @override
    def units(self, output: str) -> Iterator[tuple[Path | None, list[ResultRow]]]:
        from evaluate_suite.fine_tuning_runs import tuned_checkpoints, tuning_folder
        from evaluate_suite.registry import find_tasks
        from evaluate_suite.units import unit_file

        cache = self.cache(output)
        for one in self.checkpoints(output):
            asked = [one]
            if self.instruction_tune:
                folder = tuning_folder(one, "flan", cache)
                yield folder / "finished.json", []
                asked = list(tuned_checkpoints(one, folder).values())
            for task in find_tasks(self.tasks_asked):
                for name in self._settings().units(task):
                    for file in (unit_file(cache, one.sampler, checkpoint.name, name) for checkpoint in asked):
                        yield file, [_row(one, task.name)]


def _row(checkpoint: Checkpoint, task: str) -> ResultRow:
    """Return a row of the results without its numbers."""
    return checkpoint.row(task, "", (0.0, 0.0, 0), 0, "")


def _known_rows(output: str) -> set[tuple[object, ...]]:
    from evaluate_suite.results import read_results

    files = [Path(output, name) for name in (RESULTS, COSTS)]
    return {_place(row) for file in files if file.exists() for row in read_results(str(file))}


def _place(row: ResultRow) -> tuple[object, ...]:
    return row.sampler, row.rate, row.model, row.seed, row.step, row.task
