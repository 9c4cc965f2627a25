"""Measurements that are made once: a sealed file for each (checkpoint, task), and the results that rows are added to.

    <cache>/<sampler>/<checkpoint>/<task>.json   what was found, of which weights, with which settings

The units are the truth, and results.jsonl is derived from them: `winnow evaluate` finds the units again and adds
their rows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from datatrove.utils.logging import logger
from filelock import FileLock

from evaluate_suite.results import ResultRow, read_good_results, read_results, write_results
from pipeline_steps.errors import StoreDamaged
from pipeline_steps.stores.files import read_json, write_atomically, write_json


Estimates = dict[str, tuple[float, float, int]]
"""By metric: value, standard error, number of units."""

_INFINITIES = {"Infinity": math.inf, "-Infinity": -math.inf}


def unit_file(cache: Path, sampler: str, checkpoint: str, name: str) -> Path:
    """Return where the unit of a checkpoint stands; a name with slashes is one file all the same."""
    return cache / sampler / checkpoint / f"{name.replace('/', '-')}.json"


def once(file: Path, made: dict[str, Any], measure: Callable[[], Any]) -> Any:
    """Return what `measure` finds, or what it found before if that was made of the same things.

    Args:
        file: the unit. A damaged one is named in a warning and measured again.
        made: everything the outcome depends on, as JSON types.
        measure: finds a JSON value; floats may be NaN or infinite.
    """
    try:
        known = read_json(str(file))
        if known.get("made") == made:
            return _from_json(known["found"])
    except FileNotFoundError:
        pass
    except StoreDamaged as error:
        logger.warning(f"{error} (done now)")
    found = _to_json(measure())
    write_json(str(file), {"made": made, "found": found})
    return _from_json(found)


def add_results(path: str, rows: Iterable[ResultRow]) -> None:
    """Put rows into a file of results beside those it has; a row of the same checkpoint, task and metric is replaced.

    Several processes may do so at the same time. Raises what `read_results` raises.
    """
    with _alone(path):
        known = {_place(row): row for row in (read_results(path) if Path(path).exists() else [])}
        write_results(path, (known | {_place(row): row for row in rows}).values())


def mend_results(path: str) -> list[str]:
    """Take the damaged lines out of a file of results, and name each.

    It is for those who make the missing rows again. The file as it was stays as PATH.damaged, or PATH.damaged-2 and
    so on beside earlier ones.
    """
    if not Path(path).exists():
        return []
    with _alone(path):
        rows, errors = read_good_results(path)
        if errors:
            # A copy: killed in between, the good rows are still where they were
            write_atomically(_free(f"{path}.damaged"), Path(path).read_bytes())
            write_results(path, rows)
    return [str(error).partition(": ")[0] for error in errors]


def _free(path: str) -> str:
    """Return a path at which nothing is: this one, or one with a number."""
    numbered = (f"{path}-{number}" for number in itertools.count(2))
    return next(name for name in itertools.chain([path], numbered) if not Path(name).exists())


def _alone(path: str) -> FileLock:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return FileLock(f"{path}.lock")


def _place(row: ResultRow) -> tuple[Any, ...]:
    return row.sampler, row.rate, row.model, row.seed, row.step, row.task, row.metric


def _to_json(found: Any) -> Any:
    """Replace what JSON lacks: NaN, the standard error of a single unit, is null, and an infinity is its name."""
    if isinstance(found, dict):
        return {name: _to_json(value) for name, value in found.items()}
    if isinstance(found, list | tuple):
        return [_to_json(value) for value in found]
    if isinstance(found, float) and math.isinf(found):
        return "Infinity" if found > 0 else "-Infinity"
    return None if found != found else found


def _from_json(found: Any) -> Any:
    if isinstance(found, dict):
        return {name: _from_json(value) for name, value in found.items()}
    if isinstance(found, list):
        return [_from_json(value) for value in found]
    return float("nan") if found is None else _INFINITIES.get(found, found) if isinstance(found, str) else found
