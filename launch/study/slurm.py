"""A study on Slurm: a job for each stage, which waits for the jobs it needs (afterok).

What is done is not submitted again, nor what is in the queue already, task by task: <output>/slurm/jobs.jsonl has a
line for what is about to be submitted and one for the job it became; squeue says which of them live. A job's script is
given the name of its submission as an argument, so that it is known even if nobody lived to note its number.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from launch.study import slurm_queue
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
        return slurm_queue.tasks_of_numbers(self.part, self.numbers)

    def awaited(self, left: set[int]) -> list[str]:
        """For afterok: the job; of an array that has failed in part, and will never be ok, what lives."""
        if left & slurm_queue.tasks_of_numbers(self.part, self.part.numbers) <= self.tasks():
            return [self.id]
        return [f"{self.id}_{number}" for number in sorted(self.numbers)]


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
    records = list(slurm_queue.records(study))
    try:
        living = {(row.submission, row.number) for row in slurm_queue.rows()} if records else set()
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
            for task in slurm_queue.tasks_of_numbers(part, [number]):
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
        slurm_queue.note(notes, {"submission": submission} | record)
        command = ["sbatch", "--parsable", "--kill-on-invalid-dep=yes", *wait, *part.arguments]
        done = slurm_queue.run(*command, str(script.path), submission)
        if done.returncode:
            one = f"{stage.name}, part {number + 1} of {len(script.parts)}" if len(script.parts) > 1 else stage.name
            engine = "training or engine.slurm" if stage.kind in ("training", "measuring") else "slurm"
            stays = f"what was submitted before it, {len(submitted)} in number, stays in the queue, and the same "
            many = f"{stays}command goes on from there" if submitted else "nothing was submitted"
            why = slurm_queue.reason(done.stderr)
            raise InvalidStudy(f"sbatch refuses {one} ({why}): correct engine.{engine} in {study.path}; {many}")
        submitted.append(done.stdout.strip().partition(";")[0])
        slurm_queue.note(notes, {"submission": submission, "job": submitted[-1]})


def _wait_anew(jobs: Iterable[_Job], after: list[str]) -> None:
    """Let jobs that wait already wait for these; one that has just left the queue is missed next time."""
    for job in jobs:
        if job.waits:
            slurm_queue.run("scontrol", "update", f"JobId={job.id}", f"Dependency=afterok:{':'.join(after)}")


def _queue(
    study: Study, stages: Mapping[str, Stage], made: Mapping[str, str], chosen: Collection[str] = ()
) -> dict[str, list[_Job]]:
    """Jobs by stage of what was submitted before and is not over. Those of chosen stages must be of this study; but a
    report that was to wait for fewer runs is taken back."""
    records = {one["submission"]: one for one in slurm_queue.records(study) if "part" in one}
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
            slurm_queue.run("scancel", row.job)  # of all runs there were; another will be of all there are
        elif stage.name in chosen:
            raise InvalidStudy(
                f"{stage.name} is in the queue as job {row.job} with other settings or another number of tasks: "
                f"wait for it, or scancel {row.job} and what waits for it, and give the command again"
            )
    return {name: list(jobs.values()) for name, jobs in found.items()}


def _settled(
    study: Study, stages: Mapping[str, Stage], made: Mapping[str, str], records: Mapping[str, Mapping[str, Any]]
) -> list[slurm_queue.Row]:
    """What waits or runs, once it is clear what becomes of jobs that are tidied up: they may be on their way back."""

    def lost(row: slurm_queue.Row) -> bool:
        record = records.get(row.submission, {})
        stage = stages.get(record.get("stage", ""))
        if stage is None:
            return False
        tasks = slurm_queue.tasks_of_numbers(Part(**record["part"]), [row.number])
        return any(not is_done(study, stage, task, made[stage.name]) for task in tasks if task < stage.tasks)

    end = time.monotonic() + _TIDYING
    while True:
        rows = sorted(slurm_queue.rows(), key=lambda row: int(row.job))
        tidied = [row for row in rows if row.state == "CG"]
        if time.monotonic() > end or not any(lost(row) for row in tidied):
            return [row for row in rows if row.state != "CG"]
        time.sleep(0.5)
