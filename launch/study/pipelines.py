"""The datatrove pipeline of each stage: public steps of `pipeline_steps` and `train`, with the study's folders.

Built in the process that runs them, and by executors that ship them; nothing heavy is imported.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.filters import LambdaFilter
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter

from launch.study.schema import MODELS, Sampler, Study
from launch.study.stages import (
    DEALT,
    DEALT_FILES,
    KEYS,
    SHARDS,
    TARGET,
    TRAIN,
    full_run,
    is_dealt,
    listing_of,
    selection,
    store_of,
)
from pipeline_steps import (
    EMBEDDED_PROXY,
    Cut,
    DensityMerge,
    DensitySketch,
    DSIRFit,
    Embedder,
    InstalledDocsReader,
    KeysScorer,
    KMeansAssign,
    KMeansFit,
    NgramCounts,
    QualityClassifierFit,
    ScoreSelector,
    SemDeDupSimilarities,
)
from pipeline_steps.errors import CorpusError, ModelError
from pipeline_steps.readers.corpus import CorpusFiles, list_corpus
from pipeline_steps.readers.splits import SPLITS, DealDocuments, as_row, is_written_prose
from pipeline_steps.samplers import EMBEDDED, SAMPLERS
from pipeline_steps.stores.files import read_json, write_json
from train.folders import SealedFolder
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
        return [*_text(study, name), TokenStoreWriter(_at(study, stage), place_of(study.tokenizer))]
    if kind == "selections":
        named, _, share = name.partition("/")
        sampler = next(one for one in study.samplers if one.name == named)
        rate = next(one for one in study.rates if f"{one:g}" == share)
        store = _at(study, store_of(sampler))
        return [ScoreSelector(store, Cut(sampler.mode, rate=rate), selection=selection(study, named, rate))]
    if name == KEYS:
        return [*_text(study, "train"), KeysScorer(_at(study, stage))]
    sampler = next(one for one in study.samplers if store_of(one) == stage and one.scorer)
    return [*_text(study, "train"), _scorer(study, sampler, _at(study, stage))]


def _scorer(study: Study, sampler: Sampler, scores: str) -> PipelineStep:
    row = SAMPLERS[sampler.scorer]
    stands_on = [_at(study, folder) for folder in row.folders]
    model = {"model": proxy(study, sampler)} if sampler.scorer in MODELS else {}
    return row.scorer_class()(scores, *stands_on, **model, **sampler.options)


def place_of(model: str) -> str:
    """Hub id or folder of a model or tokenizer that may be this package's own."""
    return EMBEDDED_PROXY if model == EMBEDDED else model


def proxy(study: Study, sampler: Sampler) -> str:
    """Hub id or folder of a sampler's model: one that was built for this study, or a checkpoint of its runs, too."""
    trained, at, step = sampler.model.partition("@")
    if sampler.model in study.proxies:
        return _at(study, f"proxies/{sampler.model}")
    if not at:
        return place_of(sampler.model)
    run = Path(study.output) / "runs" / full_run(study, trained).name
    folder = checkpoint_folder(run, int(step))
    if run.exists() and not folder.exists():
        raise ModelError(
            f"{run} has no checkpoint of step {step}, which {sampler.name} scores with: it was trained before this "
            "sampler was added; choose a step that it has kept, or delete the folder to train it again"
        )
    return str(folder)


def _text(study: Study, split: str) -> Pipeline:
    """Readers of a split: dealt from the corpus, or a corpus of its own."""
    if is_dealt(study):
        return [JsonlReader(_at(study, f"corpus/{split}"))]
    if split == "train":
        assert study.corpus is not None  # reading refuses held-out text without a corpus
        return _open(study, study.corpus, TRAIN, study.limit)
    task, _, source = split.partition("/")
    return _open(study, study.held_out[task][source], split, -1)


def _target(study: Study) -> Pipeline:
    """What DSIR and the quality classifier take for good: without a corpus of it, the written prose among the rest."""
    if study.target is None:
        return [*_text(study, "train"), LambdaFilter(_is_prose)]
    return _open(study, study.target, TARGET, -1)


def _is_prose(document: object) -> bool:
    return is_written_prose(document.text)  # type: ignore[attr-defined]


def _open(study: Study, corpus: str, name: str, limit: int) -> Pipeline:
    """Its files are listed once: what arrives later belongs to no task of those that are done."""
    listing = listing_of(study, name)
    if not listing.exists():
        write_json(str(listing), asdict(list_corpus(corpus)))
    return CorpusFiles(**read_json(str(listing))).reader(str(listing.with_suffix(".txt")), limit)


def _deal(study: Study) -> Pipeline:
    writer = JsonlWriter(_at(study, _PARTIAL), "${split}/${shard}.jsonl.gz", adapter=as_row)
    if study.corpus is None:
        limit = study.limit if study.limit < 0 else -(-study.limit // SHARDS)
        return [InstalledDocsReader(limit=limit), DealDocuments(SHARDS), writer]
    # One task: what lies there is of an attempt on a corpus that has been mended since
    shutil.rmtree(_at(study, _PARTIAL), ignore_errors=True)
    listing_of(study, DEALT).unlink(missing_ok=True)
    return [*_open(study, study.corpus, DEALT, study.limit), DealDocuments(SHARDS), writer]


class Together(PipelineStep):
    """Several steps as one reader."""

    type = "📋 - STUDY"
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
    """Moves a folder that is complete to where others look for it, with the digests of its files (one task)."""

    type = "📋 - STUDY"
    name = "📦 Put in place"

    def __init__(self, source: str, target: str, parts: Sequence[str] = ()) -> None:
        super().__init__()
        self.source, self.target, self.parts = source, target, tuple(parts)

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Rename it, unless that has been done. Raises CorpusError if one of its parts is not there."""
        if rank == 0 and os.path.exists(self.source):
            if absent := [part for part in self.parts if not os.path.isdir(f"{self.source}/{part}")]:
                raise CorpusError(
                    f"the corpus is too small for held-out text of its own ({', '.join(absent)} is empty): give some "
                    "hundreds of English documents or more, or held_out, and another output"
                )
            SealedFolder.seal(Path(self.source), DEALT_FILES, {})
            shutil.rmtree(self.target, ignore_errors=True)  # dealt again: it was damaged
            os.replace(self.source, self.target)
        yield from data or ()


def _at(study: Study, place: str) -> str:
    return os.path.join(study.output, place)


_PIPELINES: dict[str, Callable[[Study], Pipeline]] = {
    "corpus/deal": _deal,
    "corpus": lambda study: [PutInPlace(_at(study, _PARTIAL), _at(study, "corpus"), SPLITS)],
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
