"""Ask a language model a yes/no question about many texts: batches in, log-probabilities out (paper Sec. 3.1).

A prompt decides the scores, so it is part of every store's fingerprint. Shapes: N texts, A tokens asked about.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from pipeline_steps.engines.encoders import PlainEncoder, plain_backend
from pipeline_steps.engines.models import (
    TokenIds,
    batches_by_length,
    load_config,
    load_tokenizer,
    load_weights,
    model_identity,
    pick_device,
    pick_dtype,
    require,
    vllm_version,
)
from pipeline_steps.errors import ModelError


FLOAT8 = "float8"
"""The dtype of a T5 whose encoder multiplies in e4m3; everything else is in bfloat16."""

# Padded tokens in one forward pass: its activations, not its vocabulary, set the memory.
_BATCH_TOKENS = {"cpu": 2_048, "cuda": 32_768}


@dataclass(frozen=True)
class Prompt:
    """A yes/no question around a document; each answer is one token of the proxy's tokenizer."""

    name: str  # for humans
    prefix: str  # text before the document
    suffix: str  # text after it
    yes: str = "yes"  # the answer whose log-probability is the score
    no: str = "no"


ASK_LLM = Prompt(
    name="ask-llm",
    prefix="###\n",
    suffix=(
        "\n###\n\n"
        "Does the previous paragraph demarcated within ### and ### contain informative signal for pre-training a "
        "large-language model? An informative datapoint should be well-formatted, contain some usable knowledge of "
        "the world, and strictly NOT have any harmful, racist, sexist, etc. content.\n\n"
        "OPTIONS:\n- yes\n- no"
    ),
)
"""The paper's prompt, word for word (Fig. 3)."""

_OPTIONS = "\n\nOPTIONS:\n- yes\n- no"


def _about_the_text(name: str, question: str) -> Prompt:
    return Prompt(name, "###\n", f"\n###\n\n{question}{_OPTIONS}")


EDITOR = _about_the_text(
    "editor",
    "Would a demanding editor keep the text between ### and ### in a reference library? Keep only what is coherent, "
    "complete, informative or instructive, and free of advertising, boilerplate and machine-made filler.",
)
"""A stricter question of our own, after the finding that prompts other than the paper's select better data (DCLM)."""

RUBRIC = (
    _about_the_text(
        "rubric: language", "Is the text between ### and ### written in correct, well-formatted language?"
    ),
    _about_the_text("rubric: knowledge", "Does the text between ### and ### teach usable knowledge of the world?"),
    _about_the_text(
        "rubric: reasoning", "Does the text between ### and ### explain, argue or show how something works?"
    ),
    _about_the_text("rubric: harmless", "Is the text between ### and ### free of harmful, racist or sexist content?"),
)
"""Four questions whose log-probabilities are averaged, which the paper names as future work: four times the cost."""


