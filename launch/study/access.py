"""Look whether a study can reach what it reads, before anything is started: corpora, models, evaluation data."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict

from launch.study.schema import MODELS, Study
from launch.study.stages import DEALT, TARGET, TRAIN, is_dealt, listing_of, store_of
from pipeline_steps.embedding.embedder import HASHED_NGRAMS
from pipeline_steps.engines.models import model_identity
from pipeline_steps.errors import CorpusError
from pipeline_steps.readers.corpus import CorpusFiles, list_corpus
from pipeline_steps.readers.special_files import refuse_special_files
from pipeline_steps.samplers import EMBEDDED
from pipeline_steps.stores.files import read_json, write_json


def check_access(study: Study, left: Collection[str]) -> dict[str, CorpusFiles]:
    """List every corpus and ask for every model that stages still to be done will read.

    Args:
        study: the study.
        left: names of these stages.

    Returns:
        the corpora by name, for `note_files`.

    Raises:
        CorpusError: a corpus is not there, or cannot be listed: a credential is missing.
        ModelError: a model is neither a folder nor to be had from the Hub.
    """
    read = {name: corpus for name, corpus in _corpora(study) if any(_reads(stage, name) for stage in left)}
    listed = {corpus: list_corpus(corpus) for corpus in dict.fromkeys(read.values())}
    for model in dict.fromkeys(_models(study, left)):
        refuse_special_files(model)
        model_identity(model)
    root = study.evaluation.data_root
    if root and "measured" in {name.partition("/")[0] for name in left} and not os.path.isdir(root):
        raise CorpusError(f"{root}, the evaluation's data_root, is no folder: correct it in {study.path}")
    if root:
        refuse_special_files(root)
    return {name: listed[corpus] for name, corpus in read.items()}


def note_files(study: Study, listed: Mapping[str, CorpusFiles], begun: Collection[str]) -> None:
    """Write down which files a corpus has, so that its tasks need not list it, each again and for itself.

    Args:
        study: the study.
        listed: by `check_access`.
        begun: names of stages that are done, in part at least: what they have read stays.
    """
    for name, files in listed.items():
        listing = listing_of(study, name)
        if name != DEALT and not (listing.exists() and any(_reads(stage, name) for stage in begun)):
            write_json(str(listing), asdict(files))


def left_out(study: Study) -> int:
    """Files of the corpus that have arrived since the study began, and that it does not read."""
    listing = listing_of(study, DEALT if is_dealt(study) else TRAIN)
    if study.corpus is None or not listing.exists():
        return 0
    return len(list_corpus(study.corpus).sizes.keys() - read_json(str(listing))["sizes"].keys())


def _corpora(study: Study) -> Iterator[tuple[str, str]]:
    """All that a study may read, by the names of their listings."""
    if study.corpus:
        yield (DEALT if is_dealt(study) else TRAIN), study.corpus
    if study.target:
        yield TARGET, study.target
    for task, sources in study.held_out.items():
        yield from ((f"{task}/{source}", corpus) for source, corpus in sources.items())


def _reads(stage: str, corpus: str) -> bool:
    """Whether a stage reads a corpus."""
    if corpus == TRAIN:
        return stage.startswith("scores/") or stage in ("tokens/train", "embeddings", "ngrams/raw", "quality")
    own = {DEALT: ("corpus/deal",), TARGET: ("ngrams/target", "quality")}
    return stage in own.get(corpus, (f"tokens/{corpus}",))


def _models(study: Study, left: Collection[str]) -> Iterator[str]:
    if any(name.startswith("tokens/") for name in left) and study.tokenizer != EMBEDDED:
        yield study.tokenizer
    if "embeddings" in left and study.embedder != HASHED_NGRAMS:
        yield study.embedder
    own = {EMBEDDED, *study.proxies}
    for sampler in study.samplers:
        asks = sampler.scorer in MODELS and sampler.model not in own and "@" not in sampler.model
        if asks and store_of(sampler) in left:
            yield sampler.model
