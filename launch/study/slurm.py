"""A study on Slurm: a job for each stage, which waits for the jobs it needs (afterok).

What is done is not submitted again, nor what is in the queue already, task by task: <output>/slurm/jobs.jsonl has a
line for what is about to be submitted and one for the job it became; squeue says which of them live. A job's script is
given the name of its submission as an argument, so that it is known even if nobody lived to note its number.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from launch.study.progress import forgive, is_done, tasks_left
from launch.study.schema import Study
from launch.study.slurm_scripts import Part, StageExecutor, script_path, write_script
from launch.study.stages import Stage
from pipeline_steps.errors import InvalidStudy
from train.folders import locked


_TIDYING = 10.0  # seconds after which a job that is tidied up (CG) will hardly come back into the queue any more


@dataclass
class _Job:
    """A job that waits or runs.

    Attributes:
        id: of it, or of its array.
        part: as it was submitted.
        numbers: of its array that wait or run.
        waits: whether none of them has begun.
    """

    id: str
    part: Part
    numbers: set[int] = field(default_factory=set)
    waits: bool = True

    def tasks(self) -> set[int]:
        """That wait or run."""
        return _tasks(self.part, self.numbers)

    def awaited(self, left: set[int]) -> list[str]:
        """For afterok: the job; of an array that has failed in part, and will never be ok, what lives."""
        if left & _tasks(self.part, self.part.numbers) <= self.tasks():
            return [self.id]
        return [f"{self.id}_{number}" for number in sorted(self.numbers)]


@dataclass(frozen=True)
class _Row:
    """What squeue says of a job, or of one number of an array."""

    job: str
    number: int
    state: str
    script: str
    submission: str


def submit(
    study: Study, stages: Mapping[str, Stage], made: Mapping[str, str], chosen: Collection[str] | None = None
) -> Iterator[tuple[str, str]]:
    """Submit what is neither done nor in the queue, each job after those it needs.

    Args:
        study: the study.
        stages: all of them.
        made: their fingerprints.
        chosen: names of those to submit; None: all. The others are done, or `queued`.

    Yields:
        name and job ids of each.

    Raises:
        InvalidStudy: sbatch refuses a job; what it says, and what becomes of those before it.
    """
    folder = Path(study.output) / "slurm"
    chosen = stages.keys() if chosen is None else chosen
    with locked(folder, "submission"):
        queue = _queue(study, stages, made, chosen)
        relevant = {*chosen, *queue}
        relevant |= {need for name in relevant for need in stages[name].needs}
        submitted: list[str] = []
        awaited: dict[str, list[str]] = {}
        anew, half = set[str](), set[str]()
        for name in [name for name in stages if name in relevant]:
            stage, jobs = stages[name], queue.get(name, [])
            left = set(tasks_left(study, stage, made[name]))
            if not left:
                continue
            after = [job for need in stage.needs for job in awaited.get(need, [])]
            if anew.intersection(stage.needs) and not half.intersection(stage.needs):
                _wait_anew(jobs, after)  # what they wait for has failed, in part at least
            awaited[name] = [one for job in jobs for one in job.awaited(left)]
            lacking = sorted(left.difference(*(job.tasks() for job in jobs)))
            if lacking and name in chosen:
                if missed := half.intersection(stage.needs):
                    raise InvalidStudy(f"{name} needs {min(missed)}, which is neither done nor in the queue any more")
                before = len(submitted)
                _submit_stage(study, stage, made[name], lacking, after, submitted)
                awaited[name] += submitted[before:]
                anew.add(name)
                yield name + ("  (some of it is in the queue already)" if jobs else ""), ",".join(submitted[before:])
            elif lacking:
                half.add(name)
            elif name in chosen:
                yield f"{name}  in the queue already", ",".join(job.id for job in jobs)


def queued(study: Study, stages: Mapping[str, Stage], made: Mapping[str, str]) -> set[str]:
    """Names of stages that are not done, and whose missing tasks all wait or run.

    Raises:
        InvalidStudy: Slurm does not answer, or is not here.
    """
    return {
        name
        for name, jobs in _queue(study, stages, made).items()
        if (left := set(tasks_left(study, stages[name], made[name])))
        and left <= set().union(*(job.tasks() for job in jobs))
    }


def lost(study: Study, stages: Mapping[str, Stage], made: Mapping[str, str]) -> dict[tuple[str, int], tuple[str, str]]:
    """Tasks that were submitted, could have begun, and whose job has left the queue without a word of theirs.

    Returns:
        job and log by stage and task; nothing where Slurm is not, or does not answer.
    """
    records = list(_records(study))
    try:
        living = {(row.submission, row.number) for row in _rows()} if records else set()
    except InvalidStudy:
        return {}
    jobs = {one["submission"]: one["job"] for one in records if "job" in one}
    found: dict[tuple[str, int], tuple[str, str]] = {}
    for record in records:
        stage, job = stages.get(record.get("stage", "")), jobs.get(record["submission"])
        if stage is None or job is None or (record["fingerprint"], record["tasks"]) != (made[stage.name], stage.tasks):
            continue
        part = Part(**record["part"])
        for number in part.numbers:
            gone = (record["submission"], number) not in living
            for task in _tasks(part, [number]):
                found.pop((stage.name, task), None)  # of a submission before
                if gone:
                    found[stage.name, task] = job, _log(study, stage, made[stage.name], job, number)
    waits = {name for name, _ in found if any(tasks_left(study, stages[n], made[n]) for n in stages[name].needs)}
    return {place: how for place, how in found.items() if place[0] not in waits}


def _log(study: Study, stage: Stage, made: str, job: str, number: int) -> str:
    folder = Path(study.output).absolute() / "logs" / stage.name
    if stage.kind == "pipeline":
        return str(folder / f"slurm-{made}-{stage.tasks}" / "slurm_logs" / f"{job}_{number}.out")
    return str(folder / f"slurm-{job}.log")


def write_scripts(study: Study, stages: Mapping[str, Stage], made: Mapping[str, str]) -> list[Path]:
    """The sbatch script of every stage that is not done, without what it waits for; nothing is submitted."""
    left = [stage for name, stage in stages.items() if tasks_left(study, stage, made[name])]
    return [write_script(study, stage, made[stage.name]).path for stage in left]


def _submit_stage(
    study: Study, stage: Stage, made: str, tasks: list[int], after: list[str], submitted: list[str]
) -> None:
    """Put the ids of new jobs into `submitted`, one after the other."""
    script = write_script(study, stage, made, tasks)
    if stage.kind == "pipeline":
        StageExecutor(study, stage, made).ship()
    forgive(study, stage, made)
    notes = Path(study.output) / "slurm" / "jobs.jsonl"
    wait = [f"--dependency=afterok:{':'.join(after)}"] if after else []
    for number, part in enumerate(script.parts):
        submission = uuid.uuid4().hex
        record = {"stage": stage.name, "fingerprint": made, "tasks": stage.tasks, "part": asdict(part)}
        _note(notes, {"submission": submission} | record)
        command = ["sbatch", "--parsable", "--kill-on-invalid-dep=yes", *wait, *part.arguments]
        done = _run(*command, str(script.path), submission)
        if done.returncode:
            one = f"{stage.name}, part {number + 1} of {len(script.parts)}" if len(script.parts) > 1 else stage.name
            engine = "training or engine.slurm" if stage.kind in ("training", "measuring") else "slurm"
            stays = f"what was submitted before it, {len(submitted)} in number, stays in the queue, and the same "
            many = f"{stays}command goes on from there" if submitted else "nothing was submitted"
            raise InvalidStudy(
                f"sbatch refuses {one} ({_reason(done.stderr)}): correct engine.{engine} in {study.path}; {many}"
            )
        submitted.append(done.stdout.strip().partition(";")[0])
        _note(notes, {"submission": submission, "job": submitted[-1]})


def _wait_anew(jobs: Iterable[_Job], after: list[str]) -> None:
    """Let jobs that wait already wait for these; one that has just left the queue is missed next time."""
    for job in jobs:
        if job.waits:
            _run("scontrol", "update", f"JobId={job.id}", f"Dependency=afterok:{':'.join(after)}")


def _queue(
    study: Study, stages: Mapping[str, Stage], made: Mapping[str, str], chosen: Collection[str] = ()
) -> dict[str, list[_Job]]:
    """Jobs by stage of what was submitted before and is not over. Those of chosen stages must be of this study; but a
    report that was to wait for fewer runs is taken back."""
    records = {one["submission"]: one for one in _records(study) if "part" in one}
    scripts = {str(script_path(study, stage)): stage.name for stage in stages.values()}
    found: dict[str, dict[str, _Job]] = {}
    for row in _settled(study, stages, made, records):
        record = records.get(row.submission, {"stage": scripts.get(row.script), "fingerprint": "", "tasks": 0})
        stage = stages.get(record["stage"])
        if stage is None:
            continue
        if (record["fingerprint"], record["tasks"]) == (made[stage.name], stage.tasks):
            job = found.setdefault(stage.name, {}).setdefault(row.job, _Job(row.job, Part(**record["part"])))
            job.numbers.add(row.number)
            job.waits &= row.state == "PD"
        elif stage.name in chosen and stage.kind == "report":
            _run("scancel", row.job)  # of all runs there were; another will be of all there are
        elif stage.name in chosen:
            raise InvalidStudy(
                f"{stage.name} is in the queue as job {row.job} with other settings or another number of tasks: "
                f"wait for it, or scancel {row.job} and what waits for it, and give the command again"
            )
    return {name: list(jobs.values()) for name, jobs in found.items()}


def _settled(
    study: Study, stages: Mapping[str, Stage], made: Mapping[str, str], records: Mapping[str, Mapping[str, Any]]
) -> list[_Row]:
    """What waits or runs, once it is clear what becomes of jobs that are tidied up: they may be on their way back."""

    def lost(row: _Row) -> bool:
        record = records.get(row.submission, {})
        stage = stages.get(record.get("stage", ""))
        if stage is None:
            return False
        tasks = _tasks(Part(**record["part"]), [row.number])
        return any(not is_done(study, stage, task, made[stage.name]) for task in tasks if task < stage.tasks)

    end = time.monotonic() + _TIDYING
    while True:
        rows = sorted(_rows(), key=lambda row: int(row.job))
        tidied = [row for row in rows if row.state == "CG"]
        if time.monotonic() > end or not any(lost(row) for row in tidied):
            return [row for row in rows if row.state != "CG"]
        time.sleep(0.5)


def _rows() -> Iterator[_Row]:
    """This user's jobs, of any study and none, but for those that will leave because what they wait for has failed."""
    shown = _run("squeue", "--noheader", "--me", "--array", "--format=%F|%K|%t|%r|%o")
    if shown.returncode:
        raise InvalidStudy(f"squeue does not answer ({_reason(shown.stderr)}): give the command again when Slurm does")
    for line in shown.stdout.splitlines():
        job, *values = line.split("|", 4)
        if len(values) == 4 and values[2] != "DependencyNeverSatisfied":
            script, _, submission = values[3].rpartition(" ")
            yield _Row(job, int(values[0]) if values[0].isdigit() else 0, values[1], script or submission, submission)


def _tasks(part: Part, numbers: Iterable[int]) -> set[int]:
    """What numbers of an array stand for."""
    return {
        task for one in numbers for task in range((part.first + one) * part.each, (part.first + one + 1) * part.each)
    }


def _records(study: Study) -> Iterator[dict[str, Any]]:
    with suppress(FileNotFoundError):
        for line in (Path(study.output) / "slurm" / "jobs.jsonl").read_text().splitlines():
            with suppress(ValueError):  # the last line of one who was killed
                yield json.loads(line)


def _note(notes: Path, record: dict[str, Any]) -> None:
    with notes.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":  # the line of one who was killed
                file.write(b"\n")
        file.write(json.dumps(record).encode() + b"\n")


def _run(*command: str) -> subprocess.CompletedProcess[str]:
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


def _reason(said: str) -> str:
    """The last of what a command of Slurm's says."""
    lines = [line.partition("error: ")[2] or line for line in said.strip().splitlines()]
    return lines[-1].removeprefix("Batch job submission failed: ") if lines else "it does not say why"
