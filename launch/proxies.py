"""Models of random weights, built from a configuration: they take the place of published ones where nothing can be
downloaded, to try a whole study in miniature. What they score means nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datatrove.utils.logging import logger

from launch.stages.base import open_sealed, place_of
from pipeline_steps.engines.models import load_tokenizer
from pipeline_steps.errors import ModelError, StoreDamaged
from pipeline_steps.stores.artefact import json_types, refuse_differences
from train.folders import SealedFolder, whole_folder


PROXY_FILES = "proxy.json"  # the sealed file that lists a model built for a study


def build_proxy(folder: str, tokenizer: str, config: Mapping[str, Any]) -> None:
    """Write weights, configuration and tokenizer, as `save_pretrained` does: whole or not at all.

    The configuration is that of its `model_type`, with a `seed` (default 0); the vocabulary follows the tokenizer.

    Raises:
        ModelError: transformers knows no such model, or cannot build it.
        StoreMismatch: another one stands there.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    built_from = {"tokenizer": tokenizer, **config}
    target, damaged = Path(folder), False
    if target.is_dir():
        try:
            found = open_sealed(folder, PROXY_FILES, True)
            refuse_differences({k: v for k, v in found.facts.items() if k != "files"}, json_types(built_from), folder)
            return
        except StoreDamaged as error:
            logger.warning(str(error))
            damaged = True
    known = load_tokenizer(place_of(tokenizer))
    settings = dict(config)
    model_type, seed = settings.pop("model_type"), settings.pop("seed", 0)
    ids = {"pad_token_id": known.pad_token_id, "eos_token_id": known.eos_token_id, "vocab_size": len(known)}
    try:
        made = AutoConfig.for_model(model_type, **ids, **settings)
        if made.is_encoder_decoder:
            made.decoder_start_token_id = known.pad_token_id
        torch.manual_seed(seed)
        model = (AutoModelForSeq2SeqLM if made.is_encoder_decoder else AutoModelForCausalLM).from_config(made)
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(f"no proxy can be built of {dict(config)}: {str(error).splitlines()[0]}") from error
    with whole_folder(target, replace=damaged) as partial:
        model.save_pretrained(partial)
        known.save_pretrained(partial)
        SealedFolder.seal(partial, PROXY_FILES, built_from)
