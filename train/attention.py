"""T5's attention in training, as attention functions of transformers: on full rows and on padded ones.

In pre-training every row of a batch is full, so nothing is masked but the future. transformers' own functions add a
bias of zeros to the cross-attention, which costs a pass over the scores and, on a GPU, the fast kernel; and their
dropout depends on the rank.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from train.dropout import dropout as sample_dropout


FULL_ROWS, PADDED_ROWS = "full_rows", "padded_rows"


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    position_bias: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Of queries [B, H, Q, D] to keys and values [B, H, K, D]: [B, Q, H, D]. T5 does not scale scores.

    A mask [B, 1, Q, K] is added to them and knows the future; without one, rows are full.
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
        weights = sample_dropout(functional.softmax(scores, dim=-1).to(value.dtype), dropout, module.training)
        return (weights @ value).transpose(1, 2), None
    bias = None if bias is None else bias.to(query.dtype)
    attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout, scale=1.0)
    return attended.transpose(1, 2), None


AttentionInterface.register(FULL_ROWS, attend)
AttentionMaskInterface.register(FULL_ROWS, lambda *_, **__: None)
AttentionInterface.register(PADDED_ROWS, attend)
AttentionMaskInterface.register(PADDED_ROWS, eager_mask)
