"""Negative log-likelihoods of documents under language models, for PerplexityScorer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from pipeline_steps.errors import ModelError
from pipeline_steps.models import model_identity, padded, pick_device, pick_dtype, require
from pipeline_steps.numerics.batches import batches_by_length
from pipeline_steps.numerics.partition_masks import MASKS, Example, mask_out, partition_masks


Objective = Literal["span_corruption", "single_mask", "prefix_lm", "causal"]
_T5_WINDOW = 512  # tokens T5 was pre-trained on at a time (Raffel et al. 2020, Sec. 3.1.2)
_LONGEST_WINDOW = 4_096  # of a decoder-only model that takes more
_LOGITS = {"cpu": 2**26, "cuda": 2**29}  # logits of one batch: 268 MB, 2 GB


class T5Likelihood:
    """An encoder-decoder of the T5 family.

    Windows of at most 512 tokens. `span_corruption`: masks that hide every token once, all targets counted as T5's
    loss counts them, sentinels and EOS included. `single_mask`: the first of those masks. `prefix_lm`: the second
    half of a window given the first (for checkpoints adapted to it).
    """

    def __init__(self, model: Any, tokenizer: Any, name: str) -> None:
        from pipeline_steps.t5_engine import PackedT5

        self.model, self.engine, self.encoder = model, PackedT5(model), tokenizer.backend_tokenizer
        self.eos = tokenizer.eos_token_id
        self.first_sentinel = tokenizer.convert_tokens_to_ids("<extra_id_0>")
        if self.first_sentinel in (None, tokenizer.unk_token_id):
            raise ModelError(f"{name}'s tokenizer has no sentinel <extra_id_0>: it is not a T5's")

    def examples(self, ids: Sequence[int], objective: Objective, key: int) -> list[Example]:
        """What is asked of the model about one document."""
        found = []
        for start in range(0, len(ids), _T5_WINDOW - 1):  # one place for EOS
            window = np.array(ids[start : start + _T5_WINDOW - 1], dtype=np.int64)
            if objective == "prefix_lm":
                half = window.size // 2
                found.append(([*window[:half].tolist(), self.eos], window[half:].tolist()))
                continue
            masks = partition_masks(window.size, key + start)
            chosen = np.unique(masks)[: 1 if objective == "single_mask" else MASKS]
            found += [mask_out(window, masks == mask, self.first_sentinel, self.eos) for mask in chosen]
        return found

    def nll(self, examples: Sequence[Example]) -> np.ndarray:
        """Sum over the target's tokens, nats: float64 [E]."""
        import torch

        found = np.empty(len(examples))
        budget = _LOGITS[self.model.device.type] // self.model.config.vocab_size
        for rows in batches_by_length([len(inputs) + len(targets) for inputs, targets in examples], budget):
            rows.sort(key=lambda row: -len(examples[row][0]))
            with torch.inference_mode():
                encoded, mask = self.engine.encode([examples[row][0] for row in rows])
                labels = padded([examples[row][1] for row in rows], -100).to(self.model.device)
                start = torch.full_like(labels[:, :1], self.model.config.decoder_start_token_id)
                logits = self.model(
                    encoder_outputs=(encoded.to(self.model.dtype),),
                    attention_mask=mask,
                    decoder_input_ids=torch.cat([start, labels[:, :-1].clamp(min=0)], dim=1),
                    use_cache=False,
                ).logits
                found[rows] = _nll(logits, labels)
        return found


class CausalLikelihood:
    """A decoder-only model: every token given those before it in its window, the first given BOS if there is one."""

    def __init__(self, model: Any, tokenizer: Any, name: str) -> None:
        self.model, self.encoder, self.bos = model, tokenizer.backend_tokenizer, tokenizer.bos_token_id
        limit = getattr(model.config, "max_position_embeddings", None) or _LONGEST_WINDOW
        self.window = min(limit, _LONGEST_WINDOW)

    def examples(self, ids: Sequence[int], objective: Objective, key: int) -> list[Example]:
        """What is asked of the model about one document: given tokens, and the tokens that follow each of them."""
        windows = [ids[start : start + self.window - 1] for start in range(0, len(ids), self.window - 1)]
        if self.bos is None:
            return [(list(window[:-1]), list(window[1:])) for window in windows if len(window) > 1]
        return [([self.bos, *window[:-1]], list(window)) for window in windows]

    def nll(self, examples: Sequence[Example]) -> np.ndarray:
        """Sum over the target's tokens, nats: float64 [E]."""
        import torch

        found = np.empty(len(examples))
        budget = _LOGITS[self.model.device.type] // self.model.config.vocab_size
        for rows in batches_by_length([len(inputs) for inputs, _ in examples], budget):
            inputs = padded([examples[row][0] for row in rows], 0).to(self.model.device)
            labels = padded([examples[row][1] for row in rows], -100).to(self.model.device)
            with torch.inference_mode():  # padding to the right: no token sees what follows it
                found[rows] = _nll(self.model(input_ids=inputs, use_cache=False).logits, labels)
        return found


@lru_cache(maxsize=2)
def load_likelihood(
    model: str, revision: str | None = None, dtype: str = "auto", causal: bool = False
) -> T5Likelihood | CausalLikelihood:
    """The model on this process's device; loaded once per process and never pickled into an executor.

    Raises:
        ModelError: the model cannot be had, does not fit the objective, or its tokenizer has no fast form.
    """
    require("torch", "score")
    require("transformers", "score")
    identity = model_identity(model, revision)
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

    config = AutoConfig.from_pretrained(model, revision=revision)
    if config.is_encoder_decoder == causal or (config.is_encoder_decoder and config.model_type not in ("t5", "mt5")):
        wanted = "a decoder-only model for 'causal'" if causal else "a T5 for its objectives; others take 'causal'"
        raise ModelError(f"{model} is a {config.model_type}: use {wanted}")
    tokenizer = AutoTokenizer.from_pretrained(model, revision=revision)
    if not tokenizer.is_fast:
        raise ModelError(f"{model} has no fast tokenizer (tokenizer.json): convert it with transformers first")
    tokenizer.backend_tokenizer.encode_special_tokens = True  # "</s>" in a web page is text
    device = pick_device()
    family = AutoModelForCausalLM if causal else AutoModelForSeq2SeqLM
    loaded = family.from_pretrained(model, revision=revision, dtype=pick_dtype(dtype, device), use_safetensors=True)
    likelihood = CausalLikelihood if causal else T5Likelihood
    return likelihood(loaded.to(device).eval(), tokenizer, identity["model"])


def _nll(logits: Any, labels: Any) -> np.ndarray:
    """Per row, the sum over labels that are not -100; softmax in float32."""
    from torch.nn import functional as F

    loss = F.cross_entropy(logits.float().transpose(1, 2), labels, ignore_index=-100, reduction="none")
    return loss.double().sum(dim=1).cpu().numpy()
