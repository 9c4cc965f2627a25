"""Prompts and answers as token ids of a decoder-only model, by the rules of lm-eval's own model for transformers.

White space at the end of a prompt belongs to the answer; prompt and answer are encoded as one text and cut where the
prompt alone would end. BOS is put first if the tokenizer does so by itself: a model of `train`, whose rows began with
EOS, gets none, as in lm-eval. An empty prompt is BOS, or EOS where there is none.

One habit of tokenizers is not followed, though lm-eval follows it: a T5's ends every text with EOS. That would stand
between prompt and answer, and all answers of one token would be that EOS and score alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datatrove.utils.logging import logger
from lm_eval.api.instance import Instance

from evaluate_suite.shared_prompts import Pair
from pipeline_steps.errors import ModelError


class PairEncoder:
    """Encodes prompts and their answers.

    Args:
        tokenizer: of a decoder-only model; one that ends texts with EOS or loses line breaks is named in a warning.
        score_eos: end answers with EOS.

    Attributes:
        start: what an empty prompt is.
        eos: end of a text, if there is one.

    Raises:
        ModelError: the tokenizer has neither BOS nor EOS.
    """

    def __init__(self, tokenizer: Any, score_eos: bool = False) -> None:
        self._tokenizer, self._score_eos = tokenizer, score_eos
        self.eos: int | None = tokenizer.eos_token_id
        start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else self.eos
        if start is None:
            raise ModelError(
                f"the tokenizer {tokenizer.name_or_path} has neither BOS nor EOS, and texts begin with one of them: "
                "set eos_token in its tokenizer_config.json"
            )
        self.start: int = start
        self._before, self._begins = self._special_ids(), tokenizer.decode(start)

    def _special_ids(self) -> list[int]:
        """Return the ids that the tokenizer puts before a text by itself, and warn of habits that change numbers."""
        name = self._tokenizer.name_or_path
        plain, whole = self._tokenizer("a", add_special_tokens=False).input_ids, self._tokenizer("a").input_ids
        ends = range(len(plain), len(whole) + 1)
        end = next((end for end in ends if whole[end - len(plain) : end] == plain), len(whole))
        if after := whole[end:]:
            logger.warning(
                f"the tokenizer {name} ends every text with {self._tokenizer.decode(after)}, which would stand "
                "between prompt and answer: texts are encoded without it (lm-eval's hf model needs "
                "add_bos_token=False for that)"
            )
        if "\n" not in self._tokenizer.decode(self._tokenizer("a\nb", add_special_tokens=False).input_ids):
            logger.warning(f"the tokenizer {name} loses line breaks: exemplars run on, and no answer ends with one")
        before: list[int] = whole[: end - len(plain)]
        return before

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Return the ids of texts, with BOS where the tokenizer puts it, and never with an EOS behind them."""
        if not texts:
            return []
        found = self._tokenizer(texts, add_special_tokens=False, truncation=False, verbose=False).input_ids
        return [
            ids if text.startswith(self._begins) else [*self._before, *ids]
            for text, ids in zip(texts, found, strict=True)
        ]

    def pairs(self, prompt: str, requests: Sequence[Instance]) -> list[Pair]:
        """Return the ids of a prompt and of the answer of each request, which all have this prompt.

        Raises:
            ModelError: an answer has no token of its own; names it.
        """
        answers = [request.args[1] for request in requests]
        before, *wholes = self.encode([prompt.rstrip(), *(prompt + answer for answer in answers)])
        if not before:
            before = [self.start]
            wholes = [whole if whole[:1] == before else before + whole for whole in wholes]
        ends = [self.eos] if self._score_eos and self.eos is not None else []
        pairs: list[Pair] = [(before, whole[len(before) :] + ends) for whole in wholes]
        for request, (_, answer_ids) in zip(requests, pairs, strict=True):
            if not answer_ids:
                raise ModelError(
                    f"{request.task_name or 'a task'}, document {request.doc_id}: the answer {request.args[1]!r} has "
                    "no token of its own behind the prompt, with whose end the tokenizer merges it: begin the answers "
                    "with a space"
                )
        return pairs
