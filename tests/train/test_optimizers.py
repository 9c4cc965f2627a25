"""Adafactor must be T5's, AdamW and Muon torch's, each with the state of its parameters by name."""

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, MistralConfig, Olmo2Config, Qwen3Config
from transformers.optimization import Adafactor as Reference

from pipeline_steps.errors import StoreMismatch
from train.model import build_model
from train.optimizers import OPTIMIZERS, Adafactor, AdamW, Muon, is_hidden_matrix
from train.presets import PRESETS
from train.schedules import inverse_sqrt
from train.training_plan import OptimizerSettings


# transformers factors every matrix and T5 only those of 128 and more on both sides: these are treated alike
SHAPES = {"a": (128, 160), "b": (128, 160), "c": (300, 128), "d": (64,), "e": (64,), "f": (1,), "g": (128, 160)}


def parameters(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: nn.Parameter(torch.randn(shape, generator=generator) * 0.1) for name, shape in SHAPES.items()}


def set_gradients(weights, step):
    generator = torch.Generator().manual_seed(1000 + step)
    for number, weight in enumerate(weights.values()):
        scale = 10.0 ** (2 * number - 11) if step % 7 else 0.0  # from tiny to large, and none at all
        weight.grad = torch.randn(weight.shape, generator=generator) * scale


def test_equals_transformers():
    ours, theirs = parameters(), parameters()
    optimizer = Adafactor(ours.items())
    reference = Reference(
        theirs.values(), lr=1.0, scale_parameter=True, relative_step=False, warmup_init=False, beta1=None
    )
    for step in range(1, 51):
        rate = inverse_sqrt(step, "adafactor", 10)
        reference.param_groups[0]["lr"] = rate
        for weights in (ours, theirs):
            set_gradients(weights, step)
        optimizer.step(step, rate)
        reference.step()
    for name in SHAPES:
        difference = (ours[name] - theirs[name]).norm() / theirs[name].norm()
        assert difference <= 1e-6, name
        assert (ours[name] - parameters()[name]).norm() > 0.01 * theirs[name].norm(), name


def test_small_matrices_keep_their_full_second_moment():
    state = Adafactor([("bias", nn.Parameter(torch.zeros(32, 128))), ("wide", nn.Parameter(torch.zeros(128, 256)))])
    assert {name: tuple(value.shape) for name, value in state.state_dict().items()} == {
        "bias.0": (32, 128),
        "wide.0": (128,),
        "wide.1": (256,),
    }


@pytest.mark.parametrize("make", OPTIMIZERS.values())
def test_a_restored_state_continues_bitwise(make):
    whole, parts = parameters(), parameters()
    optimizer = make(whole.items())
    first = make(parts.items())
    for step in range(1, 11):
        if step == 6:
            second = make(parts.items())
            second.load_state_dict(first.state_dict())
            first = second
        for weights, one in ((whole, optimizer), (parts, first)):
            set_gradients(weights, step)
            one.step(step, 0.01)
    assert all(torch.equal(whole[name], parts[name]) for name in SHAPES)


@pytest.mark.parametrize("make", OPTIMIZERS.values())
def test_the_state_of_another_model_is_refused(make):
    state = make(parameters().items()).state_dict()
    with pytest.raises(StoreMismatch, match=r"another model \(g.0\)"):
        make((name, value) for name, value in parameters().items() if name != "g").load_state_dict(state)


@pytest.mark.parametrize("make", OPTIMIZERS.values())
def test_zero_grad_forgets(make):
    weights = parameters()
    set_gradients(weights, 1)
    make(weights.items()).zero_grad()
    assert all(weight.grad is None for weight in weights.values())


@pytest.mark.parametrize(
    ("settings", "decaying"),
    [
        ({}, {"embed_tokens", "q_proj", "lm_head"}),
        ({"decay_norms": True}, {"embed_tokens", "q_proj", "lm_head", "norm"}),  # DataDecide's
        ({"decay_embeddings": False}, {"q_proj", "lm_head"}),
    ],
)
def test_what_decays(settings, decaying):
    shapes = {"embed_tokens": (8, 4), "q_proj": (4, 4), "lm_head": (8, 4), "norm": (4,)}
    weights = {f"model.{name}.weight": nn.Parameter(torch.ones(shape)) for name, shape in shapes.items()}
    for weight in weights.values():
        weight.grad = torch.zeros_like(weight)
    AdamW(weights.items(), OptimizerSettings(weight_decay=0.5, **settings)).step(1, 0.1)
    for name in shapes:
        left = 0.95 if name in decaying else 1.0
        assert torch.equal(weights[f"model.{name}.weight"], torch.full(shapes[name], left))


