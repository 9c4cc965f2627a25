"""Results: one row per (run, checkpoint, task, metric), as JSON lines that depend on nothing but the numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import fsspec
import xxhash

from pipeline_steps.errors import StoreDamaged, StoreMismatch, WinnowError
from pipeline_steps.stores.files import write_atomically


DOMAIN, MACRO = "domain/", "macro"  # tasks are "domain/NAME", and "domain/macro" is the mean over domains
BITS = {"bits_per_byte": "Bits per byte", "bits_per_masked_byte": "Bits per masked byte"}
"""Metrics, of causal models and of T5s, with what they are called. Lower is better."""


@dataclass(frozen=True, order=True)
class ResultRow:
    """One measured number.

    Attributes:
        sampler: what chose the training documents, e.g. "ask-llm"; "full" for all of them.
        rate: share of the documents that was asked for, e.g. 0.195, which its cut meets to the nearest document; for
            a cut by k or by tokens, the exact share of the documents that was kept. Rows of two seeds belong
            together if their rates are equal.
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

    def repeats(self, other: ResultRow) -> bool:
        """Return whether another row has the same value, as two have that are not a number."""
        return self.value == other.value or (math.isnan(self.value) and math.isnan(other.value))


def write_results(path: str, rows: Iterable[ResultRow]) -> None:
    """Write rows as JSON lines, sorted, atomically. The last field of each, `xxh3`, is the digest of the others."""
    lines = [json.dumps(fields | {"xxh3": _digest(fields)}) + "\n" for fields in map(asdict, sorted(rows))]
    write_atomically(path, "".join(lines).encode())


def read_results(path: str) -> list[ResultRow]:
    """Return the rows of a file that `write_results` wrote.

    Raises:
        StoreDamaged: a row is not what was written; names the file and the line.
        StoreMismatch: the file holds something else.
    """
    rows, errors = read_good_results(path)
    if errors:
        raise errors[0]
    return rows


def read_good_results(path: str) -> tuple[list[ResultRow], list[WinnowError]]:
    """Return the rows that are what was written, and an error for each line that is not."""
    rows, errors = list[ResultRow](), list[WinnowError]()
    with fsspec.open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                rows.append(_read_row(line))
            except StoreMismatch as error:
                errors.append(StoreMismatch(f"{path}, line {number}, {error}"))
            except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
                why = str(error).splitlines()[0] if isinstance(error, ValueError) else "fields are missing"
                errors.append(
                    StoreDamaged(
                        f"{path}, line {number}, is damaged ({why}): delete that line and give the same winnow "
                        "evaluate again, which measures nothing twice"
                    )
                )
    return rows, errors


def _read_row(line: bytes) -> ResultRow:
    if not line.endswith(b"\n"):
        raise ValueError("the file ends within it")
    found = json.loads(line)
    if "xxh3" not in found:
        raise StoreMismatch(
            "has no digest: give what winnow evaluate wrote; what an earlier version wrote must be made again"
        )
    if found.pop("xxh3") != _digest(found):
        raise ValueError("its digest is not that of what it holds")
    return ResultRow(**found)


def _digest(fields: Mapping[str, Any]) -> str:
    """Return the digest of a row; NaN, the standard error of a single unit, is a number like any other."""
    return xxhash.xxh3_64_hexdigest(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode())
