"""What the models for lm-eval share: prompts that lose whole exemplars, and the settings of generated answers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.models.utils import normalize_gen_kwargs
from tqdm import tqdm

from pipeline_steps.errors import ModelError


_BETWEEN_EXEMPLARS = "\n\n"  # lm-eval's fewshot_delimiter
_MAX_NEW_TOKENS = 256  # lm-eval's default, for tasks that set no limit


class PromptedLM(LM):
    """A model behind lm-eval's interface whose prompts lose whole exemplars where they are too long.

    Args:
        tokenizer: tokenizer of the model.
        max_input: tokens of a prompt.
        score_eos: count the end of an answer as part of it, as decoding does; lm-eval's own models do not, so that an
            answer that begins another is favoured.

    Attributes:
        frame: function of a request that returns the instruction before the exemplars and the question after them;
            who knows the task sets it. Without it, the last paragraph is taken for the question.
        shortened: prompts that lost exemplars.
        cut: prompts whose instruction and question alone were too long.
    """

    def __init__(self, tokenizer: Any, max_input: int, score_eos: bool) -> None:
        super().__init__()
        self._tokenizer, self._max_input, self._score_eos = tokenizer, max_input, score_eos
        self.frame: Callable[[Instance], tuple[str, str]] = lambda request: ("", "")
        self.shortened = self.cut = 0

    @property
    def tokenizer_name(self) -> str:
        """Return the name of the tokenizer, for lm-eval's caches."""
        return str(self._tokenizer.name_or_path)

    def _shortened(self, request: Instance, fits: Callable[[str], bool]) -> str:
        """Return a request's prompt without as many of its first exemplars as it takes to fit.

        Where even the question with its instruction does not fit, that is returned and `cut` counts it.
        """
        prompt: str = request.args[0]
        instruction, question = self.frame(request)
        between = prompt.removeprefix(instruction).removesuffix(question)
        if not question or instruction + between + question != prompt:
            instruction, (between, _, question) = "", prompt.rpartition(_BETWEEN_EXEMPLARS)
            between += _BETWEEN_EXEMPLARS if between else ""
        exemplars = between.split(_BETWEEN_EXEMPLARS)[:-1]
        for first in range(len(exemplars) + 1):
            text = instruction + "".join(one + _BETWEEN_EXEMPLARS for one in exemplars[first:]) + question
            if fits(text):
                self.shortened += first > 0
                return text
        self.cut += 1
        return text

    def _bar(self, total: int, unit: str, disable: bool) -> Any:
        return tqdm(total=total, unit=unit, disable=disable or not sys.stderr.isatty())


def greedy_settings(request: Instance) -> tuple[int, list[str]]:
    """Return the most tokens that a request's answer may have, and the strings that end it.

    Raises:
        ModelError: the task asks for sampling.
    """
    settings = normalize_gen_kwargs(request.args[1], _MAX_NEW_TOKENS)
    if settings["do_sample"]:
        raise ModelError(
            f"{request.task_name or 'a task'} asks for sampled answers, which are not repeatable: set do_sample to "
            "false in its generation_kwargs"
        )
    return settings["max_gen_toks"], [stop for stop in settings["until"] if stop]


def until(text: str, stops: Sequence[str]) -> str:
    """Return the text before the first stop string in it."""
    for stop in stops:
        text = text.split(stop)[0]
    return text
