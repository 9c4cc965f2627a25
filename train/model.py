"""Models to train from scratch, initialised as their own code does: T5 (v1.0, v1.1) and decoder-only models."""

from __future__ import annotations

import torch
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from pipeline_steps.engines.models import load_config
from train import presets
from train.tokenizers import PAD


VOCABULARY_DIVISOR = 128  # t5x base.gin: embedding rows are rounded up, 32,100 ids to 32,128 rows
_LADDER_STD, _LADDER_CUTOFF = 0.02, 3.0  # DataDecide's scripts/ladder.py: init_std and init_cutoff_factor


def model_config(preset: str, vocab_size: int, eos: int = 1) -> PretrainedConfig:
    """Return the configuration of a preset for a tokenizer of `vocab_size` ids.

    Raises:
        ModelError: there is no such preset, or the model of transformers that it names cannot be trained here.
    """
    sizes = presets.preset(preset)
    rows = -(-vocab_size // VOCABULARY_DIVISOR) * VOCABULARY_DIVISOR
    if preset.startswith(presets.HUB):
        from train.hub_presets import HubPreset

        return HubPreset.parse(preset).config(rows, eos)
    if presets.is_causal(preset):
        return LlamaConfig(vocab_size=rows, bos_token_id=eos, eos_token_id=eos, **sizes)
    return T5Config(vocab_size=rows, decoder_start_token_id=PAD, **sizes)


def build_model(preset: str, vocab_size: int, init_seed: int, eos: int = 1) -> PreTrainedModel:
    """Make a float32 model; its weights depend on the arguments alone, and the random state is left as it was.

    Under `torch.device("meta")` it has shapes and no weights.

    Raises:
        ModelError: there is no such preset, or the model of transformers that it names cannot be trained here.
    """
    config = model_config(preset, vocab_size, eos)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(init_seed)
        model = model_of(config)
        if isinstance(model, T5ForConditionalGeneration) and not presets.preset(preset)["tie_word_embeddings"]:
            untie(model)
        if preset in presets.LADDER:
            for weight in model.parameters():
                if weight.ndim == 2:
                    cut = _LADDER_CUTOFF * _LADDER_STD
                    nn.init.trunc_normal_(weight, std=_LADDER_STD, a=-cut, b=cut)
    if preset.startswith(presets.HUB) and model.device.type != "meta":
        from train.hub_presets import check_model

        check_model(model, preset)
    return model


def model_of(config: PretrainedConfig) -> PreTrainedModel:
    """Make a float32 model of a configuration that `model_config` made."""
    family = T5ForConditionalGeneration if config.is_encoder_decoder else MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return family(config)


def count_parameters(model: PreTrainedModel) -> dict[str, int]:
    """Return the parameters of a model: of its body, of the output layer, and of all, each weight counted once.

    The body is everything but the input embedding and the output layer. `counted` is body and output layer, which is
    N in scaling laws that count the output layer (DataDecide, arXiv 2504.11393), whether or not it is tied.
    """
    own = {id(weight): weight.numel() for weight in model.parameters()}
    head = model.get_output_embeddings().weight
    body = sum(own.values()) - sum(own[one] for one in {id(head), id(model.get_input_embeddings().weight)})
    return {"body": body, "head": head.numel(), "counted": body + head.numel(), "total": sum(own.values())}


def size_of(model: PreTrainedModel) -> int:
    """Return how large a model is said to be: all weights of a T5, body and output layer of a decoder.

    The input embedding of a decoder takes no operations, and in small ones it is most of the weights; DataDecide
    (arXiv 2504.11393) counts alike.
    """
    counted = count_parameters(model)
    return counted["total" if model.config.is_encoder_decoder else "counted"]


def empty_model(folder: str) -> PreTrainedModel:
    """Make a model of a checkpoint's configuration, with any weights; the random state is left as it was."""
    with torch.random.fork_rng(devices=[]):  # building a model draws initial weights
        return model_of(load_config(folder))


def untie(model: T5ForConditionalGeneration) -> None:
    """Give a v1.1 model the output layer of its own that it should have, of standard deviation d^-0.5 as in t5x.

    transformers 5 ties it to the embedding whatever the configuration says, and an embedding has standard deviation
    1: the initial loss would be in the hundreds.
    """
    weight = torch.empty_like(model.shared.weight).normal_(std=model.config.d_model**-0.5)
    model.lm_head.weight = nn.Parameter(weight)
