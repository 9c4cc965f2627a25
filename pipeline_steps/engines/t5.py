"""A T5 over many texts without padding: its encoder, and one decoding step without cache or generation loop.

Texts are laid end to end, so that every linear layer is one matrix product over real tokens only; attention runs per
group of equally long texts. The decoder has one query per text. Its self-attention looks at one token, so it is a
projection; its cross-attention absorbs the key and value matrices into the query and the result
(q . (W_k h) = (W_k' q) . h), so keys and values of the encoder's tokens are never formed. Exact up to rounding.

Shapes: N texts, T tokens of all of them, L of the longest, D d_model, H heads, K d_kv.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline_steps.engines.models import TokenIds, batches_by_length
from pipeline_steps.errors import ModelError


# Tokens that go through the encoder together: on a CPU its cache holds them, on a GPU they fill it.
_ENCODER_TOKENS = {"cpu": 2_048, "cuda": 65_536}

Linear = Callable[[Tensor], Tensor]
# Tokens whose texts are decoded together: the decoder reads all its weights for one token of each text.
_DECODER_TOKENS = {"cpu": 16_384, "cuda": 65_536}


@dataclass(frozen=True)
class _EncoderLayer:
    attention_norm: Tensor
    qkv: Linear
    out: Linear
    feed_forward_norm: Tensor
    up: Linear
    down: Linear


class PackedT5Encoder:
    """The encoder of transformers' T5 (v1.0 or v1.1 layout) in float32 or bfloat16.

    Weights are shared or, where the CPU's matrix products want another layout, copied. With `float8`, matrix products
    of a model in bfloat16 are in e4m3, see `_float8_linear`.
    """

    def __init__(self, model: Any, float8: bool = False) -> None:
        config = model.config
        self.device, self.dtype = model.device, model.dtype
        self._heads, self.head_dim, self._eps = config.num_heads, config.d_kv, config.layer_norm_epsilon
        self._gated, self._activation = config.is_gated_act, ACTIVATIONS[config.dense_act_fn]
        self._embedding = model.shared.weight
        with torch.inference_mode():
            product = _float8_linear if float8 else linear
            self._layers = [self._layer(block, product) for block in model.encoder.block]
        self._last_norm = model.encoder.final_layer_norm.weight.float()
        self._positions = model.encoder.block[0].layer[0].SelfAttention  # all layers share its relative position bias
        self._bias_1HLL = torch.empty((1, self._heads, 0, 0))

    def encode(self, inputs: Sequence[TokenIds]) -> tuple[Tensor, Tensor]:
        """Return encoder outputs [N, L, D], zero beyond each text, and where the texts are: bool [N, L].

        The inputs come by falling length. Call it under `torch.inference_mode()`.
        """
        lengths = [len(ids) for ids in inputs]
        if lengths[0] > self._bias_1HLL.shape[-1]:
            self._bias_1HLL = self._positions.compute_bias(lengths[0], lengths[0]).contiguous()
        encoded_TD = torch.cat(list(self._encode_in_parts(inputs)))
        encoded_NLD = torch.nn.utils.rnn.pad_sequence(list(torch.split(encoded_TD, lengths)), batch_first=True)
        length_N = torch.tensor(lengths, device=self.device)
        return encoded_NLD, torch.arange(lengths[0], device=self.device) < length_N[:, None]

    def _encode_in_parts(self, inputs: Sequence[TokenIds]) -> Iterator[Tensor]:
        """Yield encoder outputs [T, D] of texts that are sorted by length."""
        for part in batches_by_length([len(ids) for ids in inputs], _ENCODER_TOKENS[self.device.type]):
            ids_T = torch.from_numpy(np.concatenate([inputs[row] for row in part])).to(self.device)
            yield self._encode(ids_T, [len(inputs[row]) for row in part])

    def _encode(self, ids_T: Tensor, lengths: Sequence[int]) -> Tensor:
        x_TD = self._embedding[ids_T].float()  # the residual stream stays in float32
        groups = [(length, sum(1 for _ in same)) for length, same in groupby(lengths)]
        for layer in self._layers:
            qkv_T3HK = layer.qkv(self.norm(x_TD, layer.attention_norm)).view(-1, 3, self._heads, self.head_dim)
            x_TD += layer.out(self._attend(qkv_T3HK, groups))
            x_TD += layer.down(self.activate(layer.up(self.norm(x_TD, layer.feed_forward_norm))))
        return self.norm(x_TD, self._last_norm)

    def _attend(self, qkv_T3HK: Tensor, groups: Sequence[tuple[int, int]]) -> Tensor:
        """Return self-attention within each text, [T, H * K]; `groups` are (length, texts of this length) in order."""
        attended, start = [], 0
        attend = self._attend_on_cpu if self.device.type == "cpu" else self._attend_on_gpu
        for length, count in groups:
            group = qkv_T3HK[start : start + length * count].view(count, length, 3, self._heads, self.head_dim)
            attended.append(attend(group.permute(2, 0, 3, 1, 4), self._bias_1HLL[:, :, :length, :length]))
            start += length * count
        return torch.cat(attended)

    def _attend_on_gpu(self, qkv_3NHLK: Tensor, bias_1HLL: Tensor) -> Tensor:
        query, key, value = qkv_3NHLK
        out_NHLK = F.scaled_dot_product_attention(query, key, value, attn_mask=bias_1HLL, scale=1.0)
        return out_NHLK.transpose(1, 2).flatten(2).flatten(0, 1)

    def _attend_on_cpu(self, qkv_3NHLK: Tensor, bias_1HLL: Tensor) -> Tensor:
        """Attend text by text in one scratch matrix: 2.5 times as fast as torch's fused attention in bfloat16."""
        _, texts, heads, length, width = qkv_3NHLK.shape
        out_NLHK = torch.empty((texts, length, heads, width), dtype=self.dtype)
        score_HLL = torch.empty((heads, length, length), dtype=self.dtype)
        bias_HLL = bias_1HLL[0].contiguous()
        for text in range(texts):
            query, key, value = (part.contiguous() for part in qkv_3NHLK[:, text])
            torch.baddbmm(bias_HLL, query, key.transpose(1, 2), out=score_HLL)
            torch.softmax(score_HLL, dim=-1, out=score_HLL)
            out_NLHK[text] = torch.bmm(score_HLL, value).transpose(0, 1)
        return out_NLHK.view(texts * length, -1)

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return T5's layer norm, computed in x's precision and returned in the model's."""
        return F.rms_norm(x, (x.shape[-1],), weight, self._eps).to(self.dtype)

    def activate(self, x: Tensor) -> Tensor:
        """Apply the feed-forward layer's activation, gated or not."""
        if not self._gated:
            return self._activation(x)
        gate, linear = x.chunk(2, dim=-1)
        return self._activation(gate).mul_(linear)

    def _layer(self, block: Any, product: Callable[[Tensor], Linear]) -> _EncoderLayer:
        attention, feed_forward = block.layer[0].SelfAttention, block.layer[1]
        return _EncoderLayer(
            attention_norm=block.layer[0].layer_norm.weight.float(),
            qkv=product(torch.cat([attention.q.weight, attention.k.weight, attention.v.weight])),
            out=product(attention.o.weight),
            feed_forward_norm=feed_forward.layer_norm.weight.float(),
            up=product(self.up(feed_forward.DenseReluDense)),
            down=product(feed_forward.DenseReluDense.wo.weight),
        )

    def up(self, dense: Any) -> Tensor:
        """Return the feed-forward layer's first weights, [F, D] or, gated, [2 F, D]."""
        return torch.cat([dense.wi_0.weight, dense.wi_1.weight]) if self._gated else dense.wi.weight


