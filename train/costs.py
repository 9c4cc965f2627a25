"""What a run will take, from its arguments alone: no store, no weights, no accelerator needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline_steps.paper import RATES
from train.flops import training_flops
from train.model import model_config, model_of
from train.objectives import make_objective
from train.plan import PretrainArguments, kept_steps
from train.token_budget import TokenBudget


# Vocabulary of every published T5, for plans without a token store: t5/data/utils.py
_T5_VOCABULARY, _SENTINELS = 32_100, 100


@dataclass(frozen=True)
class RunCost:
    """Tokens, operations and memory of a run.

    Attributes:
        steps: of the optimizer.
        samples: rows.
        encoder_tokens: positions that the budget counts.
        raw_tokens: tokens of the corpus that are read, repetitions counted.
        target_tokens: predicted.
        flops: of the whole run, by `train.flops`.
        parameters: of the model.
        memory: bytes of a process by what they hold; those of activations are an estimate, for one row.
        epochs: how often each rate of the corpus is repeated.
        checkpoints: that are there in the end.
        checkpoint_bytes: of one: weights and optimizer state.
    """

    steps: int
    samples: int
    encoder_tokens: int
    raw_tokens: int
    target_tokens: int
    flops: int
    parameters: int
    memory: dict[str, int]
    epochs: dict[float, float]
    checkpoints: int
    checkpoint_bytes: int

    def hours(self, flops_per_second: float) -> float:
        """At a sustained speed."""
        return self.flops / flops_per_second / 3600


def run_cost(arguments: PretrainArguments, corpus_tokens: int) -> RunCost:
    """Of a run on a corpus of so many tokens. Raises InvalidCut or ModelError if there can be no such run."""
    budget = TokenBudget(arguments.total_tokens, arguments.batch_size, arguments.input_length)
    objective = make_objective(arguments.preset, arguments.input_length, _T5_VOCABULARY, _SENTINELS, eos=1)
    config = model_config(arguments.preset, _T5_VOCABULARY)
    raw_tokens = budget.samples * objective.raw_length
    parameters, memory = _memory(config, arguments, objective.target_length)
    return RunCost(
        steps=budget.steps,
        samples=budget.samples,
        encoder_tokens=arguments.total_tokens,
        raw_tokens=raw_tokens,
        target_tokens=budget.samples * objective.target_length,
        flops=budget.samples * training_flops(config, objective.input_length, objective.target_length),
        parameters=parameters,
        memory=memory,
        epochs={rate: raw_tokens / (rate * corpus_tokens) for rate in (*RATES, 1.0)},
        checkpoints=len(kept_steps(arguments, budget)),
        checkpoint_bytes=memory["weights"] + memory["optimizer"],
    )


def _memory(config: Any, arguments: PretrainArguments, target_length: int) -> tuple[int, dict[str, int]]:
    """Parameters, and bytes by what they hold."""
    import torch

    from train.model import untie
    from train.optimizers import OPTIMIZERS

    with torch.device("meta"):
        model = model_of(config)
        if arguments.preset.startswith("t5-v1_1"):
            untie(model)
    weights = sum(weight.numel() for weight in model.parameters())
    state = OPTIMIZERS[arguments.optimizer](model.named_parameters()).state_dict()
    width = 2 if arguments.precision == "bf16" else 4
    return weights, {
        "weights": 4 * weights,
        "gradients": 4 * weights,
        "optimizer": sum(4 * moment.numel() for moment in state.values()),
        "activations": width * _activations(config, arguments.input_length, target_length),
    }


def _activations(config: Any, S: int, T: int) -> int:
    """Values kept for the backward pass of one row: Korthikanti et al. 2022 (arXiv 2205.05198), Sec. 4.1.

    An estimate from above: attention that is computed in blocks keeps no scores.
    """
    if not config.is_encoder_decoder:
        inner = config.num_attention_heads * config.head_dim
        layer = _attention(config.hidden_size, inner, config.num_attention_heads, S, S)
        return int(config.num_hidden_layers * (layer + S * (4 * config.hidden_size + 4 * config.intermediate_size)))
    d, heads = config.d_model, config.num_heads
    inner, hidden = heads * config.d_kv, (4 if config.is_gated_act else 2) * config.d_ff
    encoder = _attention(d, inner, heads, S, S) + S * (3.5 * d + hidden)
    decoder = _attention(d, inner, heads, T, T) + _attention(d, inner, heads, T, S) + T * (5.5 * d + hidden)
    return int(config.num_layers * encoder + config.num_decoder_layers * decoder)


def _attention(d: int, inner: int, heads: int, queries: int, keys: int) -> float:
    """Of one attention layer: its input, queries, keys, values, output, masks of dropout, and scores."""
    return queries * (1.5 * d + 2 * inner) + keys * 2 * inner + 2.5 * heads * queries * keys
