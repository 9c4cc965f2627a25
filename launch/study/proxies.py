"""Models of random weights, built from a configuration: they take the place of published ones where nothing can be
downloaded, to try a whole study in miniature. What they score means nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from typing import Any

from launch.study.pipelines import place_of
from pipeline_steps.artefact import refuse_differences
from pipeline_steps.errors import ModelError
from pipeline_steps.files import read_json, write_json


def build_proxy(folder: str, tokenizer: str, config: Mapping[str, Any]) -> None:
    """Write weights, configuration and tokenizer, as `save_pretrained` does: whole or not at all.

    Args:
        folder: where to.
        tokenizer: Hub id or folder, or "embedded"; the vocabulary follows it.
        config: arguments of the configuration of `model_type`, and a `seed` (default 0).

    Raises:
        ModelError: transformers knows no such model, or cannot build it.
        StoreMismatch: another one stands there.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

    built_from = {"tokenizer": tokenizer, **config}
    if os.path.isdir(folder):
        refuse_differences(read_json(f"{folder}/proxy.json"), built_from, folder)
        return
    known = AutoTokenizer.from_pretrained(place_of(tokenizer))
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
    partial = f"{folder}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    known.save_pretrained(partial)
    write_json(f"{partial}/proxy.json", built_from)
    os.replace(partial, folder)
