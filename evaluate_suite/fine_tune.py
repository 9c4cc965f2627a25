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
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from tqdm import tqdm

from evaluate_suite.averages import task_score
from evaluate_suite.checkpoint import find_checkpoints
from evaluate_suite.data import TextExample, data_digest, load_split, read_back, to_text
from evaluate_suite.metrics import TaskAnswers, compute, invalid_share, majority, standard_error, units
from evaluate_suite.registry import EvaluationTask, by_suite, training_data
from pipeline_steps.engines.models import batches_by_length, load_tokenizer, padded
from pipeline_steps.errors import InvalidCut, WinnowError
from pipeline_steps.numerics.keys import mix
from pipeline_steps.terminal import complain
from train.arguments import parse
from train.fine_tune import ExampleStore, FineTuneArguments, FineTunePlan
from train.pretrain import run
from train.run_directory import note_preemption
from train.tokenizers import PAD, TextTokenizer
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
_MAX_NEW_TOKENS = 128  # T5's eval.gin: max_decode_length
_BATCH_TOKENS = {"cpu": 4096}  # input positions of a batch: attention scores stay in a CPU's cache
_BATCH_TOKENS_ELSEWHERE = 65_536
_SAMPLE = 0xA5  # any constant: which examples are taken must not follow other numbers drawn from the same seed


@dataclass(frozen=True)
class SuiteArguments(FineTuneArguments):
    """The arguments of `evaluate_suite.fine_tune`."""

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
    def measured(self) -> list[EvaluationTask]:
        """Return the tasks of the suite that are trained on and have labels to be measured with."""
        tasks = by_suite().get(self.suite, [])
        return [task for task in tasks if task.scored and (not self.tasks or task.name in self.tasks)]

    @property
    def beside(self) -> list[EvaluationTask]:
        """Return the data that is trained on beside the tasks' own."""
        return [] if self.tasks else training_data(self.suite)

    @property
    def data(self) -> dict[str, str]:
        """Return the digests of all data."""
        return {task.name: data_digest(task, self.data_root) for task in [*self.measured, *self.beside]}

    @property
    def lengths(self) -> tuple[int, int]:
        """Return the most tokens of an input and of a target."""
        return self.input_length or 0, self.target_length or 0


def main(argv: list[str] | None = None) -> None:
    """Run the command line, and exit."""
    try:
        arguments = parse(SuiteArguments, argv, "evaluate_suite.fine_tune", str(__doc__))
        note_preemption(Path(arguments.run_dir), None)
        sys.exit(run(make_plan(arguments)))
    except (WinnowError, OSError) as error:
        complain(error)
        sys.exit(2)


def make_plan(arguments: SuiteArguments) -> FineTunePlan:
    """Read the data and the tokenizer; whichever process comes first tokenises what is trained on, for all."""
    (checkpoint,) = find_checkpoints("", arguments.model, "last")
    model = checkpoint.model
    arguments = replace(arguments, model=model)  # of a run directory its last checkpoint
    run_dir = Path(arguments.run_dir)
    tasks = arguments.measured
    run_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(run_dir / ".examples.lock"):
        tokenizer = _tokenizer(model, run_dir)
        examples = _training_examples(arguments, tokenizer)

    def measurements() -> Measurements:
        shown = {task: validation_examples(task, arguments.data_root, arguments.eval_rows or 0) for task in tasks}
        return TaskScores(shown, str(tokenizer), *arguments.lengths)

    told = {"suite": arguments.suite, "tasks": [task.name for task in tasks], "of": checkpoint.identity}
    told |= {"data": arguments.data}
    return FineTunePlan(arguments, examples, tokenizer, measurements, told)


def training_pairs(arguments: SuiteArguments) -> Iterator[tuple[str, str]]:
    """Yield input and target of every training example, from one training split after the other."""
    seen = set()
    for task in [*arguments.measured, *arguments.beside]:
        place = (task.dataset, task.config)
        if place in seen:  # MNLI has two validation splits and one to train on
            continue
        seen.add(place)
        for row in load_split(task, "train", arguments.data_root):
            yield from ((example.input, example.target) for example in _to_train_on(task, row))


def _to_train_on(task: EvaluationTask, row: dict[str, object]) -> list[TextExample]:
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
    """Return `most` pairs at random, in their order; no more are held at a time."""
    kept: list[tuple[int, int, tuple[str, str]]] = []  # a heap whose first has the largest key
    for number, pair in enumerate(pairs):
        key = -int(mix(np.array([number], dtype=np.uint64), seed ^ _SAMPLE)[0])
        if len(kept) < most:
            heapq.heappush(kept, (key, number, pair))
        elif key > kept[0][0]:
            heapq.heapreplace(kept, (key, number, pair))
    return (pair for _, _, pair in sorted(kept, key=lambda one: one[1]))


