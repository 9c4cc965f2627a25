"""The files of a run, where they stand and the small ones among them.

<run>/resolved.json     all that decides the outcome; another run is refused by the names of what differs
<run>/environment.json  command, versions and machine of the last start; never compared
<run>/metrics.jsonl     one row per `log_every` steps: tokens, losses, speed; last its own digest, `xxh3`
<run>/held_out.jsonl    one row per split and measurement, if there are splits; likewise
<run>/preempted.json    there if the run was stopped by a signal and waits to be continued
<run>/checkpoints/      see `train.checkpoints`
<run>/branches/         run directories of further budgets, by tokens: see `train.branches`
"""

from __future__ import annotations

import json
import math
import platform
import re
import shutil
import sys
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import xxhash
from datatrove.utils.logging import logger

from pipeline_steps.errors import StoreDamaged
from pipeline_steps.stores.files import canonical, sweep, write_atomically, write_json
from train.folders import READ_BY_TRANSFORMERS, SealedFolder
from train.verified import verify_files


_REMEDY = "delete this checkpoint and those after it, and give the training command again"


def checkpoint_folder(run_dir: Path, step: int) -> Path:
    """Return the folder of a step's checkpoint."""
    return run_dir / "checkpoints" / f"step-{step:08d}"


def list_checkpoints(run_dir: Path) -> list[Path]:
    """List the folders of a run's checkpoints by step, but for those that were set aside as damaged."""
    found = (run_dir / "checkpoints").glob("step-*")
    return sorted((folder for folder in found if re.fullmatch(r"step-\d{8,}", folder.name)), key=step_of)


def step_of(checkpoint: Path) -> int:
    """Return the step of a checkpoint's folder."""
    return int(checkpoint.name.removeprefix("step-"))


def read_state(folder: Path, remedy: str = _REMEDY) -> dict[str, Any]:
    """Return what a checkpoint says of itself, after verifying every file of it; `files` has their digests.

    Raises:
        StoreDamaged: a file is missing or is not what was written; names it.
        StoreMismatch: somebody has added a file that transformers would read; names it. Other added files do no harm.
    """
    checkpoint = SealedFolder.read(folder, "state.json", remedy, READ_BY_TRANSFORMERS)
    verify_files(checkpoint.files, remedy)
    return checkpoint.facts


def latest_checkpoint(run_dir: Path, last: int | None = None) -> Path | None:
    """Return the newest intact checkpoint of a run, or None; newer ones that are damaged are named in a warning.

    Args:
        run_dir: the run's folder.
        last: step of the newest that may be returned; None for any.

    Raises:
        StoreMismatch: see `read_state`; such a checkpoint is intact, so the run must not go on without it.
    """
    for folder in reversed(list_checkpoints(run_dir)):
        if last is not None and step_of(folder) > last:
            continue
        try:
            read_state(folder, "this checkpoint is passed over")
        except StoreDamaged as error:
            logger.warning(str(error))
        else:
            return folder
    return None


def is_finished(run_dir: Path, steps: int) -> bool:
    """Return whether the checkpoint of the last step is there and intact."""
    return latest_checkpoint(run_dir) == checkpoint_folder(run_dir, steps)


def tidy(run_dir: Path) -> None:
    """Remove what killed starts of a run left half written or half deleted; only for who has locked the run."""
    for leftover in (run_dir / "checkpoints").glob(".*"):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    sweep(str(run_dir), ".*.tmp-*")  # other processes of this start may be writing here


def note_preemption(run_dir: Path, signal_number: int | None) -> None:
    """Leave preempted.json behind, for job scripts; or, without a signal, take it away."""
    if signal_number is None:
        (run_dir / "preempted.json").unlink(missing_ok=True)
    else:
        write_json(f"{run_dir}/preempted.json", {"signal": signal_number})


@cache
def versions() -> dict[str, str]:
    """Return the versions of what computes."""
    return {name: version(name) for name in ("accelerate", "numpy", "torch", "transformers")}


def write_environment(run_dir: Path, **facts: Any) -> None:
    """Record the command, versions and `facts` of this start."""
    environment = {
        "command": sys.argv,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "versions": versions(),
        **facts,
    }
    write_json(f"{run_dir}/environment.json", environment)


def sealed_row(row: dict[str, Any]) -> str:
    """Return a row as a line of JSON whose last field, `xxh3`, is the digest of the others."""
    # JSON has no infinity, which the norm of a gradient may be where the loss is finite
    row = {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}
    return json.dumps(row | {"xxh3": xxhash.xxh3_64_hexdigest(canonical(row))}) + "\n"


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's JSON lines; a last line that a kill has cut short does not count.

    Raises:
        StoreDamaged: a line is not what was written; names the file and the line.
    """
    *lines, end = path.read_bytes().split(b"\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(_unseal(line))
        except ValueError as error:
            raise StoreDamaged(
                f"{path}, line {number}, is damaged ({error}): restore it, or delete this line to do without its row"
            ) from error
    for whole in (end, end[:-1]):  # a row without its end of line, or with another character in its place
        with suppress(ValueError):
            return [*rows, _unseal(whole)]
    return rows


def last_row(path: Path) -> dict[str, Any]:
    """Return the last whole row of a run's JSON lines, for who watches it; {} if there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - 16_384))
            return _unseal(file.read().split(b"\n")[-2])
    except (OSError, ValueError, IndexError):  # not there yet, or damaged: who trains on will say so
        return {}


def _unseal(line: bytes) -> dict[str, Any]:
    """Return what `sealed_row` was given. Raises ValueError, saying why, if it is not what was written."""
    try:
        row = json.loads(line)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if not isinstance(row, dict) or row.pop("xxh3", None) != xxhash.xxh3_64_hexdigest(canonical(row)):
        raise ValueError("its digest is not that of the row")
    return row


class Metrics:
    """<run>/<name>.jsonl, continued after a step: later rows are dropped, so that no step appears twice.

    Args:
        run_dir: the run's folder.
        name: of the file, without its suffix.
        after_step: last step of the rows that are kept.
        before: run directory that these rows are from; the same if None.
    """

    def __init__(self, run_dir: Path, name: str, after_step: int, before: Path | None = None) -> None:
        path, source = run_dir / f"{name}.jsonl", (before or run_dir) / f"{name}.jsonl"
        kept = [row for row in read_rows(source) if row["step"] <= after_step] if source.exists() else []
        write_atomically(str(path), "".join(map(sealed_row, kept)).encode())
        self._file = path.open("a")

    def __enter__(self) -> Metrics:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, row: dict[str, Any]) -> None:
        """Write one row through to the file."""
        self._file.write(sealed_row(row))
        self._file.flush()
