"""Negative log-likelihoods of documents under language models, and the masks that a T5 is asked about.

What one random mask measures is mostly the mask, so several masks together hide every token of a document once. It is
cut into spans of mean length 3, uniformly over all ways, and its spans are dealt to K masks, each mask getting one of
any K spans that follow each other. So every mask hides about 1 / K of the tokens, in spans that do not touch each
other, as T5's span corruption does (Raffel et al. 2020, Sec. 3.1.4). Masks are a function of the document's key.

Shapes: n tokens of a document, K masks, E examples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from pipeline_steps.engines.encoders import PlainEncoder
from pipeline_steps.engines.models import (
    batches_by_length,
    load_config,
    load_tokenizer,
    load_weights,
    model_identity,
    padded,
    pick_device,
    pick_dtype,
    require,
)
from pipeline_steps.errors import ModelError
from pipeline_steps.numerics.keys import mix


Array = np.ndarray
InputAndTarget = tuple[list[int], list[int]]
"""Token ids of the encoder's input and of the decoder's target."""

NOISE_DENSITY = 0.15  # Raffel et al. 2020, Sec. 3.3.3
MEAN_SPAN_LENGTH = 3.0  # Raffel et al. 2020, Sec. 3.3.4
MASKS = math.ceil(1 / NOISE_DENSITY)  # 7
_CUTS, _DEALS = 0xC075, 0xDEA1  # any constants: two kinds of draws from one key
Objective = Literal["span_corruption", "single_mask", "prefix_lm", "causal"]
T5_WINDOW = 512  # tokens T5 was pre-trained on at a time (Raffel et al. 2020, Sec. 3.1.2)
CAUSAL_WINDOW = 4_096  # of a decoder-only model that takes more
_BATCH_TOKENS = {"cpu": 8_192, "cuda": 65_536}  # padded tokens in one forward pass, without their logits
_LOGITS = {"cpu": 2**25, "cuda": 2**28}  # logits that exist at a time, in float32: 134 MB, 1 GB


def partition_masks(tokens: int, key: int) -> Array:
    """Return the mask, 0 to K - 1, that hides each token: int64 [n]. Spans of one mask are at least a token apart.

    Documents of less than 20 tokens have fewer spans than K, and fewer masks. No mask hides a whole document, except
    of one token: nothing would be given.
    """
    if tokens == 0:
        return np.empty(0, dtype=np.int64)
    spans = _spans(tokens)
    draws = _draws(tokens - 1, key, _CUTS)
    starts = np.zeros(tokens, dtype=bool)
    starts[0] = True
    starts[1 + np.argsort(draws, kind="stable")[: spans - 1]] = True
    return _deal(spans, key)[np.cumsum(starts) - 1]


def most_spans(tokens: int) -> int:
    """Return the most spans that one mask of n tokens can have: sentinels that the tokenizer must have."""
    return -(-_spans(tokens) // MASKS)


def _spans(tokens: int) -> int:
    return max(round(tokens / MEAN_SPAN_LENGTH), min(tokens, 2))


def _deal(spans: int, key: int) -> Array:
    """Return the mask of each span: rounds of all K masks in random order, no mask twice in a row."""
    rounds = -(-spans // MASKS)
    order = np.argsort(_draws(rounds * MASKS, key, _DEALS).reshape(rounds, MASKS), axis=1, kind="stable")
    for this in range(1, rounds):
        if order[this, 0] == order[this - 1, -1]:
            order[this, [0, 1]] = order[this, [1, 0]]
    return order.ravel()[:spans]


def _draws(count: int, key: int, kind: int) -> Array:
    """Draw uint64 [count]; keys that follow each other, such as a document's windows have, share nothing."""
    base = mix(np.array([key % 2**64], dtype=np.uint64), kind)
    with np.errstate(over="ignore"):
        return mix(base + np.arange(count, dtype=np.uint64), kind)


def mask_out(ids: Array, hidden: Array, first_sentinel: int, eos: int) -> InputAndTarget:
    """Turn the hidden spans (bool [n]) of token ids into sentinels, counted downwards from `first_sentinel`.

    The target is each sentinel and its span; `eos` ends the input and the target.
    """
    starts = hidden & ~np.concatenate([[False], hidden[:-1]])
    sentinels = first_sentinel + 1 - np.cumsum(starts)
    inputs = np.where(starts, sentinels, ids)[starts | ~hidden]
    places = np.flatnonzero(hidden)
    first = np.flatnonzero(starts[places])
    targets = np.insert(ids[places], first, sentinels[places[first]])
    return [*inputs.tolist(), eos], [*targets.tolist(), eos]


