"""Measurements that are made once: a file for each (checkpoint, task), whole or absent, and the results from them.

<cache>/<sampler>/<checkpoint>/<task>.json   what was measured, of which weights, with which settings
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from evaluate_suite.results import ResultRow, read_results, write_results
from pipeline_steps.files import read_json, write_json


Estimates = dict[str, tuple[float, float, int]]
"""By metric: value, standard error, number of units."""


def once(file: Path, made: dict[str, Any], measure: Callable[[], Estimates]) -> Estimates:
    """What `measure` finds, or what it found before if it was `made` of the same things."""
    if file.exists():
        known = read_json(str(file))
        if known.get("made") == made:
            return {name: (value, stderr, n) for name, (value, stderr, n) in known["estimates"].items()}
    found = measure()
    write_json(str(file), {"made": made, "estimates": found})
    return found


def add_results(path: str, rows: Iterable[ResultRow]) -> None:
    """Put rows into a file of results beside those it has; a row of the same checkpoint, task and metric is replaced.

    Several processes may do so at the same time.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(f"{path}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = {_place(row): row for row in (read_results(path) if Path(path).exists() else [])}
        write_results(path, (known | {_place(row): row for row in rows}).values())


def _place(row: ResultRow) -> tuple[Any, ...]:
    return row.sampler, row.rate, row.model, row.seed, row.step, row.task, row.metric
