"""Documents in one row are each as if alone: to rounding in value, to the bit in independence."""

import copy

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    OlmoConfig,
    Qwen2Config,
    Qwen3Config,
)

from pipeline_steps.errors import ModelError
from train import packed_documents
from train.layers import prepare_for_training
from train.losses import TokenLosses


EOS, LENGTH = 1, 160
SHAPE = {"vocab_size": 128, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
SHAPE |= {"num_attention_heads": 4, "initializer_range": 0.2, "pad_token_id": None, "eos_token_id": EOS}
CONFIGS = {
    "llama": LlamaConfig(**SHAPE),
    "grouped queries": LlamaConfig(**SHAPE, num_key_value_heads=2),
    "mistral": MistralConfig(**SHAPE, num_key_value_heads=4, sliding_window=None),
    "qwen2": Qwen2Config(**SHAPE, num_key_value_heads=2),
    "qwen3": Qwen3Config(**SHAPE, num_key_value_heads=2, head_dim=24),
    "olmo": OlmoConfig(**SHAPE),
    "olmo2": Olmo2Config(**SHAPE),
}
LONG = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [4.0] * 8, "factor": 4.0}
LONG |= {"rope_theta": 1e4, "original_max_position_embeddings": 64}
# Where documents begin in each row: one alone, short ones that share a call, empty ones, one of a whole call
STARTS = [[0], [0, 70, 75, 80, 81, 82, 140], [0, 1, 2, 66, 159]]


def rows():
    """Inputs and targets [3, L]: every document begins with EOS, as the input, and ends in one, as the target."""
    raw = torch.randint(2, 128, (3, LENGTH + 1), generator=torch.Generator().manual_seed(0))
    for row, starts in zip(raw, STARTS, strict=True):
        row[starts] = EOS
    return raw[:, :-1], raw[:, 1:]


def models(name):
    """The same weights twice: in rows, and transformers' own."""
    torch.manual_seed(0)
    alone = AutoModelForCausalLM.from_config(CONFIGS[name])
    packed = copy.deepcopy(alone)
    prepare_for_training(packed, padded=False, apart=True)
    return TokenLosses(packed, z_loss=0.0, eos=EOS), alone


def logits(losses, inputs):
    return losses.model.lm_head(losses._hidden(inputs, inputs)[0])


@pytest.mark.parametrize("name", CONFIGS)
def test_a_document_in_a_row_is_the_document_alone(name):
    losses, alone = models(name)
    inputs, targets = rows()
    losses(inputs, targets)[0].backward()
    found = logits(losses, inputs).detach()
    assert found.std() > 0.5
    for row, starts in enumerate(STARTS):
        for begin, end in zip(starts, [*starts[1:], LENGTH], strict=True):
            expected = alone(input_ids=inputs[row : row + 1, begin:end], use_cache=False).logits[0]
            torch.testing.assert_close(found[row, begin:end], expected, rtol=0, atol=1e-5)
            torch.nn.functional.cross_entropy(expected, targets[row, begin:end], reduction="sum").backward()
    for (name, weight), reference in zip(losses.model.named_parameters(), alone.parameters(), strict=True):
        assert (weight.grad - reference.grad).norm() < 1e-5 * reference.grad.norm(), name


@pytest.mark.parametrize("name", CONFIGS)
def test_a_token_moves_nothing_outside_its_document(name):
    losses, _ = models(name)
    inputs, _ = rows()
    changed = inputs.clone()
    changed[1, 76] = 5 if inputs[1, 76] != 5 else 6  # of the third document, which shares a call with its neighbours
    with torch.no_grad():
        before, after = logits(losses, inputs), logits(losses, changed)
    moved = (before != after).any(dim=-1)
    assert moved[1, 76:80].all()
    moved[1, 76:80] = False
    assert not moved.any()


def test_flex_attention_has_the_same_borders(monkeypatch):
    """What a GPU uses, uncompiled on this CPU, where it has no backward pass."""
    losses, _ = models("grouped queries")
    inputs, _ = rows()
    expected = logits(losses, inputs).detach()
    blocks = packed_documents._blocks
    monkeypatch.setattr(
        packed_documents, "_calls", lambda start: packed_documents.PackedDocuments([], [], blocks(start))
    )
    monkeypatch.setattr(packed_documents, "_compiled_flex_attention", lambda: flex_attention)
    with torch.no_grad():
        torch.testing.assert_close(logits(losses, inputs), expected, rtol=0, atol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(logits(losses, inputs).float(), expected, rtol=0, atol=0.6)  # leaks: 5


def test_only_short_neighbours_of_a_row_share_a_call():
    start = torch.zeros(3, LENGTH, dtype=torch.bool)
    for row, starts in zip(start, STARTS, strict=True):
        row[starts] = True
    calls = packed_documents._calls(start)
    assert calls.lengths == [160, 70, 12, 58, 20, 2, 64, 93, 1]
    assert [mask is None for mask in calls.masks] == [True, True, False, True, True, False, True, True, True]


def test_a_prepared_model_never_runs_without_borders():
    losses, _ = models("llama")
    with pytest.raises(TypeError, match="documents"):
        losses.model(input_ids=rows()[0])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (MistralConfig(**SHAPE, num_key_value_heads=4, sliding_window=64), "with sliding_window 64"),
        ({"model_type": "mixtral"}, "told apart in a mixtral"),
        (LlamaConfig(**SHAPE, rope_parameters=LONG), "rotary positions longrope, which differ"),
    ],
)
def test_what_is_not_tested_is_refused(config, message):
    from transformers import AutoConfig

    config = AutoConfig.for_model(**config) if isinstance(config, dict) else config
    with pytest.raises(ModelError, match=message):
        packed_documents.refuse_unmaskable(config)
