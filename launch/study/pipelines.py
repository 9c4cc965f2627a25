"""The datatrove pipeline of each stage: public steps of `pipeline_steps` and `train`, with the study's folders.

Built in the process that runs them, and by executors that ship them; nothing heavy is imported.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.filters import LambdaFilter
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter

from launch.corpus import open_corpus
from launch.splits import DealDocuments, as_row, is_written_prose
from launch.study.progress import note_done
from launch.study.samplers import Sampler
from launch.study.schema import Study
from launch.study.stages import SHARDS, Stage, full_run, is_dealt, store_of
from pipeline_steps import (
    AskLLMScorer,
    BaseScorer,
    Cut,
    DensityMerge,
    DensityScorer,
    DensitySketch,
    DSIRFit,
    DSIRScorer,
    Embedder,
    InstalledDocsReader,
    KMeansAssign,
    KMeansFit,
    NgramCounts,
    PerplexityScorer,
    PrototypesScorer,
    QualityClassifierFit,
    QualityClassifierScorer,
    ScoreSelector,
    SemDeDupScorer,
    SemDeDupSimilarities,
)
from train.run_directory import checkpoint_folder
from train.token_store_writer import TokenStoreWriter


Pipeline = list[PipelineStep]
_PARTIAL = "corpus.partial"


def pipeline_of(study: Study, stage: str) -> Pipeline:
    """Steps of a stage of the kind "pipeline"."""
    if stage in _PIPELINES:
        return _PIPELINES[stage](study)
    kind, _, name = stage.partition("/")
    if kind == "tokens":
        return [*_text(study, name), TokenStoreWriter(_at(study, stage), study.tokenizer)]
    if kind == "selections":
        sampler = next(one for one in study.samplers if one.name == name)
        cuts = {rate: Cut(sampler.mode, rate=rate) for rate in study.rates}
        store = _at(study, store_of(study, sampler))
        return [ScoreSelector(store, cut, selection=selection(study, name, rate)) for rate, cut in cuts.items()]
    if name == "keys":
        return [*_text(study, "train"), KeysScorer(_at(study, stage))]
    sampler = next(one for one in study.samplers if store_of(study, one) == stage and one.scorer)
    return [*_text(study, "train"), _scorer(study, sampler, _at(study, stage))]


def _scorer(study: Study, sampler: Sampler, scores: str) -> PipelineStep:
    def at(stage: str) -> str:
        return _at(study, stage)

    makers: dict[str, Callable[[], PipelineStep]] = {
        "ask-llm": lambda: AskLLMScorer(scores, model=sampler.model),
        "perplexity": lambda: PerplexityScorer(scores, model=proxy(study, sampler)),
        "density": lambda: DensityScorer(scores, at("embeddings"), at("density")),
        "semdedup": lambda: SemDeDupScorer(scores, at("clusters")),
        "prototypes": lambda: PrototypesScorer(scores, at("clusters")),
        "dsir": lambda: DSIRScorer(scores, at("dsir")),
        "quality-classifier": lambda: QualityClassifierScorer(scores, at("quality")),
    }
    return makers[sampler.scorer]()


def selection(study: Study, sampler: str, rate: float) -> str:
    """File of a selection."""
    return _at(study, f"selections/{sampler}/{rate:g}.safetensors")


def proxy(study: Study, sampler: Sampler) -> str:
    """Hub id or folder of a sampler's model, a checkpoint of this study's runs too."""
    trained, at, step = sampler.model.partition("@")
    if not at:
        return sampler.model
    return str(checkpoint_folder(Path(study.output) / "runs" / full_run(study, trained).name, int(step)))


def _text(study: Study, split: str) -> Pipeline:
    """Readers of a split: dealt from the corpus, or a corpus of its own."""
    if is_dealt(study):
        return [JsonlReader(_at(study, f"corpus/{split}"))]
    if split == "train":
        return _open(study, study.corpus or "", "train", study.limit)
    task, _, source = split.partition("/")
    return _open(study, study.held_out[task][source], f"{task}-{source}", -1)


def _target(study: Study) -> Pipeline:
    """What DSIR and the quality classifier take for good: without a corpus of it, the written prose among the rest."""
    if study.target is None:
        return [*_text(study, "train"), LambdaFilter(_is_prose)]
    return _open(study, study.target, "target", -1)


def _is_prose(document: object) -> bool:
    return is_written_prose(document.text)  # type: ignore[attr-defined]


def _open(study: Study, corpus: str, name: str, limit: int) -> Pipeline:
    return open_corpus(corpus, _at(study, f"files/{name}.txt"), limit)


def _deal(study: Study) -> Pipeline:
    writer = JsonlWriter(_at(study, _PARTIAL), "${split}/${shard}.jsonl.gz", adapter=as_row)
    if study.corpus is None:
        limit = study.limit if study.limit < 0 else -(-study.limit // SHARDS)
        return [InstalledDocsReader(limit=limit), DealDocuments(SHARDS), writer]
    return [*_open(study, study.corpus, "corpus", study.limit), DealDocuments(SHARDS), writer]


class Together(PipelineStep):
    """Several steps as one reader."""

    name = "🔗 Together"

    def __init__(self, steps: Pipeline) -> None:
        super().__init__()
        self.steps = steps

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """What the last of them yields."""
        for step in self.steps:
            data = step.run(data, rank, world_size)
        yield from data or ()


class PutInPlace(PipelineStep):
    """Moves a folder that is complete to where others look for it (one task)."""

    name = "📦 Put in place"

    def __init__(self, source: str, target: str) -> None:
        super().__init__()
        self.source, self.target = source, target

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Rename it, unless that has been done."""
        if rank == 0 and os.path.exists(self.source):
            os.replace(self.source, self.target)
        yield from data or ()


