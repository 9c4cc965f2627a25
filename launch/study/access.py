"""Look whether a study can reach what it reads, before anything is started: corpora, models, evaluation data."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator

from launch.corpus import list_corpus
from launch.study.samplers import EMBEDDED, MODELS
from launch.study.schema import Study
from launch.study.stages import is_dealt, listing_of, store_of
from pipeline_steps.embedder import HASHED_NGRAMS
from pipeline_steps.errors import CorpusError
from pipeline_steps.models import model_identity


def check_access(study: Study, left: Collection[str]) -> None:
    """List every corpus and ask for every model that stages still to be done will read.

    Args:
        study: the study.
        left: names of these stages.

    Raises:
        CorpusError: a corpus is not there, or cannot be listed: a credential is missing.
        ModelError: a model is neither a folder nor to be had from the Hub.
    """
    for corpus in dict.fromkeys(_corpora(study, {name.partition("/")[0] for name in left})):
        list_corpus(corpus)
    for model in dict.fromkeys(_models(study, left)):
        model_identity(model)
    root = study.evaluation.data_root
    if root and "measured" in {name.partition("/")[0] for name in left} and not os.path.isdir(root):
        raise CorpusError(f"{root}, the evaluation's data_root, is no folder: correct it in {study.path}")


def left_out(study: Study) -> int:
    """Files of the corpus that have arrived since the study began, and that it does not read."""
    listing = listing_of(study, "corpus" if is_dealt(study) else "train")
    if study.corpus is None or not listing.exists():
        return 0
    return len(list_corpus(study.corpus).sizes.keys() - set(listing.read_text().splitlines()))


def _corpora(study: Study, kinds: set[str]) -> Iterator[str]:
    reading = {"corpus"} if is_dealt(study) else {"tokens", "embeddings", "ngrams", "quality", "scores"}
    if study.corpus and kinds & reading:
        yield study.corpus
    if study.target and kinds & {"ngrams", "quality"}:
        yield study.target
    if "tokens" in kinds:
        yield from (corpus for sources in study.held_out.values() for corpus in sources.values())


def _models(study: Study, left: Collection[str]) -> Iterator[str]:
    if any(name.startswith("tokens/") for name in left):
        yield study.tokenizer
    if "embeddings" in left and study.embedder != HASHED_NGRAMS:
        yield study.embedder
    own = {EMBEDDED, *study.proxies}
    for sampler in study.samplers:
        asks = sampler.scorer in MODELS and sampler.model not in own and "@" not in sampler.model
        if asks and store_of(study, sampler) in left:
            yield sampler.model
