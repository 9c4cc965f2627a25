"""What the campaign kills: pipelines, and the commands that start processes of their own."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter

from faults.kills import Workload
from pipeline_steps import (
    BaseScorer,
    Cut,
    DensityMerge,
    DensityScorer,
    DensitySketch,
    Embedder,
    KMeansAssign,
    KMeansFit,
    MetadataLabels,
    ScoreSelector,
    SemDeDupScorer,
    SemDeDupSimilarities,
    TopKFilter,
)
from pipeline_steps.embedder import HASHED_NGRAMS


WINDOW = 8
_WORDS = "the crawl holds pages of every kind and we keep those worth reading again for training models".split()


class LoggedScorer(BaseScorer):
    """Number of words; leaves a line for every window it scores."""

    name = "word count"

    def __init__(self, scores: str, log: str) -> None:
        super().__init__(scores, "words", WINDOW)
        self.log = log

    def fingerprint(self) -> dict:
        """What decides the scores."""
        return {"scorer": "LoggedScorer"}

    def score_batch(self, docs: list) -> list[float]:
        """Scores of one window."""
        with open(self.log, "a") as file:
            file.write(f"{docs[0].metadata['file_path']} {docs[0].id}\n")
        return [len(doc.text.split()) + len(docs) / 1000 for doc in docs]


def write_corpus(folder: Path, files: int = 5, rows: int = 60) -> None:
    """Files of documents that differ, two of them copies of another."""
    corpus = folder / "corpus"
    corpus.mkdir(parents=True)
    for file in range(files):
        docs = [_document(number) for number in range(file * rows, (file + 1) * rows)]
        path = corpus / f"{file}.jsonl"
        path.write_text("".join(json.dumps(doc) + "\n" for doc in [*docs, docs[0]]))
        os.utime(path, (1e9, 1e9))  # a listing, and with it a run, is the same in every trial


def _document(number: int) -> dict[str, str]:
    places = [(number * 5 + step * (1 + number % 3)) % len(_WORDS) for step in range(20 + 7 * number % 60)]
    text = " ".join(_WORDS[place] for place in places)
    return {"id": f"d{number}", "text": f"{text} {number}", "kind": "ab"[number % 2]}


def _execute(folder: Path, life: int, stages: list[list]) -> None:
    """Run stages one after the other, with another number of tasks in every life and stage."""
    for number, pipeline in enumerate(stages):
        tasks = 1 + (life + number) % 4
        logs = str(folder / "logs" / f"{life}-{number}")
        LocalPipelineExecutor(
            pipeline, tasks=tasks, workers=min(tasks, 2), logging_dir=logs, start_method="fork"
        ).run()


def _scores(folder: Path, life: int) -> None:
    at = lambda name: str(folder / name)  # noqa: E731
    reader = JsonlReader(at("corpus"))
    stages = [
        [
            reader,
            LoggedScorer(at("scores"), at("windows.log")),
            MetadataLabels(at("labels"), "kind", window_size=WINDOW),
        ],
        [ScoreSelector(at("scores"), Cut("top", rate=0.3), at("labels"), at("selection.safetensors"))],
    ]
    _execute(folder, life, stages)
    _keep(folder, life, TopKFilter(at("scores"), rate=0.3, labels=at("labels")))


def _clusters(folder: Path, life: int) -> None:
    at = lambda name: str(folder / name)  # noqa: E731
    reader = JsonlReader(at("corpus"))
    stages = [
        [reader, Embedder(at("embeddings"), HASHED_NGRAMS, window_size=WINDOW)],
        [DensitySketch(at("embeddings"), at("density"), rows=8, buckets=64)],
        [DensityMerge(at("embeddings"), at("density"))],
        [reader, DensityScorer(at("scores"), at("embeddings"), at("density"), window_size=WINDOW)],
        [KMeansFit(at("embeddings"), at("clusters"), n_clusters=5, iterations=3)],
        [KMeansAssign(at("embeddings"), at("clusters"))],
        [SemDeDupSimilarities(at("clusters"))],
        [reader, SemDeDupScorer(at("semdedup"), at("clusters"), window_size=WINDOW)],
    ]
    _execute(folder, life, stages)
    _keep(folder, life, TopKFilter(at("semdedup"), k=100, order="bottom"))


def _keep(folder: Path, life: int, filter: TopKFilter) -> None:
    """Filter into a folder of this life: datatrove's writers do not go on where they were killed."""
    kept = folder / f"kept-{life}"
    _execute(folder, life + 1000, [[JsonlReader(str(folder / "corpus")), filter, JsonlWriter(str(kept))]])
    (folder / "kept").unlink(missing_ok=True)
    (folder / "kept").symlink_to(kept)


def _read(folder: Path, *patterns: str) -> dict[str, bytes]:
    found = sorted(path for pattern in patterns for path in folder.glob(pattern) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def _kept(folder: Path) -> list[str]:
    blobs = [gzip.decompress(path.read_bytes()) for path in (folder / "kept").glob("*.jsonl.gz")]
    return [json.loads(line)["id"] for blob in blobs for line in blob.splitlines()]


def _windows(folder: Path) -> list[str]:
    return (folder / "windows.log").read_text().splitlines() if (folder / "windows.log").exists() else []


SCORES = Workload(
    "scores and labels",
    write_corpus,
    _scores,
    lambda folder: _read(folder, "scores/parts/*", "labels/parts/*", "*/manifest.json", "selection.safetensors"),
    _kept,
    _windows,
    moments=(0.0, 0.8),
    operations=150,
)
CLUSTERS = Workload(
    "density and clusters",
    write_corpus,
    _clusters,
    lambda folder: _read(folder, "*/parts/*", "*/*.safetensors", "clusters/*/**/*.safetensors", "*/manifest.json"),
    _kept,
    moments=(0.0, 2.5),
    operations=400,
)
WORKLOADS = [SCORES, CLUSTERS]
