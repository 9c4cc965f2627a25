"""A T5 for lm-eval: `lm_eval.simple_evaluate(model=EncoderDecoderLM("google/flan-t5-small"), tasks=["arc_easy"])`.

lm-eval's own model for encoder-decoders runs the encoder once per answer choice, cuts a long prompt from the left,
which loses the instruction, and bounds the decoder by the encoder's length. Here a prompt is encoded once for all its
answers; one that is too long loses whole exemplars, the first ones, never the instruction or the question; no more is
decoded than the task allows. Shapes: N prompts of a batch, S input tokens, C answers, T answer tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lm_eval.api.instance import Instance
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from evaluate_suite.prompted_lm import PromptedLM, greedy_settings, until
from pipeline_steps.engines.models import batches_by_length, load_tokenizer, padded, pick_device, pick_dtype
from pipeline_steps.engines.t5 import PackedT5Encoder
from train.checkpoints import load_pretrained


_BATCH_TOKENS = {"cpu": 2048}  # input positions of a batch: attention scores stay in a CPU's cache
_BATCH_TOKENS_ELSEWHERE = 16_384


class EncoderDecoderLM(PromptedLM):
    """A T5 of transformers (v1.0 or v1.1 layout) behind lm-eval's interface.

    Args:
        pretrained: Hub id or folder, a checkpoint of `train` too; or a model.
        tokenizer: Hub id or folder, or a tokenizer; the one of `pretrained` unless given.
        max_input: tokens of a prompt, EOS included; a question that is longer loses its end.
        score_eos: see `PromptedLM`, as for the attributes.
        batch_tokens: input positions of a batch; by device unless given.
        device: "auto" takes a GPU if there is one.
        dtype: "auto" is bfloat16 on a GPU, float32 on a CPU; a model that is given stays as it is.
        revision: of a Hub id.
    """

    def __init__(
        self,
        pretrained: Any,
        tokenizer: Any = None,
        max_input: int = 2048,
        score_eos: bool = False,
        batch_tokens: int | None = None,
        device: str = "auto",
        dtype: str = "auto",
        revision: str | None = None,
    ) -> None:
        where = pick_device() if device == "auto" else torch.device(device)
        if isinstance(pretrained, str):
            tokenizer = tokenizer or load_tokenizer(pretrained, revision)
            pretrained = load_pretrained(pretrained, revision).to(pick_dtype(dtype, where))
        tokenizer = load_tokenizer(tokenizer) if isinstance(tokenizer, str) else tokenizer
        super().__init__(tokenizer, max_input, score_eos)
        self._model = pretrained.to(where).eval()
        self._encoder = PackedT5Encoder(self._model)
        self._batch_tokens = batch_tokens or _BATCH_TOKENS.get(self._model.device.type, _BATCH_TOKENS_ELSEWHERE)
        self._pad, self._eos = pretrained.config.pad_token_id, pretrained.config.eos_token_id

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return the log-probability (nats) of each answer after its prompt, and whether greedy decoding says it."""
        by_prompt: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            by_prompt.setdefault(request.args[0], []).append(number)
        prompts = list(by_prompt)
        inputs = [self._prompt_ids(requests[numbers[0]]) for numbers in by_prompt.values()]
        found: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        with self._bar(len(prompts), "prompts", disable_tqdm) as bar:
            for batch in batches_by_length(list(map(len, inputs)), self._batch_tokens):
                numbers = [by_prompt[prompts[row]] for row in batch]
                answers = [[self._answer_ids(requests[number].args[1]) for number in row] for row in numbers]
                for row, scores in zip(numbers, self._score([inputs[row] for row in batch], answers), strict=True):
                    for number, score in zip(row, scores, strict=True):
                        found[number] = score
                bar.update(len(batch))
        return found

    def answer_length(self, request: Instance) -> int:
        """Return the tokens of a request's answer that `loglikelihood` scores."""
        return len(self._answer_ids(request.args[1]))

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Return what greedy decoding says, up to the first of the task's stop strings."""
        inputs = [self._prompt_ids(request) for request in requests]
        settings = [greedy_settings(request) for request in requests]
        found = [""] * len(requests)
        with self._bar(len(requests), "prompts", disable_tqdm) as bar:
            for batch in batches_by_length(list(map(len, inputs)), self._batch_tokens):
                for most in sorted({settings[row][0] for row in batch}):
                    rows = [row for row in batch if settings[row][0] == most]
                    for row, text in zip(rows, self._generate([inputs[row] for row in rows], most), strict=True):
                        found[row] = until(text, settings[row][1])
                bar.update(len(batch))
        return found

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Raise NotImplementedError: encoder-decoders have no such likelihood."""
        raise NotImplementedError(
            "an encoder-decoder has no likelihood of a text alone: measure it with winnow evaluate perplexity"
        )

    @torch.inference_mode()
    def _score(self, inputs: list[list[int]], answers: list[list[list[int]]]) -> list[list[tuple[float, bool]]]:
        """Score every answer of each prompt.

        Prompts are encoded once, and so is what answers share but their last token: all letters of a multiple choice
        are one row of the decoder.
        """
        encoded, mask_NS = self._encoder.encode(inputs)
        shared: dict[tuple[int, tuple[int, ...]], int] = {}  # (prompt, decoder input) -> row of the decoder
        flat = [(row, answer) for row, some in enumerate(answers) for answer in some]
        row_C = [shared.setdefault((row, tuple(answer[:-1])), len(shared)) for row, answer in flat]
        prompt = torch.tensor([row for row, _ in shared], device=encoded.device)
        start = self._model.config.decoder_start_token_id
        logits = self._model(
            encoder_outputs=(encoded[prompt],),
            attention_mask=mask_NS[prompt].long(),
            decoder_input_ids=self._padded([[start, *before] for _, before in shared])[0],
            use_cache=False,
        ).logits.float()
        target_CT, target_mask_CT = self._padded([answer for _, answer in flat])
        place_C = torch.tensor(row_C, device=encoded.device)
        place_T = torch.arange(target_CT.shape[1], device=encoded.device)
        chosen_CT = logits.log_softmax(-1)[place_C[:, None], place_T, target_CT]
        score_C = (chosen_CT * target_mask_CT).sum(1).tolist()
        greedy_C = ((logits.argmax(-1)[place_C] == target_CT) | (target_mask_CT == 0)).all(1).tolist()
        scores = iter(zip(score_C, greedy_C, strict=True))
        return [[next(scores) for _ in some] for some in answers]

    @torch.inference_mode()
    def _generate(self, inputs: list[list[int]], most: int) -> list[str]:
        encoded, mask_NS = self._encoder.encode(inputs)
        said = self._model.generate(
            encoder_outputs=BaseModelOutput(encoded),
            attention_mask=mask_NS.long(),
            max_new_tokens=most,
            do_sample=False,
            num_beams=1,
        )
        texts: list[str] = self._tokenizer.batch_decode(said, skip_special_tokens=True)
        return texts

    def _prompt_ids(self, request: Instance) -> list[int]:
        """Return a prompt's ids and EOS; a prompt that is too long loses its first exemplars."""
        most = self._max_input - 1
        ids = self._ids(request.args[0])
        if len(ids) > most:
            ids = self._ids(self._shortened(request, lambda text: len(self._ids(text)) <= most))
        return [*ids[:most], self._eos]

    def _answer_ids(self, answer: str) -> list[int]:
        ids = self._ids(answer)
        return [*ids, self._eos] if self._score_eos or not ids else ids

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids
        return ids

    def _padded(self, rows: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        """Return ids and mask, int64 [rows, longest]."""
        ids, mask = padded(rows, self._pad), padded([[1] * len(row) for row in rows], 0)
        return ids.to(self._model.device), mask.to(self._model.device)
