"""Fine-tune a T5 on examples, as Raffel et al. 2020 (Sec. 3.1.2) do: all tasks of a suite together, in proportion to
their size, at a constant learning rate.

The loop is that of pre-training: the same checkpoints, resumed to the bit. Which examples, and what is measured along
the way, is for the caller to say.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xxhash
from datatrove.utils.logging import logger

from pipeline_steps.engines.models import model_identity
from pipeline_steps.errors import InvalidCut, StoreDamaged
from pipeline_steps.numerics.keys import mix
from pipeline_steps.stores.files import load_tensors, save_tensors
from train.arguments import option
from train.tokenizers import PAD, TextTokenizer
from train.training_plan import Amount, LoopSettings, Measurements, TokenBudget, precision_of


# Raffel et al. 2020, Sec. 3.1.2: 2^18 steps of 128 rows of 512 tokens, at 1e-3, a checkpoint every 5,000 steps. Here a
# row is one example; T5's loader can put several short ones into one
PAPER = {"steps": 262_144, "batch_size": 128, "eval_every": 5_000, "eval_rows": 0}
BUDGETS: dict[str, dict[str, int]] = {
    "paper": PAPER,
    "small": {"steps": 5_000, "batch_size": 128, "eval_every": 1_000, "eval_rows": 1_000},  # ours: an hour of one GPU
    "smoke": {"steps": 20, "batch_size": 8, "eval_every": 10, "eval_rows": 32},  # ours: does it run?
}
_PIECE = 4096  # examples tokenised at a time
_MULTIPLE = 8  # rows are padded to a multiple of this: tensor cores, NVIDIA deep learning performance guide
_ORDERS = 0xF7  # any constant: orders must not follow other numbers drawn from the same seed


@dataclass(frozen=True)
class FineTuneArguments:
    """The arguments of fine-tuning, but for the data, which the caller chooses."""

    model: str = field(metadata={"help": "checkpoint of train.pretrain, or Hub id or folder of a T5"})
    run_dir: str = field(metadata={"help": "everything this run writes; continued if it exists"})
    budget: Literal["paper", "small", "smoke"] = option(
        "paper", "sets what is not given of steps, batch_size, eval_every, eval_rows; T5's, an hour's, a minute's"
    )
    steps: int | None = option(None, "of the optimizer; by budget: 262144, 5000, 20")
    batch_size: int | None = option(None, "examples of a step, over all processes; by budget: 128, 128, 8")
    eval_every: int | None = option(None, "steps between checkpoints that are measured; by budget: 5000, 1000, 10")
    eval_rows: int | None = option(
        None, "examples of a task that are measured, evenly spaced, 0: all; by budget: 0, 1000, 32"
    )
    micro_batch_size: int = option(0, "examples in one forward pass of a process; 0: all of its share of the batch")
    input_length: int | None = option(None, "tokens of an input, EOS included; what is longer loses its end")
    target_length: int | None = option(None, "tokens of a target")
    learning_rate: float = option(1e-3, "constant, relative to the size of the weights (Adafactor)")
    dropout: float = option(0.1, "in fine-tuning (Raffel et al. 2020, Sec. 3.1.2)")
    checkpoints: int | None = option(None, "checkpoints to keep, evenly spaced; by default the last step's alone")
    keep_last: int = option(1, "how many of the newest stay, beside those to keep")
    mixed_precision: Literal["no", "bf16"] | None = option(None, "if not given, what accelerate was launched with")
    log_every: int = option(100, "steps between rows of metrics.jsonl")
    report_to: str = option("none", "one of accelerate's trackers (tensorboard, wandb, ...), all, or none")
    seed: int = option(0, "order of examples, dropout")

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
    """A run of fine-tuning, resolved.

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
    document_eos = None

    @cached_property
    def loop(self) -> LoopSettings:
        """The settings of the loop, which saves a checkpoint with every measurement."""
        given = self.arguments
        return LoopSettings(
            micro_batch_size=given.micro_batch_size,
            seed=given.seed,
            precision=precision_of(given.mixed_precision),
            log_every=given.log_every,
            eval_every=given.eval_every or 0,
            save_every=given.eval_every or 0,
            keep_last=given.keep_last,
            report_to=given.report_to,
        )

    @property
    def run_dir(self) -> Path:
        """The folder where the run writes."""
        return Path(self.arguments.run_dir)

    @property
    def budget(self) -> TokenBudget:
        """The length of the run; an example counts as one token."""
        steps, batch = self.arguments.steps or 0, self.arguments.batch_size or 0
        return TokenBudget(steps * batch, batch, 1)

    @property
    def extent(self) -> str:
        """The amount that the run shows, in words."""
        return f"{self.budget.samples:,} examples"

    @property
    def grid(self) -> list[int]:
        """The steps whose checkpoints are kept."""
        return self.budget.grid(self.arguments.checkpoints or 1)

    @property
    def resolved(self) -> dict[str, Any]:
        """All that decides the outcome, as JSON types."""
        given = {name: value for name, value in asdict(self.arguments).items() if name not in _FREE}
        return (
            given
            | self.told
            | {
                "model": model_identity(self.arguments.model),
                "mixed_precision": self.loop.precision,
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
        """Load the model that is fine-tuned, and give it dropout."""
        from train.checkpoints import load_pretrained
        from train.layers import set_dropout

        model = load_pretrained(self.arguments.model)
        set_dropout(model, self.arguments.dropout)
        return model

    def branch_point(self) -> None:
        """Return None: fine-tuning begins with `initial_model`."""

    def branches(self) -> Iterator[FineTunePlan]:
        """Make no runs: fine-tuning has no branches."""
        return iter(())

    def learning_rate(self, step: int) -> float:
        """Return the learning rate, which is constant."""
        return self.arguments.learning_rate

    def rows(self, sample_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return inputs and targets of samples, int32, padded to the longest."""
        return self.examples.rows(self.examples.shown(sample_B, self.arguments.seed))

    def amount(self, first: int, last: int) -> Amount:
        """Return what samples `first` to `last` - 1 hold."""
        shown = self.examples.shown(np.arange(first, last), self.arguments.seed)
        return Amount(last - first, *self.examples.lengths(shown))

    def open_measurements(self) -> Measurements:
        """Open what is measured along the way."""
        return self.measurements()

    def counts(self, step: int) -> dict[str, int | float]:
        """Return what has been seen after a step."""
        samples = self.budget.samples_after(step)
        return {"step": step, "samples": samples, "epoch": samples / len(self.examples)}

    def state(self, step: int) -> dict[str, Any]:
        """Return what a checkpoint says of itself."""
        return self.counts(step) | self.told | {"seed": self.arguments.seed, "hashes": self.hashes}


@dataclass(frozen=True, eq=False)
class ExampleStore:
    """Tokenised pairs of input and target, of any length, in the order they were given.

    Shapes: N examples, B of a batch, I and T tokens of its longest input and target.

    Attributes:
        inputs: int32, ids of all inputs one after the other, each with its EOS.
        input_start_N1: int64 [N + 1], where each begins.
        targets: int32, of all targets.
        target_start_N1: int64 [N + 1].
        made: what it was made from, as JSON types.
    """

    inputs: np.ndarray
    input_start_N1: np.ndarray
    targets: np.ndarray
    target_start_N1: np.ndarray
    made: dict[str, Any]

    @classmethod
    def make(
        cls, pairs: Iterable[tuple[str, str]], encoder: TextTokenizer, most: tuple[int, int], made: dict[str, Any]
    ) -> ExampleStore:
        """Tokenise texts; of what is longer than `most` = (input, target) tokens, EOS included, the end is lost.

        Raises:
            InvalidCut: there are none.
        """
        sides: tuple[list[np.ndarray], list[np.ndarray]] = [], []
        lengths: tuple[list[int], list[int]] = [], []
        waiting = iter(pairs)
        while piece := list(islice(waiting, _PIECE)):
            for side in (0, 1):
                rows = _tokenise([pair[side] for pair in piece], encoder, most[side])
                sides[side].append(np.concatenate(rows))
                lengths[side].extend(map(len, rows))
        if not lengths[0]:
            raise InvalidCut("there is not one example to fine-tune on: give data with training splits")
        starts = [np.concatenate([[0], np.cumsum(some)]).astype(np.int64) for some in lengths]
        return cls(np.concatenate(sides[0]), starts[0], np.concatenate(sides[1]), starts[1], made)

    @classmethod
    def find(cls, path: str, made: dict[str, Any]) -> ExampleStore | None:
        """Return what `save` wrote, if it was made from these things; None if not, or (with a warning) if damaged."""
        try:
            tensors, header, _ = load_tensors(path)
        except FileNotFoundError:
            return None
        except StoreDamaged as error:
            logger.warning(f"{error} (made again now)")
            return None
        return cls(**tensors, made=header) if header == made else None

    def save(self, path: str) -> None:
        """Write one file, atomically."""
        save_tensors(path, self._arrays(), self.made)

    @cached_property
    def digest(self) -> str:
        """The digest of all ids."""
        digest = xxhash.xxh3_128()
        for array in self._arrays().values():
            digest.update(array.tobytes())
        return digest.hexdigest()

    def __len__(self) -> int:
        """Return N."""
        return len(self.input_start_N1) - 1

    def shown(self, sample_B: np.ndarray, seed: int) -> np.ndarray:
        """Return int64 [B]: the example that each sample of a run shows, every one once before any twice."""
        epoch_B, place_B = np.divmod(sample_B, len(self))
        found = np.empty(len(sample_B), dtype=np.int64)
        for epoch in np.unique(epoch_B).tolist():
            here = epoch_B == epoch
            found[here] = _order(len(self), epoch, seed)[place_B[here]]
        return found

    def rows(self, example_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return inputs and targets of some examples, int32 [B, I] and [B, T], padded on the right."""
        return (
            _padded(self.inputs, self.input_start_N1, example_B),
            _padded(self.targets, self.target_start_N1, example_B),
        )

    def lengths(self, example_B: np.ndarray) -> tuple[int, int]:
        """Return how many tokens the inputs and the targets of some examples have."""
        starts = self.input_start_N1, self.target_start_N1
        inputs, targets = (int((start[example_B + 1] - start[example_B]).sum()) for start in starts)
        return inputs, targets

    def _arrays(self) -> dict[str, np.ndarray]:
        names = ("inputs", "input_start_N1", "targets", "target_start_N1")
        return {name: getattr(self, name) for name in names}


@lru_cache(maxsize=4)  # a batch may show the end of one epoch and the beginning of the next
def _order(count: int, epoch: int, seed: int) -> np.ndarray:
    keys = mix(mix(np.arange(count, dtype=np.uint64), seed ^ _ORDERS), epoch)
    return np.argsort(keys, kind="stable")


def _tokenise(texts: list[str], encoder: TextTokenizer, most: int) -> list[np.ndarray]:
    """Return int32 ids of each text with its EOS."""
    return [np.append(ids[: most - 1], encoder.eos).astype(np.int32) for ids in encoder.encode(texts)]


def _padded(ids: np.ndarray, start_N1: np.ndarray, example_B: np.ndarray) -> np.ndarray:
    longest = int((start_N1[example_B + 1] - start_N1[example_B]).max())
    rows = np.full((len(example_B), -(-longest // _MULTIPLE) * _MULTIPLE), PAD, dtype=np.int32)
    for row, example in zip(rows, example_B.tolist(), strict=True):
        start, end = start_N1[example], start_N1[example + 1]
        row[: end - start] = ids[start:end]
    return rows
