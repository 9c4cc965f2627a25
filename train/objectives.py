"""What a model learns from a window of raw tokens: the choice goes with its architecture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pipeline_steps.errors import ModelError
from train.span_corruption import SpanCorruption


class Objective(Protocol):
    """Windows [B, L] of raw tokens to inputs [B, I] and targets [B, T], all of them full."""

    @property
    def input_length(self) -> int:
        """I: positions that count for the budget."""

    @property
    def raw_length(self) -> int:
        """L."""

    @property
    def target_length(self) -> int:
        """T."""

    def rows(self, raw_BL: np.ndarray, sample_B: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets int32, a function of the window, the sample's index and the seed."""


@dataclass(frozen=True)
class NextToken:
    """Causal language modelling: every token of the window from those before it.

    The first input is EOS, which every window of a stream of documents may follow; so L = I = T, and each raw token
    is a target exactly once. A model that is to end its texts needs a store whose documents end in EOS.
    """

    input_length: int
    eos: int

    @property
    def raw_length(self) -> int:
        """L."""
        return self.input_length

    @property
    def target_length(self) -> int:
        """T."""
        return self.input_length

    def rows(self, raw_BL: np.ndarray, sample_B: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets int32 [B, L]; nothing is random."""
        inputs = np.empty_like(raw_BL)
        inputs[:, 0] = self.eos
        inputs[:, 1:] = raw_BL[:, :-1]
        return inputs, raw_BL


def make_objective(preset: str, input_length: int, vocab_size: int, sentinels: int, eos: int) -> Objective:
    """Span corruption for a T5, the next token for a Llama.

    Raises:
        ModelError: the corpus was tokenised for the other kind of model.
        InvalidCut: rows of this length cannot be corrupted.
    """
    if preset.startswith("llama"):
        return NextToken(input_length, eos)
    if sentinels == 0:
        raise ModelError(f"{preset} needs sentinels, of which the corpus's tokenizer has none: use a T5 tokenizer")
    return SpanCorruption(input_length, vocab_size - 1, sentinels, eos)
