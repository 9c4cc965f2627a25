"""`winnow quickstart`: score, select, pre-train, evaluate and report, on one machine, in a few minutes.

The driver is light: it starts each stage as processes, shows how far they are, and starts nothing twice. Kill
anything at any time and give the same command again: it goes on, and the results are the same to the byte.
"""

from __future__ import annotations

import gzip
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from evaluate_suite.results import read_results, write_results
from launch.processes import Job, run_jobs
from launch.progress import Fraction, StageProgress, StoreRows, TrainedTokens
from launch.splits import SPLITS
from launch.stages import SAMPLERS, SHARDS, Run, Settings
from pipeline_steps.cuts import Cut
from pipeline_steps.embedder import HASHED_NGRAMS
from pipeline_steps.errors import CorpusError, InvalidCut, StoreMismatch
from pipeline_steps.files import read_json, write_json
from pipeline_steps.models import model_identity, require
from train.folders import locked
from train.token_budget import TokenBudget


# Shape of the tiny T5's training, by trial on one CPU thread: of the lengths from 64 to 512 and batches from 8 to 64
# tried, 128 and 16 reached the lowest held-out loss within a minute
INPUT_LENGTH = 128
BATCH_SIZE = 16
CHECKPOINTS = 5


@dataclass(frozen=True)
class Stage:
    """One line of the quickstart.

    Attributes:
        name: of its marker and its logs.
        title: as shown.
        jobs: its processes.
        progress: how far it is.
        publish: run once all jobs have ended well.
    """

    name: str
    title: str
    jobs: tuple[Job, ...]
    progress: Fraction = lambda: None
    publish: Callable[[], None] = lambda: None


