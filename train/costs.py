"""Operations, tokens and memory of a run, from its arguments alone; no store, weights or device are needed.

A multiply-add is two operations; a training step is three forward passes (Hoffmann et al. 2022, App. F); attention is
counted in full, also where documents do not see each other; embeddings and everything element by element are not
counted. Shapes: S inputs, T targets, d width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline_steps.errors import ModelError
from pipeline_steps.paper import RATES
from train.arguments import PretrainArguments
from train.objectives import make_objective
from train.presets import is_causal, vocabulary_of


_SENTINELS = 100  # T5's
# Causal models of `_gated_body`'s shape: attention of all tokens in every layer, and three matrices of a gated layer
_GATED = {"llama", "mistral", "qwen2", "qwen3", "olmo", "olmo2", "gemma", "gemma2", "granite", "cohere"}
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


@dataclass(frozen=True)
class RunCost:
    """Tokens, operations and memory of a run.

    Attributes:
        steps: steps of the optimizer.
        samples: rows that are shown.
        encoder_tokens: positions that the budget counts.
        raw_tokens: tokens of the corpus that are read, repetitions counted.
        target_tokens: tokens that are predicted.
        flops: operations of the whole run.
        parameters: weights of the model.
        parts: of a causal model, weights by part; see `train.model.count_parameters`.
        memory: bytes of a process by what they hold; those of activations are an estimate, for one row.
        epochs: how often each rate of the corpus is repeated.
        checkpoints: that are there in the end.
        checkpoint_bytes: size of one checkpoint: weights and optimizer state.
    """

    steps: int
    samples: int
    encoder_tokens: int
    raw_tokens: int
    target_tokens: int
    flops: int
    parameters: int
    parts: dict[str, int]
    memory: dict[str, int]
    epochs: dict[float, float]
    checkpoints: int
    checkpoint_bytes: int

    @property
    def tokens_per_parameter(self) -> float | None:
        """Predicted tokens by parameter of body and output layer; None for a T5."""
        return self.target_tokens / self.parts["counted"] if self.parts else None

    def hours(self, flops_per_second: float) -> float:
        """Return how long the run takes at a sustained speed."""
        return self.flops / flops_per_second / 3600


def run_cost(arguments: PretrainArguments, corpus_tokens: int, vocab_size: int | None = None) -> RunCost:
    """Return the cost of a run on a corpus of so many tokens; without `vocab_size`, with the preset's published ids.

    Raises:
        InvalidCut: the budget or the length of rows is impossible.
        ModelError: there is no such preset, or the operations of the model that it names are not known.
    """
    import torch

    from train.model import build_model, count_parameters

    budget, ids = arguments.budget, vocab_size or vocabulary_of(arguments.preset)
    objective = make_objective(arguments.preset, arguments.input_length, ids, _SENTINELS, eos=1)
    with torch.device("meta"):
        model = build_model(arguments.preset, ids, 0)
    config, counted = model.config, count_parameters(model)
    raw_tokens = budget.samples * objective.raw_length
    flops = budget.samples * training_flops(config, objective.input_length, objective.target_length)
    memory = _memory(model, arguments, objective.target_length)
    return RunCost(
        steps=budget.steps,
        samples=budget.samples,
        encoder_tokens=budget.total_tokens,
        raw_tokens=raw_tokens,
        target_tokens=budget.samples * objective.target_length,
        flops=flops,
        parameters=counted["total"],
        parts=counted if is_causal(arguments.preset) else {},
        memory=memory,
        epochs={rate: raw_tokens / (rate * corpus_tokens) for rate in (*RATES, 1.0)},
        checkpoints=len(arguments.kept_steps),
        checkpoint_bytes=memory["weights"] + memory["optimizer"],
    )


def _memory(model: Any, arguments: PretrainArguments, target_length: int) -> dict[str, int]:
    """Return bytes by what they hold."""
    from train.optimizers import OPTIMIZERS

    weights = sum(weight.numel() for weight in model.parameters())
    state = OPTIMIZERS[arguments.optimizer](model.named_parameters()).state_dict()
    width = 2 if arguments.mixed_precision == "bf16" else 4
    return {
        "weights": 4 * weights,
        "gradients": 4 * weights,
        "optimizer": sum(4 * moment.numel() for moment in state.values()),
        "activations": width * _activations(model.config, arguments.input_length, target_length),
    }


def _activations(config: Any, S: int, T: int) -> int:
    """Count values kept for the backward pass of one row: Korthikanti et al. 2022 (arXiv 2205.05198), Sec. 4.1.

    This is an estimate from above: attention that is computed in blocks keeps no scores.
    """
    if not config.is_encoder_decoder:
        inner = config.num_attention_heads * _head_width(config)
        layer = _attention(config.hidden_size, inner, config.num_attention_heads, S, S)
        return int(config.num_hidden_layers * (layer + S * (4 * config.hidden_size + 4 * config.intermediate_size)))
    d, heads = config.d_model, config.num_heads
    inner, hidden = heads * config.d_kv, (4 if config.is_gated_act else 2) * config.d_ff
    encoder = _attention(d, inner, heads, S, S) + S * (3.5 * d + hidden)
    decoder = _attention(d, inner, heads, T, T) + _attention(d, inner, heads, T, S) + T * (5.5 * d + hidden)
    return int(config.num_layers * encoder + config.num_decoder_layers * decoder)


def _attention(d: int, inner: int, heads: int, queries: int, keys: int) -> float:
    """Count values of one attention layer: input, queries, keys, values, output, masks of dropout, and scores."""
    return queries * (1.5 * d + 2 * inner) + keys * 2 * inner + 2.5 * heads * queries * keys


def peak_flops(device_name: str) -> float | None:
    """Return dense bfloat16 operations per second of an accelerator of this name; None if it is not known."""
    known = (tflops for name, tflops in PEAK_TFLOPS.items() if name.lower() in device_name.lower())
    return next((tflops * 1e12 for tflops in known), None)


def training_flops(config: Any, input_length: int, target_length: int) -> int:
    """Return the operations of one row, forward and backward. Raises ModelError: see `is_counted`."""
    return 3 * forward_flops(config, input_length, target_length)


def forward_flops(config: Any, input_length: int, target_length: int) -> int:
    """Return the operations of one row up to the logits of every target; a causal model has a target per input.

    Raises:
        ModelError: the operations of such a model are not known; see `is_counted`.
    """
    if config.is_encoder_decoder:
        return _t5_forward(config, input_length, target_length)
    return _gated_body(config, input_length) + 2 * input_length * config.hidden_size * config.vocab_size


def first_token_flops(config: Any, input_length: int) -> int:
    """Return the operations of one text up to the probabilities of the token that follows it, as Ask-LLM asks.

    A T5 takes its encoder and one step of a decoder that never forms keys and values (`pipeline_steps.engines.t5`).
    """
    if not config.is_encoder_decoder:
        return _gated_body(config, input_length) + 2 * config.hidden_size * config.vocab_size
    d, inner = config.d_model, config.num_heads * config.d_kv
    own, cross = 4 * d * inner, 8 * d * inner + 4 * input_length * config.num_heads * d
    decoder = config.num_decoder_layers * (own + cross + _t5_feed_forward(config))
    return encoder_flops(config, input_length) + decoder + 2 * d * config.vocab_size


def encoder_flops(config: Any, input_length: int) -> int:
    """Return the operations of one text through a T5's encoder alone."""
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


def is_counted(config: Any) -> bool:
    """Return whether the operations of a model are known: of T5s, and of causal models of one gated layer a block.

    Experts, and layers that are not attention, are not counted.
    """
    return bool(config.is_encoder_decoder or config.model_type in _GATED)


def _head_width(config: Any) -> int:
    """Return the width of an attention head, which not every configuration of a causal model says."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _gated_body(config: Any, S: int) -> int:
    if not is_counted(config):
        raise ModelError(
            f"the operations of a {config.model_type} are not known: choose one of {', '.join(sorted(_GATED))}"
        )
    d, head = config.hidden_size, _head_width(config)
    query, keys = config.num_attention_heads * head, config.num_key_value_heads * head
    layer = 4 * d * query + 4 * d * keys + 4 * S * query + 6 * d * config.intermediate_size
    return S * config.num_hidden_layers * layer
