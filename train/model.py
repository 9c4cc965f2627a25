"""T5 models to train from scratch, initialised as T5's own code does, and their loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import T5Config, T5ForConditionalGeneration

from pipeline_steps.errors import ModelError
from train.tokenizers import PAD


# v1.0: Raffel et al. 2020, Sec. 2.1 and 3.7 (small, base, large). Dropout 0.1 also in pre-training.
# v1.1: google-research/text-to-text-transfer-transformer, released_checkpoints.md: gated GELU, output layer not
# tied to the embedding, no dropout in pre-training.
_V1_0 = {"feed_forward_proj": "relu", "dropout_rate": 0.1, "tie_word_embeddings": True}
_V1_1 = {"feed_forward_proj": "gated-gelu", "dropout_rate": 0.0, "tie_word_embeddings": False}
PRESETS: dict[str, dict[str, Any]] = {
    # ours, for one CPU thread; v1.0 without dropout
    "t5-tiny": _V1_0 | {"dropout_rate": 0.0, "d_model": 128, "d_kv": 32, "d_ff": 512, "num_layers": 2, "num_heads": 4},
    "t5-small": _V1_0 | {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8},
    "t5-base": _V1_0 | {"d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12},
    "t5-large": _V1_0 | {"d_model": 1024, "d_kv": 64, "d_ff": 4096, "num_layers": 24, "num_heads": 16},
    "t5-v1_1-small": _V1_1 | {"d_model": 512, "d_kv": 64, "d_ff": 1024, "num_layers": 8, "num_heads": 6},
    "t5-v1_1-base": _V1_1 | {"d_model": 768, "d_kv": 64, "d_ff": 2048, "num_layers": 12, "num_heads": 12},
    "t5-v1_1-large": _V1_1 | {"d_model": 1024, "d_kv": 64, "d_ff": 2816, "num_layers": 24, "num_heads": 16},
}
VOCABULARY_DIVISOR = 128  # t5x base.gin: embedding rows are rounded up, 32,100 ids to 32,128 rows
Z_LOSS = 1e-4  # T5 operative_config.gin


def build_model(preset: str, vocab_size: int, init_seed: int) -> T5ForConditionalGeneration:
    """A float32 model whose weights depend on the arguments alone; the global random state is left as it was.

    Raises:
        ModelError: no such preset.
    """
    if preset not in PRESETS:
        raise ModelError(f"no preset {preset!r}: choose one of {', '.join(PRESETS)}")
    rows = -(-vocab_size // VOCABULARY_DIVISOR) * VOCABULARY_DIVISOR
    config = T5Config(vocab_size=rows, decoder_start_token_id=PAD, **PRESETS[preset])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(init_seed)
        model = T5ForConditionalGeneration(config)
        if not PRESETS[preset]["tie_word_embeddings"]:
            untie(model)
    return model


def untie(model: T5ForConditionalGeneration) -> None:
    """Give a v1.1 model the output layer of its own that it should have, of standard deviation d^-0.5 as in t5x.

    transformers 5 ties it to the embedding whatever the configuration says, and an embedding has standard deviation
    1: the initial loss would be in the hundreds.
    """
    weight = torch.empty_like(model.shared.weight).normal_(std=model.config.d_model**-0.5)
    model.lm_head.weight = nn.Parameter(weight)


def token_losses(model: nn.Module, input_BI: Tensor, target_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Float32 [B, T]: negative log-likelihood of every target token (nats), and squared log-normaliser (z-loss).

    Rows are full, so there is no padding to mask.
    """
    start = torch.full_like(target_BT[:, :1], PAD)
    decoder = torch.cat([start, target_BT[:, :-1]], dim=1)
    logits = model(input_ids=input_BI, decoder_input_ids=decoder, use_cache=False).logits.float()
    log_normaliser = logits.logsumexp(dim=-1)
    nll = log_normaliser - logits.gather(-1, target_BT[..., None]).squeeze(-1)
    return nll, log_normaliser.square()
