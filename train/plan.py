"""What a run is to do, settled and checked before anything heavy is imported."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from pipeline_steps.errors import InvalidCut
from pipeline_steps.selection import Selection
from train.replay import Replay
from train.span_corruption import SpanCorruption
from train.token_budget import TokenBudget
from train.token_store import TokenStore


_WHERE = ("tokens", "selection", "run_dir")  # folders may move; what they hold is compared by digest


@dataclass(frozen=True)
class PretrainArguments:
    """Everything that can be said to `train.pretrain`."""

    tokens: str = field(metadata={"help": "folder of the token store, written by TokenStoreWriter"})
    run_dir: str = field(metadata={"help": "everything this run writes; continued if it exists"})
    total_tokens: int = field(
        metadata={"help": "encoder positions to train on: steps x batch-size x input-length, exactly"}
    )
    selection: str | None = field(
        default=None, metadata={"help": "selection file of this corpus (default: all documents)"}
    )
    preset: str = field(
        default="t5-tiny", metadata={"help": "architecture: t5-{tiny,small,base,large}, t5-v1_1-{small,base,large}"}
    )
    batch_size: int = field(default=16, metadata={"help": "rows per step, over all processes"})
    input_length: int = field(default=128, metadata={"help": "encoder positions of a row; the paper: 512"})
    checkpoints: int = field(
        default=5, metadata={"help": "checkpoints to keep, evenly spaced, the last step included"}
    )
    save_every: int = field(
        default=0, metadata={"help": "steps between additional checkpoints; each replaces the one before (0: none)"}
    )
    log_every: int = field(default=10, metadata={"help": "steps between rows of metrics.jsonl"})
    warmup_steps: int = field(
        default=10_000, metadata={"help": "learning rate is 1 / sqrt(max(step, this)); T5: 10000"}
    )
    seed: int = field(default=0, metadata={"help": "order of windows, masks, dropout"})
    init_seed: int = field(default=0, metadata={"help": "initial weights"})

    def __post_init__(self) -> None:
        for name, least in {"checkpoints": 1, "log_every": 1, "warmup_steps": 1, "save_every": 0, "seed": 0}.items():
            if getattr(self, name) < least:
                raise InvalidCut(f"{name} must be at least {least}, not {getattr(self, name)}")


@dataclass(frozen=True, eq=False)
class Plan:
    """A run, resolved.

    Attributes:
        arguments: as given.
        budget: its length.
        store: the corpus.
        replay: order of the windows.
        corruption: how a window becomes a row.
        resolved: all that decides the outcome, as JSON types; another one is refused in the same run directory.
    """

    arguments: PretrainArguments
    budget: TokenBudget
    store: TokenStore
    replay: Replay
    corruption: SpanCorruption
    resolved: dict[str, Any]

    @classmethod
    def make(cls, arguments: PretrainArguments) -> Plan:
        """Open the inputs and check that they fit together; raises what its parts raise."""
        budget = TokenBudget(arguments.total_tokens, arguments.batch_size, arguments.input_length)
        store = TokenStore.open(arguments.tokens)
        corruption = SpanCorruption(arguments.input_length, store.vocab_size - 1, store.sentinels)
        selection = Selection.load(arguments.selection) if arguments.selection else None
        replay = Replay(store, selection, corruption.raw_length, arguments.seed)
        resolved = {name: value for name, value in asdict(arguments).items() if name not in _WHERE} | {
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
        return cls(arguments, budget, store, replay, corruption, resolved)

    @property
    def run_dir(self) -> Path:
        """Where the run writes."""
        return Path(self.arguments.run_dir)

    @property
    def grid(self) -> list[int]:
        """Steps whose checkpoints are kept."""
        return self.budget.grid(self.arguments.checkpoints)

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

    def state(self, step: int) -> dict[str, Any]:
        """What a checkpoint says of itself."""
        names = ("preset", "seed", "init_seed", "selected_documents", "corpus_documents", "selected_tokens", "cut")
        return self.counts(step) | {name: self.resolved[name] for name in names} | {"hashes": self.hashes}

    def counts(self, step: int) -> dict[str, int | float]:
        """What has been seen after a step: samples, tokens by kind, repetitions of the selection."""
        samples = step * self.arguments.batch_size
        return {
            "step": step,
            "samples": samples,
            "encoder_tokens": samples * self.arguments.input_length,
            "raw_tokens": samples * self.corruption.raw_length,
            "target_tokens": samples * self.corruption.target_length,
            "epoch": self.replay.epoch(samples),
        }