def _gelu_new(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "gelu_new": _gelu_new,
    "gelu": F.gelu,
    "silu": F.silu,
}


def linear(weight: Tensor) -> Linear:
    """x -> x W'. On a CPU through oneDNN with weights packed once: 2.3 times MKL's float32 on AMD processors."""
    if weight.device.type != "cpu" or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return lambda x: F.linear(x, weight)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous())
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")


def _float8_linear(weight: Tensor) -> Linear:
    """x -> x W' with x and W in e4m3 and a float32 scale per row of each, result in bfloat16.

    Made for CUDA devices that multiply in it (Hopper and later), where it has not been timed; CPUs emulate it.
    """
    scale_1N = _float8_scale(weight).t()
    weight_KN = (weight.float() / scale_1N.t()).to(torch.float8_e4m3fn).t()  # column-major, as the product wants it

    def product(x: Tensor) -> Tensor:
        scale_T1 = _float8_scale(x)
        x8 = (x / scale_T1).to(torch.float8_e4m3fn)
        return torch._scaled_mm(x8, weight_KN, scale_T1, scale_1N, out_dtype=torch.bfloat16, use_fast_accum=True)

    return product


def _float8_scale(rows: Tensor) -> Tensor:
    """Return the float32 [rows, 1] that brings every row into e4m3's range."""
    largest = torch.finfo(torch.float8_e4m3fn).max
    return (rows.abs().amax(dim=1, keepdim=True).float() / largest).clamp_min(torch.finfo(torch.float32).tiny)


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
    """Log-probabilities of a T5's first decoded token; model and `float8` are as in PackedT5Encoder.

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
        """Return float32 [N, len(token_ids)]: log P(token) over the full vocabulary, of N inputs that end in EOS.

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

    def _decode(self, encoded_NLD: Tensor, beyond_N1L: Tensor) -> Tensor:
        """Return logits [N, vocabulary] of the first decoded token."""
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
        """Return logits [..., vocabulary] of decoder outputs [..., D] after the last norm."""
        return self._head((decoded * self._head_scale).to(self.dtype))

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
    """Return whether the decoder's output is scaled by d_model ** -0.5: with a tied head (T5 v1.0) only.

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
