"""Models must be T5's: published sizes, an initial loss of ln(vocabulary), an output layer that is really untied."""

import math

import pytest
import torch
from torch.nn import functional
from transformers import T5Config, T5ForConditionalGeneration

from pipeline_steps.errors import ModelError
from train.model import PRESETS, build_model, token_losses


@pytest.mark.parametrize(
    ("preset", "millions"),  # released_checkpoints.md and README of T5: 60M, 220M, 770M; 77M, 250M, 800M
    [
        ("t5-small", 60.506624),
        ("t5-base", 222.903552),
        ("t5-large", 737.668096),
        ("t5-v1_1-small", 76.961152),
        ("t5-v1_1-base", 247.577856),
        ("t5-v1_1-large", 783.150080),
    ],
)
def test_published_sizes(preset, millions):
    with torch.device("meta"):
        model = T5ForConditionalGeneration(T5Config(vocab_size=32_128, decoder_start_token_id=0, **PRESETS[preset]))
    count = sum(weight.numel() for weight in model.parameters())
    if "v1_1" in preset:  # transformers ties on building; `build_model` unties
        count += model.shared.weight.numel()
    assert count == round(millions * 1e6)


def batch(vocab_size, rows=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, vocab_size, (rows, length), generator=generator) for length in (64, 20)]


@pytest.mark.parametrize("preset", ["t5-tiny", "t5-v1_1-small"])
def test_initial_loss_is_that_of_guessing(preset):
    model = build_model(preset, 1000, init_seed=0)
    assert model.shared.weight.shape[0] == 1024
    assert (model.lm_head.weight is model.shared.weight) == (preset == "t5-tiny")
    nll, _ = token_losses(model, *batch(1000))
    assert math.log(1024) - 0.1 < nll.mean().item() < math.log(1024) + 1.2  # logits have a variance of about 1


def test_losses_equal_plain_cross_entropy():
    model = build_model("t5-tiny", 1000, init_seed=0).eval()
    inputs, targets = batch(1000)
    nll, squares = token_losses(model, inputs, targets)
    logits = model(input_ids=inputs, labels=targets).logits
    expected = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    torch.testing.assert_close(nll.flatten(), expected)
    torch.testing.assert_close(squares, logits.exp().sum(-1).log() ** 2)


def test_weights_depend_on_the_seed_only():
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    one = build_model("t5-tiny", 300, init_seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    two, three = build_model("t5-tiny", 300, init_seed=3), build_model("t5-tiny", 300, init_seed=4)
    pairs = list(zip(one.parameters(), two.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(one.shared.weight, three.shared.weight)


def test_no_such_preset():
    with pytest.raises(ModelError, match="no preset 't5-huge': choose one of t5-tiny"):
        build_model("t5-huge", 300, init_seed=0)
