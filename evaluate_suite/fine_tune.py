"""Fine-tune a T5 on all tasks of a suite, as Raffel et al. 2020 do, and measure them along the way.

    accelerate launch -m evaluate_suite.fine_tune --suite glue --model RUN/checkpoints/step-01000000 --run-dir TUNED
    accelerate launch -m evaluate_suite.fine_tune --suite glue --model google/t5-v1_1-small --run-dir TUNED \\
        --data-root DATA --budget smoke

Suites: glue, superglue, cnn_dailymail, squad; flan for instruction tuning before few-shot tasks. Killed at any time
and started again, it continues and ends with the same numbers; a finished run returns at once. Exit codes are those of
train.pretrain. TUNED/held_out.jsonl has the metrics of every task at every measured step.
"""

from __future__ import annotations

import heapq
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from filelock import FileLock

from evaluate_suite.checkpoint import find_checkpoints
from evaluate_suite.data import data_digest, load_split
from evaluate_suite.formats import Example, to_text
from evaluate_suite.registry import Task, by_suite, training_data
from pipeline_steps.errors import InvalidCut, WinnowError
from pipeline_steps.numerics.keys import mix
from pipeline_steps.terminal import complain
from train.arguments import parse
from train.fine_tune import ExampleStore, FineTuneArguments, FineTunePlan
from train.pretrain import run
from train.run_directory import note_preemption
from train.tokenizers import TextTokenizer
from train.training_plan import Measurements


# Tokens of inputs and targets: T5's sequence_lengths/*.gin, and of flan: flan/v2/run_example.py
LENGTHS = {
    "glue": (512, 84),
    "superglue": (512, 62),
    "cnn_dailymail": (512, 512),
    "squad": (512, 97),
    "flan": (2056, 512),
}
_FLAN_CHECKPOINTS = 10  # ours: one is chosen by the average of four suites (v1 App. C.7), out of how many is unsaid
_SAMPLE = 0xA5  # any constant: which examples are taken must not follow other numbers drawn from the same seed


@dataclass(frozen=True)
class SuiteArguments(FineTuneArguments):
    """Everything that can be said to `evaluate_suite.fine_tune`."""

    suite: str = field(default="glue", metadata={"help": f"one of {', '.join(LENGTHS)}"})
    tasks: list[str] = field(
        default_factory=list,
        metadata={
            "help": "of the suite, to train on and measure; all if not given, as T5, with what is only trained on"
        },
    )
    data_root: str | None = field(
        default=None, metadata={"help": "folder of data sets laid out as on the Hub; if not given, the Hub"}
    )
    most_examples: int = field(
        default=0,
        metadata={"help": "train on so many examples, drawn at random, for mixtures that are too large; 0: all"},
    )

    def __post_init__(self) -> None:
        if self.suite == "flan" and self.checkpoints is None:  # the best of them is to be reported
            object.__setattr__(self, "checkpoints", _FLAN_CHECKPOINTS)
        super().__post_init__()
        if self.suite not in LENGTHS:
            raise InvalidCut(f"no suite {self.suite!r} to fine-tune on: choose one of {', '.join(LENGTHS)}")
        strangers = sorted(set(self.tasks) - {task.name for task in by_suite().get(self.suite, [])})
        if strangers:
            raise InvalidCut(f"{self.suite} has no task {strangers[0]!r}: winnow evaluate --list names them")
        for name, length in zip(("input_length", "target_length"), LENGTHS[self.suite], strict=True):
            if getattr(self, name) is None:
                object.__setattr__(self, name, length)
            if getattr(self, name) < 2:
                raise InvalidCut(f"{name} must be at least 2, a token and EOS, not {getattr(self, name)}")
        if self.most_examples < 0:
            raise InvalidCut(f"most_examples must be at least 0, not {self.most_examples}")

    @property
    def measured(self) -> list[Task]:
        """The tasks of the suite that are trained on and have labels to be measured with."""
        tasks = by_suite().get(self.suite, [])
        return [task for task in tasks if task.scored and (not self.tasks or task.name in self.tasks)]

    @property
    def beside(self) -> list[Task]:
        """Data that is trained on beside the tasks' own."""
        return [] if self.tasks else training_data(self.suite)

    @property
    def data(self) -> dict[str, str]:
        """Digests of all data."""
        return {task.name: data_digest(task, self.data_root) for task in [*self.measured, *self.beside]}

    @property
    def lengths(self) -> tuple[int, int]:
        """Most tokens of an input and of a target."""
        return self.input_length or 0, self.target_length or 0