class CausalEngine:
    """A transformers model in this process, in batches by length."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def log_probabilities(self, inputs: Sequence[TokenIds], token_ids: Sequence[int]) -> np.ndarray:
        """Return float32 [N, A]: log P(token) over the full vocabulary, softmax in float32."""
        import torch

        found = np.empty((len(inputs), len(token_ids)), dtype=np.float32)
        for rows in batches_by_length([len(ids) for ids in inputs], _BATCH_TOKENS[self.model.device.type]):
            logits = self._last_logits([inputs[row] for row in rows])
            found[rows] = torch.log_softmax(logits.float(), dim=-1)[:, token_ids].cpu().numpy()
        return found

    def _last_logits(self, inputs: Sequence[TokenIds]) -> Any:
        """Return logits [N, vocabulary] after the last token; padding goes to the left, so that all end together."""
        import torch

        longest, device = max(map(len, inputs)), self.model.device
        input_ids = torch.zeros((len(inputs), longest), dtype=torch.long)
        mask = torch.zeros_like(input_ids)
        for row, ids in enumerate(inputs):
            input_ids[row, longest - len(ids) :] = torch.tensor(ids)
            mask[row, longest - len(ids) :] = 1
        with torch.inference_mode():
            return self.model(
                input_ids=input_ids.to(device),
                attention_mask=None if mask.all() else mask.to(device),
                position_ids=(mask.cumsum(-1) - 1).clamp_(min=0).to(device),
                use_cache=False,
                logits_to_keep=1,
            ).logits[:, -1]


class NextTokenEngine(Protocol):
    """What computes log-probabilities: `PackedT5`, `CausalEngine` or `VLLMEngine`."""

    def log_probabilities(self, inputs: Sequence[TokenIds], token_ids: Sequence[int]) -> np.ndarray:
        """Return float32 [N, len(token_ids)] of N inputs: log P(token) of the next token, over the full vocabulary."""


@dataclass(frozen=True)
class Questions:
    """N texts with a question around each, as token ids."""

    inputs: Sequence[TokenIds]
    tokens: np.ndarray  # uint32 [N], tokens of the whole text, before truncation and without the question
    yes: list[int]  # ids of the first token of the answer "yes"; their probabilities add up
    no: list[int]


@dataclass(frozen=True)
class YesNo:
    """What a proxy says of N texts: float32 [N] each, over the full vocabulary."""

    log_yes: np.ndarray
    log_no: np.ndarray


class Seq2SeqProxy:
    """An encoder-decoder of the T5 family with its tokenizer; see `load_proxy`."""

    def __init__(self, engine: NextTokenEngine, tokenizer: Any, name: str) -> None:
        self.name = name
        self._engine = engine
        self._tokenizer = tokenizer
        self._encoder = PlainEncoder(tokenizer)

    def ask(self, texts: Sequence[str], prompt: Prompt, max_tokens: int) -> Questions:
        """Put the question around every text. The text is cut to fit, the question never.

        Raises:
            ModelError: an answer is not one token of this tokenizer, or the prompt alone exceeds `max_tokens`.
        """
        prefix, suffix = self._ids(prompt.prefix), self._ids(prompt.suffix) + [self._tokenizer.eos_token_id]
        room = max_tokens - len(prefix) - len(suffix)
        _check_room(room, max_tokens, prompt, self.name)
        yes, no = self._answer_id(prompt.yes), self._answer_id(prompt.no)
        # Pieces never cross white space, so cutting ids here is cutting the ids of the whole
        documents = self._encoder.encode_batch(texts)
        tokens = np.array([len(ids) for ids in documents], dtype=np.uint32)
        inputs = [np.concatenate([prefix, ids[:room], suffix], dtype=np.int32) for ids in documents]
        return Questions(inputs, tokens, [yes], [no])

    def answer(self, questions: Questions) -> YesNo:
        """Return the log-probabilities of the two answers as the first decoded token."""
        pair = self._engine.log_probabilities(questions.inputs, questions.yes + questions.no)
        return YesNo(pair[:, 0], pair[:, 1])

    def _ids(self, text: str) -> list[int]:
        return self._encoder.encode(text) if text else []

    def _answer_id(self, answer: str) -> int:
        ids = self._ids(answer)
        if len(ids) != 1 or ids[0] == self._tokenizer.unk_token_id:
            pieces = self._tokenizer.convert_ids_to_tokens(ids)
            raise ModelError(f"the answer {answer!r} is {pieces} for {self.name}'s tokenizer, not one known token")
        return ids[0]


class CausalProxy:
    """A decoder-only model with its tokenizer and chat template; see `load_proxy`.

    The question is a user's turn in the model's own chat template, if it has one. "yes" and "Yes" count together.
    """

    def __init__(self, engine: NextTokenEngine, tokenizer: Any, name: str) -> None:
        self.name = name
        self._engine = engine
        self._tokenizer = tokenizer
        self._encoder = plain_backend(tokenizer)
        self._encoder.encode_special_tokens = False  # the template's own marks are special; the text's are defused
        self._marks = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]

    def ask(self, texts: Sequence[str], prompt: Prompt, max_tokens: int) -> Questions:
        """Put the question around every text. The text is cut to fit, the question never.

        Raises:
            ModelError: no form of an answer is one token, or the prompt alone exceeds `max_tokens`.
        """
        before, after = self._template(prompt)
        room = max_tokens - len(self._ids(before)) - len(self._ids(after))
        _check_room(room, max_tokens, prompt, self.name)
        texts = [self._defuse(text) for text in texts]
        encodings = self._encoder.encode_batch(texts, add_special_tokens=False)
        tokens = np.array([len(encoding) for encoding in encodings], dtype=np.uint32)
        whole = [_cut(text, encoding.offsets, room) for text, encoding in zip(texts, encodings, strict=True)]
        # Byte pairs merge across the seams: it is the assembled text that is tokenised
        assembled = self._encoder.encode_batch_fast(
            [before + text + after for text in whole], add_special_tokens=False
        )
        return Questions([e.ids for e in assembled], tokens, self._answer_ids(prompt.yes), self._answer_ids(prompt.no))

    def answer(self, questions: Questions) -> YesNo:
        """Return the log-probabilities of the two answers as the next token."""
        of_each = self._engine.log_probabilities(questions.inputs, questions.yes + questions.no)
        yes, no = np.split(of_each, [len(questions.yes)], axis=1)
        return YesNo(np.logaddexp.reduce(yes, axis=1), np.logaddexp.reduce(no, axis=1))

    def _template(self, prompt: Prompt) -> tuple[str, str]:
        if self._tokenizer.chat_template is None:
            bos = self._tokenizer.bos_token or ""
            return bos + prompt.prefix, prompt.suffix + "\n"
        mark = "\x00document\x00"
        turn = [{"role": "user", "content": f"{prompt.prefix}{mark}{prompt.suffix}"}]
        text = self._tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        before, after = text.split(mark)
        return before, after

    def _defuse(self, text: str) -> str:
        """Defuse marks of the template: a page that spells them out must not end the user's turn."""
        for mark in self._marks:
            text = text.replace(mark, f"{mark[:1]} {mark[1:]}")
        return text

    def _ids(self, text: str) -> list[int]:
        return list(self._encoder.encode(text, add_special_tokens=False).ids)

    def _answer_ids(self, answer: str) -> list[int]:
        forms = [self._ids(form) for form in (answer, answer.capitalize())]
        ids = sorted({form[0] for form in forms if len(form) == 1 and form[0] != self._tokenizer.unk_token_id})
        if not ids:
            raise ModelError(f"neither {answer!r} nor {answer.capitalize()!r} is one token of {self.name}'s tokenizer")
        return ids


