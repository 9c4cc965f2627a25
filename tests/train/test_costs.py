"""What a run is said to take must be what it takes."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline_steps import paper
from pipeline_steps.errors import InvalidCut, ModelError
from train.arguments import PretrainArguments, parse, shipped
from train.costs import peak_flops, run_cost, training_flops
from train.layers import prepare_for_training
from train.losses import TokenLosses
from train.model import build_model
from train.optimizers import OPTIMIZERS


def arguments(config, *flags):
    return parse(PretrainArguments, ["--config", config, "--tokens", "x", "--run-dir", "y", *flags], "", "")


@pytest.mark.parametrize("preset", ["t5-tiny", "t5-v1_1-tiny", "llama-tiny"])
@pytest.mark.parametrize(("inputs", "targets"), [(64, 17), (128, 128)])
def test_flops_are_those_torch_counts(preset, inputs, targets):
    model = build_model(preset, 500, 0)
    prepare_for_training(model, padded=False)
    if preset == "llama-tiny":
        model.set_attn_implementation("eager")  # torch does not count its fused attention on a CPU
        targets = inputs
    rows = [torch.randint(3, 400, (2, length)) for length in (inputs, targets)]
    with FlopCounterMode(display=False) as counter:
        TokenLosses(model)(*rows)[0].backward()
    assert counter.get_total_flops() == 2 * training_flops(model.config, inputs, targets)


@pytest.mark.parametrize(
    ("preset", "gflops"),  # by the formula of a published analysis: attention and projections counted in full
    [
        ("t5-small", 106.25),
        ("t5-base", 425.9),
        ("t5-large", 1444.0),
        ("t5-v1_1-small", 106.25),
        ("t5-v1_1-large", 1468.0),
    ],
)
def test_flops_of_published_sizes(preset, gflops):
    with torch.device("meta"):
        config = build_model(preset, 32_100, 0).config
    assert training_flops(config, 512, 114) / 1e9 == pytest.approx(gflops, rel=1e-3)


SCORING = ("t5-small-paper.yaml", "t5-large-paper.yaml")  # whose early checkpoints score perplexity


@pytest.mark.parametrize("config", [f"t5-{size}-paper.yaml" for size in ("small", "base", "large", "xl")])
def test_the_papers_run(config):
    asked = arguments(config)
    cost = run_cost(asked, paper.C4_TOKENS)
    assert cost.encoder_tokens == paper.TRAIN_TOKENS == 524_288_000_000
    assert (cost.steps, cost.samples) == (paper.TRAIN_STEPS, paper.TRAIN_STEPS * paper.TRAIN_BATCH)
    assert cost.raw_tokens == 568 * cost.samples
    assert cost.target_tokens == 114 * cost.samples
    assert {rate: round(epochs, 2) for rate, epochs in cost.epochs.items()} == {
        0.1: 31.61, 0.2: 15.81, 0.4: 7.90, 0.6: 5.27, 0.8: 3.95, 1.0: 3.16
    }  # fmt: skip
    assert tuple(asked.milestones) == (paper.MILESTONES if config in SCORING else ())
    assert cost.hours(1e15) == pytest.approx(cost.flops / 3.6e18)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("preset", ["t5-tiny", "t5-v1_1-tiny", "llama-tiny"])
def test_memory_is_what_is_allocated(preset, optimizer):
    cost = run_cost(arguments("tiny-cpu.yaml", "--preset", preset, "--optimizer", optimizer), 10**9)
    model = build_model(preset, 32_100, 0)
    weights = sum(weight.numel() for weight in model.parameters())
    state = OPTIMIZERS[optimizer](model.named_parameters()).state_dict()
    assert cost.parameters == weights
    assert cost.memory["weights"] == cost.memory["gradients"] == 4 * weights
    assert cost.memory["optimizer"] == sum(moment.nbytes for moment in state.values())


def test_activations_are_an_estimate_from_above():
    cost = run_cost(arguments("tiny-cpu.yaml", "--input-length", "256"), 10**9)
    model = build_model("t5-tiny", 32_100, 0)
    prepare_for_training(model, padded=False)
    saved = {}
    rows = [torch.randint(3, 400, (1, length)) for length in (256, 57)]

    def keep(tensor):
        if tensor.requires_grad or tensor.grad_fn or tensor.dtype.is_floating_point:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss, _ = TokenLosses(model)(*rows)
    for weight in model.parameters():
        saved.pop(weight.untyped_storage().data_ptr(), None)
    head = 4 * model.lm_head.weight.numel()
    measured = sum(size for size in saved.values() if size != head)
    assert 0.5 * cost.memory["activations"] < measured < 1.5 * cost.memory["activations"]


def test_every_shipped_configuration_can_be_planned():
    assert len(shipped()) >= 3
    for name in shipped():
        assert run_cost(arguments(name), 10**9).steps > 0


def test_mistakes():
    with pytest.raises(ModelError, match="no preset"):
        run_cost(arguments("tiny-cpu.yaml", "--preset", "t5-huge"), 10**9)
    with pytest.raises(InvalidCut, match="less than one sample"):
        run_cost(arguments("tiny-cpu.yaml", "--total-tokens", "100"), 10**9)
    assert peak_flops("NVIDIA H200") == 989e12
    assert peak_flops("NVIDIA H100 PCIe") < peak_flops("NVIDIA H100 80GB HBM3")
    assert peak_flops("abacus") is None
