"""What a fine-tuned T5 says to the validation examples of its tasks, and how good that is.

Greedy decoding, as in T5's fine-tuning experiments (Raffel et al. 2020, Sec. 3.1.2). Examples are shared among
processes. Shapes: B prompts of a batch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from evaluate_suite.averages import task_score
from evaluate_suite.data import load_split
from evaluate_suite.formats import Example, read_back, to_text
from evaluate_suite.harness_tasks import answers_of
from evaluate_suite.metrics import compute, invalid_share, majority, standard_error, units
from evaluate_suite.registry import Task
from pipeline_steps.engines.models import padded
from pipeline_steps.engines.pretrained import load_tokenizer
from pipeline_steps.numerics.batches import batches_by_length
from train.tokenizers import PAD, TextTokenizer


_MAX_NEW_TOKENS = 128  # T5's eval.gin: max_decode_length
_BATCH_TOKENS = {"cpu": 4096}  # input positions of a batch: attention scores stay in a CPU's cache
_BATCH_TOKENS_ELSEWHERE = 65_536


def validation_examples(task: Task, data_root: str | None, most: int) -> list[Example]:
    """Of the split a task is measured on; about `most`, evenly spaced and with their groups, or all if 0."""
    rows = load_split(task, task.split, data_root)
    groups: dict[str, list[Example]] = {}
    for number, row in enumerate(rows):
        for example in to_text(task, row):
            groups.setdefault(example.group or str(number), []).append(example)
    members = list(groups.values())
    share = min(1.0, most / sum(map(len, members))) if most else 1.0
    count = max(round(share * len(members)), 1)
    return [example for place in range(count) for example in members[place * len(members) // count]]


class TaskScores:
    """The metrics of tasks, measured along the way: rows of held_out.jsonl.

    Args:
        examples: validation examples by task.
        tokenizer: folder of the model's tokenizer.
        input_length: tokens of an input, EOS included; what is longer loses its end, as in training.
        target_length: most tokens that are decoded, or 128.
    """

    def __init__(
        self, examples: dict[Task, list[Example]], tokenizer: str, input_length: int, target_length: int
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
        """Whether there are tasks to measure."""
        return bool(self._examples)

    def __call__(self, model: Any, accelerator: Any) -> list[dict[str, Any]]:
        """A row for each task: its metrics in percent with standard errors, invalid answers, the majority's score."""
        t5 = accelerator.unwrap_model(model).model
        return [self._row(task, self._say(task, t5, accelerator)) for task in self._examples]

    def _say(self, task: Task, model: Any, accelerator: Any) -> list[str]:
        """Predictions of all processes, in the order of the examples."""
        from accelerate.utils import gather_object

        inputs = self._ids[task]
        order = np.argsort([-len(ids) for ids in inputs], kind="stable")
        mine = order[accelerator.process_index :: accelerator.num_processes].tolist()
        said = self.greedy([inputs[number] for number in mine], model, accelerator, task.name)
        found = dict(gather_object(list(zip(mine, said, strict=True))))
        return [found[number] for number in range(len(inputs))]

    @torch.inference_mode()
    def greedy(self, inputs: Sequence[list[int]], model: Any, accelerator: Any, name: str) -> list[str]:
        """What the model says to each input."""
        said = [""] * len(inputs)
        most = _BATCH_TOKENS.get(model.device.type, _BATCH_TOKENS_ELSEWHERE)
        shown = accelerator.is_main_process and sys.stderr.isatty()
        with tqdm(total=len(inputs), desc=name, unit="example", leave=False, disable=not shown) as bar:
            for batch in batches_by_length([len(ids) for ids in inputs], most):
                ids = padded([inputs[row] for row in batch], PAD).to(model.device)
                with accelerator.autocast():
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

    def _row(self, task: Task, said: list[str]) -> dict[str, Any]:
        examples = self._examples[task]
        predictions = [read_back(task, one, example) for one, example in zip(said, examples, strict=True)]
        answers = answers_of(task, predictions, [e.references for e in examples], [e.group for e in examples])
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
