"""The rows that a study has left out, from the records of its corpora's files: listed, and counted by reason."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import orjson
from rich.table import Table

from launch.plan import Plan
from launch.progress import StageProgress
from launch.stages.base import Stage
from launch.stages.corpora import BAD_ROWS, Files
from pipeline_steps.readers.bad_rows import MOST_LISTED, read_record
from pipeline_steps.stores.files import write_atomically


def tell_bad_rows(plan: Plan, chosen: Iterable[Stage], progress: StageProgress) -> None:
    """List the bad rows of every corpus that the chosen stages read, and show how many there are.

    A corpus has the list OUTPUT/bad-rows/NAME.jsonl; `MOST_LISTED` rows are listed at most.
    """
    sources = {source.name: source for stage in chosen for source in stage.sources}
    listed, table = 0, Table("corpus", "left out because", "rows", "first", title="Bad rows")
    for name, source in sorted(sources.items()):
        if source.reading.on_bad_row != "skip" or not source.listing(plan.output).exists():
            continue
        counts, first, lines = _bad_rows(plan.output, source, MOST_LISTED - listed)
        listed += len(lines)
        path = Path(plan.output, BAD_ROWS, f"{name}.jsonl")
        if counts:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(str(path), b"".join(lines))
        else:
            path.unlink(missing_ok=True)
        for reason, rows in sorted(counts.items(), key=lambda one: (-one[1], one[0])):
            table.add_row(name, reason, f"{rows:,}", first[reason])
    if table.row_count:
        progress.show(table)
        progress.note(f"the rows that were left out are listed in {plan.output}/{BAD_ROWS}")


def _bad_rows(output: str, source: Files, most: int) -> tuple[Counter[str], dict[str, str], list[bytes]]:
    """Return how many rows were left out and where the first is, by reason; and lines of JSON about the first ones."""
    from datatrove.io import get_datafolder

    files, folder = source.files(output), source.bad_rows(output)
    counts, first, lines = Counter[str](), dict[str, str](), list[bytes]()
    opened = get_datafolder(files.folder)
    for name in files.sizes if os.path.isdir(folder) else ():
        path = opened.resolve_paths(name)
        record = read_record(folder, path)
        if record is None:
            continue
        for reason, rows in record["counts"].items():
            counts[reason] += rows
            place = next((f"{name}, row {row:,}" for row, why in record["rows"] if why == reason), name)
            first.setdefault(reason, place)
        for row, reason in record["rows"][: most - len(lines)]:
            lines.append(orjson.dumps({"file": path, "row": row, "reason": reason}) + b"\n")
    return counts, first, lines