class T5Likelihood:
    """An encoder-decoder of the T5 family.

    Windows of at most 512 tokens. `span_corruption`: masks that hide every token once, all targets counted as T5's
    loss counts them, sentinels and EOS included. `single_mask`: the first of those masks. `prefix_lm`: the second
    half of a window given the first (for checkpoints adapted to it).
    """

    def __init__(self, model: Any, tokenizer: Any, name: str) -> None:
        from pipeline_steps.engines.t5 import PackedT5

        self.model, self.engine, self.encoder = model, PackedT5(model), PlainEncoder(tokenizer)
        self.vocabulary: int = model.config.vocab_size
        self.eos = tokenizer.eos_token_id
        self._as_text = np.arange(
            len(tokenizer)
        )  # a page that spells out "</s>" gets the unknown token, as in `train`
        self._as_text[tokenizer.all_special_ids] = tokenizer.unk_token_id
        self.first_sentinel = _first_sentinel(tokenizer, most_spans(T5_WINDOW), name)

    def examples(self, ids: Sequence[int], objective: Objective, key: int) -> list[InputAndTarget]:
        """Return what is asked of the model about one document."""
        found = []
        for start, window in _windows(ids, T5_WINDOW):
            text = self._as_text[window]
            if objective == "prefix_lm":
                given, hidden = text[: text.size // 2], text[text.size // 2 :]
                found.append(([*given.tolist(), self.eos], hidden.tolist()))
                continue
            masks = partition_masks(text.size, key + start)
            chosen = np.unique(masks)[: 1 if objective == "single_mask" else MASKS]
            found += [mask_out(text, masks == mask, self.first_sentinel, self.eos) for mask in chosen]
        return found

    def nll(self, examples: Sequence[InputAndTarget]) -> np.ndarray:
        """Return the sum over each target's tokens, in nats: float64 [E]."""
        import torch

        found = np.empty(len(examples))
        lengths = [len(inputs) + len(targets) for inputs, targets in examples]
        for rows in batches_by_length(lengths, _BATCH_TOKENS[self.model.device.type]):
            rows.sort(key=lambda row: -len(examples[row][0]))
            with torch.inference_mode():
                encoded, mask = self.engine.encoder.encode([examples[row][0] for row in rows])
                labels = padded([examples[row][1] for row in rows], -100).to(self.model.device)
                start = torch.full_like(labels[:, :1], self.model.config.decoder_start_token_id)
                decoded = self.model.decoder(
                    input_ids=torch.cat([start, labels[:, :-1].clamp(min=0)], dim=1),
                    encoder_hidden_states=encoded.to(self.model.dtype),
                    encoder_attention_mask=mask,
                    use_cache=False,
                ).last_hidden_state
                found[rows] = self._nll_of_decoded(decoded, labels).cpu().numpy()
        return found

    def _nll_of_decoded(self, decoded_BTD: Any, label_BT: Any) -> Any:
        """Return a sum per row, float64 [B]; the head takes few tokens at a time, as its logits are large."""
        import torch

        real_BT = label_BT >= 0
        decoded_PD, label_P = decoded_BTD[real_BT], label_BT[real_BT]
        step = max(_LOGITS[self.model.device.type] // self.vocabulary, 1)
        nll_BT = torch.zeros(label_BT.shape, dtype=torch.float64, device=label_BT.device)
        nll_BT[real_BT] = torch.cat(
            [
                _nll(self.engine.head(decoded_PD[start : start + step]), label_P[start : start + step])
                for start in range(0, len(label_P), step)
            ]
        )
        return nll_BT.sum(dim=1)


class CausalLikelihood:
    """A decoder-only model: every token given those before it in its window, the first given BOS if there is one."""

    def __init__(self, model: Any, tokenizer: Any, name: str) -> None:
        self.model, self.encoder, self.bos = model, PlainEncoder(tokenizer), tokenizer.bos_token_id
        config = model.config.get_text_config()
        self.vocabulary: int = config.vocab_size
        self.window = min(getattr(config, "max_position_embeddings", None) or CAUSAL_WINDOW, CAUSAL_WINDOW)
        self._recurrent: bool = model._is_stateful  # whose cache does not take several tokens at a time

    def examples(self, ids: Sequence[int], objective: Objective, key: int) -> list[InputAndTarget]:
        """Return the given tokens of one document, and the tokens that follow each of them."""
        windows = [window for _, window in _windows(ids, self.window - (self.bos is not None))]
        if self.bos is None:
            return [(window[:-1], window[1:]) for window in windows if len(window) > 1]
        return [([self.bos, *window[:-1]], window) for window in windows]

    def nll(self, examples: Sequence[InputAndTarget]) -> np.ndarray:
        """Return the sum over each target's tokens, in nats: float64 [E]."""
        import torch

        found = np.empty(len(examples))
        device = self.model.device.type
        budget = _LOGITS[device] // self.vocabulary if self._recurrent else _BATCH_TOKENS[device]
        for rows in batches_by_length([len(inputs) for inputs, _ in examples], budget):
            inputs = padded([examples[row][0] for row in rows], 0).to(self.model.device)
            labels = padded([examples[row][1] for row in rows], -100).to(self.model.device)
            with torch.inference_mode():  # padding to the right: no token sees what follows it
                found[rows] = self._nll_in_steps(inputs, labels).cpu().numpy()
        return found

    def _nll_in_steps(self, input_BS: Any, label_BS: Any) -> Any:
        """Return a sum per row, float64 [B]; where logits would be too many, go on from a cache in steps.

        The model makes its own logits, as some cap or scale what comes from the head.
        """
        import torch

        rows, length = input_BS.shape
        step = max(_LOGITS[self.model.device.type] // (rows * self.vocabulary), 1)
        step = length if self._recurrent else min(step, length)
        in_steps = step < length
        cache: dict[str, Any] = {"use_cache": in_steps}
        total_B = torch.zeros(rows, dtype=torch.float64, device=input_BS.device)
        for start in range(0, length, step):
            out = self.model(input_ids=input_BS[:, start : start + step], **cache)
            if in_steps:
                cache["past_key_values"] = out.past_key_values
            label_P = label_BS[:, start : start + step].flatten()
            total_B += _nll(out.logits.flatten(0, 1), label_P).view(rows, -1).sum(dim=1)
        return total_B


@lru_cache(maxsize=2)
def load_likelihood(
    model: str, revision: str | None = None, dtype: str = "auto", causal: bool = False
) -> T5Likelihood | CausalLikelihood:
    """Load the model on this process's device, once per process; it is never pickled into an executor.

    Raises ModelError if the model cannot be had, does not fit the objective, or its tokenizer has no fast form.
    """
    require("torch", "score")
    require("transformers", "score")
    identity = model_identity(model, revision)
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    config = load_config(model, revision)
    if config.is_encoder_decoder == causal or (config.is_encoder_decoder and config.model_type not in ("t5", "mt5")):
        wanted = "a decoder-only model for 'causal'" if causal else "a T5 for its objectives; others take 'causal'"
        raise ModelError(f"{model} is a {config.model_type}: use {wanted}")
    tokenizer = load_tokenizer(model, revision)
    device = pick_device()
    family = AutoModelForCausalLM if causal else AutoModelForSeq2SeqLM
    loaded = load_weights(family, model, revision, dtype=pick_dtype(dtype, device))
    likelihood = CausalLikelihood if causal else T5Likelihood
    return likelihood(loaded.to(device).eval(), tokenizer, identity["model"])


def _first_sentinel(tokenizer: Any, count: int, name: str) -> int:
    """Return the id of `<extra_id_0>`; raises ModelError unless `count` sentinels count downwards from it."""
    ids = tokenizer.convert_tokens_to_ids([f"<extra_id_{i}>" for i in range(count)])
    if ids[0] in (None, tokenizer.unk_token_id) or ids != list(range(ids[0], ids[0] - count, -1)):
        raise ModelError(
            f"{name}'s tokenizer has no sentinels <extra_id_0> to <extra_id_{count - 1}> with falling ids: it is not "
            "a T5's; give a T5 or a checkpoint of train.pretrain"
        )
    return int(ids[0])


def _windows(ids: Sequence[int], longest: int) -> Iterator[tuple[int, list[int]]]:
    """Yield where each window begins, and its ids: as few as can be, of equal lengths."""
    count = -(-len(ids) // longest)
    for number in range(count):
        start, end = (len(ids) * edge // count for edge in (number, number + 1))
        yield start, np.asarray(ids[start:end]).tolist()


def _nll(logits_PV: Any, label_P: Any) -> Any:
    """Return float64 [P], nats, 0 where the label is -100; softmax in float32."""
    from torch.nn import functional as F

    return F.cross_entropy(logits_PV.float(), label_P, ignore_index=-100, reduction="none").double()
