"""Sizes of models by name, without torch: plans and study files ask for them."""

from __future__ import annotations

from typing import Any

from pipeline_steps.errors import ModelError


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
    # Tay et al. 2021 (arXiv 2109.10686), Table 2; without dropout too
    "t5-mini": _V1_0
    | {"dropout_rate": 0.0, "d_model": 384, "d_kv": 32, "d_ff": 1536, "num_layers": 4, "num_heads": 8},
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


def preset(name: str) -> dict[str, Any]:
    """Return what transformers' configuration takes beside the vocabulary. Raises ModelError: no such preset."""
    if name not in PRESETS:
        raise ModelError(f"no preset {name!r}: choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
