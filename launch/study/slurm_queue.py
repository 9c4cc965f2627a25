"""What Slurm says of a user's jobs, and what a study has noted of those it submitted (slurm/jobs.jsonl)."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.study.schema import Study
from launch.study.slurm_scripts import Part
from pipeline_steps.errors import InvalidStudy


@dataclass(frozen=True)
class Row:
    """What squeue says of a job, or of one number of an array."""

    job: str
    number: int
    state: str
    script: str
    submission: str


def rows() -> Iterator[Row]:
    """This user's jobs, of any study and none, but for those that will leave because what they wait for has failed."""
    shown = run("squeue", "--noheader", "--me", "--array", "--format=%F|%K|%t|%r|%o")
    if shown.returncode:
        raise InvalidStudy(f"squeue does not answer ({reason(shown.stderr)}): give the command again when Slurm does")
    for line in shown.stdout.splitlines():
        job, *values = line.split("|", 4)
        if len(values) == 4 and values[2] != "DependencyNeverSatisfied":
            script, _, submission = values[3].rpartition(" ")
            yield Row(job, int(values[0]) if values[0].isdigit() else 0, values[1], script or submission, submission)


def tasks_of_numbers(part: Part, numbers: Iterable[int]) -> set[int]:
    """What numbers of an array stand for."""
    return {
        task for one in numbers for task in range((part.first + one) * part.each, (part.first + one + 1) * part.each)
    }


def records(study: Study) -> Iterator[dict[str, Any]]:
    """What was noted, line by line."""
    with suppress(FileNotFoundError):
        for line in (Path(study.output) / "slurm" / "jobs.jsonl").read_text().splitlines():
            with suppress(ValueError):  # the last line of one who was killed
                yield json.loads(line)


def note(notes: Path, record: dict[str, Any]) -> None:
    """Add a line to jobs.jsonl."""
    with notes.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":  # the line of one who was killed
                file.write(b"\n")
        file.write(json.dumps(record).encode() + b"\n")


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """A command of Slurm's; from within a job, without what that job was given."""
    kept = ("SLURM_CONF", "SLURM_CLUSTERS")
    ours = ("SLURM_", "SQUEUE_")  # the latter are what the user likes to see
    environment = {name: value for name, value in os.environ.items() if name in kept or not name.startswith(ours)}
    try:
        return subprocess.run(command, capture_output=True, text=True, env=environment)
    except FileNotFoundError:
        raise InvalidStudy(
            f"there is no {command[0]} here: give the command on a login node of a Slurm cluster, or --executor local"
        ) from None


def reason(said: str) -> str:
    """The last of what a command of Slurm's says."""
    lines = [line.partition("error: ")[2] or line for line in said.strip().splitlines()]
    return lines[-1].removeprefix("Batch job submission failed: ") if lines else "it does not say why"
