"""Functions that the lm-eval tasks in `evaluate_suite/harness/*.yaml` name.

lm_eval --include_path "$(winnow evaluate --harness)" --tasks winnow_svamp --model hf --model_args ...
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from evaluate_suite.data import TextExample, read_back, to_text
from evaluate_suite.metrics import METRICS, TaskAnswers, compute
from evaluate_suite.registry import EvaluationTask, registry


_OPTION = re.compile(r"\(([A-Z])\) ")


def stock_tasks() -> Path:
    """Return the folder of the tasks that come with lm-eval."""
    import lm_eval.tasks

    return Path(lm_eval.tasks.__file__).parent


def gsm8k_exemplars() -> list[dict[str, str]]:
    """Return the eight exemplars of Wei et al. 2022 (App. G), as lm-eval has them: question and target."""
    from lm_eval.tasks._yaml_loader import load_yaml

    samples: list[dict[str, str]] = load_yaml(stock_tasks() / "gsm8k" / "gsm8k-cot.yaml")["fewshot_config"]["samples"]
    return samples


def svamp_result(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Return whether the number is right."""
    return {"exact_match": float(_same_number(results[0], str(doc["Answer"])))}


def asdiv_result(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Return whether the number is right; answers come with their unit: 9 (apples)."""
    return {"exact_match": float(_same_number(results[0], str(doc["answer"]).split(" (")[0]))}


def strategyqa_result(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Return whether yes or no is right."""
    return {"exact_match": float(results[0] == ("yes" if doc["answer"] else "no"))}


def unifiedqa_docs(dataset: Any) -> Any:
    """Return questions with real line breaks, their options as a list, and which of them is right."""
    return dataset.map(_with_options)


def _with_options(row: dict[str, Any]) -> dict[str, Any]:
    question = row["question"].replace("\\n", "\n").strip()
    _, *parts = _OPTION.split(question)
    choices = [text.strip() for text in parts[1::2]]
    answer = row["answer"].strip()
    if answer not in choices:
        raise ValueError(f"the answer {answer!r} is none of the options of {question!r}")
    return {"question": question, "choices": choices, "label": choices.index(answer)}


def _same_number(said: str, true: str) -> bool:
    """Return whether texts are equal as numbers, or as texts where they are none, such as 3:4."""
    said, true = (text.replace(",", "").strip().rstrip(".") for text in (said, true))
    try:
        return float(said) == float(true)
    except ValueError:
        return said == true


def _t5_docs(task: EvaluationTask, dataset: Any) -> Any:
    """Return a data set's rows as T5's examples: input, target, references, group."""
    import datasets

    examples = [example for row in dataset for example in to_text(task, row)]
    return datasets.Dataset.from_list(
        [vars(example) | {"references": list(example.references)} for example in examples]
    )


def _t5_result(task: EvaluationTask, doc: dict[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """Return, for each metric, what `_aggregate` needs: task, prediction, references, group."""
    example = TextExample(doc["input"], doc["target"], tuple(doc["references"]), doc["group"])
    item = (task.name, read_back(task, results[0], example), example.references, example.group)
    return dict.fromkeys(task.reported, item)


def _aggregate(metric: str, items: Sequence[tuple[str, str, Sequence[str], str]]) -> float:
    """Return a metric over a whole task, as a share, as lm-eval has its own."""
    names, predictions, references, groups = zip(*items, strict=True)
    answers = TaskAnswers(predictions, references, groups, registry()[names[0]].labels)
    return compute(metric, answers) / 100


_BY_TASK: dict[str, Callable[..., Any]] = {"t5_docs_": _t5_docs, "t5_result_": _t5_result}


def __getattr__(name: str) -> Callable[..., Any]:
    """Return the function t5_docs_TASK, t5_result_TASK or METRIC, for every task and metric."""
    for prefix, function in _BY_TASK.items():
        if name.startswith(prefix) and name.removeprefix(prefix) in registry():
            return partial(function, registry()[name.removeprefix(prefix)])
    if name in METRICS:
        return partial(_aggregate, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
