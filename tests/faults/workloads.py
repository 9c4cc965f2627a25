"""What the campaign kills: pipelines, and the commands that start processes of their own."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter

from pipeline_steps import (
    EMBEDDED_PROXY,
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
from pipeline_steps.embedding.embeddings import HASHED_NGRAMS

from .kills import Workload


WINDOW = 8
_ROOT = Path(__file__).parents[2]
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

    def score(self, docs: list) -> list[float]:
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


def _write_growing_corpus(folder: Path) -> None:
    """The last file comes after the first life: what an older corpus has left must not count for the newer."""
    write_corpus(folder)
    (folder / "corpus" / "4.jsonl").rename(folder / "later.jsonl")


def _scores(folder: Path, life: int) -> None:
    at = lambda name: str(folder / name)  # noqa: E731
    if life != 1 and not (folder / "corpus" / "4.jsonl").exists():
        os.link(at("later.jsonl"), folder / "corpus" / "4.jsonl")
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
    """Read files but hidden ones: what killed writers leave is swept when it is a day old."""
    found = sorted(path for pattern in patterns for path in folder.glob(pattern) if path.is_file())
    found = [path for path in found if not path.name.startswith(".")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def _kept(folder: Path) -> list[str]:
    blobs = [gzip.decompress(path.read_bytes()) for path in (folder / "kept").glob("*.jsonl.gz")]
    return [json.loads(line)["id"] for blob in blobs for line in blob.splitlines()]


def _windows(folder: Path) -> list[str]:
    return (folder / "windows.log").read_text().splitlines() if (folder / "windows.log").exists() else []


def _select(folder: Path, life: int) -> None:
    workers = str(1 + life % 3)
    words = ["select", "--corpus", str(folder / "corpus"), "--sampler", "random", "--rate", "0.3", "--format", "jsonl"]
    _winnow([*words, "--output", str(folder / "out"), "--workers", workers])


def _study(folder: Path, life: int) -> None:
    _winnow(["run", str(folder / "study.yaml")])


def _winnow(words: list[str]) -> None:
    from launch.cli import main

    # Processes that the command starts are killed at their operations as well
    os.environ["PYTHONPATH"] = f"{_ROOT / 'tests' / 'faults' / 'hook'}:{_ROOT}"
    if status := main(words):
        raise SystemExit(status)


def _make_study(folder: Path) -> None:
    write_corpus(folder, files=2, rows=60)
    text = f"""
output: {folder}/out
corpus: {folder}/corpus
held_out: {{c4: {folder}/corpus}}
samplers: [random]
rates: [0.5]
models: {{t5-tiny: {{total_tokens: 4096, batch_size: 4, input_length: 64, checkpoints: 2}}}}
engine: {{tasks: 2, workers: 2}}
"""
    (folder / "study.yaml").write_text(text)


def _make_tokens(folder: Path) -> None:
    from train.token_store_writer import TokenStoreWriter

    write_corpus(folder, files=2)
    reader = JsonlReader(str(folder / "corpus"))
    list(TokenStoreWriter(str(folder / "tokens"), EMBEDDED_PROXY).run(reader.run()))


def _train(folder: Path, life: int) -> None:
    from train.pretrain import main

    values = {"tokens": folder / "tokens", "run-dir": folder / "run", "total-tokens": 20 * 4 * 64, "batch-size": 4}
    values |= {"input-length": 64, "checkpoints": 2, "save-every": 3, "log-every": 1, "report-to": "none"}
    main([f"--{name}={value}" for name, value in values.items()])


def _trained(folder: Path) -> dict[str, bytes]:
    found = _read(folder, "run/checkpoints/*/*.safetensors", "run/checkpoints/*/config.json")
    times = {"seconds", "tokens_per_second", "tflops", "mfu", "data_wait", "processes", "xxh3"}
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [{name: value for name, value in json.loads(line).items() if name not in times} for line in lines]
    return found | {"metrics": json.dumps(rows).encode()}


def _make_run(folder: Path) -> None:
    """Measured checkpoints; trained once, since training is killed elsewhere."""
    template = folder.with_name("a-trained-run")
    if not template.exists():
        job = os.fork()
        if not job:
            try:
                _make_tokens(template)
                _train(template, 0)
            finally:
                os._exit(0)
        os.waitpid(job, 0)
    shutil.copytree(template, folder)


def _evaluate(folder: Path, life: int) -> None:
    from evaluate_suite.__main__ import main

    where = ["--cache", str(folder / "cache"), "--output", str(folder / "results.jsonl")]
    runs = ["--runs", f"full={folder / 'run'}", "--tokens", f"held_out={folder / 'tokens'}"]
    raise SystemExit(main(["perplexity", *runs, *where]))


def _nothing_kept(folder: Path) -> list[str]:
    return []


def _selected(folder: Path) -> list[str]:
    blobs = [gzip.decompress(path.read_bytes()) for path in (folder / "out" / "data").glob("*.jsonl.gz")]
    return [json.loads(line)["id"] for blob in blobs for line in blob.splitlines()]


PIPELINES = [
    Workload(
        "scores and labels",
        _write_growing_corpus,
        _scores,
        lambda folder: _read(folder, "scores/parts/*", "labels/parts/*", "*/manifest.json", "selection.safetensors"),
        _kept,
        _windows,
        moments=(0.0, 0.8),
        operations=150,
    ),
    Workload(
        "density and clusters",
        write_corpus,
        _clusters,
        lambda folder: _read(folder, "*/parts/*", "*/*.safetensors", "clusters/*/**/*.safetensors", "*/manifest.json"),
        _kept,
        moments=(0.0, 2.5),
        operations=400,
    ),
]
TRAINING = [
    Workload("training", _make_tokens, _train, _trained, _nothing_kept, moments=(0.2, 4.0), operations=200),
    Workload(
        "evaluation",
        _make_run,
        _evaluate,
        lambda folder: _read(folder, "results.jsonl"),
        _nothing_kept,
        moments=(0.1, 2.0),
        operations=100,
    ),
]
COMMANDS = [
    Workload(
        "winnow select",
        write_corpus,
        _select,
        lambda folder: _read(folder, "out/**/*"),
        _selected,
        moments=(0.1, 8.0),
        operations=150,
    ),
    Workload(
        "winnow run",
        _make_study,
        _study,
        lambda folder: _read(folder, "out/results.jsonl", "out/selections/**/*.safetensors", "out/scores/*/parts/*"),
        _nothing_kept,
        moments=(1.0, 40.0),
        operations=150,
    ),
]
