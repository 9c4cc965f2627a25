"""Sizes of models by name, without torch: plans and study files ask for them."""

from __future__ import annotations

from typing import Any, NamedTuple

from pipeline_steps.errors import ModelError


HUB = "hf:"  # a preset of this prefix is the shape of a model of transformers; see `train.hub_presets`
Z_LOSS = 1e-4  # T5 operative_config.gin
T5_VOCABULARY = 32_100  # of every published T5: t5/data/utils.py
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


_T5: dict[str, dict[str, Any]] = {
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
}
_LLAMA = {
    "llama-tiny": _llama(128, 384, 2, 4),  # ours
    # ours, for studies on a CPU: bodies of 0.33, 0.95 and 3.2 million weights
    "llama-nano": _llama(96, 256, 3, 3),
    "llama-micro": _llama(160, 448, 3, 5),
    "llama-mini": _llama(256, 704, 4, 8),
    # Lialin et al. 2023 (ReLoRA, arXiv 2307.05695), Table 1
    "llama-60m": _llama(512, 1376, 8, 8),
    "llama-130m": _llama(768, 2048, 12, 12),
    "llama-350m": _llama(1024, 2736, 24, 16),
}


class Published(NamedTuple):
    """A model of DataDecide's ladder: its shape, and how it was trained on rows of 2,048 tokens.

    Attributes:
        width: d.
        layers: L.
        heads: attention heads.
        parameters: N, the output layer counted and the input embedding not: 16 d^2 L + (2L + 1) d + 50,304 d.
        batch_size: rows of a step.
        steps: steps of the optimizer.
    """

    width: int
    layers: int
    heads: int
    parameters: int
    batch_size: int
    steps: int


# Magnusson et al. 2025 (DataDecide, arXiv 2504.11393): scripts/ladder.py of the branch DataDecide of allenai/OLMo
LADDER = {
    "olmo-4m": Published(64, 8, 8, 3_744_832, 32, 5_725),
    "olmo-6m": Published(96, 8, 8, 6_010_464, 32, 9_182),
    "olmo-8m": Published(128, 8, 8, 8_538_240, 32, 13_039),
    "olmo-10m": Published(144, 8, 8, 9_900_432, 32, 15_117),
    "olmo-14m": Published(192, 8, 8, 14_380_224, 32, 21_953),
    "olmo-16m": Published(208, 8, 8, 16_004_560, 32, 24_432),
    "olmo-20m": Published(192, 16, 8, 19_101_888, 64, 14_584),
    "olmo-60m": Published(384, 16, 12, 57_078_144, 96, 29_042),
    "olmo-90m": Published(528, 16, 12, 97_946_640, 160, 29_901),
    "olmo-150m": Published(768, 12, 12, 151_898_880, 192, 38_157),
    "olmo-300m": Published(1024, 16, 16, 319_980_544, 320, 45_787),
    "olmo-530m": Published(1344, 16, 16, 530_074_944, 448, 57_786),
    "olmo-750m": Published(1536, 16, 16, 681_297_408, 576, 63_589),
    "olmo-1b": Published(2048, 16, 16, 1_176_832_000, 704, 69_369),
}
LADDER_VOCABULARY = 50_280  # ids of GPT-NeoX's tokenizer with Dolma's additions; the models have 50,304 rows
# mlp_ratio 8 with SwiGLU is an inner width of 4 d; RoPE's base 10,000 and 2,048 positions are LlamaConfig's defaults
_LADDER = {
    name: _llama(one.width, 4 * one.width, one.layers, one.heads) | {"rms_norm_eps": 1e-6}
    for name, one in LADDER.items()
}
PRESETS = _T5 | _LLAMA | _LADDER


def preset(name: str) -> dict[str, Any]:
    """Return what transformers' configuration takes beside the vocabulary; {} for a model of transformers.

    Raises:
        ModelError: there is no such preset.
    """
    if name.startswith(HUB) and name != HUB:
        return {}
    if name not in PRESETS:
        raise ModelError(f"no preset {name!r}: choose one of {', '.join(PRESETS)}, or {HUB}NAME, a Hub id or a folder")
    return PRESETS[name]


def is_causal(name: str) -> bool:
    """Return whether a preset is a decoder of next tokens; the others are T5s. Raises ModelError: no such preset."""
    return "d_model" not in preset(name)


def z_loss_of(name: str) -> float:
    """Return the weight of the z-loss that a preset is trained with unless another is asked for."""
    return 0.0 if name in LADDER else Z_LOSS  # DataDecide's script has none


def vocabulary_of(name: str) -> int:
    """Return the ids of the tokenizer that a preset was published with, for plans without a token store."""
    return LADDER_VOCABULARY if name in LADDER else T5_VOCABULARY
