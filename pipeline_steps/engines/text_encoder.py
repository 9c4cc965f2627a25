"""Embed texts with a sentence-transformers model, or any encoder of transformers with mean pooling.

The library loads the model and runs what comes after the encoder (pooling, dense layers); a T5 encoder, such as
sentence-t5's (paper App. B.2), runs unpadded in `PackedT5Encoder`, others padded in batches of like length.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline_steps.engines.models import TokenIds, model_identity, padded, pick_device, pick_dtype, require
from pipeline_steps.engines.plain_encoder import PlainEncoder
from pipeline_steps.engines.pretrained import load_sentence_transformer
from pipeline_steps.errors import ModelError
from pipeline_steps.numerics.batches import batches_by_length


_NO_LIMIT, _UNSTATED = 100_000, 512  # tokens
_BATCH_TOKENS = {"cpu": 16_384, "cuda": 131_072}  # padding included


class TextEncoder:
    """A sentence-transformers model: texts to token ids, token ids to vectors.

    Args:
        model: the SentenceTransformer.
        max_tokens: of a text, special tokens included; the rest is cut off.
    """

    def __init__(self, model: Any, max_tokens: int) -> None:
        self._first, *self._rest = list(model)
        self._tokenizer, self._max_tokens, self._device = model.tokenizer, max_tokens, model.device
        transformer = self._first.auto_model
        self._t5 = None
        if transformer.config.model_type == "t5":
            from pipeline_steps.engines.t5_encoder import PackedT5Encoder

            self._t5, self._plain = PackedT5Encoder(transformer), PlainEncoder(self._tokenizer)

    def tokenize(self, texts: Sequence[str]) -> list[TokenIds]:
        """Ids of each text, cut, with the special tokens of the model."""
        if self._t5 is None:
            return self._tokenizer(list(texts), truncation=True, max_length=self._max_tokens)["input_ids"]
        eos, room = [self._tokenizer.eos_token_id], self._max_tokens - 1
        return [np.concatenate([ids[:room], eos], dtype=np.int32) for ids in self._plain.encode_batch(texts)]

    def encode(self, inputs: Sequence[TokenIds]) -> np.ndarray:
        """float32 [N, D], in the order of the inputs."""
        parts, order = [], []
        with torch.inference_mode():
            for rows in batches_by_length([len(ids) for ids in inputs], _BATCH_TOKENS[self._device.type]):
                features = self._features([inputs[row] for row in rows])
                for module in self._rest:
                    features = module(features)
                parts.append(features["sentence_embedding"].float().cpu().numpy())
                order += rows
        found = np.concatenate(parts)
        found[order] = found.copy()
        return found

    def _features(self, inputs: Sequence[TokenIds]) -> dict[str, Tensor]:
        """Outputs of the transformer for texts by falling length."""
        if self._t5 is not None:
            encoded, mask = self._t5.encode(inputs)
            return {"token_embeddings": encoded.float(), "attention_mask": mask.long()}
        ids = padded([list(ids) for ids in inputs], self._tokenizer.pad_token_id or 0)
        length = torch.tensor([len(ids) for ids in inputs])
        mask = (torch.arange(ids.shape[1]) < length[:, None]).long()
        features = self._first({"input_ids": ids.to(self._device), "attention_mask": mask.to(self._device)})
        return features | {"token_embeddings": features["token_embeddings"].float()}


@lru_cache(maxsize=2)
def load_text_encoder(model: str, revision: str | None, dtype: str, max_tokens: int | None) -> TextEncoder:
    """The model on this process's device; loaded once per process.

    Raises:
        ModelError: sentence-transformers is not installed, the model cannot be had or has no fast tokenizer, or it was
            not made for as many tokens.
    """
    require("sentence_transformers", "embed")
    model_identity(model, revision)  # a clear error before a long one
    device = pick_device()
    loaded = load_sentence_transformer(
        model, revision, device=str(device), model_kwargs={"dtype": torch.float32}
    ).eval()
    loaded[0].auto_model.to(pick_dtype(dtype, device))  # what follows, pooling and dense layers, stays in float32
    if not getattr(loaded.tokenizer, "is_fast", False):
        raise ModelError(f"{model} has no fast tokenizer (tokenizer.json): convert it with transformers first")
    longest = loaded.max_seq_length or _NO_LIMIT
    longest = longest if longest < _NO_LIMIT else _UNSTATED  # what transformers calls "very large" is no statement
    if max_tokens is not None and max_tokens > longest and loaded[0].auto_model.config.model_type != "t5":
        raise ModelError(f"{model} takes texts of up to {longest} tokens, not {max_tokens}")
    return TextEncoder(loaded, max_tokens or longest)
