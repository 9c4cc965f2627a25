"""Dropout of a sample must depend on the sample, the layer and the seed: not on its batch, nor on threads."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from train.layers import SampleMasks, prepare_for_training
from train.model import build_model
from train.presets import PRESETS


SAMPLES = np.arange(100, 108)


def dropped(values, samples=SAMPLES, seed=1, p=0.1, calls=1):
    masks = SampleMasks()
    with masks.drawn_for(samples, seed):
        for _ in range(calls):
            out = masks.drop(values, p, training=True)
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keeps_the_share_and_the_mean(dtype):
    values = torch.ones(8, 50, 500, dtype=dtype)
    out = dropped(values, p=0.3)
    kept = out != 0
    assert out.dtype == dtype
    assert kept.float().mean().item() == pytest.approx(0.7, abs=4.5 * (0.21 / values.numel()) ** 0.5)  # one in 100,000
    torch.testing.assert_close(out[kept], torch.full_like(out[kept], 1 / 0.7))
    by_place = kept.float().mean(dim=(0, 1))  # no column is favoured
    assert (by_place - 0.7).abs().max() < 5 * (0.21 / 400) ** 0.5
    correlation = np.corrcoef(kept[:, :, 1:].flatten().numpy(), kept[:, :, :-1].flatten().numpy())[0, 1]
    assert abs(correlation) < 4.5 / values.numel() ** 0.5


def test_a_sample_brings_its_mask_along():
    values = torch.randn(8, 4, 37)
    whole = dropped(values)
    parts = [dropped(values[part], SAMPLES[part]) for part in (slice(0, 3), slice(3, 8))]
    assert torch.equal(torch.cat(parts), whole)
    for other in (dropped(values, SAMPLES + 8), dropped(values, seed=2), dropped(values, calls=2)):
        assert (other != whole).float().mean() > 0.1


def test_threads_do_not_matter():
    values, before = torch.randn(8, 4, 37), torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(dropped(values))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results)


def test_the_gradient_has_the_same_mask():
    values = torch.randn(8, 4, 37, requires_grad=True)
    out = dropped(values)
    (gradient,) = torch.autograd.grad(out.sum(), values)
    torch.testing.assert_close(gradient * values, out)


def test_torchs_own_elsewhere():
    values, masks = torch.randn(8, 4), SampleMasks()
    torch.manual_seed(3)
    outside = masks.drop(values, 0.5, training=True)
    torch.manual_seed(3)
    assert torch.equal(outside, functional.dropout(values, 0.5))
    assert torch.equal(dropped(values, p=0.0), values)
    with masks.drawn_for(SAMPLES, 0):
        assert torch.equal(masks.drop(values, 0.5, training=False), values)


def test_a_model_is_the_same_in_any_batch(monkeypatch):
    monkeypatch.setitem(PRESETS, "t5-tiny", PRESETS["t5-tiny"] | {"dropout_rate": 0.1})
    model = build_model("t5-tiny", 500, 0).train()
    masks = prepare_for_training(model, padded=False)
    inputs, targets = torch.randint(3, 400, (4, 40)), torch.randint(3, 400, (4, 12))

    def logits(rows):
        with masks.drawn_for(np.arange(4)[rows], 0), torch.no_grad():
            return model(input_ids=inputs[rows], labels=targets[rows]).logits

    whole = logits(slice(0, 4))
    torch.testing.assert_close(torch.cat([logits(slice(0, 1)), logits(slice(1, 4))]), whole, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        assert (whole - model.eval()(input_ids=inputs, labels=targets).logits).abs().max() > 0.1
