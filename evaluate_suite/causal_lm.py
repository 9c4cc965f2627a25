"""A decoder-only model for lm-eval: `lm_eval.simple_evaluate(model=CausalLM("Qwen/Qwen3-0.6B-Base"), tasks=["mmlu"])`.

Numbers are those of lm-eval's own model for transformers, `hf`, which runs the exemplars of a task anew for every
question and the output layer for every token. Here a beginning that prompts share is run once, the answers of a
question stand behind its prompt in one row (`evaluate_suite.shared_prompts`), and the output layer runs where it is
read. Models for which that is not exact take the plain way: one row for each answer.

Prompts that are too long lose whole exemplars, where lm-eval cuts the first tokens off.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from datatrove.utils.logging import logger
from lm_eval.api.instance import Instance
from lm_eval.models.utils import resolve_max_length
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel, StoppingCriteria

from evaluate_suite.checkpoint import is_causal
from evaluate_suite.pair_encoder import PairEncoder
from evaluate_suite.prompted_lm import PromptedLM, greedy_settings, until
from evaluate_suite.row_reader import RowReader
from evaluate_suite.shared_prompts import (
    Group,
    Pair,
    PromptRow,
    batches,
    by_prompt,
    group_by_beginning,
    plain_rows,
    tree_row,
)
from pipeline_steps.engines.models import (
    batches_by_length,
    load_tokenizer,
    load_weights,
    model_identity,
    pick_device,
    pick_dtype,
)
from pipeline_steps.errors import ModelError
from train.checkpoints import load_checkpoint


_BATCH_TOKENS = {"cpu": 2048}  # tokens of a batch, the shared ones counted in each row
_BATCH_TOKENS_ELSEWHERE = 16_384
_PASS_TOKENS = {"cpu": 32}  # tokens that take as long as a forward pass of its own
_PASS_TOKENS_ELSEWHERE = 1024
_LOGITS = {"cpu": 2**25}  # logits that exist at a time, in float32: 134 MB
_LOGITS_ELSEWHERE = 2**28  # 1 GB
_TEST_TOKENS = 512  # of the test whether prompts can be shared: local attention of GPT-Neo, 256, would show
_TEST_SHARED = 480
_TOLERANCE = {torch.float32: 1e-3}  # nats a token in that test; other masks or positions are off by more
_TOLERANCE_ELSEWHERE = 0.25  # bfloat16 has 8 bits: logits near 32 are rounded by 0.125


class CausalLM(PromptedLM):
    """A decoder-only model of transformers behind lm-eval's interface.

    Args:
        pretrained: Hub id or folder, a checkpoint of `train` too; or a model.
        tokenizer: Hub id or folder, or a tokenizer; the one of `pretrained` unless given.
        max_input: tokens of a prompt, and of a window of rolling log-likelihoods; less where the model has fewer
            positions. A question that is longer loses its beginning.
        score_eos: see `PromptedLM`, as for the attributes.
        batch_tokens: tokens of a batch; by device unless given.
        device: "auto" takes a GPU if there is one.
        dtype: "auto" is bfloat16 on a GPU, float32 on a CPU; a model that is given stays as it is.
        revision: of a Hub id.

    Raises:
        ModelError: the model is not decoder-only or cannot be loaded, or its tokenizer has neither BOS nor EOS.
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
            pretrained = load_causal(pretrained, revision, pick_dtype(dtype, where))
        tokenizer = load_tokenizer(tokenizer) if isinstance(tokenizer, str) else tokenizer
        super().__init__(tokenizer, max_input, score_eos)
        self._model = pretrained.to(where).eval()
        self._reader = RowReader(self._model)
        self._positions: int = resolve_max_length(self._model.config, tokenizer)
        kind = self._model.device.type
        self._batch_tokens = batch_tokens or _BATCH_TOKENS.get(kind, _BATCH_TOKENS_ELSEWHERE)
        self._pass_tokens = _PASS_TOKENS.get(kind, _PASS_TOKENS_ELSEWHERE)
        self._vocabulary = int(self._model.config.get_text_config().vocab_size)
        self._most_reads = max(_LOGITS.get(kind, _LOGITS_ELSEWHERE) // self._vocabulary, 1)
        self._encoder = PairEncoder(tokenizer, score_eos)
        self._lengths: dict[tuple[str, str], int] = {}

    # -- lm-eval's interface ---------------------------------------------------------------------------------------

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return the log-probability (nats) of each answer after its prompt, and whether greedy decoding says it.

        Raises:
            ModelError: an answer has no token of its own, or is longer than the model's positions; names it.
        """
        pairs = self._pairs(requests)
        self._lengths = {request.args: len(answer) for request, (_, answer) in zip(requests, pairs, strict=True)}
        prompts = by_prompt(pairs)
        groups = [Group(0, list(range(len(prompts))))]
        if self._shares_prompts:
            groups = group_by_beginning(list(prompts), self._pass_tokens)
        with self._bar(len(pairs), "answers", disable_tqdm) as bar:
            return self._scores(pairs, groups, self._shares_prompts, bar)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Return the log-probability (nats) of each text, in windows that follow each other as in lm-eval."""
        windows, owners = list[Pair](), list[int]()
        longest = min(self._max_input, self._positions)
        for number, ids in enumerate(self._encoder.encode([request.args[0] for request in requests])):
            for window in get_rolling_token_windows(ids, self._encoder.start, longest, 1):
                windows.append(make_disjoint_window(window))
                owners.append(number)
        total = [0.0] * len(requests)
        groups = [Group(0, list(range(len(by_prompt(windows)))))]
        with self._bar(len(windows), "windows", disable_tqdm) as bar:
            for owner, (score, _) in zip(owners, self._scores(windows, groups, False, bar), strict=True):
                total[owner] += score
        return total

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Return what greedy decoding says, up to the first of the task's stop strings or EOS.

        Raises:
            ModelError: a task asks for sampling, or for more tokens than the model has positions.
        """
        settings = [greedy_settings(request) for request in requests]
        prompts = [self._prompt_ids(request, most) for request, (most, _) in zip(requests, settings, strict=True)]
        by_ids = by_prompt([(prompt, ()) for prompt in prompts])
        distinct, numbers_of = list(by_ids), list(by_ids.values())
        if self._shares_prompts:
            groups = group_by_beginning(distinct, self._pass_tokens)
        else:  # rows of equal length need no padding, which some models would attend to
            lengths = sorted({len(prompt) for prompt in distinct})
            groups = [Group(0, [n for n, prompt in enumerate(distinct) if len(prompt) == one]) for one in lengths]
        found = [""] * len(requests)
        with self._bar(len(requests), "prompts", disable_tqdm) as bar:
            for group in groups:
                numbers = [number for member in group.members for number in numbers_of[member]]
                beginning = self._reader.beginning(prompts[numbers[0]][: group.shared])
                totals = [len(prompts[number]) + settings[number][0] for number in numbers]
                for batch in batches_by_length(totals, self._batch_tokens):
                    some = [numbers[row] for row in batch]
                    texts = self._generate([prompts[n] for n in some], beginning, [settings[n] for n in some])
                    for number, text in zip(some, texts, strict=True):
                        found[number] = text
                    bar.update(len(some))
        return found

    def answer_length(self, request: Instance) -> int:
        """Return how many tokens of a request's answer are scored."""
        known = self._lengths.get(request.args)
        return len(self._encoder.pairs(request.args[0], [request])[0][1]) if known is None else known

    # -- texts to ids ----------------------------------------------------------------------------------------------

    def _pairs(self, requests: Sequence[Instance]) -> list[Pair]:
        """Return prompt and answer of each request; prompts that are too long lose exemplars."""
        by_text: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            by_text.setdefault(request.args[0], []).append(number)
        pairs: list[Pair] = [((), ())] * len(requests)
        for prompt, numbers in by_text.items():
            some = [requests[number] for number in numbers]
            found = self._encoder.pairs(prompt, some)
            most = self._most_input(max(len(answer) for _, answer in found) - 1, some[0])  # the last id is not run
            if len(found[0][0]) > most:
                shorter = self._shortened(some[0], lambda text: len(self._encoder.encode([text.rstrip()])[0]) <= most)  # noqa: B023
                found = [(ids[-most:], answer) for ids, answer in self._encoder.pairs(shorter, some)]
            for number, pair in zip(numbers, found, strict=True):
                pairs[number] = pair
        return pairs

    def _prompt_ids(self, request: Instance, answer: int) -> list[int]:
        """Return the ids of a prompt that so many tokens are to follow."""
        most = self._most_input(answer, request)
        (ids,) = self._encoder.encode([request.args[0]])
        if len(ids) > most:
            (ids,) = self._encoder.encode(
                [self._shortened(request, lambda text: len(self._encoder.encode([text])[0]) <= most)]
            )
        return ids[-most:] or [self._encoder.start]

    def _most_input(self, answer: int, request: Instance) -> int:
        """Return how long a prompt may be that so many tokens are to follow."""
        most = min(self._max_input, self._positions - answer)
        if most < 1:
            raise ModelError(
                f"{request.task_name or 'a task'}, document {request.doc_id}: an answer of {answer} tokens leaves no "
                f"room for a prompt, as the model has {self._positions} positions"
            )
        return most

    # -- ids to log-probabilities ----------------------------------------------------------------------------------

    def _scores(self, pairs: Sequence[Pair], groups: list[Group], share: bool, bar: Any) -> list[tuple[float, bool]]:
        """Return the log-probability of each pair's answer and whether each id of it is the most probable one.

        Args:
            pairs: what to score.
            groups: of their distinct prompts, in order.
            share: run rows behind shared beginnings; without it all prompts are one group that shares nothing.
            bar: progress bar.
        """
        if not pairs:  # an empty text has no window
            return []
        prompts = list(by_prompt(pairs).items())
        scores, greedy = [0.0] * len(pairs), [True] * len(pairs)
        for group in groups:
            beginning = self._reader.beginning(prompts[group.members[0]][0][: group.shared])
            rows = list[PromptRow]()
            for prompt, numbers in (prompts[member] for member in group.members):
                if share:
                    rows.append(tree_row(prompt, group.shared, pairs, numbers))
                else:
                    rows += plain_rows(prompt, pairs, numbers)
            for batch in batches(rows, group.shared, self._batch_tokens, self._most_reads):
                read = zip(*self._reader.read(batch, beginning, share), strict=True)
                numbers = [number for row in batch for _, _, number in row.reads]
                for number, (value, is_most_probable) in zip(numbers, read, strict=True):
                    scores[number] += value
                    greedy[number] &= is_most_probable
                bar.update(len(set(numbers)))
        return list(zip(scores, greedy, strict=True))

    # -- generated answers -----------------------------------------------------------------------------------------

    @torch.inference_mode()
    def _generate(
        self, prompts: list[list[int]], beginning: DynamicCache | None, settings: list[tuple[int, list[str]]]
    ) -> list[str]:
        """Return the answers to prompts of one beginning. Padding stands behind that, before the rest of a prompt."""
        shared, longest = beginning.get_seq_length() if beginning else 0, max(map(len, prompts))
        ends = self._model.generation_config.eos_token_id
        ends = {*(ends if isinstance(ends, list) else [ends]), self._encoder.eos} - {None}
        pad = min(ends, default=0)
        gaps = [longest - len(prompt) for prompt in prompts]
        rows = [[*one[:shared], *[pad] * gap, *one[shared:]] for one, gap in zip(prompts, gaps, strict=True)]
        mask = [[*[1] * shared, *[0] * gap, *[1] * (longest - shared - gap)] for gap in gaps]
        stops = [stops for _, stops in settings]
        said = self._model.generate(
            input_ids=torch.tensor(rows, device=self._model.device),
            attention_mask=torch.tensor(mask, device=self._model.device),
            past_key_values=self._reader.cache_of_rows(beginning, len(rows)) if beginning else None,
            max_new_tokens=max(most for most, _ in settings),
            do_sample=False,
            num_beams=1,
            pad_token_id=pad,
            eos_token_id=sorted(ends) or None,
            stopping_criteria=[_StopStrings(self._tokenizer, stops, longest)] if any(stops) else None,
        )[:, longest:].tolist()
        texts = []
        for ids, (most, some) in zip(said, settings, strict=True):
            end = next((place for place, one in enumerate(ids[:most]) if one in ends), most)
            texts.append(until(self._tokenizer.decode(ids[:end], skip_special_tokens=True), some))
        return texts

    # -- whether prompts can be shared -----------------------------------------------------------------------------

    @cached_property
    def _shares_prompts(self) -> bool:
        """Return whether rows behind a shared beginning are exact for this model; a warning says why not."""
        reason = self._reader.unsuitable() or self._tested()
        if reason:
            name = self._model.name_or_path or self._model.config.model_type
            logger.warning(f"{name}: {reason}, so that every answer is run with its whole prompt, which is slower")
        return not reason

    @torch.inference_mode()
    def _tested(self) -> str:
        """Return "" if rows behind a shared beginning score some requests as whole texts do, else what is wrong."""
        length = min(_TEST_TOKENS, self._positions - 3)
        ids = [(7 * n * n + 3 * n + 11) % self._vocabulary for n in range(length + 7)]  # any
        prompts = [tuple(ids[:length]), tuple(ids[: length - 9] + ids[-7:])]
        answers = [ids[:1], ids[3:6], ids[4:6]]
        pairs: list[Pair] = [(prompt, answer) for prompt in prompts for answer in answers]
        groups = [Group(min(_TEST_SHARED, length - 10), [0, 1])]
        found = self._scores(pairs, groups, True, self._bar(0, "", True))
        for (prompt, answer), (score, _) in zip(pairs, found, strict=True):
            text = torch.tensor([[*prompt, *answer[:-1]]], device=self._model.device)
            logits = self._model(input_ids=text, use_cache=False).logits[0, len(prompt) - 1 :].float().log_softmax(-1)
            expected = logits[range(len(answer)), answer].sum().item()
            if abs(score - expected) > len(answer) * _TOLERANCE.get(self._model.dtype, _TOLERANCE_ELSEWHERE):
                return f"rows behind a shared prompt are off by {abs(score - expected):.3g} nats"
        return ""


def load_causal(model: str, revision: str | None, dtype: torch.dtype) -> PreTrainedModel:
    """Load the decoder-only model of a checkpoint of `train`, a folder of transformers' or the Hub.

    Raises:
        ModelError: it is not decoder-only, or it cannot be loaded.
    """
    model_identity(model, revision)  # says in one sentence what is wrong with a name
    if not is_causal(model, revision):
        raise ModelError(f"{model} is an encoder-decoder: use EncoderDecoderLM")
    if (Path(model) / "state.json").exists():
        return load_checkpoint(Path(model))[0].to(dtype)
    return load_weights(AutoModelForCausalLM, model, revision, dtype=dtype)


class _StopStrings(StoppingCriteria):
    """Ends a row when one of its strings is in the text behind its prompt."""

    def __init__(self, tokenizer: Any, stops: list[list[str]], prompt: int) -> None:
        self._tokenizer, self._stops, self._prompt = tokenizer, stops, prompt
        longest = max(len(stop.encode()) for some in stops for stop in some)
        self._tail = longest + 4  # a token has a byte at least; decoders drop a space at the beginning

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        tails = input_ids[:, max(self._prompt, input_ids.shape[1] - self._tail) :]
        texts = self._tokenizer.batch_decode(tails, skip_special_tokens=True)
        ended = [any(stop in text for stop in some) for text, some in zip(texts, self._stops, strict=True)]
        return torch.tensor(ended, device=input_ids.device)
