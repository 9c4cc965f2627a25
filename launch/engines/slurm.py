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
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from typing_extensions import override

from launch.engines import Engine, Task
from launch.engines.slurm_scripts import Part, job_of, log_folder, parts_of, script_path, write_script
from launch.plan import Plan
from launch.records import is_done, tasks_left
from launch.stages.base import Stage
from pipeline_steps.errors import InvalidStudy


_TIDYING = 10.0  # seconds after which a job that is tidied up (CG) will hardly come back into the queue any more


@dataclass
class _Job:
    """A job that waits or runs."""

    id: str  # its number, or its array's
    part: Part
    living: set[int] = field(default_factory=set)  # numbers of its array that wait or run
    waits: bool = True  # whether none of them has begun


@dataclass(frozen=True)
class _Row:
    """What squeue says of one number of an array."""

    job: str
    number: int
    state: str
    script: str
    submission: str


class Slurm(Engine):
    """Submits commands as jobs, which go on without this process.

    Jobs in the queue of stages that are about to be submitted must be of this study as it is now, but a report that
    waits for fewer runs is taken back.

    Raises:
        InvalidStudy: Slurm is not here or does not answer, or a job in the queue has other settings.
    """

    attended = False

    def __init__(self, plan: Plan, chosen: Iterable[Stage] = ()) -> None:
        self._plan = plan
        self._submitted = 0
        self._jobs = self._find({stage.name for stage in chosen})

    def _find(self, chosen: Collection[str]) -> Mapping[str, list[_Job]]:
        """Return jobs by stage of what was submitted before and is not over."""
        plan = self._plan
        records = {one["submission"]: one for one in _noted(plan) if "stage" in one}
        scripts = {str(script_path(plan, stage)): stage.name for stage in plan.stages.values()}
        found: dict[str, dict[str, _Job]] = {}
        for row in _settled(plan, records):
            record = records.get(row.submission, {"stage": scripts.get(row.script)})
            name = record["stage"]
            if _stage_of(plan, record):
                job = found.setdefault(name, {}).setdefault(row.job, _Job(row.job, _part(record)))
                job.living.add(row.number)
                job.waits &= row.state == "PD"
            elif name in chosen and plan.stages[name].kind == "report":
                _run("scancel", row.job)  # another is about to be submitted, which waits for all runs there are
            elif name in chosen:
                raise InvalidStudy(
                    f"{name} is in the queue as job {row.job} with other settings or another number of tasks: "
                    f"wait for it, or scancel {row.job} and what waits for it, and give the command again"
                )
        return {name: list(jobs.values()) for name, jobs in found.items()}

    @override
    def queued(self, stage: Stage) -> Mapping[int, str]:
        """Return what to wait for by task: the job, or JOB_NUMBER of an array that has failed in part.

        Such an array will never be ok, but what is left of it may be.
        """
        handles = {}
        for job in self._jobs.get(stage.name, ()):
            ended = set(job.part.numbers) - job.living
            is_whole = all(is_done(self._plan.output, stage, job.part.first + number) for number in ended)
            for number in sorted(job.living):
                handles[job.part.first + number] = job.id if is_whole else f"{job.id}_{number}"
        return handles

    @override
    def submit(self, tasks: Sequence[Task], after: Sequence[str]) -> list[str]:
        stage, numbers = tasks[0].stage, [task.number for task in tasks]
        script = str(write_script(self._plan, stage, numbers))
        wait = [f"--dependency=afterok:{':'.join(after)}"] if after else []
        jobs: dict[int, str] = {}
        parts = list(parts_of(self._plan, numbers))
        for turn, part in enumerate(parts):
            submission = uuid.uuid4().hex
            record = {"stage": stage.name, "fingerprint": stage.made, "tasks": stage.tasks, **asdict(part)}
            _note(self._plan, {"submission": submission} | record)
            array = f"--array={part.array(job_of(self._plan.study, stage).workers)}"
            done = _run("sbatch", "--parsable", *wait, array, script, submission, str(part.first))
            if done.returncode:
                one = f"{stage.name}, part {turn + 1} of {len(parts)}" if len(parts) > 1 else stage.name
                raise self._refused(one, stage, _reason(done.stderr))
            job = done.stdout.strip().partition(";")[0]
            _note(self._plan, {"submission": submission, "job": job})
            self._submitted += 1
            jobs |= {part.first + number: job for number in part.numbers}
        return [jobs[number] for number in numbers]

    def _refused(self, what: str, stage: Stage, why: str) -> InvalidStudy:
        engine = "training or engine.slurm" if stage.launched or stage.kind == "measured" else "slurm"
        stays = f"what was submitted before it, {self._submitted} in number, stays in the queue, and the same "
        before = f"{stays}command goes on from there" if self._submitted else "nothing was submitted"
        return InvalidStudy(
            f"sbatch refuses {what} ({why}): correct engine.{engine} in {self._plan.study.path}; {before}"
        )

    @override
    def wait_anew(self, stage: Stage, after: Sequence[str]) -> None:
        for job in self._jobs.get(stage.name, ()):
            if job.waits:  # one that has just left the queue is missed next time
                _run("scontrol", "update", f"JobId={job.id}", f"Dependency=afterok:{':'.join(after)}")