def main(argv: list[str] | None = None) -> None:
    """Run the command line; exits."""
    try:
        arguments = parse(SuiteArguments, argv, "evaluate_suite.fine_tune", str(__doc__))
        note_preemption(Path(arguments.run_dir), None)
        sys.exit(run(make_plan(arguments)))
    except (WinnowError, OSError) as error:
        complain(error)
        sys.exit(2)


def make_plan(arguments: SuiteArguments) -> FineTunePlan:
    """Read the data and the tokenizer; whichever process comes first tokenises what is trained on, for all."""
    (checkpoint,) = find_checkpoints("", arguments.model, every=False)
    model = checkpoint.model
    arguments = replace(arguments, model=model)  # of a run directory its last checkpoint
    run_dir = Path(arguments.run_dir)
    tasks = arguments.measured
    run_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(run_dir / ".examples.lock"):
        tokenizer = _tokenizer(model, run_dir)
        examples = _training_examples(arguments, tokenizer)

    def measurements() -> Measurements:
        from evaluate_suite.answering import TaskScores, validation_examples

        shown = {task: validation_examples(task, arguments.data_root, arguments.eval_rows or 0) for task in tasks}
        return TaskScores(shown, str(tokenizer), *arguments.lengths)

    told = {"suite": arguments.suite, "tasks": [task.name for task in tasks], "of": checkpoint.identity}
    told |= {"data": arguments.data}
    return FineTunePlan(arguments, examples, tokenizer, measurements, told)


def training_pairs(arguments: SuiteArguments) -> Iterator[tuple[str, str]]:
    """Input and target of every training example: the training splits of the tasks one after the other."""
    seen = set()
    for task in [*arguments.measured, *arguments.beside]:
        place = (task.dataset, task.config)
        if place in seen:  # MNLI has two validation splits and one to train on
            continue
        seen.add(place)
        for row in load_split(task, "train", arguments.data_root):
            yield from ((example.input, example.target) for example in _to_train_on(task, row))


def _to_train_on(task: Task, row: dict[str, object]) -> list[Example]:
    return [example for example in to_text(task, row) if example.train]


def _tokenizer(model: str, run_dir: Path) -> Path:
    folder = run_dir / "tokenizer"
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=run_dir) as temporary:
            TextTokenizer(model).save(Path(temporary) / "tokenizer")
            shutil.move(Path(temporary) / "tokenizer", folder)
    return folder


def _training_examples(arguments: SuiteArguments, tokenizer: Path) -> ExampleStore:
    path = Path(arguments.run_dir) / "examples.safetensors"
    kept = ("suite", "tasks", "most_examples", "seed")
    made = {name: value for name, value in asdict(arguments).items() if name in kept}
    made |= {"lengths": list(arguments.lengths), "data": arguments.data}
    if known := ExampleStore.find(str(path), made):
        return known
    pairs = training_pairs(arguments)
    if arguments.most_examples:
        pairs = _drawn(pairs, arguments.most_examples, arguments.seed)
    store = ExampleStore.make(pairs, TextTokenizer(str(tokenizer)), arguments.lengths, made)
    store.save(str(path))
    return store


def _drawn(pairs: Iterator[tuple[str, str]], most: int, seed: int) -> Iterator[tuple[str, str]]:
    """`most` of them at random, in their order; no more are held at a time."""
    kept: list[tuple[int, int, tuple[str, str]]] = []  # a heap whose first has the largest key
    for number, pair in enumerate(pairs):
        key = -int(mix(np.array([number], dtype=np.uint64), seed ^ _SAMPLE)[0])
        if len(kept) < most:
            heapq.heappush(kept, (key, number, pair))
        elif key > kept[0][0]:
            heapq.heapreplace(kept, (key, number, pair))
    return (pair for _, _, pair in sorted(kept, key=lambda one: one[1]))


if __name__ == "__main__":
    main()
