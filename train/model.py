"""Models to train from scratch, initialised as their own code does: T5 (v1.0, v1.1) and Llama."""

from __future__ import annotations

import torch
from torch import nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from pipeline_steps.engines.models import load_config
from train import presets
from train.tokenizers import PAD


VOCABULARY_DIVISOR = 128  # t5x base.gin: embedding rows are rounded up, 32,100 ids to 32,128 rows


def model_config(preset: str, vocab_size: int, eos: int = 1) -> PretrainedConfig:
    """Return the configuration of a preset for a tokenizer of `vocab_size` ids. Raises ModelError: no such preset."""
    sizes = presets.preset(preset)
    rows = -(-vocab_size // VOCABULARY_DIVISOR) * VOCABULARY_DIVISOR
    if preset.startswith("llama"):
        return LlamaConfig(vocab_size=rows, bos_token_id=eos, eos_token_id=eos, **sizes)
    return T5Config(vocab_size=rows, decoder_start_token_id=PAD, **sizes)


def build_model(preset: str, vocab_size: int, init_seed: int, eos: int = 1) -> PreTrainedModel:
    """Make a float32 model; its weights depend on the arguments alone, and the random state is left as it was.

    Raises:
        ModelError: no such preset.
    """
    config = model_config(preset, vocab_size, eos)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(init_seed)
        model = model_of(config)
        if isinstance(model, T5ForConditionalGeneration) and not presets.preset(preset)["tie_word_embeddings"]:
            untie(model)
    return model


def model_of(config: PretrainedConfig) -> PreTrainedModel:
    """Make a model of a configuration that `model_config` made."""
    return T5ForConditionalGeneration(config) if config.is_encoder_decoder else LlamaForCausalLM(config)


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
