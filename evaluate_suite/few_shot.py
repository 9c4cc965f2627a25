"""Few-shot tasks through lm-eval: its prompts, its samples, its filters, with a faster model of ours.

What a model said of ranked answers is kept, choice by choice, and metrics are computed from that (`choices`). MMLU,
BBH and question answering are answered directly, reasoning after a chain of thought (Shen et al. 2023; v1 App. C.7);
BBH with one too if asked.
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

from evaluate_suite.averages import centred, mean_of, suite_scores
from evaluate_suite.checkpoint import Checkpoint, harness_version, is_causal
from evaluate_suite.choices import Choices, check_metrics, estimate, packed
from evaluate_suite.data import data_digest, dataset_arguments
from evaluate_suite.harness_tasks import stock_tasks
from evaluate_suite.registry import CENTRED, EXTRA_SUITES, SUITES, EvaluationTask, all_tasks
from evaluate_suite.results import ResultRow
from evaluate_suite.units import Estimates, once, unit_file
from pipeline_steps.errors import CorpusError, InvalidCut, ModelError


_SEED = 1234  # lm-eval's own default, of exemplars that are drawn; ours are the first ones, or drawn by CORE's rule
_STORED = "choices"  # what the units of this version hold; others are measured again
_EXACT = "exact_match"
_COLUMNS = ("choices", "log_likelihood", "characters", "bytes", "tokens", "greedy", "right")
_SHORTENED, _CUT = "prompts_shortened", "prompts_cut"
Answers = dict[str, Any]
"""What a model answered to one part of a task: `choices`, see `Choices`, or an estimate by metric; prompts that were
shortened or cut."""


@dataclass(frozen=True)
class FewShot:
    """The settings that few-shot tasks are asked with.

    Attributes:
        data_root: see `evaluate_suite.data`; None: the Hub.
        cot: let the exemplars of BBH reason too.
        limit: questions of each task, the first ones; 0: all.
        max_input: tokens of a prompt; one that is longer loses its first exemplars.
        score_eos: count the end of a ranked answer as part of it.
        metrics: of ranked answers, further ones of `choices.METRICS` to report; they are computed from what is kept.
    """

    data_root: str | None = None
    cot: bool = False
    limit: int = 0
    max_input: int = 2048
    score_eos: bool = False
    metrics: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_metrics(self.metrics)
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
        settings: dict[str, Any] = asdict(self)
        del settings["data_root"], settings["metrics"]
        settings |= {"cot": self.with_thought(task), "shots": task.shots, "harness": harness_version()}
        settings |= {"unconditional": task.unconditional, "stored": _STORED}
        return checkpoint.identity | settings | {"data": data_digest(task, self.data_root)}

    def units(self, task: EvaluationTask) -> dict[str, EvaluationTask]:
        """Return by name what is measured at once and kept: the task, or each of its parts as a task of its own."""
        if not task.parts:
            return {task.name + self.label(task): task}
        parts = {part: replace(task, config=part, parts=()) for part in task.parts}
        return {f"{task.name}/{part}{self.label(task)}": one for part, one in parts.items()}


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

    def measure(part: EvaluationTask) -> Answers:
        return ask(part, loaded(), settings.data_root, settings.with_thought(part), settings.limit)

    for task in tasks:
        answers = [
            once(
                unit_file(cache, checkpoint.sampler, checkpoint.name, name),
                settings.made(checkpoint, part),
                partial(measure, part),
            )
            for name, part in settings.units(task).items()
        ]
        harness = harness_version() + settings.label(task)
        found = estimates(task, answers, settings.metrics)
        yield [checkpoint.row(task.name, name, one, task.shots, harness) for name, one in found.items()]


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
    # A task that further suites share counts in its own alone
    suites = {suite: [one for one in all_tasks().values() if one.suite == suite] for suite in SUITES | EXTRA_SUITES}
    scores = {step: suite_scores(rows, partial=True, suites=suites) for step, rows in by_step.items()}
    step = max(by_step, key=lambda step: (np.mean(list(scores[step].values())), -step))
    rows = by_step[step]
    steps = {row.task: replace(row, metric="fine_tuning_step", value=float(step), stderr=0.0) for row in rows}
    exact = [replace(row, ci95_low=row.value, ci95_high=row.value) for row in steps.values()]
    return [*rows, *exact]


def measure_few_shot(
    task: EvaluationTask, model: Any, data_root: str | None, cot: bool = False, limit: int = 0
) -> Estimates:
    """Return a task's metrics, and how many prompts lost exemplars or the end of their question.

    Args:
        task: a task whose protocol is few_shot.
        model: an `EncoderDecoderLM`, a `CausalLM`, or any other LM of lm-eval.
        data_root: see `evaluate_suite.data`; None: the Hub.
        cot: let the exemplars reason, where the task is measured in both ways.
        limit: questions of each part, the first ones; 0: all.

    Raises:
        CorpusError: the data cannot be read.
        InvalidCut: the task has no such variant, or the model cannot tell what its metric needs.
    """
    parts = FewShot(data_root, cot, limit).units(task).values()
    return estimates(task, [ask(part, model, data_root, cot, limit) for part in parts])


def estimates(task: EvaluationTask, answers: Sequence[Answers], further: Sequence[str] = ()) -> Estimates:
    """Return the metrics of a task from the answers to its parts, each of which counts alike, and counts of prompts.

    Metrics that do not count are left out where what they need was not measured.

    Args:
        task: the task.
        answers: to each of its parts, or to the task.
        further: names of `choices.METRICS` to report of ranked answers beside the task's own.

    Raises:
        InvalidCut: what a counted metric needs was not measured.
    """
    if "choices" in answers[0]:
        choices = [Choices(one["choices"]) for one in answers]
        known = set.intersection(*(one.metrics() for one in choices))
        names = [*task.metrics, *(name for name in (*task.beside, *further) if name in known)]
        parts = [{name: estimate(one, name) for name in names} for one in choices]
    else:
        parts = [{name: one[name] for name in task.metrics} for one in answers]
    found = {name: mean_of([part[name] for part in parts]) for name in parts[0]}
    if CENTRED in task.beside:
        found[CENTRED] = centred(found[task.metrics[0]], task.chance or 0.0)
    n = found[task.metrics[0]][2]
    return found | {name: (float(sum(one[name] for one in answers)), 0.0, n) for name in (_SHORTENED, _CUT)}


def harness_config(task: EvaluationTask, part: str, data_root: str | None, cot: bool = False) -> dict[str, Any]:
    """Return the lm-eval task of one part of a task, with its data where they are."""
    from lm_eval.tasks._yaml_loader import load_yaml

    template = task.cot_harness if cot and task.mode == "direct" else task.harness
    if not template:
        raise InvalidCut(f"{task.name} is measured {task.mode} only: leave --cot out for it")
    config: dict[str, Any] = load_yaml(_file(template.format(part=part, task=task.name)))
    config["num_fewshot"] = task.shots
    if task.unconditional:
        alone = {"metric": "acc_mutual_info", "aggregation": "mean", "higher_is_better": True}
        config["metric_list"] = [*config["metric_list"], alone]  # which makes lm-eval score answers alone
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


def ask(task: EvaluationTask, model: Any, data_root: str | None, cot: bool, limit: int) -> Answers:
    """Return what a model answers to a task without parts; arguments and errors are those of `measure_few_shot`."""
    from datasets.exceptions import DatasetsError
    from jinja2 import TemplateError
    from lm_eval import evaluate
    from lm_eval.tasks import TaskManager

    config = harness_config(task, task.config, data_root, cot)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it says for every task that few-shot settings are as given
    before = _lost(model)
    try:
        loaded = TaskManager(include_defaults=False).load([config])
        harness = loaded["tasks"][config["task"]]
        harness.set_fewshot_seed(_SEED)
        model.frame = partial(_frame, harness)
        found = evaluate(model, loaded, limit=limit or None, bootstrap_iters=0, log_samples=False)
        ranked = harness.OUTPUT_TYPE != "generate_until"
        answers = {"choices": _said_of_choices(harness, model)} if ranked else {_EXACT: _exact_match(found)}
    except ModelError:
        raise
    except (ValueError, TypeError, LookupError, OSError, AssertionError, TemplateError, DatasetsError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise CorpusError(
            f"{task.name} cannot be measured with the data of {config['dataset_path']} ({reason}): download "
            f"{task.dataset} again, or give another --data-root"
        ) from error
    return answers | dict(zip((_SHORTENED, _CUT), (_lost(model) - before).tolist(), strict=True))


def _exact_match(found: dict[str, Any]) -> tuple[float, float, int]:
    """Return value and standard error in percent, and the number of questions, of what lm-eval has found."""
    (result,) = found["results"].values()
    (count,) = found["n-samples"].values()
    value = result[next(name for name in result if name.startswith(f"{_EXACT},"))]  # of the first filter
    n = count["effective"]
    return 100 * value, 100 * (value * (1 - value) / max(n - 1, 1)) ** 0.5, n


def _said_of_choices(harness: Any, model: Any) -> dict[str, str]:
    """Return what a model has said of a task's requests, in the form that `Choices` takes.

    Raises:
        ValueError: the label of a question is none of its choices.
    """
    tokens = getattr(model, "answer_length", lambda request: 0)
    by_question: dict[int, list[Any]] = {}
    for request in harness.instances:
        by_question.setdefault(request.doc_id, []).append(request)
    found: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
    alone: list[float] = []
    for _, requests in sorted(by_question.items()):
        requests.sort(key=lambda request: request.idx)
        right = _right_choices(harness, requests[0].doc)
        found["choices"].append(len(right))
        for request, is_right in zip(requests, right, strict=False):  # answers without their questions come after
            log_likelihood, greedy = request.resps[0]
            answer = request.args[1]
            row = (float(log_likelihood), len(answer), len(answer.encode()), tokens(request), int(greedy), is_right)
            for name, value in zip(_COLUMNS[1:], row, strict=True):
                found[name].append(value)
        alone += [float(request.resps[0][0]) for request in requests[len(right) :]]
    found |= {"unconditional": alone} if alone else {}
    return {name: packed(values) for name, values in found.items()} | {"delimiter": harness.config.target_delimiter}


def _right_choices(harness: Any, question: Any) -> list[int]:
    """Return for each choice of a question 1 if it is right, else 0; a text to be said is the one choice."""
    if harness.OUTPUT_TYPE == "loglikelihood":
        return [1]
    choices = harness.doc_to_choice(question)
    label = harness.doc_to_text(question) if harness.multiple_input else harness.doc_to_target(question)
    labels = label if isinstance(label, list) else [label]
    places = [choices.index(one) if isinstance(one, str) else one for one in labels]
    if not places or not all(0 <= place < len(choices) for place in places):
        raise ValueError(f"the label {label!r} is none of the {len(choices)} choices of a question")
    return [int(place in places) for place in range(len(choices))]


def _frame(harness: Any, request: Any) -> tuple[str, str]:
    """Return the instruction and the question of a request."""
    question = harness.doc_to_text(request.doc)
    asked = harness.fewshot_context(request.doc, num_fewshot=0)
    if harness.multiple_input:  # each choice has a context of its own
        asked, question = asked[request.idx], harness.doc_to_choice(request.doc)[request.idx]
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