Proxy = Seq2SeqProxy | CausalProxy


@lru_cache(maxsize=2)
def load_proxy(model: str, revision: str | None = None, dtype: str = "auto") -> Proxy:
    """Load the proxy on this process's device, once per process; it is never pickled into an executor.

    Raises ModelError if the model cannot be had, is an encoder-decoder of another family than T5 or no T5 for FLOAT8,
    would be decoded wrongly by this version of transformers, or its tokenizer has no fast form.
    """
    require("torch", "score")
    config, tokenizer, name = _config_and_tokenizer(model, revision)
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    if config.is_encoder_decoder and config.model_type not in ("t5", "mt5"):
        raise ModelError(f"{model} is a {config.model_type}: use a T5 (Flan-T5, mT5) or a decoder-only model")
    if dtype == FLOAT8 and not config.is_encoder_decoder:
        raise ModelError(f"{model} is decoder-only: for float8 serve it with vllm={{'quantization': 'fp8'}}")
    device = pick_device()
    weights_dtype = pick_dtype("bfloat16" if dtype == FLOAT8 else dtype, device)
    family = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    loaded = load_weights(family, model, revision, dtype=weights_dtype).to(device).eval()
    if config.is_encoder_decoder:
        from pipeline_steps.engines.t5 import PackedT5

        return Seq2SeqProxy(PackedT5(loaded, float8=dtype == FLOAT8), tokenizer, name)
    return CausalProxy(CausalEngine(loaded), tokenizer, name)


@lru_cache(maxsize=1)
def serve_proxy(model: str, revision: str | None, dtype: str, max_tokens: int, options: str) -> CausalProxy:
    """Start a decoder-only proxy behind a vLLM server, once per process; it stops when this process ends.

    `options` are flags of `vllm serve` as JSON. Raises ModelError if vLLM is not installed, the model is an
    encoder-decoder, which vLLM does not serve, or its tokenizer has no fast form.
    """
    config, tokenizer, name = _config_and_tokenizer(model, revision)
    if config.is_encoder_decoder:
        raise ModelError(f"{model} is an encoder-decoder, which vLLM does not serve: leave vllm at None")
    flags = {"dtype": dtype} | ({"revision": revision} if revision else {}) | json.loads(options)
    vllm_version()  # says what to install, which the import would not
    from pipeline_steps.engines.vllm_server import VLLMEngine

    return CausalProxy(VLLMEngine(model, max_tokens, flags), tokenizer, name)


def _config_and_tokenizer(model: str, revision: str | None) -> tuple[Any, Any, str]:
    require("transformers", "score")
    identity = model_identity(model, revision)
    return load_config(model, revision), load_tokenizer(model, revision), identity["model"]


def _cut(text: str, offsets: Sequence[tuple[int, int]], tokens: int) -> str:
    """Return the text of the first tokens."""
    return text if len(offsets) <= tokens else text[: offsets[tokens - 1][1]]


def _check_room(room: int, max_tokens: int, prompt: Prompt, name: str) -> None:
    if room < 1:
        raise ModelError(
            f"max_tokens={max_tokens} leaves no room for the document: prompt {prompt.name!r} alone takes "
            f"{max_tokens - room} tokens of {name}"
        )