class NoteDone(PipelineStep):
    """Last of a pipeline: notes that its task is done, for engines that start pipelines themselves."""

    name = "✅ Done"

    def __init__(self, study: Study, stage: Stage, made: str) -> None:
        super().__init__()
        self.study, self.stage, self.made = study, stage, made

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Pass everything on, then note it."""
        yield from data or ()
        note_done(self.study, self.stage, rank, self.made)


class KeysScorer(BaseScorer):
    """Scores every document 0: a store of keys, for chance to draw from where nothing else scores."""

    name = "🔑 Keys"

    def __init__(self, scores: str) -> None:
        super().__init__(scores, "zero")

    def fingerprint(self) -> dict[str, str]:
        """What decides the scores."""
        return {"scorer": "KeysScorer"}

    def score_batch(self, docs: list[Document]) -> list[float]:
        """Zeros."""
        return [0.0] * len(docs)


def _at(study: Study, place: str) -> str:
    return os.path.join(study.output, place)


_PIPELINES: dict[str, Callable[[Study], Pipeline]] = {
    "corpus/deal": _deal,
    "corpus": lambda study: [PutInPlace(_at(study, _PARTIAL), _at(study, "corpus"))],
    "embeddings": lambda study: [*_text(study, "train"), Embedder(_at(study, "embeddings"), model=study.embedder)],
    "density/sketch": lambda study: [DensitySketch(_at(study, "embeddings"), _at(study, "density"))],
    "density/merge": lambda study: [DensityMerge(_at(study, "embeddings"), _at(study, "density"))],
    "clusters/fit": lambda study: [KMeansFit(_at(study, "embeddings"), _at(study, "clusters"))],
    "clusters/assign": lambda study: [KMeansAssign(_at(study, "embeddings"), _at(study, "clusters"))],
    "clusters/similarities": lambda study: [SemDeDupSimilarities(_at(study, "clusters"))],
    "ngrams/target": lambda study: [*_target(study), NgramCounts(_at(study, "ngrams/target"))],
    "ngrams/raw": lambda study: [*_text(study, "train"), NgramCounts(_at(study, "ngrams/raw"))],
    "quality": lambda study: [
        QualityClassifierFit(_at(study, "quality"), Together(_target(study)), Together(_text(study, "train")))
    ],
    "dsir": lambda study: [DSIRFit(_at(study, "ngrams/target"), _at(study, "ngrams/raw"), _at(study, "dsir"))],
}