def run_quickstart(folder: str, settings: Settings, workers: int) -> Run:
    """Run every stage that is not done yet.

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
    with locked(run.folder, "quickstart"), StageProgress(Console()) as progress:
        _claim(run)
        for make_stage in (
            _corpus,
            _ask_llm,
            _embed,
            _sketch,
            _merge,
            _density,
            _tokenize,
            _select,
            _train,
            _evaluate,
        ):
            _run_stage(run, make_stage(run, workers), workers, progress)
    return run


def _run_stage(run: Run, stage: Stage, workers: int, progress: StageProgress) -> None:
    marker = run.path("stages", f"{stage.name}.json")
    spent = read_json(marker) if os.path.exists(marker) else {"process_seconds": 0.0, "done": False}
    if spent["done"]:
        progress.finish(stage.title, None)
        return
    parallel = min(workers, len(stage.jobs))
    start = noted = time.monotonic()

    def note(done: bool) -> None:
        seconds = round(spent["process_seconds"] + (time.monotonic() - start) * parallel, 1)
        write_json(marker, {"process_seconds": seconds, "done": done})

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


def _stage(run: Run, name: str, title: str, parts: int, progress: Fraction = lambda: None) -> Stage:
    """A stage of `launch.stages`, shared among `parts` processes."""
    asks = name == "ask-llm" or (name == "embed" and run.settings.embedder != HASHED_NGRAMS)
    jobs = tuple(
        Job(
            "launch.stages",
            (name, str(run.folder), "--part", f"{part}/{parts}"),
            run.folder / "logs" / (f"{name}.log" if parts == 1 else f"{name}-{part}.log"),
            devices=int(asks),
        )
        for part in range(parts)
    )
    return Stage(name, title, jobs, progress)


def _corpus(run: Run, workers: int) -> Stage:
    embedded = run.settings.corpus is None
    stage = _stage(run, "corpus", "Read the corpus", workers if embedded else 1)
    done = run.folder / "logs" / "corpus" / "completions"
    shards = SHARDS if embedded else 1
    return Stage(
        stage.name,
        stage.title,
        stage.jobs,
        lambda: len(list(done.glob("*"))) / shards if embedded else None,
        lambda: _publish_corpus(run),
    )


def _publish_corpus(run: Run) -> None:
    """Count the documents of the splits and put the corpus in its place, whole."""
    partial, corpus = run.folder / "corpus.partial", run.folder / "corpus"
    if corpus.exists():
        return
    documents = {}
    for split in SPLITS:
        documents[split] = 0
        for file in sorted(partial.glob(f"{split}/*.jsonl.gz")):
            with gzip.open(file, "rb") as lines:
                documents[split] += sum(1 for _ in lines)
    source = run.settings.corpus or "the installed packages"
    if not sum(documents.values()):
        raise CorpusError(f"{source} is empty: not one document was read from it")
    if not all(documents.values()):
        counted = ", ".join(f"{count:,} {split}" for split, count in documents.items())
        raise CorpusError(
            f"{source} is too small for a comparison ({counted}): the held-out splits take a few percent of the "
            "documents each; give some hundreds of English documents or more"
        )
    write_json(str(partial / "documents.json"), documents)
    os.replace(partial, corpus)


def _train_documents(run: Run) -> int:
    return read_json(run.path("corpus", "documents.json"))["train"]


def _ask_llm(run: Run, workers: int) -> Stage:
    rows = StoreRows(run.folder / "scores" / "ask-llm", _train_documents(run))
    return _stage(run, "ask-llm", "Score: Ask-LLM", workers, rows)


def _embed(run: Run, workers: int) -> Stage:
    rows = StoreRows(run.folder / "embeddings", _train_documents(run))
    return _stage(run, "embed", "Score: Density, embed", workers, rows)


def _sketch(run: Run, workers: int) -> Stage:
    return _stage(run, "sketch", "Score: Density, sketch", workers)


def _merge(run: Run, workers: int) -> Stage:
    return _stage(run, "merge", "Score: Density, merge", 1)


def _density(run: Run, workers: int) -> Stage:
    rows = StoreRows(run.folder / "scores" / "density", _train_documents(run))
    return _stage(run, "density", "Score: Density, look up", workers, rows)


def _tokenize(run: Run, workers: int) -> Stage:
    return _stage(run, "tokenize", "Tokenize", workers)


def _select(run: Run, workers: int) -> Stage:
    return _stage(run, "select", "Select", 1)


def _train(run: Run, workers: int) -> Stage:
    jobs, fractions = [], []
    for sampler in SAMPLERS:
        run_dir = run.folder / "training" / sampler
        arguments = {
            "tokens": run.path("tokens", "train"),
            "run-dir": str(run_dir),
            "preset": "t5-tiny",
            "total-tokens": run.settings.train_tokens,
            "batch-size": BATCH_SIZE,
            "input-length": INPUT_LENGTH,
            "checkpoints": CHECKPOINTS,
            "seed": run.settings.seed,
            "report-to": "none",
        }
        if sampler != "full":
            arguments["selection"] = run.path("selections", f"{sampler}.safetensors")
        words = tuple(str(word) for name, value in arguments.items() for word in (f"--{name}", value))
        jobs.append(Job("train.pretrain", words, run.folder / "logs" / f"train-{sampler}.log", devices=1))
        fractions.append(TrainedTokens(run_dir, run.settings.train_tokens))
    mean = lambda: sum(fraction() for fraction in fractions) / len(fractions)  # noqa: E731
    return Stage("train", f"Pre-train {len(jobs)} T5s", tuple(jobs), mean)


def _evaluate(run: Run, workers: int) -> Stage:
    """Measure the runs side by side, then gather what was measured into results.jsonl."""
    tokens = tuple(f"{split}={run.path('tokens', split)}" for split in SPLITS[1:])
    cache = ("--cache", run.path("evaluation"))

    def job(samplers: Sequence[str], output: str) -> Job:
        runs = tuple(f"{sampler}={run.path('training', sampler)}" for sampler in samplers)
        words = ("perplexity", "--runs", *runs, "--tokens", *tokens, *cache, "--output", run.path(output))
        return Job("evaluate_suite", words, run.folder / "logs" / f"evaluate-{samplers[0]}.log", devices=1)

    jobs = tuple(job([sampler], f"evaluation/{sampler}.jsonl") for sampler in SAMPLERS)
    total = len(SAMPLERS) * CHECKPOINTS * len(tokens)
    measured = run.folder / "evaluation"
    return Stage(
        "evaluate",
        "Evaluate every checkpoint",
        jobs,
        lambda: len(list(measured.glob("*/*/*.json"))) / total,
        lambda: _gather(run),
    )


def _gather(run: Run) -> None:
    rows = [row for sampler in SAMPLERS for row in read_results(run.path("evaluation", f"{sampler}.jsonl"))]
    write_results(run.path("results.jsonl"), rows)


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


def _claim(run: Run) -> None:
    """Write the settings down, or check that the folder was started with the same."""
    path = run.path("settings.json")
    if not os.path.exists(path):
        write_json(path, asdict(run.settings))
        return
    found, asked = read_json(path), asdict(run.settings)
    if differing := [name for name in asked if found.get(name) != asked[name]]:
        said = "; ".join(f"{name}: {found.get(name)!r} there, {asked[name]!r} now" for name in differing)
        raise StoreMismatch(f"{run.folder} was started with other settings ({said}): give another --output")
