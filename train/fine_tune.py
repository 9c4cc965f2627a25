"""Fine-tune a T5 on examples, as Raffel et al. 2020 (Sec. 3.1.2) do: all tasks of a suite together, in proportion to
their size, at a constant learning rate.

The loop is that of pre-training: the same checkpoints, resumed to the bit. Which examples, and what is measured along
the way, is for the caller to say.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xxhash

from pipeline_steps.engines.models import model_identity
from pipeline_steps.errors import InvalidCut, ModelError
from train.example_store import ExampleStore
from train.token_budget import TokenBudget
from train.training_plan import Amount, Measurements


# Raffel et al. 2020, Sec. 3.1.2: 2^18 steps of 128 rows of 512 tokens, at 1e-3, a checkpoint every 5,000 steps. Here a
# row is one example; T5's loader can put several short ones into one
PAPER = {"steps": 262_144, "batch_size": 128, "eval_every": 5_000, "eval_rows": 0}
BUDGETS: dict[str, dict[str, int]] = {
    "paper": PAPER,
    "small": {"steps": 5_000, "batch_size": 128, "eval_every": 1_000, "eval_rows": 1_000},  # ours: an hour of one GPU
    "smoke": {"steps": 20, "batch_size": 8, "eval_every": 10, "eval_rows": 32},  # ours: does it run?
}


def _option(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class FineTuneArguments:
    """How a model is fine-tuned; on what is up to the caller."""

    model: str = field(metadata={"help": "checkpoint of train.pretrain, or Hub id or folder of a T5"})
    run_dir: str = field(metadata={"help": "everything this run writes; continued if it exists"})
    budget: Literal["paper", "small", "smoke"] = _option(
        "paper", "sets what is not given of steps, batch_size, eval_every, eval_rows; T5's, an hour's, a minute's"
    )
    steps: int | None = _option(None, "of the optimizer; by budget: 262144, 5000, 20")
    batch_size: int | None = _option(None, "examples of a step, over all processes; by budget: 128, 128, 8")
    eval_every: int | None = _option(None, "steps between checkpoints that are measured; by budget: 5000, 1000, 10")
    eval_rows: int | None = _option(
        None, "examples of a task that are measured, evenly spaced, 0: all; by budget: 0, 1000, 32"
    )
    micro_batch_size: int = _option(0, "examples in one forward pass of a process; 0: all of its share of the batch")
    input_length: int | None = _option(None, "tokens of an input, EOS included; what is longer loses its end")
    target_length: int | None = _option(None, "tokens of a target")
    learning_rate: float = _option(1e-3, "constant, relative to the size of the weights (Adafactor)")
    dropout: float = _option(0.1, "in fine-tuning (Raffel et al. 2020, Sec. 3.1.2)")
    checkpoints: int | None = _option(None, "checkpoints to keep, evenly spaced; by default the last step's alone")
    keep_last: int = _option(1, "how many of the newest stay, beside those to keep")
    mixed_precision: Literal["no", "bf16"] | None = _option(None, "if not given, what accelerate was launched with")
    log_every: int = _option(100, "steps between rows of metrics.jsonl")
    report_to: str = _option("none", "one of accelerate's trackers (tensorboard, wandb, ...), all, or none")
    seed: int = _option(0, "order of examples, dropout")

    def __post_init__(self) -> None:
        for name, value in (BUDGETS[self.budget] | {"checkpoints": 1}).items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        least = dict.fromkeys(("steps", "batch_size", "eval_every", "checkpoints", "keep_last", "log_every"), 1)
        for name, lowest in (least | dict.fromkeys(("eval_rows", "micro_batch_size", "seed"), 0)).items():
            if getattr(self, name) < lowest:
                raise InvalidCut(f"{name} must be at least {lowest}, not {getattr(self, name)}")
        if not 0 <= self.dropout < 1 or self.learning_rate <= 0:
            raise InvalidCut(f"dropout {self.dropout} must be in [0, 1), learning_rate {self.learning_rate} above 0")

    # What the loop asks for beside these
    optimizer = "adafactor"
    max_grad_norm = 0.0
    compile = shard = False

    @property
    def save_every(self) -> int:
        """A checkpoint with every measurement."""
        return self.eval_every or 0

    @property
    def precision(self) -> str:
        """Of the matrix products: what was asked for here, or what accelerate was launched with."""
        return self.mixed_precision or os.environ.get("ACCELERATE_MIXED_PRECISION", "no")


# What may differ between two starts of a run: where things are, and how fast or how often they are done.
_FREE = {
    "model",
    "run_dir",
    "micro_batch_size",
    "checkpoints",
    "keep_last",
    "log_every",
    "report_to",
    "budget",
    "data_root",
}


@dataclass(frozen=True, eq=False)
class FineTunePlan:
    """A run, resolved.

    Attributes:
        arguments: as given.
        examples: what is shown.
        tokenizer: folder of the model's tokenizer.
        measurements: makes what is measured along the way.
        told: what the caller wants to find in the run's files: suite, tasks, data.
    """

    arguments: FineTuneArguments
    examples: ExampleStore
    tokenizer: Path
    measurements: Callable[[], Measurements]
    told: dict[str, Any]

    padded = True

    def __post_init__(self) -> None:
        if self.arguments.precision not in ("no", "bf16"):
            raise ModelError(f"T5 diverges in {self.arguments.precision}: launch with --mixed_precision bf16 or no")

    @property
    def run_dir(self) -> Path:
        """Where the run writes."""
        return Path(self.arguments.run_dir)

    @property
    def budget(self) -> TokenBudget:
        """Its length, an example counted as one token."""
        steps, batch = self.arguments.steps or 0, self.arguments.batch_size or 0
        return TokenBudget(steps * batch, batch, 1)

    @property
    def grid(self) -> list[int]:
        """Steps whose checkpoints are kept."""
        return self.budget.grid(self.arguments.checkpoints or 1)

    @property
    def resolved(self) -> dict[str, Any]:
        """All that decides the outcome."""
        given = {name: value for name, value in asdict(self.arguments).items() if name not in _FREE}
        return (
            given
            | self.told
            | {
                "model": model_identity(self.arguments.model),
                "mixed_precision": self.arguments.precision,
                "examples": len(self.examples),
                "examples_digest": self.examples.digest,
                "made": self.examples.made,
            }
        )

    @property
    def hashes(self) -> dict[str, str]:
        """Digests of what a checkpoint may be continued with."""
        configuration = json.dumps(self.resolved, sort_keys=True).encode()
        return {"config": xxhash.xxh3_128_hexdigest(configuration)}

    def initial_model(self) -> Any:
        """The model that is fine-tuned, with dropout."""
        from train.checkpoints import load_pretrained
        from train.dropout import set_dropout

        model = load_pretrained(self.arguments.model)
        set_dropout(model, self.arguments.dropout)
        return model

    def learning_rate(self, step: int) -> float:
        """Constant."""
        return self.arguments.learning_rate

    def rows(self, sample_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets of samples, int32, padded to the longest."""
        return self.examples.rows(self.examples.shown(sample_B, self.arguments.seed))

    def amount(self, first: int, last: int) -> Amount:
        """What samples `first` to `last` - 1 hold."""
        shown = self.examples.shown(np.arange(first, last), self.arguments.seed)
        return Amount(last - first, *self.examples.lengths(shown))

    def open_measurements(self) -> Measurements:
        """What is measured along the way."""
        return self.measurements()

    def counts(self, step: int) -> dict[str, int | float]:
        """What has been seen after a step."""
        samples = self.budget.samples_after(step)
        return {"step": step, "samples": samples, "epoch": samples / len(self.examples)}

    def state(self, step: int) -> dict[str, Any]:
        """What a checkpoint says of itself."""
        return self.counts(step) | self.told | {"seed": self.arguments.seed, "hashes": self.hashes}
