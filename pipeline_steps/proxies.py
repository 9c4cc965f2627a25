"""Ask a language model a yes/no question about many texts: batches in, log-probabilities out (paper Sec. 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from pipeline_steps.errors import ModelError
from pipeline_steps.models import model_identity, pick_device, pick_dtype, require
from pipeline_steps.numerics.batches import batches_by_length
from pipeline_steps.prompts import Prompt


# Padded encoder tokens in one forward pass: small enough to stay in a CPU's cache, large enough to fill a GPU.
_BATCH_TOKENS = {"cpu": 2_048, "cuda": 65_536}


@dataclass(frozen=True)
class Answers:
    """What a proxy says of N texts, in their order.

    Attributes:
        log_yes: float32 [N], log P(yes) over the full vocabulary.
        log_no: float32 [N], log P(no).
        tokens: uint32 [N], tokens of the whole text, before truncation.
    """

    log_yes: np.ndarray
    log_no: np.ndarray
    tokens: np.ndarray


class Seq2SeqProxy:
    """An encoder-decoder model of the T5 family with its tokenizer; see `load_proxy`."""

    def __init__(self, model: Any, tokenizer: Any, name: str) -> None:
        self.model = model
        self.name = name
        self._tokenizer = tokenizer
        self._encoder = tokenizer.backend_tokenizer
        self._encoder.no_truncation()
        self._encoder.no_padding()
        self._encoder.encode_special_tokens = True  # "</s>" in a web page is text, not the end of the input

    def answer(self, texts: Sequence[str], prompt: Prompt, max_tokens: int) -> Answers:
        """Log-probabilities of the prompt's two answers as the first decoded token.

        The document is cut to fit, the question never. Texts are batched by length; results do not depend on the
        order of the texts beyond rounding.

        Raises:
            ModelError: an answer is not one token of this tokenizer, or the prompt alone exceeds `max_tokens`.
        """
        prefix, suffix = self._ids(prompt.prefix), self._ids(prompt.suffix) + [self._tokenizer.eos_token_id]
        room = max_tokens - len(prefix) - len(suffix)
        if room < 1:
            raise ModelError(
                f"max_tokens={max_tokens} leaves no room for the document: prompt {prompt.name!r} alone takes "
                f"{len(prefix) + len(suffix)} tokens of {self.name}"
            )
        pair = [self._answer_id(prompt.yes), self._answer_id(prompt.no)]
        documents = [
            encoding.ids for encoding in self._encoder.encode_batch_fast(list(texts), add_special_tokens=False)
        ]
        inputs = [prefix + ids[:room] + suffix for ids in documents]
        log_probabilities = np.empty((len(texts), 2), dtype=np.float32)
        for rows in batches_by_length([len(ids) for ids in inputs], _BATCH_TOKENS[self.model.device.type]):
            log_probabilities[rows] = self._forward([inputs[row] for row in rows], pair)
        tokens = np.array([len(ids) for ids in documents], dtype=np.uint32)
        return Answers(log_probabilities[:, 0], log_probabilities[:, 1], tokens)

    def _ids(self, text: str) -> list[int]:
        return list(self._encoder.encode(text, add_special_tokens=False).ids) if text else []

    def _answer_id(self, answer: str) -> int:
        ids = self._ids(answer)
        if len(ids) != 1 or ids[0] == self._tokenizer.unk_token_id:
            pieces = self._tokenizer.convert_ids_to_tokens(ids)
            raise ModelError(f"the answer {answer!r} is {pieces} for {self.name}'s tokenizer, not one known token")
        return ids[0]

    def _forward(self, inputs: list[list[int]], pair: list[int]) -> np.ndarray:
        import torch

        longest = max(map(len, inputs))
        input_ids = torch.full((len(inputs), longest), self._tokenizer.pad_token_id, dtype=torch.long)
        mask = torch.zeros((len(inputs), longest), dtype=torch.long)
        for row, ids in enumerate(inputs):
            input_ids[row, : len(ids)] = torch.tensor(ids)
            mask[row, : len(ids)] = 1
        device = self.model.device
        start = torch.full((len(inputs), 1), self.model.config.decoder_start_token_id, device=device)
        with torch.inference_mode():
            logits = self.model(
                input_ids=input_ids.to(device),
                attention_mask=None if mask.all() else mask.to(device),
                decoder_input_ids=start,
                use_cache=False,
            ).logits[:, 0]
            return torch.log_softmax(logits.float(), dim=-1)[:, pair].cpu().numpy()


@lru_cache(maxsize=2)
def load_proxy(model: str, revision: str | None = None, dtype: str = "auto") -> Seq2SeqProxy:
    """The proxy on this process's device; loaded once per process and never pickled into an executor.

    Raises:
        ModelError: the model cannot be had, is not an encoder-decoder, or its tokenizer has no fast form.
    """
    require("torch", "score")
    require("transformers", "score")
    identity = model_identity(model, revision)
    from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer

    config = AutoConfig.from_pretrained(model, revision=revision)
    if not config.is_encoder_decoder:
        raise ModelError(f"{model} is a {config.model_type}: AskLLMScorer needs an encoder-decoder such as Flan-T5")
    tokenizer = AutoTokenizer.from_pretrained(model, revision=revision)
    if not tokenizer.is_fast:
        raise ModelError(f"{model} has no fast tokenizer (tokenizer.json): convert it with transformers first")
    device = pick_device()
    try:
        loaded = AutoModelForSeq2SeqLM.from_pretrained(
            model, revision=revision, dtype=pick_dtype(dtype, device), use_safetensors=True
        )
    except OSError as error:
        raise ModelError(f"cannot load the weights of {model}: {str(error).splitlines()[0]}") from error
    return Seq2SeqProxy(loaded.to(device).eval(), tokenizer, identity["model"])
