"""Measure models, as `winnow evaluate` and the runner of studies do: four functions that add rows to a file.

What was measured before, of the same weights with the same settings, is in the cache and is not measured again. What
training has cost so far goes into costs.jsonl beside the results, apart from the numbers that can be repeated. All
four functions take

    runs     training runs by sampler; for all but `perplexity` also checkpoints, folders of other models, Hub ids
             with or without @REVISION
    output   a local file of results
    cache    the folder of what was measured, "evaluation" beside the output unless given

return the rows that they added, write a line to stderr for each measurement, and raise WinnowError, before anything is
measured, if the output cannot be added to, a run is not there or an argument holds a credential.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datatrove.utils.logging import logger

from evaluate_suite.averages import extra_scores
from evaluate_suite.bits_per_byte import DomainModel, Windows, domain_rows
from evaluate_suite.checkpoint import Checkpoint, Steps, cost_rows, find_checkpoints, is_causal
from evaluate_suite.domains import DomainReading, Source, read_domains
from evaluate_suite.few_shot import FewShot, best_rows, few_shot_rows
from evaluate_suite.fine_tuning_runs import (
    FineTuning,
    fine_tuned_rows,
    run_fine_tuning,
    tuned_checkpoints,
    tuning_folder,
)
from evaluate_suite.perplexity import HeldOut, perplexity_rows, trained_checkpoints
from evaluate_suite.registry import EXTRA_SUITES, extra_suites, find_tasks
from evaluate_suite.results import ResultRow
from evaluate_suite.units import add_results
from pipeline_steps.credentials import refuse_credentials
from pipeline_steps.errors import InvalidCut, ModelError
from pipeline_steps.terminal import Terminal


Runs = Mapping[str, str] | Iterable[tuple[str, str]]
"""Folders of runs (or checkpoints, or Hub ids) by sampler; pairs where a sampler has several runs."""


def perplexity(
    runs: Runs,
    tokens: Mapping[str, str],
    output: str,
    cache: str | None = None,
    max_windows: int = 256,
    seed: int = 0,
) -> list[ResultRow]:
    """Measure the perplexity of every checkpoint of runs.

    Args:
        tokens: by task, the folder of its held-out token store, or several with commas between them.
        max_windows: windows of each task at most, evenly spaced.
        seed: seed of the masks.
    """
    measured = _Measured(output, cache, [runs, tokens])
    checkpoints = [one for name, run in _pairs(runs) for one in trained_checkpoints(name, run)]
    splits = [HeldOut(task, folders, max_windows, seed) for task, folders in tokens.items()]
    measured.total = len(checkpoints) * len(splits)
    for checkpoint in checkpoints:
        measured.add_costs(checkpoint)
        for split in splits:
            measured.add(checkpoint, split.task, perplexity_rows(checkpoint, split, measured.cache))
    return measured.rows


def fine_tune(
    runs: Runs,
    suites: Sequence[str],
    output: str,
    cache: str | None = None,
    steps: Steps = "last",
    how: FineTuning | None = None,
) -> list[ResultRow]:
    """Fine-tune checkpoints on suites, and add the rows of each task's best step.

    Args:
        suites: glue, superglue, cnn_dailymail, squad.
        steps: the checkpoints of a run that are measured.
        how: settings of fine-tuning; the paper's unless given.

    Raises:
        SystemExit: fine-tuning was told to stop, and has saved (`train.signals.REQUEUE`).
    """
    how = how or FineTuning()
    measured = _Measured(output, cache, [runs, vars(how)])
    checkpoints = _checkpoints(runs, steps, tuned=True)
    measured.total = len(checkpoints) * len(suites)
    for checkpoint in checkpoints:
        measured.add_costs(checkpoint)
        for suite in suites:
            measured.add(checkpoint, suite, fine_tuned_rows(checkpoint, suite, measured.cache, how))
    return measured.rows


def few_shot(
    runs: Runs,
    tasks: Sequence[str],
    output: str,
    cache: str | None = None,
    settings: FewShot | None = None,
    instruction_tune: bool = False,
    steps: Steps = "last",
    how: FineTuning | None = None,
) -> list[ResultRow]:
    """Ask checkpoints few-shot tasks through lm-eval; a further suite that is asked for by name has rows of its own.

    Args:
        tasks: names of tasks or suites.
        settings: how tasks are asked; the paper's way unless given.
        instruction_tune: fine-tune on FLAN first, and report the best of the checkpoints that leaves.
        steps: the checkpoints of a run that are measured.
        how: settings of instruction tuning; the paper's unless given.

    Raises:
        SystemExit: fine-tuning was told to stop, and has saved (`train.signals.REQUEUE`).
    """
    settings, how = settings or FewShot(), how or FineTuning()
    asked = find_tasks(tasks)
    if others := [task for task in asked if task.protocol != "few_shot"]:
        command = {"finetune": "fine-tune"}.get(others[0].protocol, "perplexity")
        raise InvalidCut(f"{others[0].name} is not asked with exemplars: winnow evaluate {command} measures it")
    measured = _Measured(output, cache, [runs, vars(settings), vars(how)])
    checkpoints = _checkpoints(runs, steps, tuned=instruction_tune)
    measured.total = len(checkpoints) * (1 if instruction_tune else len(asked))
    for checkpoint in checkpoints:
        measured.add_costs(checkpoint)
        if not instruction_tune:
            found = []
            for task, rows in zip(asked, few_shot_rows(checkpoint, asked, settings, measured.cache), strict=True):
                measured.add(checkpoint, task.name, rows)
                found += rows
            measured.keep(_suite_rows(checkpoint, tasks, found))
            continue
        run_fine_tuning(checkpoint, "flan", measured.cache, how)
        tuned = tuned_checkpoints(checkpoint, tuning_folder(checkpoint, "flan", measured.cache))
        by_step = {
            step: [row for rows in few_shot_rows(one, asked, settings, measured.cache) for row in rows]
            for step, one in tuned.items()
        }
        best = best_rows(by_step)
        measured.add(checkpoint, f"{', '.join(tasks)} after FLAN", best + _suite_rows(checkpoint, tasks, best))
    return measured.rows


def bits_per_byte(
    runs: Runs,
    texts: Mapping[str, Source],
    output: str,
    cache: str | None = None,
    how: DomainReading | None = None,
    windows: Windows | None = None,
    steps: Steps = "last",
) -> list[ResultRow]:
    """Measure the bits per byte of held-out text by domain: of causal models, and per masked byte of T5s.

    Args:
        texts: corpora by name.
        how: how the corpora are read as domains.
        windows: how documents are cut.
        steps: the checkpoints of a run that are measured.

    Raises:
        CorpusError: a corpus cannot be read.
    """
    how, windows = how or DomainReading(), windows or Windows()
    paths = [source for source in texts.values() if isinstance(source, str)]
    measured = _Measured(output, cache, [runs, paths, how.by, vars(how.reading)])
    models = [DomainModel(one, windows) for one in _checkpoints(runs, steps, tuned=False)]
    for metric in sorted({model.metric for model in models}):
        if len(used := sorted({model.window for model in models if model.metric == metric})) > 1:
            shown = " and ".join(f"{length:,}" for length in used)
            logger.warning(f"{metric} of windows of {shown} tokens does not compare: give --window {used[0]}")
    domains = [domain for name, one in texts.items() for domain in read_domains(name, one, how)]
    measured.total = len(models) * (len(texts) + 1)
    for model in models:
        measured.add_costs(model.checkpoint)
        for what, rows in domain_rows(model, domains, measured.cache):
            measured.add(model.checkpoint, what, rows)
    return measured.rows


class _Measured:
    """Rows that are added to a file of results as they are found, and a line on stderr for each measurement.

    Args:
        output: file of results, which is refused here, before anything is measured, if rows cannot be added to it.
        cache: folder of what was measured, or None for the one beside the output.
        given: everything else that a user has given, which may hold no credential.
    """

    def __init__(self, output: str, cache: str | None, given: list[Any]) -> None:
        refuse_credentials([output, cache, *given], "winnow evaluate")
        if "://" in output:
            raise InvalidCut(f"{output} is not a local file: rows are added to it under a lock; copy it afterwards")
        add_results(output, [])
        self.cache = Path(cache or Path(output).parent / "evaluation")
        self.total, self.rows = 0, list[ResultRow]()
        self._output, self._finished, self._since = output, 0, time.monotonic()
        self._terminal = Terminal(stderr=True)

    def add(self, checkpoint: Checkpoint, what: str, rows: list[ResultRow]) -> None:
        """Add the rows of a measurement, and say that it is done."""
        self.keep(rows)
        self._finished += 1
        before, self._since = self._since, time.monotonic()
        line = f"[{self._finished}/{self.total}] {checkpoint.sampler} {checkpoint.name}: {what}"
        self._terminal.print(f"{line}, {self._since - before:.1f} s", highlight=False, soft_wrap=True)

    def keep(self, rows: list[ResultRow]) -> None:
        """Add rows to the file of results, and to those that are returned."""
        add_results(self._output, rows)
        self.rows += rows

    def add_costs(self, checkpoint: Checkpoint) -> None:
        """Add what the training of a checkpoint has cost to costs.jsonl, if its run has noted that."""
        if rows := cost_rows(checkpoint):
            add_results(str(Path(self._output).with_name("costs.jsonl")), rows)


def _suite_rows(checkpoint: Checkpoint, names: Sequence[str], rows: Sequence[ResultRow]) -> list[ResultRow]:
    """Return the rows of the further suites among the names; the shots of a suite are its tasks' most."""
    found = []
    for suite in [name for name in EXTRA_SUITES if name in names]:
        shots = max(task.shots for task in extra_suites()[suite])
        for name, estimates in extra_scores(rows, suite).items():
            found += [checkpoint.row(name, m, one, shots, rows[0].harness_version) for m, one in estimates.items()]
    return found


def _pairs(runs: Runs) -> list[tuple[str, str]]:
    return [(name, str(run)) for name, run in (runs.items() if isinstance(runs, Mapping) else runs)]


def _checkpoints(runs: Runs, steps: Steps, tuned: bool) -> list[Checkpoint]:
    """Return the checkpoints to measure. Raises ModelError if they are to be fine-tuned and one cannot be."""
    checkpoints = [one for name, run in _pairs(runs) for one in find_checkpoints(name, run, steps)]
    for one in checkpoints if tuned else ():
        if is_causal(one.model, one.revision):
            raise ModelError(
                f"{one.sampler}={one.model} is decoder-only, and only T5s are fine-tuned here: ask it few-shot tasks, "
                "without --instruction-tune"
            )
        if one.revision:
            raise ModelError(
                f"{one.sampler}={one.model}@{one.revision}: fine-tuning takes the newest revision of a Hub id; "
                "download this one and give its folder"
            )
    return checkpoints
