"""The layers of a T5 in training: attention without masks, and dropout that belongs to samples.

In pre-training every row of a batch is full, so nothing is masked but the future. transformers' own attention adds a
bias of zeros to the cross-attention, which costs a pass over the scores and, on a GPU, the fast kernel.

torch draws dropout on a CPU from one generator on one thread, a sixth of a training step of T5-Small; and what a row
loses would depend on the rank and the micro-batch it is in. Here masks are functions of (seed, step, sample, layer):
a run is the same for any number of processes. On a GPU and in compiled layers torch's own dropout is used.
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
from transformers import AttentionInterface, PreTrainedModel, T5ForConditionalGeneration
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from pipeline_steps.numerics.keys import mix
from train.packed_documents import PACKED_DOCUMENTS, refuse_unmaskable


FULL_ROWS, PADDED_ROWS = "full_rows", "padded_rows"
_SAMPLES = 0xD0  # any constant: masks must not follow other numbers drawn from the same seed
_STEPS = 16  # bits of a draw: probabilities are multiples of 2^-16
_LONGEST = 4096  # tokens of a row up to which places have numbers of their own, in 32 bits with 256 heads


class SampleMasks:
    """The dropout masks of one model: layers count themselves as they are passed, and ask for the masks of samples."""

    def __init__(self) -> None:
        self._key_B: np.ndarray | None = None
        self._calls = 0

    @contextmanager
    def drawn_for(self, sample_B: np.ndarray, seed: int) -> Iterator[None]:
        """Draw dropout of row b of CPU tensors for sample b; around forward passes only, for backward remembers."""
        self._key_B, self._calls = mix(mix(np.asarray(sample_B, dtype=np.uint64), seed), _SAMPLES), 0
        try:
            yield
        finally:
            self._key_B = None

    def drop(self, values: Tensor, p: float, training: bool) -> Tensor:
        """Return `torch.nn.functional.dropout` of values, drawn by sample where that is possible."""
        if (
            torch.compiler.is_compiling()
            or self._key_B is None
            or not training
            or p == 0.0
            or values.device.type != "cpu"
            or len(self._key_B) != len(values)
        ):
            return functional.dropout(values, p, training)
        self._calls += 1
        key_B = mix(self._key_B, self._calls)
        dropped: Tensor = _Dropout.apply(values, key_B, round(p * 2**_STEPS))  # type: ignore[no-untyped-call]
        return dropped


class SampleDropout(nn.Module):
    """`nn.Dropout` with the masks of samples."""

    def __init__(self, p: float, masks: SampleMasks) -> None:
        super().__init__()
        self.p = p
        self.masks = masks

    def forward(self, values: Tensor) -> Tensor:
        """Drop and scale values."""
        return self.masks.drop(values, self.p, self.training)


def prepare_for_training(model: PreTrainedModel, padded: bool, apart: bool = False) -> SampleMasks:
    """Replace the attention of a model and the dropout of a T5; weights and their names stay as they are.

    Args:
        model: a T5, or a causal model, which has no dropout.
        padded: whether rows of a T5 end in padding; otherwise attention has no masks.
        apart: whether the documents in a causal model's row do not see each other.

    Returns:
        the masks of the model's dropout.

    Raises:
        ModelError: documents cannot be told apart in this model.
    """
    masks = SampleMasks()
    if apart:
        refuse_unmaskable(model.config)
        model.set_attn_implementation(PACKED_DOCUMENTS)
    if isinstance(model, T5ForConditionalGeneration):
        model.set_attn_implementation(PADDED_ROWS if padded else FULL_ROWS)
        for module in list(model.modules()):
            if isinstance(getattr(module, "dropout", None), float):  # attention, which drops weights
                module.masks = masks
            for name, child in module.named_children():
                if isinstance(child, nn.Dropout | SampleDropout):
                    setattr(module, name, SampleDropout(child.p, masks).train(child.training))
    return masks


def set_dropout(model: Any, p: float) -> None:
    """Give all layers of a T5 this probability; its configuration says so too."""
    model.config.dropout_rate = p
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = p
        elif isinstance(getattr(module, "dropout", None), float):  # attention, which drops weights
            module.dropout = p


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    position_bias: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Return [B, Q, H, D]: what queries [B, H, Q, D] find in keys and values [B, H, K, D]; T5 does not scale scores.

    A mask [B, 1, Q, K] is added to the scores and knows the future; without one, rows are full.
    """
    bias = None if module.is_decoder and not module.is_causal else position_bias  # cross-attention has none
    if attention_mask is not None:
        bias = attention_mask if bias is None else bias + attention_mask
    elif bias is not None and module.is_causal:
        future = torch.ones(bias.shape[-2:], dtype=torch.bool, device=bias.device).triu(1)
        bias = bias.masked_fill(future, -torch.inf)
    if query.device.type == "cpu":
        scores = query @ key.transpose(2, 3)
        if bias is not None:
            scores = scores + bias.to(scores.dtype)
        weights = module.masks.drop(functional.softmax(scores, dim=-1).to(value.dtype), dropout, module.training)
        return (weights @ value).transpose(1, 2), None
    bias = None if bias is None else bias.to(query.dtype)
    attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout, scale=1.0)
    return attended.transpose(1, 2), None


AttentionInterface.register(FULL_ROWS, attend)
AttentionMaskInterface.register(FULL_ROWS, lambda *_, **__: None)
AttentionInterface.register(PADDED_ROWS, attend)
AttentionMaskInterface.register(PADDED_ROWS, eager_mask)


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