@pytest.mark.parametrize("settings", [{}, {"adam_beta1": 0.8, "adam_beta2": 0.99, "adam_epsilon": 1e-6}])
def test_adamw_equals_torch(settings):
    made = OptimizerSettings(**settings)
    ours, theirs = parameters(), parameters()
    optimizer = AdamW(ours.items(), made)
    decaying = [weight for weight in theirs.values() if weight.ndim > 1]
    groups = [{"params": decaying}, {"params": [w for w in theirs.values() if w.ndim == 1], "weight_decay": 0.0}]
    reference = torch.optim.AdamW(
        groups,
        betas=(made.adam_beta1, made.adam_beta2),
        eps=made.adam_epsilon,
        weight_decay=0.1,
        foreach=False,
        fused=False,
    )
    for step in range(1, 21):
        for group in reference.param_groups:
            group["lr"] = inverse_sqrt(step, "adamw", 5)
        for weights in (ours, theirs):
            set_gradients(weights, step)
        optimizer.step(step, inverse_sqrt(step, "adamw", 5))
        reference.step()
    for name in SHAPES:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("adjust", ["match_rms_adamw", "original"])
def test_muon_is_the_documented_update(adjust):
    """Jordan's update, written out in float64: a mean gradient, Nesterov's look ahead, five Newton-Schulz steps."""
    ours, adam = parameters(), parameters()
    optimizer = Muon(ours.items(), OptimizerSettings(muon_adjust_lr_fn=adjust))
    others = AdamW([(name, weight) for name, weight in adam.items() if weight.ndim == 1])
    hidden = {name: weight.detach().double() for name, weight in parameters().items() if weight.ndim == 2}
    means = {name: torch.zeros_like(weight) for name, weight in hidden.items()}
    for step in range(1, 6):
        for weights in (ours, adam):
            set_gradients(weights, step)
        for name, weight in hidden.items():
            gradient = ours[name].grad.double()
            means[name] = 0.95 * means[name] + 0.05 * gradient
            x = 0.05 * gradient + 0.95 * means[name]
            x = x / x.norm().clamp(min=1e-7)
            for _ in range(5):
                square = x @ x.T
                x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
            rows, columns = weight.shape
            scale = 0.2 * max(rows, columns) ** 0.5 if adjust == "match_rms_adamw" else max(1, rows / columns) ** 0.5
            hidden[name] = weight * (1 - 0.02 * 0.1) - 0.02 * scale * x
        optimizer.step(step, 0.02)
        others.step(step, 0.02)
    for name, weight in ours.items():
        if name in hidden:
            moved = (hidden[name] - parameters()[name]).norm()
            assert (weight - hidden[name]).norm() < 0.02 * moved, name  # torch multiplies in bfloat16
        else:
            assert torch.equal(weight, adam[name]), name
    assert optimizer.state_dict().keys() == {f"{name}.0" for name in SHAPES} | {f"{name}.1" for name in "def"}


FAMILIES = [LlamaConfig, Qwen3Config, Olmo2Config, MistralConfig, Gemma2Config]


@pytest.mark.parametrize("family", ["t5-tiny", "t5-v1_1-tiny", *FAMILIES])
def test_muon_takes_the_maps_between_hidden_states(family):
    """Of every family, by the type of the modules: all matrices but tables and the output layer."""
    if isinstance(family, str):
        model = build_model(family, 500, 0)
    else:
        sizes = PRESETS["llama-tiny"] | {
            "num_key_value_heads": 2,
            "head_dim": 32,
            "vocab_size": 500,
            "pad_token_id": 0,
        }
        model = AutoModelForCausalLM.from_config(family(**sizes))
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    tables.add(id(model.get_output_embeddings().weight))
    for name, weight in model.named_parameters():
        assert is_hidden_matrix(name, weight) == (weight.ndim == 2 and id(weight) not in tables), name
