"""Floating-point operations of a model, and what accelerators can do at most.

A multiply-add is two operations; a training step is three forward passes (Hoffmann et al. 2022, App. F); attention is
counted in full, embeddings and everything element by element not at all. Shapes: S inputs, T targets, d width.
"""

from __future__ import annotations

from typing import Any


# Dense bfloat16 matrix products, 10^12 per second, from the makers' data sheets; by part of the device's name
PEAK_TFLOPS = {
    "B200": 2250.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
    "A10": 125.0,
    "RTX 4090": 165.0,
    "MI300X": 1307.0,
}


def peak_flops(device_name: str) -> float | None:
    """Dense bfloat16 operations per second of an accelerator of this name; None if it is not known."""
    known = (tflops for name, tflops in PEAK_TFLOPS.items() if name.lower() in device_name.lower())
    return next((tflops * 1e12 for tflops in known), None)


def training_flops(config: Any, input_length: int, target_length: int) -> int:
    """Of one row, forward and backward, for a T5 or Llama configuration."""
    return 3 * forward_flops(config, input_length, target_length)


def forward_flops(config: Any, input_length: int, target_length: int) -> int:
    """Of one row, up to the logits of every target; a decoder-only model has as many targets as inputs.

    Any configuration with the names of transformers' T5Config or LlamaConfig will do: Gemma's, for one.
    """
    if config.is_encoder_decoder:
        return _t5_forward(config, input_length, target_length)
    return _llama_body(config, input_length) + 2 * input_length * config.hidden_size * config.vocab_size


def first_token_flops(config: Any, input_length: int) -> int:
    """Of one text, up to the probabilities of the first token that follows it, as Ask-LLM asks for them.

    Of a T5: the encoder and one step of a decoder that never forms keys and values (`pipeline_steps.engines.t5`).
    """
    if not config.is_encoder_decoder:
        return _llama_body(config, input_length) + 2 * config.hidden_size * config.vocab_size
    d, inner = config.d_model, config.num_heads * config.d_kv
    own, cross = 4 * d * inner, 8 * d * inner + 4 * input_length * config.num_heads * d
    decoder = config.num_decoder_layers * (own + cross + _t5_feed_forward(config))
    return encoder_flops(config, input_length) + decoder + 2 * d * config.vocab_size


def encoder_flops(config: Any, input_length: int) -> int:
    """Of one text through a T5's encoder alone."""
    inner = config.num_heads * config.d_kv
    layer = 8 * config.d_model * inner + 4 * input_length * inner + _t5_feed_forward(config)
    return input_length * config.num_layers * layer


def _t5_forward(config: Any, S: int, T: int) -> int:
    d, inner = config.d_model, config.num_heads * config.d_kv
    own = 8 * d * inner + 4 * T * inner  # self-attention of a target
    cross = 4 * d * inner + 4 * S * inner  # its queries, output and scores
    decoder = config.num_decoder_layers * (T * (own + cross + _t5_feed_forward(config)) + S * 4 * d * inner)
    return encoder_flops(config, S) + decoder + 2 * T * d * config.vocab_size


def _t5_feed_forward(config: Any) -> int:
    return (6 if config.is_gated_act else 4) * config.d_model * config.d_ff


def _llama_body(config: Any, S: int) -> int:
    d, head = config.hidden_size, config.head_dim
    query, keys = config.num_attention_heads * head, config.num_key_value_heads * head
    layer = 4 * d * query + 4 * d * keys + 4 * S * query + 6 * d * config.intermediate_size
    return S * config.num_hidden_layers * layer
