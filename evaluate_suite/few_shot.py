"""Few-shot tasks through lm-eval: its prompts, its samples, its filters, with a faster model of ours.

MMLU, BBH and question answering are answered directly, reasoning after a chain of thought (Shen et al. 2023; v1
App. C.7); BBH with one too if asked.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from evaluate_suite.averages import suite_scores
from evaluate_suite.checkpoint import Checkpoint, harness_version, is_causal
from evaluate_suite.data import data_digest, dataset_arguments
from evaluate_suite.harness_tasks import stock_tasks
from evaluate_suite.registry import EvaluationTask
from evaluate_suite.results import ResultRow
from evaluate_suite.units import Estimates, once, unit_file
from pipeline_steps.errors import CorpusError, InvalidCut, ModelError


_SEED = 1234  # lm-eval's own default, of exemplars that are drawn; ours are the first ones
_HARNESS_METRIC = {"accuracy": "acc", "exact_match": "exact_match"}


@dataclass(frozen=True)
class FewShot:
    """The settings that few-shot tasks are asked with.

    Attributes:
        data_root: see `evaluate_suite.data`; None: the Hub.
        cot: let the exemplars of BBH reason too.
        limit: questions of each task, the first ones; 0: all.
        max_input: tokens of a prompt; one that is longer loses its first exemplars.
        score_eos: count the end of a ranked answer as part of it.
    """

    data_root: str | None = None
    cot: bool = False
    limit: int = 0
    max_input: int = 2048
    score_eos: bool = False

    def __post_init__(self) -> None:
        if self.limit < 0 or self.max_input < 2:
            raise InvalidCut(f"limit {self.limit} must be at least 0, max_input {self.max_input} at least 2")

    def label(self, task: EvaluationTask) -> str:
        """Return what is not as usual, for the rows."""
        said = {"cot": self.with_thought(task), f"limit {self.limit}": self.limit, "EOS scored": self.score_eos}
        return "".join(f", {name}" for name, is_so in said.items() if is_so)

    def with_thought(self, task: EvaluationTask) -> bool:
        """Return whether exemplars reason: that must be asked for, and the task must have such a variant."""
        return self.cot and bool(task.cot_harness)

    def made(self, checkpoint: Checkpoint, task: EvaluationTask) -> dict[str, Any]:
        """Return everything that a measurement depends on."""
        settings: dict[str, Any] = {name: value for name, value in asdict(self).items() if name != "data_root"}
        settings |= {"cot": self.with_thought(task), "shots": task.shots, "harness": harness_version()}
        return checkpoint.identity | settings | {"data": data_digest(task, self.data_root)}


def few_shot_rows(
    checkpoint: Checkpoint, tasks: Sequence[EvaluationTask], settings: FewShot, cache: Path
) -> Iterator[list[ResultRow]]:
    """Yield the rows of a checkpoint, task by task.

    What is in the cache is not measured again, nor is the model loaded for it.

    All data are looked for before the first task is measured. Raises what `measure_few_shot` raises.
    """
    for task in tasks:
        for part in task.parts or (task.config,):
            harness_config(task, part, settings.data_root, settings.with_thought(task))
    model: list[Any] = []

    def loaded() -> Any:
        if not model:
            model.append(_load(checkpoint, settings))
        return model[0]

    def measure(task: EvaluationTask) -> Estimates:
        return measure_few_shot(task, loaded(), settings.data_root, settings.with_thought(task), settings.limit)

    for task in tasks:
        found = once(
            unit_file(cache, checkpoint.sampler, checkpoint.name, task.name + settings.label(task)),
            settings.made(checkpoint, task),
            partial(measure, task),
        )
        harness = harness_version() + settings.label(task)
        yield [checkpoint.row(task.name, name, estimate, task.shots, harness) for name, estimate in found.items()]


def _load(checkpoint: Checkpoint, settings: FewShot) -> Any:
    """Return the model for lm-eval that suits a checkpoint."""
    if is_causal(checkpoint.model, checkpoint.revision):
        from evaluate_suite.causal_lm import CausalLM as Model
    else:
        from evaluate_suite.encoder_decoder_lm import EncoderDecoderLM as Model
    return Model(
        checkpoint.model,
        max_input=settings.max_input,
        score_eos=settings.score_eos,
        revision=checkpoint.revision,
    )


def best_rows(by_step: dict[int, list[ResultRow]]) -> list[ResultRow]:
    """Return the rows of the fine-tuning step with the best mean over suites.

    All suites are reported from one checkpoint (v1 App. C.7). Earlier steps win ties; the step is a row of its own
    for each task.
    """
    step = max(by_step, key=lambda step: (np.mean(list(suite_scores(by_step[step], partial=True).values())), -step))
    rows = by_step[step]
    steps = {row.task: replace(row, metric="fine_tuning_step", value=float(step), stderr=0.0) for row in rows}
    exact = [replace(row, ci95_low=row.value, ci95_high=row.value) for row in steps.values()]
    return [*rows, *exact]


def measure_few_shot(
    task: EvaluationTask, model: Any, data_root: str | None, cot: bool = False, limit: int = 0
) -> Estimates:
    """Return a task's metric in percent, and how many prompts lost exemplars or the end of their question.

    Args:
        task: a task of the registry whose protocol is few_shot.
        model: an `EncoderDecoderLM`, a `CausalLM`, or any other LM of lm-eval.
        data_root: see `evaluate_suite.data`; None: the Hub.
        cot: let the exemplars reason, where the task is measured in both ways.
        limit: questions of each part, the first ones; 0: all.

    Raises:
        CorpusError: the data cannot be read.
        InvalidCut: the task has no such variant.
    """
    before = _lost(model)
    parts = [_measure(task, part, model, data_root, cot, limit) for part in task.parts or (task.config,)]
    values, errors, counts = (np.array(column) for column in zip(*parts, strict=True))
    stderr = float(np.sqrt((errors**2).sum()) / len(parts))
    found = {task.metrics[0]: (float(values.mean()), stderr, int(counts.sum()))}
    lost = _lost(model) - before
    return found | {
        name: (float(number), 0.0, int(counts.sum()))
        for name, number in zip(("prompts_shortened", "prompts_cut"), lost.tolist(), strict=True)
    }


def harness_config(task: EvaluationTask, part: str, data_root: str | None, cot: bool = False) -> dict[str, Any]:
    """Return the lm-eval task of one part of a task, with its data where they are."""
    from lm_eval.tasks._yaml_loader import load_yaml

    template = task.cot_harness if cot and task.mode == "direct" else task.harness
    if not template:
        raise InvalidCut(f"{task.name} is measured {task.mode} only: leave --cot out for it")
    config: dict[str, Any] = load_yaml(_file(template.format(part=part)))
    config["num_fewshot"] = task.shots
    for name in ("training_split", "validation_split"):
        if config.get(name) not in (task.split, config.get("fewshot_split")):
            config.pop(name, None)  # nothing is taken from it
    if data_root is None:
        return config
    urls = config.get("dataset_kwargs", {}).get("data_files")
    if urls:  # not on the Hub: the same files, in a folder of their own
        config["dataset_kwargs"]["data_files"] = {split: _local(task, url, data_root) for split, url in urls.items()}
        return config
    arguments = dataset_arguments(task.dataset, part, task.revision, data_root)
    config["dataset_path"], config["dataset_name"] = arguments.pop("path"), arguments.pop("name", None)
    config["dataset_kwargs"] = arguments
    return config


def _measure(
    task: EvaluationTask, part: str, model: Any, data_root: str | None, cot: bool, limit: int
) -> tuple[float, float, int]:
    """Return value and standard error in percent, and the number of questions."""
    from datasets.exceptions import DatasetsError
    from jinja2 import TemplateError
    from lm_eval import evaluate
    from lm_eval.tasks import TaskManager

    config = harness_config(task, part, data_root, cot)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it says for every task that few-shot settings are as given
    try:
        loaded = TaskManager(include_defaults=False).load([config])
        harness = loaded["tasks"][config["task"]]
        harness.set_fewshot_seed(_SEED)
        model.frame = partial(_frame, harness)
        found = evaluate(model, loaded, limit=limit or None, bootstrap_iters=0, log_samples=False)
    except ModelError:
        raise
    except (ValueError, TypeError, LookupError, OSError, AssertionError, TemplateError, DatasetsError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise CorpusError(
            f"{task.name} cannot be measured with the data of {config['dataset_path']} ({reason}): download "
            f"{task.dataset} again, or give another --data-root"
        ) from error
    (result,) = found["results"].values()
    (count,) = found["n-samples"].values()
    metric = _HARNESS_METRIC[task.metrics[0]]
    key = next(name for name in result if name.startswith(f"{metric},"))  # of the first filter
    value = result[key]
    return 100 * value, 100 * (value * (1 - value) / max(count["effective"] - 1, 1)) ** 0.5, count["effective"]


def _frame(harness: Any, request: Any) -> tuple[str, str]:
    """Return the instruction and the question of a request."""
    question = harness.doc_to_text(request.doc)
    asked = harness.fewshot_context(request.doc, num_fewshot=0)
    return asked.removesuffix(question), question


def _file(name: str) -> Path:
    own = Path(str(files("evaluate_suite"))) / "harness" / name
    return own if own.exists() else stock_tasks() / name


def _local(task: EvaluationTask, url: str, data_root: str) -> str:
    file = Path(data_root) / task.dataset / task.config / url.rsplit("/", 1)[1]
    if not file.exists():
        raise CorpusError(f"{task.name} needs {file}: curl --create-dirs -o {file} {url}")
    return str(file)


def _lost(model: Any) -> np.ndarray:
    return np.array([getattr(model, "shortened", 0), getattr(model, "cut", 0)])
