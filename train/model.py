"""Models to train from scratch, initialised as their own code does: T5 (v1.0, v1.1) and Llama."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from pipeline_steps.errors import ModelError
from train.tokenizers import PAD


# v1.0: Raffel et al. 2020, Sec. 2.1 and 3.7 (small, base, large). Dropout 0.1 also in pre-training.
# v1.1: google-research/text-to-text-transfer-transformer, released_checkpoints.md: gated GELU, output layer not
# tied to the embedding, no dropout in pre-training.
_V1_0 = {"feed_forward_proj": "relu", "dropout_rate": 0.1, "tie_word_embeddings": True}
_V1_1 = {"feed_forward_proj": "gated-gelu", "dropout_rate": 0.0, "tie_word_embeddings": False}


def _llama(width: int, inner: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "tie_word_embeddings": False,
    }


PRESETS: dict[str, dict[str, Any]] = {
    # ours, for one CPU thread; v1.0 without dropout
    "t5-tiny": _V1_0 | {"dropout_rate": 0.0, "d_model": 128, "d_kv": 32, "d_ff": 512, "num_layers": 2, "num_heads": 4},
    "t5-small": _V1_0 | {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8},
    "t5-base": _V1_0 | {"d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12},
    "t5-large": _V1_0 | {"d_model": 1024, "d_kv": 64, "d_ff": 4096, "num_layers": 24, "num_heads": 16},
    "t5-xl": _V1_0 | {"d_model": 1024, "d_kv": 128, "d_ff": 16384, "num_layers": 24, "num_heads": 32},  # T5-3B
    "t5-v1_1-tiny": _V1_1 | {"d_model": 128, "d_kv": 32, "d_ff": 384, "num_layers": 2, "num_heads": 4},  # ours
    "t5-v1_1-small": _V1_1 | {"d_model": 512, "d_kv": 64, "d_ff": 1024, "num_layers": 8, "num_heads": 6},
    "t5-v1_1-base": _V1_1 | {"d_model": 768, "d_kv": 64, "d_ff": 2048, "num_layers": 12, "num_heads": 12},
    "t5-v1_1-large": _V1_1 | {"d_model": 1024, "d_kv": 64, "d_ff": 2816, "num_layers": 24, "num_heads": 16},
    "t5-v1_1-xl": _V1_1 | {"d_model": 2048, "d_kv": 64, "d_ff": 5120, "num_layers": 24, "num_heads": 32},
    "llama-tiny": _llama(128, 384, 2, 4),  # ours
    # Lialin et al. 2023 (ReLoRA, arXiv 2307.05695), Table 1
    "llama-60m": _llama(512, 1376, 8, 8),
    "llama-130m": _llama(768, 2048, 12, 12),
    "llama-350m": _llama(1024, 2736, 24, 16),
}
VOCABULARY_DIVISOR = 128  # t5x base.gin: embedding rows are rounded up, 32,100 ids to 32,128 rows


def model_config(preset: str, vocab_size: int, eos: int = 1) -> PretrainedConfig:
    """The configuration of a preset for a tokenizer of `vocab_size` ids. Raises ModelError: no such preset."""
    if preset not in PRESETS:
        raise ModelError(f"no preset {preset!r}: choose one of {', '.join(PRESETS)}")
    rows = -(-vocab_size // VOCABULARY_DIVISOR) * VOCABULARY_DIVISOR
    if preset.startswith("llama"):
        return LlamaConfig(vocab_size=rows, bos_token_id=eos, eos_token_id=eos, **PRESETS[preset])
    return T5Config(vocab_size=rows, decoder_start_token_id=PAD, **PRESETS[preset])


def build_model(preset: str, vocab_size: int, init_seed: int, eos: int = 1) -> PreTrainedModel:
    """A float32 model whose weights depend on the arguments alone; the global random state is left as it was.

    Raises:
        ModelError: no such preset.
    """
    config = model_config(preset, vocab_size, eos)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(init_seed)
        model = model_of(config)
        if isinstance(model, T5ForConditionalGeneration) and not PRESETS[preset]["tie_word_embeddings"]:
            untie(model)
    return model


def model_of(config: PretrainedConfig) -> PreTrainedModel:
    """A model of a configuration that `model_config` made."""
    return T5ForConditionalGeneration(config) if config.is_encoder_decoder else LlamaForCausalLM(config)


def empty_model(folder: str) -> PreTrainedModel:
    """A model of the configuration in a checkpoint's folder, with any weights; the random state is left as it was."""
    with torch.random.fork_rng(devices=[]):  # building a model draws initial weights
        return model_of(AutoConfig.from_pretrained(folder))


def prepare_for_training(model: PreTrainedModel, padded: bool) -> None:
    """Attention without masks unless rows are padded and, on a CPU, dropout by sample. Weights and names stay."""
    from train.attention import FULL_ROWS, PADDED_ROWS
    from train.dropout import use_sample_dropout

    if isinstance(model, T5ForConditionalGeneration):
        model.set_attn_implementation(PADDED_ROWS if padded else FULL_ROWS)
        use_sample_dropout(model)


def untie(model: T5ForConditionalGeneration) -> None:
    """Give a v1.1 model the output layer of its own that it should have, of standard deviation d^-0.5 as in t5x.

    transformers 5 ties it to the embedding whatever the configuration says, and an embedding has standard deviation
    1: the initial loss would be in the hundreds.
    """
    weight = torch.empty_like(model.shared.weight).normal_(std=model.config.d_model**-0.5)
    model.lm_head.weight = nn.Parameter(weight)
