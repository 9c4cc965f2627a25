"""Models must be T5's: published sizes, an initial loss of ln(vocabulary), an output layer that is really untied."""

import math

import pytest
import torch
from torch.nn import functional
from transformers import T5Config, T5ForConditionalGeneration

from pipeline_steps.errors import ModelError
from train import losses
from train.layers import prepare_for_training
from train.losses import TokenLosses
from train.model import build_model, count_parameters
from train.presets import LADDER, LADDER_VOCABULARY, PRESETS, Z_LOSS, is_causal


@pytest.mark.parametrize(
    ("preset", "millions"),  # released_checkpoints.md and README of T5: 60M, 220M, 770M; 77M, 250M, 800M
    [
        ("t5-small", 60.506624),
        ("t5-base", 222.903552),
        ("t5-large", 737.668096),
        ("t5-xl", 2851.598336),
        ("t5-v1_1-xl", 2849.757184),
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


def batch(vocab_size, rows=4, seed=0, lengths=(64, 20)):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, vocab_size, (rows, length), generator=generator) for length in lengths]


@pytest.mark.parametrize(
    ("preset", "part", "millions"),
    [
        ("llama-60m", "total", 58),
        ("llama-130m", "total", 134),
        ("llama-350m", "total", 368),
        ("llama-nano", "body", 0.332),
        ("llama-micro", "body", 0.953),
        ("llama-mini", "body", 3.21),
    ],
)
def test_llama_presets(preset, part, millions):
    with torch.device("meta"):
        counted = count_parameters(build_model(preset, 32_000, 0))
    assert counted[part] == pytest.approx(millions * 1e6, rel=0.01)


@pytest.mark.parametrize("name", LADDER)
def test_the_ladder_is_the_published_one(name):
    one = LADDER[name]
    with torch.device("meta"):
        model = build_model(name, LADDER_VOCABULARY, 0)
    parts, config = count_parameters(model), model.config
    assert parts["head"] == 50_304 * one.width
    assert parts["counted"] == one.parameters
    assert 16 * one.width**2 * one.layers + (2 * one.layers + 1) * one.width + parts["head"] == one.parameters
    assert (config.rms_norm_eps, config.rope_parameters["rope_theta"]) == (1e-6, 10_000.0)
    assert (config.max_position_embeddings, config.tie_word_embeddings) == (2048, False)
    tokens = 2048 * one.batch_size * one.steps  # 5 x 20 x N, of 90M on of the name's N
    assert tokens == pytest.approx(100 * one.parameters, rel=0.16)


def test_the_ladder_begins_with_truncated_weights():
    model = build_model("olmo-4m", 1000, init_seed=0)
    for name, weight in model.named_parameters():
        if weight.ndim == 2:
            assert weight.abs().max() <= 0.06, name
            assert weight.std().item() == pytest.approx(0.02 * 0.98658, rel=0.03), name  # of a normal cut at 3 sigma
        else:
            assert (weight == 1).all(), name


def test_one_answer_to_which_models_are_causal():
    assert {name for name in PRESETS if is_causal(name)} == {name for name in PRESETS if not name.startswith("t5")}
    assert is_causal("hf:somebody/a-model@main")
    for name in ("hf:", "gpt-5"):
        with pytest.raises(ModelError, match="no preset"):
            is_causal(name)


@pytest.mark.parametrize("preset", ["t5-tiny", "t5-v1_1-small", "llama-tiny"])
def test_initial_loss_is_that_of_guessing(preset):
    model = build_model(preset, 1000, init_seed=0)
    if preset.startswith("t5"):
        assert model.shared.weight.shape[0] == 1024
        assert (model.lm_head.weight is model.shared.weight) == (preset == "t5-tiny")
    nll = TokenLosses(model).by_token(*batch(1000, lengths=(64, 64)))
    assert math.log(1024) - 0.1 < nll.mean().item() < math.log(1024) + 1.2  # logits have a variance of about 1


@pytest.mark.parametrize("preset", ["t5-tiny", "t5-v1_1-tiny", "llama-tiny"])
@pytest.mark.parametrize("piece", [7, 1024])
def test_losses_and_gradients_are_those_of_transformers(preset, piece, monkeypatch):
    """transformers' own forward pass and plain cross-entropy, in the same weights."""
    monkeypatch.setattr(losses, "_PIECE", piece)
    ours, theirs = (build_model(preset, 1000, init_seed=0) for _ in range(2))
    prepare_for_training(ours, padded=False)
    inputs, targets = batch(1000, lengths=(64, 64) if preset == "llama-tiny" else (64, 20))
    if preset == "llama-tiny":
        logits = theirs(input_ids=inputs).logits
    else:
        logits = theirs(input_ids=inputs, labels=targets).logits
    expected = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    squares = logits.exp().sum(-1).log().flatten() ** 2
    (expected.sum() + Z_LOSS * squares.sum()).backward()
    loss, sums = TokenLosses(ours)(inputs, targets)
    loss.backward()
    torch.testing.assert_close(sums, torch.stack([expected.sum(), squares.sum()]).double())
    torch.testing.assert_close(TokenLosses(ours).by_token(inputs, targets).flatten(), expected)
    for (name, mine), reference in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        difference = (mine.grad - reference.grad).norm() / reference.grad.norm()
        assert difference < 1e-5, name


def test_bfloat16_is_close():
    model = build_model("t5-tiny", 1000, init_seed=0)
    prepare_for_training(model, padded=False)
    inputs, targets = batch(1000)
    exact = TokenLosses(model)(inputs, targets)[1][0]
    with torch.autocast("cpu", torch.bfloat16):
        loss, sums = TokenLosses(model)(inputs, targets)
    loss.backward()
    assert sums[0].item() == pytest.approx(exact.item(), rel=5e-3)
    assert model.shared.weight.grad.dtype == torch.float32


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
