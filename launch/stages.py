"""The stages of the quickstart, each one pipeline or command of the public packages, run in a process of its own.

    python -m launch.stages STAGE RUN_DIR [--part I/N]

Every artefact is whole or absent, so a stage that was killed is simply run again.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter

from launch.executor import ShareExecutor
from launch.faults import as_process
from pipeline_steps import (
    EMBEDDED_PROXY,
    AskLLMScorer,
    Cut,
    DensityMerge,
    DensityScorer,
    DensitySketch,
    Embedder,
    InstalledDocsReader,
    ScoreStore,
    select,
)
from pipeline_steps.readers.corpus import open_corpus
from pipeline_steps.readers.splits import SPLITS, DealDocuments, as_row
from pipeline_steps.stores.files import read_json


SHARDS = 8  # files per split: fixed, so that the corpus does not depend on the number of workers
WINDOW = 512  # documents a killed scoring task loses at most
MAX_TOKENS = 256  # of the Ask-LLM prompt and document; most documents of the embedded corpus fit
CORPUS_FILES = "documents.json"  # sealed: the files of the corpus, and how many documents its splits hold
SAMPLERS = ("full", "random", "ask-llm", "density")


@dataclass(frozen=True)
class Settings:
    """What decides the numbers of a quickstart run.

    Attributes:
        corpus: what to read instead of the documentation of the installed packages.
        limit: read at most this many documents of it; -1 for all.
        proxy: Hub id or folder of the Ask-LLM proxy.
        embedder: Hub id or folder of a sentence-transformers model, or "hashed-ngrams".
        rate: fraction of the documents each sampler keeps.
        train_tokens: encoder tokens every model is trained for.
        seed: of sampling, hashing, order and masks.
    """

    corpus: str | None = None
    limit: int = 40_000
    proxy: str = EMBEDDED_PROXY
    embedder: str = "hashed-ngrams"
    rate: float = 0.2
    train_tokens: int = 768_000
    seed: int = 0


@dataclass(frozen=True)
class Run:
    """A quickstart's folder and its settings."""

    folder: Path
    settings: Settings

    @classmethod
    def open(cls, folder: str) -> Run:
        """Read the settings a run was started with."""
        values = read_json(f"{folder}/settings.json")
        return cls(Path(folder), Settings(**{field.name: values[field.name] for field in fields(Settings)}))

    def path(self, *parts: str) -> str:
        """A path inside the folder."""
        return str(self.folder.joinpath(*parts))

    def execute(self, name: str, pipeline: list[PipelineStep], part: tuple[int, int], **options: Any) -> None:
        """Run this process's share of a pipeline."""
        options = {"tasks": SHARDS, **options}
        ShareExecutor(pipeline, part=part[0], parts=part[1], logging_dir=self.path("logs", name), **options).run()

    def train_documents(self) -> JsonlReader:
        """A reader of the training split."""
        return JsonlReader(self.path("corpus", "train"))


def corpus(run: Run, part: tuple[int, int]) -> None:
    """Read the corpus once and write it as shards of three splits."""
    settings, partial = run.settings, run.path("corpus.partial")
    deal = [
        DealDocuments(SHARDS),
        JsonlWriter(partial, output_filename="${split}/${shard}.jsonl.gz", adapter=as_row),
    ]
    if settings.corpus is None:
        run.execute("corpus", [InstalledDocsReader(), *deal], part)
    else:
        reader = open_corpus(settings.corpus, run.path("corpus-files.txt"), settings.limit)
        run.execute("corpus", [*reader, *deal], part, tasks=1)


def ask_llm(run: Run, part: tuple[int, int]) -> None:
    """Score with Ask-LLM."""
    scorer = AskLLMScorer(run.path("scores", "ask-llm"), run.settings.proxy, max_tokens=MAX_TOKENS, window_size=WINDOW)
    run.execute("ask-llm", [run.train_documents(), scorer], part)


def embed(run: Run, part: tuple[int, int]) -> None:
    """Embed every document."""
    embedder = Embedder(run.path("embeddings"), run.settings.embedder, window_size=WINDOW)
    run.execute("embed", [run.train_documents(), embedder], part)


def sketch(run: Run, part: tuple[int, int]) -> None:
    """Count the embeddings into one partial sketch per process."""
    step = DensitySketch(run.path("embeddings"), run.path("sketch"), seed=run.settings.seed)
    run.execute("sketch", [step], part, tasks=part[1])


def merge(run: Run, part: tuple[int, int]) -> None:
    """Add the partial sketches up."""
    run.execute("merge", [DensityMerge(run.path("embeddings"), run.path("sketch"))], part, tasks=1)


def density(run: Run, part: tuple[int, int]) -> None:
    """Score with the density of the corpus around each document."""
    scorer = DensityScorer(
        run.path("scores", "density"), run.path("embeddings"), run.path("sketch"), window_size=WINDOW
    )
    run.execute("density", [run.train_documents(), scorer], part)


def tokenize(run: Run, part: tuple[int, int]) -> None:
    """Tokenise every split once."""
    from train.token_store_writer import TokenStoreWriter

    for split in SPLITS:
        writer = TokenStoreWriter(run.path("tokens", split), EMBEDDED_PROXY)
        run.execute(f"tokenize-{split}", [JsonlReader(run.path("corpus", split)), writer], part)


def select_documents(run: Run, part: tuple[int, int]) -> None:
    """Cut the scores: one selection per sampler."""
    rate, seed = run.settings.rate, run.settings.seed
    cuts = {
        "random": ("ask-llm", Cut("random", rate=rate, seed=seed)),
        "ask-llm": ("ask-llm", Cut("top", rate=rate, seed=seed)),
        "density": ("density", Cut("ips", rate=rate, seed=seed)),
    }
    for name, (scores, cut) in cuts.items():
        selection = select(ScoreStore.open(run.path("scores", scores)), cut)
        selection.save(run.path("selections", f"{name}.safetensors"))


STAGES = {
    "corpus": corpus,
    "ask-llm": ask_llm,
    "embed": embed,
    "sketch": sketch,
    "merge": merge,
    "density": density,
    "tokenize": tokenize,
    "select": select_documents,
}


def main(argv: list[str] | None = None) -> int:
    """Run one stage; a user's error is the last line on stderr, with exit status 2."""
    parser = argparse.ArgumentParser(description="Run one stage of a quickstart folder.")
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("run_dir")
    parser.add_argument("--part", default="0/1", help="this process's share of the tasks, as I/N")
    args = parser.parse_args(argv)
    index, count = map(int, args.part.split("/"))

    def share() -> int:
        STAGES[args.stage](Run.open(args.run_dir), (index, count))
        return 0

    return as_process(share)


if __name__ == "__main__":
    sys.exit(main())
