"""One decoding step of a T5 over many texts: no padding, no cache, no generation loop.

The decoder has one query per text. Its self-attention looks at one token, so it is a projection; its cross-attention
absorbs the key and value matrices into the query and the result (q . (W_k h) = (W_k' q) . h), so keys and values of
the encoder's tokens are never formed. Exact up to rounding.

Shapes: N texts, L tokens of the longest, D d_model, H heads, K d_kv.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline_steps.engines.models import TokenIds
from pipeline_steps.engines.t5_encoder import Linear, PackedT5Encoder, linear
from pipeline_steps.errors import ModelError
from pipeline_steps.numerics.batches import batches_by_length


# Tokens whose texts are decoded together: the decoder reads all its weights for one token of each text.
_DECODER_TOKENS = {"cpu": 16_384, "cuda": 65_536}


@dataclass(frozen=True)
class _DecoderLayer:
    self_norm: Tensor
    self_value: Linear
    self_out: Linear
    cross_norm: Tensor
    query: Linear
    key_HKD: Tensor
    value_HKD: Tensor
    cross_out: Linear
    feed_forward_norm: Tensor
    up: Linear
    down: Linear


class PackedT5:
    """Log-probabilities of a T5's first decoded token.

    Args:
        model: transformers' T5ForConditionalGeneration (v1.0 or v1.1 layout) in float32 or bfloat16. Its weights are
            shared or, where the CPU's matrix products want another layout, copied.
        float8: the encoder's matrix products in e4m3, see `_float8_linear`; the model must be in bfloat16.

    Raises:
        ModelError: see `_scales_output`.
    """

    def __init__(self, model: Any, float8: bool = False) -> None:
        config = model.config
        self.encoder = PackedT5Encoder(model, float8)
        self.device, self.dtype = model.device, model.dtype
        self._heads = config.num_heads
        self._head_scale = config.d_model**-0.5 if _scales_output(model) else 1.0
        self._start = model.shared.weight[config.decoder_start_token_id].float()
        with torch.inference_mode():
            self._decoder = [self._decoder_layer(block) for block in model.decoder.block]
        self._decoder_norm = model.decoder.final_layer_norm.weight.float()
        self._head = linear(model.lm_head.weight)

    def log_probabilities(self, inputs: Sequence[TokenIds], token_ids: Sequence[int]) -> np.ndarray:
        """float32 [N, len(token_ids)]: log P(token) over the full vocabulary, of N inputs that end in EOS.

        Inputs are batched by length. A result does not depend on the order of the inputs, and on the others beyond
        rounding (1e-5 in float32) only.
        """
        found = np.empty((len(inputs), len(token_ids)), dtype=np.float32)
        with torch.inference_mode():
            for rows in batches_by_length([len(ids) for ids in inputs], _DECODER_TOKENS[self.device.type]):
                encoded_NLD, mask_NL = self.encoder.encode([inputs[row] for row in rows])
                logits = self._decode(encoded_NLD, ~mask_NL[:, None])
                found[rows] = torch.log_softmax(logits.float(), dim=-1)[:, token_ids].cpu().numpy()
        return found

    # -- decoder -----------------------------------------------------------------------------------------------

    def _decode(self, encoded_NLD: Tensor, beyond_N1L: Tensor) -> Tensor:
        """Logits [N, vocabulary] of the first decoded token."""
        texts = len(encoded_NLD)
        x_ND = self._start.expand(texts, -1).clone()
        for layer in self._decoder:
            x_ND += layer.self_out(layer.self_value(self.encoder.norm(x_ND, layer.self_norm)))
            query_NHK = layer.query(self.encoder.norm(x_ND, layer.cross_norm)).view(texts, self._heads, -1)
            query_NHD = torch.einsum("nhk,hkd->nhd", query_NHK, layer.key_HKD)
            score_NHL = torch.bmm(query_NHD, encoded_NLD.transpose(1, 2)).float()
            weight_NHL = torch.softmax(score_NHL.masked_fill_(beyond_N1L, -torch.inf), dim=-1)
            seen_NHD = torch.bmm(weight_NHL.to(self.dtype), encoded_NLD)
            value_NHK = torch.einsum("nhd,hkd->nhk", seen_NHD, layer.value_HKD)
            x_ND += layer.cross_out(value_NHK.reshape(texts, -1))
            x_ND += layer.down(self.encoder.activate(layer.up(self.encoder.norm(x_ND, layer.feed_forward_norm))))
        return self.head(self.encoder.norm(x_ND, self._decoder_norm))

    def head(self, decoded: Tensor) -> Tensor:
        """Logits [..., vocabulary] of decoder outputs [..., D] after the last norm."""
        return self._head((decoded * self._head_scale).to(self.dtype))

    # -- weights -----------------------------------------------------------------------------------------------

    def _decoder_layer(self, block: Any) -> _DecoderLayer:
        own, cross, feed_forward = block.layer[0].SelfAttention, block.layer[1].EncDecAttention, block.layer[2]
        per_head = (self._heads, self.encoder.head_dim, -1)
        return _DecoderLayer(
            self_norm=block.layer[0].layer_norm.weight.float(),
            self_value=linear(own.v.weight),
            self_out=linear(own.o.weight),
            cross_norm=block.layer[1].layer_norm.weight.float(),
            query=linear(cross.q.weight),
            key_HKD=cross.k.weight.view(per_head),
            value_HKD=cross.v.weight.view(per_head),
            cross_out=linear(cross.o.weight),
            feed_forward_norm=feed_forward.layer_norm.weight.float(),
            up=linear(self.encoder.up(feed_forward.DenseReluDense)),
            down=linear(feed_forward.DenseReluDense.wo.weight),
        )


def _scales_output(model: Any) -> bool:
    """Whether the decoder's output is scaled by d_model ** -0.5: with a tied head (T5 v1.0) only.

    Raises:
        ModelError: transformers would scale for a head of its own, or not for a tied one; both give wrong scores in
            silence. transformers 5.0.0 does the first to every Flan-T5, some converted checkpoints the second.
    """
    tied = model.lm_head.weight.data_ptr() == model.shared.weight.data_ptr()
    scaled = bool(getattr(model.config, "scale_decoder_outputs", model.config.tie_word_embeddings))
    if tied != scaled:
        raise ModelError(
            f"{model.config.name_or_path or 'this T5'} has {'a tied head' if tied else 'a head of its own'}, but "
            f"transformers {version('transformers')} would {'' if scaled else 'not '}scale its decoder's output: "
            "upgrade transformers, or correct tie_word_embeddings in the model's config.json"
        )
    return scaled
