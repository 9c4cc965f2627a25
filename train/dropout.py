"""Dropout on a CPU whose masks are functions of (seed, step, sample, layer), not of a generator's state.

torch draws dropout on a CPU from one generator on one thread, a sixth of a training step of T5-Small; and what a row
loses would depend on the rank and the micro-batch it is in. Here each sample has a key of its own, so a run is the
same for any number of processes. On a GPU and in compiled layers torch's own is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor, nn
from torch.nn import functional

from pipeline_steps.numerics.keys import mix


_SAMPLES = 0xD0  # any constant: masks must not follow other numbers drawn from the same seed
_STEPS = 16  # bits of a draw: probabilities are multiples of 2^-16
_LONGEST = 4096  # tokens of a row up to which places have numbers of their own, in 32 bits with 256 heads
_key_B: np.ndarray | None = None
_calls = 0


@contextmanager
def dropout_of(sample_B: np.ndarray, seed: int) -> Iterator[None]:
    """Within, dropout of row b of a CPU tensor is drawn for sample b; forward passes only, backward remembers."""
    global _key_B, _calls
    _key_B, _calls = mix(mix(np.asarray(sample_B, dtype=np.uint64), seed), _SAMPLES), 0
    try:
        yield
    finally:
        _key_B = None


def dropout(values: Tensor, p: float, training: bool) -> Tensor:
    """`torch.nn.functional.dropout`, drawn by sample where that is possible."""
    global _calls
    if (
        torch.compiler.is_compiling()
        or _key_B is None
        or not training
        or p == 0.0
        or values.device.type != "cpu"
        or len(_key_B) != len(values)
    ):
        return functional.dropout(values, p, training)
    _calls += 1
    dropped: Tensor = _Dropout.apply(values, mix(_key_B, _calls), round(p * 2**_STEPS))  # type: ignore[no-untyped-call]
    return dropped


class SampleDropout(nn.Module):
    """`nn.Dropout` by `dropout`."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, values: Tensor) -> Tensor:
        """Drop and scale."""
        return dropout(values, self.p, self.training)


def set_dropout(model: Any, p: float) -> None:
    """Give all layers of a T5 this probability; its configuration says so too."""
    model.config.dropout_rate = p
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = p
        elif isinstance(getattr(module, "dropout", None), float):  # of attention weights
            module.dropout = p


def use_sample_dropout(model: nn.Module) -> None:
    """Put `SampleDropout` in the place of every `nn.Dropout`."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Dropout):
                setattr(module, name, SampleDropout(child.p).train(child.training))


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, key_B: np.ndarray, threshold: int) -> Tensor:
        ctx.key_B, ctx.threshold = key_B, threshold
        return _dropped(values, key_B, threshold)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _dropped(gradient, ctx.key_B, ctx.threshold), None, None


def _dropped(values: Tensor, key_B: np.ndarray, threshold: int) -> Tensor:
    values = values.contiguous()
    out = torch.empty_like(values)
    bits = {2: torch.int16, 4: torch.int32}[values.element_size()]
    # Weights of attention [B, H, Q, K] are told apart by place, whatever the padding makes of Q and K
    shape = values.shape if values.ndim == 4 else (len(values), 1, 1, -1)
    source, target = (tensor.detach().view(bits).view(shape).numpy() for tensor in (values, out))
    parts = [part for part in np.array_split(np.arange(len(key_B)), torch.get_num_threads()) if len(part)]
    pieces = [slice(part[0], part[-1] + 1) for part in parts]
    list(_threads().map(lambda piece: _keep(source[piece], key_B[piece], threshold, target[piece]), pieces))
    return out.mul_(1.0 / (1.0 - threshold * 2.0**-_STEPS))


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(torch.get_num_threads(), "dropout")


@njit(nogil=True, cache=True)
def _keep(source_BHQK: np.ndarray, key_B: np.ndarray, threshold: int, target_BHQK: np.ndarray) -> None:
    """Copy the bits of values that stay, and zeros for those that do not."""
    U = np.uint32
    _, heads, queries, keys = source_BHQK.shape
    for row in range(len(key_B)):
        low, high = U(key_B[row]), U(key_B[row] >> np.uint64(32))
        for head in range(heads):
            for query in range(queries):
                first = U((head * _LONGEST + query) * _LONGEST)
                source, target = source_BHQK[row, head, query], target_BHQK[row, head, query]
                for i in range(keys):
                    x = first + U(i) ^ low  # a 32-bit mixer by Ch. Wellons (lowbias32), keyed before and in its middle
                    x = (x ^ (x >> U(16))) * U(0x7FEB352D) + high
                    x = (x ^ (x >> U(15))) * U(0x846CA68B)
                    x = x ^ (x >> U(16))
                    target[i] = source[i] if (x & U(0xFFFF)) >= U(threshold) else 0
