"""`winnow quickstart`: score, select, pre-train, evaluate and report, on one machine, in a few minutes.

The driver is light: it starts each stage as processes, shows how far they are, and starts nothing twice. Kill
anything at any time and give the same command again: it goes on, and the results are the same to the byte.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from launch.processes import run_jobs
from launch.progress import StageProgress
from launch.quickstart_stages import BATCH_SIZE, INPUT_LENGTH, STAGES, Stage, corpus_folder
from launch.stages import Run, Settings
from launch.study.outputs import why_lost
from pipeline_steps.embedding.embeddings import HASHED_NGRAMS
from pipeline_steps.engines.models import model_identity, require
from pipeline_steps.errors import InvalidCut, StoreDamaged, WinnowError
from pipeline_steps.filters.cuts import Cut
from pipeline_steps.stores.artefact import claim
from pipeline_steps.stores.files import canonical, digest, read_json, write_json
from pipeline_steps.terminal import Terminal
from train.folders import locked
from train.training_plan import TokenBudget


def run_quickstart(folder: str, settings: Settings, workers: int) -> Run:
    """Run every stage that is not done yet, or whose output was deleted or damaged since.

    Args:
        folder: what the run writes; a folder with other settings is refused.
        settings: what decides the numbers.
        workers: processes at a time; decides nothing but the speed.

    Raises:
        WinnowError: the user's input cannot be used; the message says what to do.
        StageFailed: a stage died; its log is named.
    """
    _check(settings, workers)
    run = Run(Path(folder), settings)
    run.folder.mkdir(parents=True, exist_ok=True)
    with locked(run.folder, "quickstart"), StageProgress(Terminal(stderr=True)) as progress:
        claim(run.path("settings.json"), asdict(run.settings), str(run.folder))
        for make_stage in STAGES:
            _run_stage(run, make_stage(run, workers), workers, progress)
    return run


def _run_stage(run: Run, stage: Stage, workers: int, progress: StageProgress) -> None:
    marker, made = run.path("stages", f"{stage.name}.json"), _fingerprint(run, stage)
    spent = _spent(marker)
    if spent["done"] and spent["made"] == made:
        try:
            stage.output()
            progress.finish(stage.title, None)
            return
        except (WinnowError, FileNotFoundError) as error:
            progress.note(f"{stage.title} is done again: {why_lost(error)}")
    stage.prepare()
    parallel = min(workers, len(stage.jobs))
    start = noted = time.monotonic()

    def note(done: bool) -> None:
        seconds = round(spent["process_seconds"] + (time.monotonic() - start) * parallel, 1)
        write_json(marker, {"process_seconds": seconds, "done": done, "made": made})

    def tick() -> None:
        nonlocal noted
        progress.update(stage.title, stage.progress())
        if time.monotonic() - noted > 1:
            noted = time.monotonic()
            note(done=False)

    run_jobs(stage.jobs, parallel, tick)
    stage.publish()
    note(done=True)
    progress.finish(stage.title, time.monotonic() - start)


def _spent(marker: str) -> dict[str, Any]:
    """Return what a stage's marker says; if it is damaged or missing, that nothing is done."""
    with suppress(FileNotFoundError, StoreDamaged):
        return read_json(marker)
    return {"process_seconds": 0.0, "done": False}


def _fingerprint(run: Run, stage: Stage) -> str:
    """Return what decides a stage: the settings and, for all stages after the corpus, the corpus."""
    corpus = None if stage.name == "corpus" else corpus_folder(run).facts["content"]
    return digest(canonical([stage.name, asdict(run.settings), corpus]))


def _check(settings: Settings, workers: int) -> None:
    """Tell mistakes before minutes are spent on them."""
    if workers < 1:
        raise InvalidCut(f"--workers {workers}: at least one process is needed")
    Cut("top", rate=settings.rate)
    TokenBudget(settings.train_tokens, BATCH_SIZE, INPUT_LENGTH)
    model_identity(settings.proxy)
    if settings.embedder != HASHED_NGRAMS:
        require("sentence_transformers", "embed")
        model_identity(settings.embedder)
