"""What the training loop asks of a plan: that of pre-training, and that of fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from train.token_budget import TokenBudget


@dataclass(frozen=True)
class Amount:
    """What some samples hold: how many they are, encoder positions and targets that count."""

    samples: int = 0
    encoder_tokens: int = 0
    target_tokens: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(
            self.samples + other.samples,
            self.encoder_tokens + other.encoder_tokens,
            self.target_tokens + other.target_tokens,
        )


class TrainingPlan(Protocol):
    """A run, resolved: everything is a function of the step or of a sample's number."""

    @property
    def arguments(self) -> Any:
        """Batch, precision, optimizer, seed, when to log and save: a dataclass."""

    @property
    def budget(self) -> TokenBudget:
        """Its length."""

    @property
    def run_dir(self) -> Path:
        """Where the run writes."""

    @property
    def resolved(self) -> dict[str, Any]:
        """All that decides the outcome, as JSON types."""

    @property
    def hashes(self) -> dict[str, str]:
        """Digests of what a checkpoint may be continued with."""

    @property
    def grid(self) -> list[int]:
        """Steps whose checkpoints are kept."""

    @property
    def tokenizer(self) -> Path:
        """Folder of the tokenizer that goes into checkpoints."""

    @property
    def padded(self) -> bool:
        """Whether rows have padding."""

    def initial_model(self) -> Any:
        """The model before the first step."""

    def learning_rate(self, step: int) -> float:
        """Of a step; the first is 1."""

    def rows(self, sample_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets of samples, int32 [B, I] and [B, T]."""

    def amount(self, first: int, last: int) -> Amount:
        """What samples `first` to `last` - 1 hold."""

    def counts(self, step: int) -> dict[str, int | float]:
        """What has been seen after a step."""

    def state(self, step: int) -> dict[str, Any]:
        """What a checkpoint says of itself."""

    def open_measurements(self) -> Measurements:
        """What is measured along the way."""


class Measurements(Protocol):
    """What is measured on held-out data at some checkpoints."""

    def __call__(self, model: Any, accelerator: Any) -> list[dict[str, Any]]:
        """Rows of held_out.jsonl; every process calls it, with the model in evaluation mode."""

    def __bool__(self) -> bool:
        """Whether there is anything to measure."""