def validation_examples(task: EvaluationTask, data_root: str | None, most: int) -> list[TextExample]:
    """Return about `most` examples of the split a task is measured on, evenly spaced with their groups; all if 0."""
    rows = load_split(task, task.split, data_root)
    groups: dict[str, list[TextExample]] = {}
    for number, row in enumerate(rows):
        for example in to_text(task, row):
            groups.setdefault(example.group or str(number), []).append(example)
    members = list(groups.values())
    share = min(1.0, most / sum(map(len, members))) if most else 1.0
    count = max(round(share * len(members)), 1)
    return [example for place in range(count) for example in members[place * len(members) // count]]


class TaskScores:
    """The metrics of tasks, measured along the way: rows of held_out.jsonl.

    Decoding is greedy, as in T5's fine-tuning experiments (Raffel et al. 2020, Sec. 3.1.2). Processes share the
    examples.

    Args:
        examples: validation examples by task.
        tokenizer: folder of the model's tokenizer.
        input_length: tokens of an input, EOS included; what is longer loses its end, as in training.
        target_length: most tokens that are decoded, or 128.
    """

    def __init__(
        self, examples: dict[EvaluationTask, list[TextExample]], tokenizer: str, input_length: int, target_length: int
    ) -> None:
        encoder = TextTokenizer(tokenizer)
        self._decode = load_tokenizer(tokenizer).batch_decode
        self._most = min(target_length, _MAX_NEW_TOKENS)
        self._examples = examples
        self._ids = {
            task: [[*ids[: input_length - 1].tolist(), encoder.eos] for ids in encoder.encode([e.input for e in some])]
            for task, some in examples.items()
        }

    def __bool__(self) -> bool:
        """Return whether there are tasks to measure."""
        return bool(self._examples)

    def __call__(self, model: Any, accelerator: Any) -> list[dict[str, Any]]:
        """Return a row for each task: metrics in percent, standard errors, invalid answers, the majority's score."""
        t5 = accelerator.unwrap_model(model).model
        return [self._row(task, self._say(task, t5, accelerator)) for task in self._examples]

    def _say(self, task: EvaluationTask, model: Any, accelerator: Any) -> list[str]:
        """Return the predictions of all processes, in the order of the examples."""
        from accelerate.utils import gather_object

        inputs = self._ids[task]
        order = np.argsort([-len(ids) for ids in inputs], kind="stable")
        mine = order[accelerator.process_index :: accelerator.num_processes].tolist()
        said = self.greedy([inputs[number] for number in mine], model, accelerator, task.name)
        found = dict(gather_object(list(zip(mine, said, strict=True))))
        return [found[number] for number in range(len(inputs))]

    def greedy(self, inputs: Sequence[list[int]], model: Any, accelerator: Any, name: str) -> list[str]:
        """Return what the model says to each input."""
        import torch

        said = [""] * len(inputs)
        most = _BATCH_TOKENS.get(model.device.type, _BATCH_TOKENS_ELSEWHERE)
        shown = accelerator.is_main_process and sys.stderr.isatty()
        with tqdm(total=len(inputs), desc=name, unit="example", leave=False, disable=not shown) as bar:
            for batch in batches_by_length([len(ids) for ids in inputs], most):
                ids = padded([inputs[row] for row in batch], PAD).to(model.device)
                with torch.inference_mode(), accelerator.autocast():
                    out = model.generate(
                        input_ids=ids,
                        attention_mask=(ids != PAD).long(),
                        max_new_tokens=self._most,
                        do_sample=False,
                        num_beams=1,
                    )
                for row, text in zip(batch, self._decode(out, skip_special_tokens=True), strict=True):
                    said[row] = text
                bar.update(len(batch))
        return said

    def _row(self, task: EvaluationTask, said: list[str]) -> dict[str, Any]:
        examples = self._examples[task]
        predictions = [read_back(task, one, example) for one, example in zip(said, examples, strict=True)]
        answers = TaskAnswers(predictions, [e.references for e in examples], [e.group for e in examples], task.labels)
        found = {name: compute(name, answers) for name in task.reported}
        errors = {f"{name}_stderr": standard_error(name, answers) for name in task.reported}
        common = majority(answers) if task.labels else answers
        always = {name: compute(name, common) for name in task.metrics} if task.labels else {}
        return (
            {"split": task.name, "score": task_score(task, found), "examples": len(examples), "units": units(answers)}
            | found
            | errors
            | {"invalid_share": invalid_share(answers)}
            | ({"majority": task_score(task, always)} if always else {})
        )


if __name__ == "__main__":
    main()
