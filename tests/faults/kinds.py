"""Every kind of file, how it is made, read, and made again."""

from __future__ import annotations

import shutil
from pathlib import Path

from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.readers import JsonlReader

from pipeline_steps import (
    Cut,
    DensityMerge,
    DensityScorer,
    DensitySketch,
    DSIRFit,
    DSIRScorer,
    Embedder,
    KMeansAssign,
    KMeansFit,
    LabelStore,
    MetadataLabels,
    NgramCounts,
    QualityClassifierFit,
    QualityClassifierScorer,
    ScoreSelector,
    ScoreStore,
    Selection,
    SemDeDupScorer,
    SemDeDupSimilarities,
    select,
)
from pipeline_steps.embedding.embeddings import HASHED_NGRAMS
from pipeline_steps.embedding.kmeans import load_centroids
from pipeline_steps.stores.partials import Partials
from pipeline_steps.stores.source_store import SourceStore

from .damage import Kind
from .workloads import LoggedScorer, write_corpus


def run(folder: Path, *steps: PipelineStep, tasks: int = 1) -> None:
    """Run steps over the corpus, or by themselves, one task after the other."""
    for rank in range(tasks):
        data: DocumentsPipeline = None
        for step in steps:
            data = step.run(data, rank, tasks)
        list(data)


def make_stores(folder: Path) -> None:
    """Make one of everything of `pipeline_steps`."""
    write_corpus(folder, files=3, rows=20)
    for step in ("scores", "labels", "cut", "ngrams", "quality", "embeddings", "sketch", "merge", "clusters"):
        STEPS[step](folder)
    # The merge drops the partial sketches: they are counted again
    STEPS["sketch"](folder)


def _at(folder: Path, name: str) -> str:
    return str(folder / name)


def _reader(folder: Path) -> JsonlReader:
    return JsonlReader(_at(folder, "corpus"))


def _scores(folder: Path) -> None:
    run(folder, _reader(folder), LoggedScorer(_at(folder, "scores"), _at(folder, "windows.log")), tasks=2)
    # Half a source of another store: windows
    docs = LoggedScorer(_at(folder, "half"), _at(folder, "windows.log")).run(_reader(folder).run())
    for _ in range(20):
        next(docs)
    docs.close()


def _cut(folder: Path) -> None:
    selection = _at(folder, "selection.safetensors")
    run(folder, ScoreSelector(_at(folder, "scores"), Cut("top", rate=0.3), selection=selection))


def _ngrams(folder: Path) -> None:
    for name in ("target", "raw"):
        run(folder, _reader(folder), NgramCounts(_at(folder, name), buckets=500), tasks=2)
    _dsir(folder)


def _dsir(folder: Path) -> None:
    run(folder, DSIRFit(_at(folder, "target"), _at(folder, "raw"), _at(folder, "dsir")))


def _quality(folder: Path) -> None:
    run(folder, QualityClassifierFit(_at(folder, "quality"), _reader(folder), _reader(folder)))


def _clusters(folder: Path) -> None:
    run(folder, KMeansFit(_at(folder, "embeddings"), _at(folder, "clusters"), n_clusters=4, iterations=2))
    run(folder, KMeansAssign(_at(folder, "embeddings"), _at(folder, "clusters")))
    run(folder, SemDeDupSimilarities(_at(folder, "clusters")))


STEPS = {
    "scores": _scores,
    "labels": lambda folder: run(folder, _reader(folder), MetadataLabels(_at(folder, "labels"), "kind")),
    "cut": _cut,
    "ngrams": _ngrams,
    "dsir": _dsir,
    "quality": _quality,
    "embeddings": lambda folder: run(folder, _reader(folder), Embedder(_at(folder, "embeddings"), HASHED_NGRAMS)),
    "sketch": lambda folder: run(
        folder, DensitySketch(_at(folder, "embeddings"), _at(folder, "density"), rows=4, buckets=64), tasks=2
    ),
    "merge": lambda folder: run(folder, DensityMerge(_at(folder, "embeddings"), _at(folder, "density"))),
    "clusters": _clusters,
}


def _columns(name: str):
    return lambda folder: [
        {column: values.tolist() for column, values in SourceStore(_at(folder, name)).read(source).items()}
        for source in SourceStore(_at(folder, name)).manifest
    ]


