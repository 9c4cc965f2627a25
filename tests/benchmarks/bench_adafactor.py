"""Adafactor's time on the host, and its step on T5-Small, beside transformers' and torch's.

    python tests/benchmarks/bench_adafactor.py

Host time: the tensors of T5-Large (509 of them), made 8 wide and factored all the same, so that the time is that of
issuing operations, which is the same for any width; on a GPU it is what the device waits for. Operations are counted
by torch's dispatcher, and so are values read back, each of which would make the host wait for a GPU. Then one step on
T5-Small as it is. Minimum over rounds in turns; prints JSON lines.
"""

import json
import time

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import T5Config, T5ForConditionalGeneration
from transformers.optimization import Adafactor as TransformersAdafactor

from train import optimizers as all_optimizers
from train.optimizers import Adafactor
from train.presets import PRESETS


ROUNDS = 8


class Count(TorchDispatchMode):
    """Operations issued, and values read back."""

    def __init__(self):
        super().__init__()
        self.operations = self.reads = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.operations += 1
        self.reads += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def with_gradients(config):
    """A model of a configuration, with gradients."""
    model = T5ForConditionalGeneration(T5Config(**config))
    for weight in model.parameters():
        weight.grad = torch.randn_like(weight) * 1e-3
    return model


def optimizers(model):
    """Steps of each optimizer on the same parameters."""
    ours, number = Adafactor(model.named_parameters()), 0

    def our_step():
        nonlocal number
        number += 1
        ours.step(number, 0.01)

    theirs = TransformersAdafactor(
        model.parameters(), lr=0.01, scale_parameter=True, relative_step=False, warmup_init=False
    )
    torchs = torch.optim.Adafactor(model.parameters(), lr=0.01, eps=(1e-15, 1e-3), foreach=True)
    return {"ours": our_step, "transformers": theirs.step, "torch foreach": torchs.step}


def measure(name, model):
    """Print milliseconds of a step, operations and reads, and ratios to ours."""
    steps = optimizers(model)
    seconds, counts = {key: [] for key in steps}, {}
    for key, step in steps.items():
        step()
        with Count() as counts[key]:
            step()
    for _ in range(ROUNDS):
        for key, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[key].append(time.perf_counter() - start)
    best = {key: min(times) for key, times in seconds.items()}
    for key, count in counts.items():
        row = {"model": name, "optimizer": key, "ms": round(best[key] * 1e3, 2), "operations": count.operations}
        print(json.dumps(row | {"reads": count.reads, "times ours": round(best[key] / best["ours"], 1)}))


def main():
    torch.manual_seed(0)
    all_optimizers.MIN_FACTORED = 1
    large = with_gradients(
        PRESETS["t5-large"] | {"d_model": 8, "d_ff": 16, "num_heads": 2, "d_kv": 4, "vocab_size": 64}
    )
    measure(f"T5-Large, 8 wide, {len(list(large.parameters()))} tensors", large)
    all_optimizers.MIN_FACTORED = 128
    measure("T5-Small", with_gradients(PRESETS["t5-small"] | {"vocab_size": 32_128}))


if __name__ == "__main__":
    main()