def lost(plan: Plan) -> dict[tuple[str, int], tuple[str, str]]:
    """Return the job and log, by stage and task, of tasks that could have begun and whose job left without a word.

    There are none where Slurm is not, or does not answer.
    """
    records = list(_noted(plan))
    try:
        living = {(row.submission, row.number) for row in _rows()} if records else set()
    except InvalidStudy:
        return {}
    jobs = {one["submission"]: one["job"] for one in records if "job" in one}
    found: dict[tuple[str, int], tuple[str, str]] = {}
    for record in records:
        stage, job = _stage_of(plan, record), jobs.get(record["submission"])
        if stage is None or job is None:
            continue
        part = _part(record)
        for number in part.numbers:
            place = stage.name, part.first + number
            found.pop(place, None)  # of an earlier submission
            if (record["submission"], number) not in living:
                found[place] = job, f"{log_folder(plan, stage)}/slurm-{job}_{number}.log"
    stages = {name: plan.stages[name] for name, _ in found}
    waits = {name for name, stage in stages.items() if any(tasks_left(plan.output, need) for need in stage.inputs)}
    return {place: how for place, how in found.items() if place[0] not in waits}


def write_scripts(plan: Plan, chosen: Iterable[Stage]) -> list[Path]:
    """Write the script of every chosen stage that is not done, without what it waits for; submit nothing."""
    left = {stage: tasks_left(plan.output, stage) for stage in chosen}
    return [write_script(plan, stage, tasks) for stage, tasks in left.items() if tasks]


# ------------------------------------------------------------------------------------- what was noted, and the queue


def _notes(plan: Plan) -> Path:
    return Path(plan.output) / "slurm" / "jobs.jsonl"


def _noted(plan: Plan) -> Iterator[dict[str, Any]]:
    """Yield what was noted, line by line."""
    with suppress(FileNotFoundError):
        for line in _notes(plan).read_text().splitlines():
            with suppress(ValueError):  # the last line of a process that was killed
                yield json.loads(line)


def _note(plan: Plan, record: Mapping[str, Any]) -> None:
    """Add a line that stays, whatever happens next."""
    with _notes(plan).open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":  # the line of a process that was killed
                file.write(b"\n")
        file.write(json.dumps(record).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _stage_of(plan: Plan, record: Mapping[str, Any]) -> Stage | None:
    """Return the stage that a record is of; None if its settings or its number of tasks were others."""
    stage = plan.stages.get(record.get("stage", ""))
    known = stage is not None and (record.get("fingerprint"), record.get("tasks")) == (stage.made, stage.tasks)
    return stage if known else None


def _part(record: Mapping[str, Any]) -> Part:
    return Part(tuple(record["numbers"]), record["first"])


def _settled(plan: Plan, records: Mapping[str, Mapping[str, Any]]) -> list[_Row]:
    """Return what waits or runs, once it is clear what becomes of jobs that are tidied up: they may come back."""

    def is_missed(row: _Row) -> bool:
        record = records.get(row.submission, {})
        stage = _stage_of(plan, record)
        return stage is not None and not is_done(plan.output, stage, record["first"] + row.number)

    end = time.monotonic() + _TIDYING
    while True:
        rows = sorted(_rows(), key=lambda row: int(row.job))
        if time.monotonic() > end or not any(row.state == "CG" and is_missed(row) for row in rows):
            return [row for row in rows if row.state != "CG"]
        time.sleep(0.5)


def _rows() -> Iterator[_Row]:
    """Yield this user's jobs, of any study and none, without those that will leave since what they need has failed."""
    shown = _run("squeue", "--noheader", "--me", "--array", "--format=%F|%K|%t|%r|%o")
    if shown.returncode:
        raise InvalidStudy(f"squeue does not answer ({_reason(shown.stderr)}): give the command again when Slurm does")
    for line in shown.stdout.splitlines():
        job, *values = line.split("|", 4)
        if len(values) == 4 and values[2] != "DependencyNeverSatisfied":
            script, submission, *_ = [*values[3].split(" "), ""]
            yield _Row(job, int(values[0]) if values[0].isdigit() else 0, values[1], script, submission)


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command of Slurm's; from within a job, without what that job was given."""
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
    """Return the last of what a command of Slurm's says."""
    lines = [line.partition("error: ")[2] or line for line in said.strip().splitlines()]
    return lines[-1].removeprefix("Batch job submission failed: ") if lines else "it does not say why"
