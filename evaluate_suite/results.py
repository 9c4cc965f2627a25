"""Results: one row per (run, checkpoint, task, metric), as JSON lines that depend on nothing but the numbers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

import fsspec

from pipeline_steps.errors import StoreMismatch
from pipeline_steps.files import write_atomically


@dataclass(frozen=True, order=True)
class ResultRow:
    """One measured number.

    Attributes:
        sampler: what chose the training documents, e.g. "ask-llm"; "full" for all of them.
        rate: share of the documents it kept.
        model: architecture, e.g. "t5-tiny".
        seed: of the training run.
        step: optimizer steps of the checkpoint.
        encoder_tokens: encoder positions it has been trained on.
        epoch: repetitions of its selection.
        task: what was measured on.
        metric: what was measured.
        value: the number.
        stderr: its standard error.
        ci95_low: lower end of its 95 % confidence interval.
        ci95_high: upper end.
        n: independent units behind it.
        n_shot: examples in the prompt; 0 for perplexity.
        harness_version: of what measured it.
    """

    sampler: str
    rate: float
    model: str
    seed: int
    step: int
    encoder_tokens: int
    epoch: float
    task: str
    metric: str
    value: float
    stderr: float
    ci95_low: float
    ci95_high: float
    n: int
    n_shot: int
    harness_version: str


def write_results(path: str, rows: Iterable[ResultRow]) -> None:
    """Write rows as JSON lines, sorted, atomically."""
    lines = [json.dumps(asdict(row)) for row in sorted(rows)]
    write_atomically(path, "".join(f"{line}\n" for line in lines).encode())


def read_results(path: str) -> list[ResultRow]:
    """Read what `write_results` wrote. Raises StoreMismatch: it is something else."""
    names = [field.name for field in fields(ResultRow)]
    with fsspec.open(path, "rb") as file:
        try:
            return [ResultRow(**{name: row[name] for name in names}) for row in map(json.loads, file)]
        except (KeyError, TypeError, ValueError) as error:
            raise StoreMismatch(f"{path} holds no results ({error!r}): give what winnow evaluate wrote") from error
