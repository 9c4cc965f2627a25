"""The files of a run, where they stand and the small ones among them.

<run>/resolved.json     all that decides the outcome; another run is refused by the names of what differs
<run>/environment.json  command, versions and machine of the last start; never compared
<run>/metrics.jsonl     one row per `log_every` steps: tokens, losses, speed
<run>/held_out.jsonl    one row per split and measurement, if there are splits
<run>/preempted.json    there if the run was stopped by a signal and waits to be continued
<run>/checkpoints/      see `train.checkpoints`
"""

from __future__ import annotations

import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline_steps.errors import StoreDamaged, StoreMismatch
from pipeline_steps.files import read_json, write_atomically, write_json


# What may differ between two starts of a run: where things are, and how fast or how often they are done.
FREE = {"tokens", "selection", "run_dir", "stage_to", "verify_tokens", "micro_batch_size", "report_to", "save_every"}
FREE |= {"milestones", "keep_last", "shard", "held_out", "eval_every", "eval_windows"}


def checkpoint_folder(run_dir: Path, step: int) -> Path:
    """Where the checkpoint of a step stands."""
    return run_dir / "checkpoints" / f"step-{step:08d}"


def list_checkpoints(run_dir: Path) -> list[Path]:
    """Folders of a run's checkpoints, by step."""
    return sorted((run_dir / "checkpoints").glob("step-*"))


def is_finished(run_dir: Path, steps: int) -> bool:
    """Whether the checkpoint of the last step stands."""
    return (checkpoint_folder(run_dir, steps) / "state.json").exists()


def refuse_differences(found: dict[str, Any], wanted: dict[str, Any], where: str) -> None:
    """Raise StoreMismatch naming every key whose value is not the wanted one, with both values."""
    differing = sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))
    if differing:
        said = "; ".join(f"{key}: {found.get(key)!r} there, {wanted.get(key)!r} now" for key in differing)
        raise StoreMismatch(f"{where} is of another run ({said}): give another folder, or the same settings")


def claim(run_dir: Path, resolved: dict[str, Any]) -> None:
    """Write resolved.json, or check that what is there says the same."""
    path = run_dir / "resolved.json"
    if path.exists():
        refuse_differences(read_json(str(path)), json.loads(json.dumps(resolved)), str(run_dir))
    else:
        write_json(str(path), resolved)


def note_preemption(run_dir: Path, signal_number: int | None) -> None:
    """Leave preempted.json behind, for job scripts; or, without a signal, take it away."""
    if signal_number is None:
        (run_dir / "preempted.json").unlink(missing_ok=True)
    else:
        write_json(f"{run_dir}/preempted.json", {"signal": signal_number})


def versions() -> dict[str, str]:
    """Versions of what computes."""
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


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's JSON lines; the last line does not count if a kill has cut it short.

    Raises:
        StoreDamaged: a line is not a row of a step; names the file and the line.
    """
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        if not line.endswith(b"\n"):
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict) or not isinstance(row["step"], int):
                raise ValueError("its step is not a number")
        except (KeyError, ValueError, RecursionError) as error:
            why = f"it has no {error}" if isinstance(error, KeyError) else error
            raise StoreDamaged(
                f"{path}, line {number}, is damaged ({why}): mend that line, or delete it if the rest may do without"
            ) from error
        rows.append(row)
    return rows


def last_row(path: Path) -> dict[str, Any]:
    """Return the last whole row of a run's JSON lines, for who watches it; {} if there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - 16_384))
            lines = file.read().splitlines(keepends=True)
        row = json.loads([line for line in lines if line.endswith(b"\n")][-1])
        return row if isinstance(row, dict) else {}
    except (OSError, ValueError, IndexError):  # not there yet, or damaged: who trains on will say so
        return {}


class Metrics:
    """<run>/<name>.jsonl, continued after a step: later rows are dropped, so that no step appears twice."""

    def __init__(self, run_dir: Path, name: str, after_step: int) -> None:
        path = run_dir / f"{name}.jsonl"
        kept = [row for row in read_rows(path) if row["step"] <= after_step] if path.exists() else []
        write_atomically(str(path), "".join(json.dumps(row) + "\n" for row in kept).encode())
        self._file = path.open("a")

    def __enter__(self) -> Metrics:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, row: dict[str, Any]) -> None:
        """Write one row through to the file."""
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
