"""Adafactor must be T5's: the same steps as transformers' own, whatever the grouping."""

import pytest
import torch
from torch import nn
from transformers.optimization import Adafactor as Reference

from pipeline_steps.errors import StoreMismatch
from train.optimizers import Adafactor, AdamW, learning_rate


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
        rate = learning_rate(step, "adafactor", 10)
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


@pytest.mark.parametrize("make", [Adafactor, AdamW])
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


@pytest.mark.parametrize("make", [Adafactor, AdamW])
def test_the_state_of_another_model_is_refused(make):
    state = make(parameters().items()).state_dict()
    with pytest.raises(StoreMismatch, match=r"another model \(g.0\)"):
        make((name, value) for name, value in parameters().items() if name != "g").load_state_dict(state)


@pytest.mark.parametrize("make", [Adafactor, AdamW])
def test_zero_grad_forgets(make):
    weights = parameters()
    set_gradients(weights, 1)
    make(weights.items()).zero_grad()
    assert all(weight.grad is None for weight in weights.values())


def test_learning_rate():
    rates = [learning_rate(step, "adafactor") for step in (1, 10_000, 40_000)]
    assert rates == pytest.approx([0.01, 0.01, 0.005])  # 1 / sqrt(max(step, 10,000))
    assert learning_rate(100, "adafactor", warmup_steps=25) == pytest.approx(0.1)
    rising = [learning_rate(step, "adamw", 100, 1e-3) for step in (1, 50, 100, 400)]
    assert rising == pytest.approx([1e-5, 5e-4, 1e-3, 5e-4])


def test_adamw_equals_torch():
    ours, theirs = parameters(), parameters()
    optimizer = AdamW(ours.items())
    decaying = [weight for weight in theirs.values() if weight.ndim > 1]
    groups = [{"params": decaying}, {"params": [w for w in theirs.values() if w.ndim == 1], "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.1, foreach=False, fused=False)
    for step in range(1, 21):
        for group in reference.param_groups:
            group["lr"] = learning_rate(step, "adamw", 5)
        for weights in (ours, theirs):
            set_gradients(weights, step)
        optimizer.step(step, learning_rate(step, "adamw", 5))
        reference.step()
    for name in SHAPES:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-7)
