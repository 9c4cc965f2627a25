"""Padding must not change a loss, a gradient or what dropout takes."""

import numpy as np
import pytest
import torch

from train.layers import prepare_for_training, set_dropout
from train.losses import TokenLosses
from train.model import build_model
from train.presets import Z_LOSS
from train.tokenizers import PAD


LENGTHS = [(5, 3), (16, 8), (1, 1)]


def rows(extra=0):
    """A batch whose rows end in padding, `extra` columns more than needed."""
    draw = torch.Generator().manual_seed(0)
    inputs = torch.full((3, 16 + extra), PAD)
    targets = torch.full((3, 8 + extra), PAD)
    for row, (input_length, target_length) in enumerate(LENGTHS):
        inputs[row, :input_length] = torch.randint(1, 900, (input_length,), generator=draw)
        targets[row, :target_length] = torch.randint(1, 900, (target_length,), generator=draw)
    return inputs, targets


def trainable(preset="t5-tiny", dropout=0.0):
    model = build_model(preset, 1000, 3)
    set_dropout(model, dropout)
    prepare_for_training(model, padded=True)
    return model.train()


@pytest.mark.parametrize("preset", ["t5-tiny", "t5-v1_1-tiny"])
def test_the_loss_and_gradient_are_transformers(preset):
    ours, theirs = trainable(preset), build_model(preset, 1000, 3).train()
    inputs, targets = rows()
    loss, sums = TokenLosses(ours, padded=True)(inputs, targets)
    loss.backward()
    mask, labels = (inputs != PAD).long(), targets.masked_fill(targets == PAD, -100)
    logits = theirs(input_ids=inputs, attention_mask=mask, labels=labels).logits
    nll = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    squares = logits.logsumexp(-1)[targets != PAD].square().sum()
    (nll + Z_LOSS * squares).backward()
    assert sums.tolist() == pytest.approx([nll.item(), squares.item()], rel=1e-5)
    for (name, mine), (_, other) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-3, atol=1e-4, msg=name)


def test_more_padding_or_none_changes_nothing():
    losses = TokenLosses(trainable(), padded=True)
    together, wider = losses(*rows())[1], losses(*rows(extra=8))[1]
    torch.testing.assert_close(together, wider, rtol=1e-5, atol=1e-4)
    inputs, targets = rows()
    alone = sum(losses(inputs[row : row + 1, :i], targets[row : row + 1, :t])[1] for row, (i, t) in enumerate(LENGTHS))
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-4)


def test_dropout_belongs_to_the_sample():
    """A row loses the same values in a batch and alone, and others in another sample."""
    model = trainable(dropout=0.3)
    losses, masks = TokenLosses(model, padded=True), prepare_for_training(model, padded=True)
    inputs, targets = rows()

    def nll(samples, chosen):
        with masks.drawn_for(np.array(samples), 5), torch.no_grad():
            return losses(inputs[chosen], targets[chosen])[1][0].item()

    together = nll([7, 8, 9], [0, 1, 2])
    assert together == pytest.approx(nll([7], [0]) + nll([8], [1]) + nll([9], [2]), rel=1e-5)
    assert together != pytest.approx(nll([1, 2, 3], [0, 1, 2]), rel=1e-5)


def test_a_prepared_model_still_generates():
    """Decoding with a cache, one query at a time, says what a full pass says."""
    ours, theirs = trainable().eval(), build_model("t5-tiny", 1000, 3).eval()
    inputs, _ = rows()
    asked = {"input_ids": inputs, "attention_mask": (inputs != PAD).long(), "max_new_tokens": 6, "do_sample": False}
    assert torch.equal(ours.generate(**asked), theirs.generate(**asked))
