"""Documents that stand in one row and do not see each other: attention within each of them, positions that restart.

Each document of a row begins with an EOS: the one that ends the document before it, or the first input. It is the
input whose target is the document's first token, so it belongs to that document, at position 0. A row is then exactly
its documents, each alone behind an EOS. Shapes: B rows, L tokens, H heads, D width of a head, T = B x L.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PretrainedConfig
from transformers.masking_utils import AttentionMaskInterface

from pipeline_steps.errors import ModelError


PACKED_DOCUMENTS = "packed_documents"
# Kinds of model that are tested to be exact: their attention takes what it is given, and all layers are alike
_TESTED = ("llama", "mistral", "qwen2", "qwen3", "olmo", "olmo2")
_BY_LENGTH = ("dynamic", "longrope")  # transformers chooses their frequencies by the highest position of a batch
_SHORT = 64  # tokens up to which neighbours share a call: as fast as 512 / 64 calls, measured on a CPU with 8 heads


@dataclass(frozen=True, eq=False)
class PackedDocuments:
    """The documents of a batch, for every layer of a model.

    Attributes:
        lengths: tokens of each call of attention, in the order of the batch: a document, or short neighbours.
        masks: for each call whether a token [n, 1] sees another [1, n]; None where it is one document.
        blocks: the same for `flex_attention`, which is used on a GPU; None on a CPU.
    """

    lengths: list[int]
    masks: list[Tensor | None]
    blocks: BlockMask | None = None


def refuse_unmaskable(config: PretrainedConfig) -> None:
    """Raise ModelError unless documents can be told apart in a model: a decoder of a tested kind, without windows."""
    if config.model_type not in _TESTED:
        raise ModelError(
            f"documents cannot be told apart in a {config.model_type}: train without --mask-documents, or choose one "
            f"of {', '.join(_TESTED)}"
        )
    if getattr(config, "sliding_window", None) is not None:
        raise ModelError(
            f"documents cannot be told apart in a {config.model_type} with sliding_window {config.sliding_window}: "
            "train without --mask-documents, or set it to null in a copy of config.json"
        )
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type")
    if rope in _BY_LENGTH:
        raise ModelError(
            f"documents cannot be told apart with the rotary positions {rope}, which differ with the longest document "
            "of a batch: train without --mask-documents, or choose another model"
        )


def packed_documents(input_BL: Tensor, eos: int) -> dict[str, Any]:
    """Return the arguments of a model that keep the documents of rows apart."""
    start_BL = input_BL == eos
    start_BL[:, 0] = True
    place_L = torch.arange(input_BL.shape[1], device=input_BL.device)
    first_BL = torch.where(start_BL, place_L, 0).cummax(dim=1).values
    documents = _calls(start_BL) if input_BL.device.type == "cpu" else PackedDocuments([], [], _blocks(start_BL))
    return {"position_ids": place_L - first_BL, "documents": documents}


def _calls(start_BL: Tensor) -> PackedDocuments:
    """Divide a batch into calls of attention: no call has tokens of two rows."""
    rows, width = start_BL.shape
    starts = start_BL.flatten().nonzero()[:, 0].tolist()
    groups: list[list[int]] = []  # the lengths of the documents of each call
    for begin, end in zip(starts, [*starts[1:], rows * width], strict=True):
        if begin % width and sum(groups[-1]) + end - begin <= _SHORT:
            groups[-1].append(end - begin)
        else:
            groups.append([end - begin])
    return PackedDocuments([sum(group) for group in groups], [_mask(group) for group in groups])


def _mask(lengths: list[int]) -> Tensor | None:
    if len(lengths) == 1:
        return None
    document_N = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    return (document_N[:, None] == document_N).tril()


def _blocks(start_BL: Tensor) -> BlockMask:
    document_BL = start_BL.cumsum(dim=1)

    def seen(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (document_BL[row, query] == document_BL[row, key]) & (query >= key)

    rows, width = start_BL.shape
    return create_block_mask(seen, rows, None, width, width, device=start_BL.device.type)


def attend_within(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    *,
    documents: PackedDocuments,
    **_: Any,
) -> tuple[Tensor, None]:
    """Return [B, L, H, D]: what queries [B, H, L, D] find in the keys and values before them in their document."""
    if documents.blocks is not None:
        query, key = query.to(value.dtype), key.to(value.dtype)  # rotated in float32, also under autocast
        attend = flex_attention if torch.compiler.is_compiling() else _compiled_flex_attention()
        found = attend(query, key, value, block_mask=documents.blocks, scale=scaling, enable_gqa=True)
        return found.transpose(1, 2), None
    return _attend_by_document(query, key, value, scaling, documents), None


@torch.compiler.disable  # type: ignore[untyped-decorator]  # compiled, it would be one graph for each batch
def _attend_by_document(
    query: Tensor, key: Tensor, value: Tensor, scaling: float | None, documents: PackedDocuments
) -> Tensor:
    shape = query.transpose(1, 2).shape
    cut = [torch.split(states.transpose(1, 2).flatten(0, 1), documents.lengths) for states in (query, key, value)]
    found = []
    for *states, mask in zip(*cut, documents.masks, strict=True):
        q, k, v = (states_NHD.transpose(0, 1)[None] for states_NHD in states)
        attended = scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=True
        )
        found.append(attended[0].transpose(0, 1))
    return torch.cat(found).view(shape)


@cache
def _compiled_flex_attention() -> Any:
    return torch.compile(flex_attention)  # uncompiled, it would hold all scores


AttentionInterface.register(PACKED_DOCUMENTS, attend_within)
AttentionMaskInterface.register(PACKED_DOCUMENTS, lambda *_, **__: None)
