"""The stages of `winnow quickstart` in their order: their processes, and how what they make is opened again."""

from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import xxhash

from evaluate_suite.results import ResultRow, read_results, write_results
from evaluate_suite.units import unit_file
from launch.processes import Job
from launch.progress import Fraction, StoreRows, TrainedTokens
from launch.stages import CORPUS_FILES, SAMPLERS, SHARDS, Run
from pipeline_steps.embedding.embeddings import HASHED_NGRAMS
from pipeline_steps.errors import CorpusError, StoreDamaged, StoreIncomplete
from pipeline_steps.readers.splits import SPLITS
from pipeline_steps.scorers.density import load_sketch
from pipeline_steps.stores.files import read_json
from pipeline_steps.stores.partials import Partials
from pipeline_steps.stores.selection import Selection
from pipeline_steps.stores.source_store import SourceStore
from train.folders import SealedFolder
from train.run_directory import is_finished
from train.token_store import TokenStore
from train.training_plan import TokenBudget
from train.verified import verify_files


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
        output: opens what it has made, to the last byte.
        progress: how far it is.
        prepare: run before its jobs are started.
        publish: run once all jobs have ended well.
    """

    name: str
    title: str
    jobs: tuple[Job, ...]
    output: Callable[[], object]
    progress: Fraction = lambda: None
    prepare: Callable[[], None] = lambda: None
    publish: Callable[[], None] = lambda: None


def _stage(
    run: Run, name: str, title: str, parts: int, output: Callable[[], object], progress: Fraction = lambda: None
) -> Stage:
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
    return Stage(name, title, jobs, output, progress)


def _corpus(run: Run, workers: int) -> Stage:
    partial, embedded = run.folder / "corpus.partial", run.settings.corpus is None

    def prepare() -> None:
        for folder in (partial, run.folder / "corpus"):
            shutil.rmtree(folder, ignore_errors=True)  # of an attempt on files that have been mended since

    def read() -> None:
        verify_files(corpus_folder(run).files, "it is read again")

    stage = _stage(run, "corpus", "Read the corpus", workers if embedded else 1, read)
    shards = lambda: len(list((partial / "train").glob("*.gz"))) / SHARDS if embedded else None  # noqa: E731
    return replace(stage, progress=shards, prepare=prepare, publish=lambda: _publish_corpus(run))


def corpus_folder(run: Run) -> SealedFolder:
    """The corpus of a run, and what is known of its files."""
    return SealedFolder.read(run.folder / "corpus", CORPUS_FILES, "give the same command again")


def _publish_corpus(run: Run) -> None:
    """Count the documents of the splits and put the corpus in its place, whole."""
    partial = run.folder / "corpus.partial"
    content = xxhash.xxh3_128()  # of the documents: compressed files hold the time they were written
    documents = {}
    for split in SPLITS:
        documents[split] = 0
        for file in sorted(partial.glob(f"{split}/*.jsonl.gz")):
            content.update(file.relative_to(partial).as_posix().encode())
            with gzip.open(file, "rb") as lines:
                for line in lines:
                    documents[split] += 1
                    content.update(line)
    source = run.settings.corpus or "the installed packages"
    if not sum(documents.values()):
        raise CorpusError(f"{source} is empty: not one document was read from it")
    if not all(documents.values()):
        counted = ", ".join(f"{count:,} {split}" for split, count in documents.items())
        raise CorpusError(
            f"{source} is too small for a comparison ({counted}): the held-out splits take a few percent of the "
            "documents each; give some hundreds of English documents or more"
        )
    SealedFolder.seal(partial, CORPUS_FILES, {"documents": documents, "content": content.hexdigest()})
    os.replace(partial, run.folder / "corpus")


def _store(run: Run, *place: str) -> tuple[Callable[[], object], Fraction]:
    """How to open a store of the training split, and how full it is."""
    documents = corpus_folder(run).facts["documents"]["train"]
    return SourceStore(run.path(*place)).verify, StoreRows(run.folder.joinpath(*place), documents)


def _ask_llm(run: Run, workers: int) -> Stage:
    return _stage(run, "ask-llm", "Score: Ask-LLM", workers, *_store(run, "scores", "ask-llm"))


def _embed(run: Run, workers: int) -> Stage:
    return _stage(run, "embed", "Score: Density, embed", workers, *_store(run, "embeddings"))


def _sketch(run: Run, workers: int) -> Stage:
    def counted() -> None:
        try:
            load_sketch(run.path("sketch"))
        except (StoreIncomplete, StoreDamaged):
            list(Partials(run.path("sketch", "partials")).read())  # which the merge drops

    return _stage(run, "sketch", "Score: Density, sketch", workers, counted)


def _merge(run: Run, workers: int) -> Stage:
    return _stage(run, "merge", "Score: Density, merge", 1, lambda: load_sketch(run.path("sketch")))


def _density(run: Run, workers: int) -> Stage:
    return _stage(run, "density", "Score: Density, look up", workers, *_store(run, "scores", "density"))


def _tokenize(run: Run, workers: int) -> Stage:
    return _stage(
        run, "tokenize", "Tokenize", workers, lambda: [TokenStore.open(run.path("tokens", split)) for split in SPLITS]
    )


def _select(run: Run, workers: int) -> Stage:
    files = [run.path("selections", f"{sampler}.safetensors") for sampler in SAMPLERS if sampler != "full"]
    return _stage(run, "select", "Select", 1, lambda: [Selection.load(file) for file in files])


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
    steps = TokenBudget(run.settings.train_tokens, BATCH_SIZE, INPUT_LENGTH).steps

    def trained() -> None:
        for sampler in SAMPLERS:
            if not is_finished(run_dir := run.folder / "training" / sampler, steps):
                raise StoreIncomplete(f"{run_dir} has no intact checkpoint of its last step")

    return Stage("train", f"Pre-train {len(jobs)} T5s", tuple(jobs), trained, mean)


def _evaluate(run: Run, workers: int) -> Stage:
    """Measure the runs side by side, then gather what was measured into results.jsonl."""
    tokens = tuple(f"{split}={run.path('tokens', split)}" for split in SPLITS[1:])
    cache = ("--cache", run.path("evaluation"))

    def job(samplers: Sequence[str], output: str) -> Job:
        runs = tuple(f"{sampler}={run.path('training', sampler)}" for sampler in samplers)
        words = ("perplexity", "--runs", *runs, "--tokens", *tokens, *cache, "--output", output)
        return Job("evaluate_suite", words, run.folder / "logs" / f"evaluate-{samplers[0]}.log", devices=1)

    jobs = tuple(job([sampler], str(_derived(run, sampler))) for sampler in SAMPLERS)
    total = len(SAMPLERS) * CHECKPOINTS * len(tokens)
    measured = run.folder / "evaluation"

    def prepare() -> None:
        for sampler in SAMPLERS:
            _derived(run, sampler).unlink(missing_ok=True)

    def read() -> None:
        for row in read_results(run.path("results.jsonl")):
            read_json(str(unit_file(measured, row.sampler, f"step-{row.step:08d}", row.task)))
        if read_results(run.path("results.jsonl")) != _gathered(run):
            raise StoreDamaged(f"{run.folder}/results.jsonl does not hold what was measured")

    return Stage(
        "evaluate",
        "Evaluate every checkpoint",
        jobs,
        read,
        lambda: len(list(measured.glob("*/*/*.json"))) / total,
        prepare,
        lambda: write_results(run.path("results.jsonl"), _gathered(run)),
    )


def _derived(run: Run, sampler: str) -> Path:
    """The rows of a sampler, from the units beside them."""
    return run.folder / "evaluation" / f"{sampler}.jsonl"


def _gathered(run: Run) -> list[ResultRow]:
    return sorted(row for sampler in SAMPLERS for row in read_results(str(_derived(run, sampler))))


STAGES: tuple[Callable[[Run, int], Stage], ...] = (
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
)
