"""Configurations of the models that score: enough to count operations, without weights and without the Hub."""

from __future__ import annotations

import os
from typing import Any

from launch.study.schema import Study
from pipeline_steps.engines.models import EMBEDDED_PROXY, load_config
from pipeline_steps.samplers import EMBEDDED


_VOCABULARY = 32_128  # rows of every published T5's embedding: their config.json
_SIZES = ("small", "base", "large", "xl")  # Flan-T5 has the shapes of T5 v1.1: google/flan-t5-*/config.json
_XXL = {
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
}  # google/t5-v1_1-xxl/config.json
_GEMMA_7B = {  # google/gemma-7b-it/config.json
    "model_type": "gemma",
    "vocab_size": 256_000,
    "hidden_size": 3072,
    "intermediate_size": 24_576,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "head_dim": 256,
}
_SENTENCE_T5 = "sentence-transformers/sentence-t5-base"  # the encoder of T5-Base: Ni et al. 2021 (arXiv 2108.08877)
_ENCODED = {_SENTENCE_T5: 256}  # max_seq_length of its sentence_bert_config.json
_USUALLY_ENCODED = 512  # `pipeline_steps.Embedder`, of a model that states no limit


def shape_of(study: Study, model: str) -> Any | None:
    """Configuration of a scorer's model or of the embedder; None if it can be had neither here nor from the cache."""
    from transformers import AutoConfig

    trained, at, _ = model.partition("@")
    if at and trained in study.models:
        from train.model import model_config

        return model_config(study.models[trained].get("preset", trained), _VOCABULARY)
    known = _published(model)
    if model in study.proxies:  # their vocabulary follows the study's tokenizer: taken for T5's
        known = {"vocab_size": _VOCABULARY} | {k: v for k, v in study.proxies[model].items() if k != "seed"}
    place = EMBEDDED_PROXY if model == EMBEDDED else model
    try:
        if known:
            return AutoConfig.for_model(**known)
        return load_config(place, local_files_only=not os.path.isdir(place))
    except (OSError, ValueError, TypeError, AttributeError):  # proxies may say anything, until they are built
        return None


def encoded_tokens(embedder: str) -> int:
    """Tokens of a document that an embedder reads at most."""
    return _ENCODED.get(embedder, _USUALLY_ENCODED)


def _published(model: str) -> dict[str, Any] | None:
    from train.presets import PRESETS

    t5 = {"model_type": "t5", "vocab_size": _VOCABULARY}
    family, _, size = model.rpartition("-")
    if family in ("google/flan-t5", "google/t5-v1_1"):
        if size == "xxl":
            return t5 | PRESETS["t5-v1_1-xl"] | _XXL
        return t5 | PRESETS[f"t5-v1_1-{size}"] if size in _SIZES else None
    return {_SENTENCE_T5: t5 | PRESETS["t5-base"], "google/gemma-7b-it": _GEMMA_7B}.get(model)
