"""What a run is to do, settled and checked before anything heavy is imported."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xxhash

from pipeline_steps.errors import InvalidCut, ModelError
from pipeline_steps.stores.selection import Selection
from train.held_out import HeldOutLosses, HeldOutRows
from train.objectives import Objective, make_objective
from train.replay import Replay
from train.run_directory import FREE
from train.staging import stage
from train.token_budget import TokenBudget
from train.token_store import TokenStore
from train.training_plan import Amount


def _option(default: Any, help: str) -> Any:
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata={"help": help})
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class PretrainArguments:
    """Everything that can be said to `train.pretrain`."""

    tokens: str = field(metadata={"help": "folder of the token store, written by winnow tokenize"})
    run_dir: str = field(metadata={"help": "everything this run writes; continued if it exists"})
    total_tokens: int = field(
        metadata={
            "help": "encoder positions to train on: samples x input_length, exactly; the last batch may be smaller"
        }
    )
    selection: str | None = _option(None, "selection file of this corpus; all documents if not given")
    preset: str = _option(
        "t5-tiny",
        "architecture: t5-{tiny,small,base,large,xl}, t5-v1_1-{tiny,small,base,large,xl}: span corruption; "
        "llama-{tiny,60m,130m,350m}: next token",
    )
    batch_size: int = _option(16, "rows per step, over all processes")
    micro_batch_size: int = _option(0, "rows in one forward pass of a process; 0: all of its share of the batch")
    input_length: int = _option(128, "encoder positions of a row; the paper: 512")
    optimizer: Literal["adafactor", "adamw"] = _option("adafactor", "T5's, or AdamW with LLaMA's settings")
    learning_rate: float | None = _option(
        None, "the highest; if not given, adafactor: T5's 1 / sqrt(warmup_steps), relative to the weights; adamw: 6e-4"
    )
    warmup_steps: int = _option(10_000, "k in T5's learning rate 1 / sqrt(max(step, k)); of adamw: steps of its rise")
    max_grad_norm: float = _option(0.0, "gradients are scaled down to this norm; 0: never, as T5")
    mixed_precision: Literal["no", "bf16"] | None = _option(None, "if not given, what accelerate was launched with")
    compile: bool = _option(False, "torch.compile the layers")
    shard: bool = _option(False, "FSDP2: cut weights, gradients and optimizer state among processes")
    checkpoints: int = _option(5, "checkpoints to keep, evenly spaced, the last step included")
    milestones: list[int] = _option(
        [], "steps whose checkpoints are kept too; the paper: 20000 100000 300000 500000 700000"
    )
    save_every: int = _option(0, "steps between additional checkpoints, to resume from; 0: none")
    keep_last: int = _option(1, "how many of the newest checkpoints stay, beside those to keep")
    log_every: int = _option(10, "steps between rows of metrics.jsonl")
    held_out: list[str] = _option([], "NAME=FOLDER of token stores whose perplexity is measured along the way")
    eval_every: int = _option(0, "steps between these measurements; 0: at kept checkpoints only")
    eval_windows: int = _option(256, "windows of each that are measured, evenly spaced")
    report_to: str = _option("tensorboard", "one of accelerate's trackers (wandb, mlflow, ...), all, or none")
    stage_to: str | None = _option(None, "local folder the token store is copied to first, if it is on a network")
    seed: int = _option(0, "order of windows, masks, dropout")
    init_seed: int = _option(0, "initial weights")

    def __post_init__(self) -> None:
        least = dict.fromkeys(("checkpoints", "log_every", "warmup_steps", "keep_last"), 1)
        least |= dict.fromkeys(("save_every", "seed", "micro_batch_size", "max_grad_norm", "eval_every"), 0)
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                raise InvalidCut(f"{name} must be at least {lowest}, not {getattr(self, name)}")
        if any("=" not in one for one in self.held_out):
            raise InvalidCut(f"held_out must be NAME=FOLDER, not {' '.join(self.held_out)}")

    @property
    def precision(self) -> str:
        """Of the matrix products: what was asked for here, or what accelerate was launched with."""
        return self.mixed_precision or os.environ.get("ACCELERATE_MIXED_PRECISION", "no")


def kept_steps(arguments: PretrainArguments, budget: TokenBudget) -> list[int]:
    """Steps whose checkpoints stay: an even grid, and the milestones that the run reaches."""
    milestones = [step for step in arguments.milestones if 0 < step <= budget.steps]
    return sorted({*budget.grid(arguments.checkpoints), *milestones})


@dataclass(frozen=True, eq=False)
class Plan:
    """A run, resolved.

    Attributes:
        arguments: as given.
        budget: its length.
        store: the corpus.
        replay: order of the windows.
        objective: how a window becomes a row.
        resolved: all that decides the outcome, as JSON types; another one is refused in the same run directory.
    """

    arguments: PretrainArguments
    budget: TokenBudget
    store: TokenStore
    replay: Replay
    objective: Objective
    resolved: dict[str, Any]

    @classmethod
    def make(cls, arguments: PretrainArguments) -> Plan:
        """Open the inputs and check that they fit together; raises what its parts raise."""
        budget = TokenBudget(arguments.total_tokens, arguments.batch_size, arguments.input_length)
        if arguments.precision not in ("no", "bf16"):
            raise ModelError(f"T5 diverges in {arguments.precision}: launch with --mixed_precision bf16 or no")
        store = stage(arguments.tokens, arguments.stage_to)
        objective = make_objective(
            arguments.preset, arguments.input_length, store.vocab_size, store.sentinels, store.eos
        )
        selection = Selection.load(arguments.selection) if arguments.selection else None
        replay = Replay(store, selection, objective.raw_length, arguments.seed)
        resolved = {name: value for name, value in asdict(arguments).items() if name not in FREE} | {
            "mixed_precision": arguments.precision,
            "corpus_digest": store.corpus_digest,
            "corpus_documents": store.documents,
            "corpus_tokens": store.tokens,
            "selection_digest": selection and xxhash.xxh3_128_hexdigest(np.packbits(selection.mask).tobytes()),
            "selected_documents": replay.documents,
            "selected_tokens": replay.tokens,
            "cut": selection and selection.cut,
            "tokenizer_sha256": store.tokenizer_sha256,
            "vocab_size": store.vocab_size,
            "steps": budget.steps,
            "windows": replay.windows,
        }
        return cls(arguments, budget, store, replay, objective, resolved)

    @property
    def run_dir(self) -> Path:
        """Where the run writes."""
        return Path(self.arguments.run_dir)

    @property
    def tokenizer(self) -> Path:
        """Folder of the corpus's tokenizer."""
        return self.store.tokenizer

    @property
    def padded(self) -> bool:
        """Rows are full."""
        return False

    @property
    def grid(self) -> list[int]:
        """Steps whose checkpoints are kept."""
        return kept_steps(self.arguments, self.budget)

    @property
    def hashes(self) -> dict[str, str]:
        """Digests of what a checkpoint may be continued with."""
        configuration = {
            name: value for name, value in self.resolved.items() if not name.endswith(("digest", "sha256"))
        }
        return {
            "config": xxhash.xxh3_128_hexdigest(json.dumps(configuration, sort_keys=True).encode()),
            "corpus": self.store.corpus_digest,
            "selection": self.resolved["selection_digest"] or "all documents",
            "tokenizer": self.store.tokenizer_sha256,
        }

    def initial_model(self) -> Any:
        """With weights that depend on the preset and `init_seed` alone."""
        from train.model import build_model

        return build_model(self.arguments.preset, self.store.vocab_size, self.arguments.init_seed, self.store.eos)

    def learning_rate(self, step: int) -> float:
        """By `train.optimizers.learning_rate`."""
        from train.optimizers import learning_rate

        arguments = self.arguments
        return learning_rate(step, arguments.optimizer, arguments.warmup_steps, arguments.learning_rate)

    def rows(self, sample_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets of samples, int32 [B, I] and [B, T], all of them full."""
        return self.objective.rows(self.replay.batch(sample_B), sample_B, self.arguments.seed)

    def amount(self, first: int, last: int) -> Amount:
        """What samples `first` to `last` - 1 hold."""
        samples = last - first
        return Amount(samples, samples * self.arguments.input_length, samples * self.objective.target_length)

    def open_measurements(self) -> HeldOutLosses:
        """Perplexity of the held-out splits."""
        arguments = self.arguments
        shape = (arguments.preset, arguments.input_length, arguments.eval_windows, arguments.seed)
        folders = dict(one.split("=", 1) for one in arguments.held_out)
        splits = {
            name: HeldOutRows.open(folder, *shape, self.store.tokenizer_sha256) for name, folder in folders.items()
        }
        return HeldOutLosses(splits, arguments.micro_batch_size, arguments.batch_size)

    def state(self, step: int) -> dict[str, Any]:
        """What a checkpoint says of itself."""
        names = ("preset", "seed", "init_seed", "selected_documents", "corpus_documents", "selected_tokens", "cut")
        return self.counts(step) | {name: self.resolved[name] for name in names} | {"hashes": self.hashes}

    def counts(self, step: int) -> dict[str, int | float]:
        """What has been seen after a step: samples, tokens by kind, repetitions of the selection."""
        samples = self.budget.samples_after(step)
        return {
            "step": step,
            "samples": samples,
            "encoder_tokens": samples * self.arguments.input_length,
            "raw_tokens": samples * self.objective.raw_length,
            "target_tokens": samples * self.objective.target_length,
            "epoch": self.replay.epoch(samples),
        }
