"""The interface between the training loop and a run of pre-training or fine-tuning."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pipeline_steps.errors import InvalidCut, ModelError
from train.presets import Z_LOSS


if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class TokenBudget:
    """A fixed number of encoder positions, whatever a run trains on: samples x input length.

    So the paper counts (Sec. 4.1: 524B = 1M x 1024 x 512). A run ends on the exact sample: where the samples are not a
    whole number of batches, the last batch is smaller.

    Args:
        asked_tokens: encoder positions; they are rounded down to whole samples.
        batch_size: samples of a step.
        input_length: encoder positions of a sample.

    Raises:
        InvalidCut: the tokens are less than one sample.
    """

    asked_tokens: int
    batch_size: int
    input_length: int

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.input_length < 1:
            raise InvalidCut(f"batches of {self.batch_size} x {self.input_length} tokens: both must be positive")
        if self.asked_tokens < self.input_length:
            raise InvalidCut(
                f"{self.asked_tokens} tokens are less than one sample of {self.input_length} positions: ask for at "
                f"least {self.input_length}"
            )

    @property
    def samples(self) -> int:
        """The rows of the whole run."""
        return self.asked_tokens // self.input_length

    @property
    def total_tokens(self) -> int:
        """The encoder positions of all samples."""
        return self.samples * self.input_length

    @property
    def rounding(self) -> str:
        """A sentence that says what was rounded, or "" where the tokens asked for are whole samples."""
        if self.total_tokens == self.asked_tokens:
            return ""
        whole = f"{self.total_tokens:,} = {self.samples:,} x {self.input_length}"
        return f"{self.asked_tokens:,} tokens are rounded down to whole samples: {whole}"

    @property
    def steps(self) -> int:
        """The optimizer's steps; the last may have fewer samples than the others."""
        return -(-self.samples // self.batch_size)

    def samples_after(self, step: int) -> int:
        """Return how many samples the first `step` steps take."""
        return min(step * self.batch_size, self.samples)

    def grid(self, points: int) -> list[int]:
        """Return `points` steps at even distances, the last step among them; fewer if there are fewer steps."""
        return sorted({self.steps * point // points for point in range(1, points + 1)} - {0})


@dataclass(frozen=True)
class Amount:
    """The size of some samples: their number, encoder positions and targets that count."""

    samples: int = 0
    encoder_tokens: int = 0
    target_tokens: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(
            self.samples + other.samples,
            self.encoder_tokens + other.encoder_tokens,
            self.target_tokens + other.target_tokens,
        )


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """The settings of AdamW and Muon; Adafactor has none.

    The defaults are LLaMA's (Touvron et al. 2023, arXiv 2302.13971, Sec. 2.3), and torch's epsilon.

    Attributes:
        adam_beta1: share of the old first moment that stays.
        adam_beta2: share of the old second moment that stays.
        adam_epsilon: what is added to the root of the second moment.
        weight_decay: decoupled, times the learning rate.
        decay_embeddings: whether the tables of token embeddings decay.
        decay_norms: whether norms and biases decay.
        muon_adjust_lr_fn: how Muon scales the learning rate of a matrix; torch.optim.Muon's names.
    """

    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    adam_epsilon: float = 1e-8
    weight_decay: float = 0.1
    decay_embeddings: bool = True
    decay_norms: bool = False
    muon_adjust_lr_fn: str = "match_rms_adamw"


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """The settings of the loop; `train.pretrain --help` explains the fields, which are arguments there."""

    micro_batch_size: int
    seed: int
    precision: str
    log_every: int
    eval_every: int
    save_every: int
    keep_last: int
    report_to: str
    optimizer: str = "adafactor"
    optimizer_settings: OptimizerSettings = OptimizerSettings()
    max_grad_norm: float = 0.0
    z_loss: float = Z_LOSS
    compile: bool = False
    shard: bool = False


def precision_of(asked: str | None) -> str:
    """Return the precision of matrix products that was asked for, or that accelerate was launched with.

    Raises:
        ModelError: accelerate was launched with another precision, such as fp16.
    """
    found = asked or os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if found not in ("no", "bf16"):
        raise ModelError(f"T5 diverges in {found}: launch with --mixed_precision bf16 or no")
    return found


class TrainingPlan(Protocol):
    """A run, resolved: everything is a function of the step or of a sample's number."""

    @property
    def loop(self) -> LoopSettings:
        """The settings of the loop."""

    @property
    def budget(self) -> TokenBudget:
        """The length of the run."""

    @property
    def extent(self) -> str:
        """The amount that the run shows, in words."""

    @property
    def run_dir(self) -> Path:
        """The folder where the run writes."""

    @property
    def resolved(self) -> dict[str, Any]:
        """All that decides the outcome, as JSON types."""

    @property
    def hashes(self) -> dict[str, str]:
        """Digests of what a checkpoint may be continued with."""

    @property
    def grid(self) -> list[int]:
        """The steps whose checkpoints are kept."""

    @property
    def tokenizer(self) -> Path:
        """The folder of the tokenizer that goes into checkpoints."""

    @property
    def padded(self) -> bool:
        """True if rows have padding."""

    @property
    def document_eos(self) -> int | None:
        """The id that each document of a row begins with, where they do not see each other; None where they do."""

    def initial_model(self) -> Any:
        """Make the model before the first step."""

    def branch_point(self) -> Path | None:
        """Return the checkpoint of another run that this one begins with; None if it begins with `initial_model`."""

    def branches(self) -> Iterator[TrainingPlan]:
        """Make the runs that go on from checkpoints of this one, which is finished."""

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step; the first step is 1."""

    def rows(self, sample_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return inputs and targets of samples, int32 [B, I] and [B, T]."""

    def amount(self, first: int, last: int) -> Amount:
        """Return what samples `first` to `last` - 1 hold."""

    def counts(self, step: int) -> dict[str, int | float]:
        """Return what has been seen after a step."""

    def state(self, step: int) -> dict[str, Any]:
        """Return what a checkpoint says of itself."""

    def open_measurements(self) -> Measurements:
        """Open what is measured along the way."""


class Measurements(Protocol):
    """Measurements on held-out data at some checkpoints."""

    def __call__(self, model: Any, accelerator: Any) -> list[dict[str, Any]]:
        """Return rows of held_out.jsonl; every process calls it, with the model in evaluation mode."""

    def __bool__(self) -> bool:
        """Return whether there is anything to measure."""