def _scored(scorer, *names: str, **options):
    """What a scorer that reads a file makes of the corpus, in a store of its own each time."""

    def read(folder: Path) -> list[float]:
        shutil.rmtree(folder / "trial", ignore_errors=True)
        step = scorer(_at(folder, "trial"), *(_at(folder, name) for name in names), **options)
        run(folder, _reader(folder), step)
        return ScoreStore.open(_at(folder, "trial")).scores.tolist()

    return read


def _windows(folder: Path) -> list[float]:
    """A damaged window is scored again with a warning."""
    shutil.rmtree(folder / "trial", ignore_errors=True)
    shutil.copytree(folder / "half", folder / "trial")
    run(folder, _reader(folder), LoggedScorer(_at(folder, "trial"), _at(folder, "windows.log")))
    return ScoreStore.open(_at(folder, "trial")).scores.tolist()


def _counts(name: str):
    return lambda folder: [part.tensors["counts"].tolist() for _, part in Partials(_at(folder, name)).read()]


def _cut_mask(folder: Path) -> list[bool]:
    return select(ScoreStore.open(_at(folder, "scores")), Cut("top", rate=0.3)).mask.tolist()


def _selection(folder: Path):
    found = Selection.load(_at(folder, "selection.safetensors"))
    return found.mask.tolist(), found.corpus_digest, found.cut


def _label_counts(folder: Path) -> dict[str, int]:
    return LabelStore.open(_at(folder, "labels")).counts


def _centroids(folder: Path) -> str:
    return load_centroids(_at(folder, "clusters")).digest


def _easy_similarities(folder: Path) -> dict[str, bytes]:
    shutil.rmtree(folder / "clusters" / "similarities" / "easy", ignore_errors=True)
    run(folder, SemDeDupSimilarities(_at(folder, "clusters"), "easy"))
    return {path.name: path.read_bytes() for path in folder.glob("clusters/similarities/easy/*/*")}


def _derived_again(folder: Path) -> list:
    """Of a store whose manifest is lost."""
    manifest = folder / "scores" / "manifest.json"
    blob = manifest.read_bytes()
    manifest.unlink()
    try:
        return _columns("scores")(folder)
    finally:
        manifest.write_bytes(blob)


STORES = [
    Kind("score part", "scores/parts/*", _columns("scores"), STEPS["scores"]),
    Kind("score window", "half/windows/*/*", _windows),
    Kind(
        "label part", "labels/parts/*", lambda folder: LabelStore.open(_at(folder, "labels")).counts, STEPS["labels"]
    ),
    Kind("embedding part", "embeddings/parts/*", _columns("embeddings"), STEPS["embeddings"]),
    Kind("artefact.json", "scores/artefact.json", _columns("scores")),
    Kind("announcement", "scores/announced/*", _columns("scores")),
    Kind("task record", "scores/runs/*/*/*", _derived_again, STEPS["scores"]),
    Kind("manifest", "scores/manifest.json", _columns("scores"), STEPS["scores"]),
    Kind("cut", "scores/cuts/*", _cut_mask, STEPS["cut"]),
    Kind("selection", "selection.safetensors", _selection, STEPS["cut"]),
    Kind("n-gram counts", "raw/parts/*", _counts("raw"), STEPS["ngrams"]),
    Kind("DSIR model", "dsir/*.safetensors", _scored(DSIRScorer, "dsir"), STEPS["dsir"]),
    Kind("quality classifier", "quality/*.safetensors", _scored(QualityClassifierScorer, "quality"), STEPS["quality"]),
    Kind("partial sketch", "density/partials/parts/*", _counts("density/partials"), STEPS["sketch"]),
    Kind("sketch", "density/sketch.safetensors", _scored(DensityScorer, "embeddings", "density")),
    Kind("hash functions", "density/hash.json", _counts("density/partials"), STEPS["sketch"]),
    Kind("centroids", "clusters/centroids.safetensors", _centroids, STEPS["clusters"]),
    Kind("assignments", "clusters/assignments/parts/*", _columns("clusters/assignments"), STEPS["clusters"]),
    Kind("cluster members", "clusters/members/*/*", _easy_similarities, STEPS["clusters"]),
    Kind("similarities", "clusters/similarities/hard/*/*", _scored(SemDeDupScorer, "clusters"), STEPS["clusters"]),
]
