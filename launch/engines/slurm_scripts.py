"""The sbatch script of each stage of a study, in <output>/slurm/<stage>.sh.

Every job is an array, if only of one, whose numbers stand for tasks. A script starts the worker command once on each
node of the job, and puts the job back into the queue if its time was up. It takes two arguments: the name of its
submission, which squeue shows, and the task that the array's number 0 stands for.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.plan import Plan
from launch.stages.base import Stage
from launch.study_file import Study
from launch.study_sections import SlurmJob
from launch.worker import command
from pipeline_steps.errors import InvalidStudy
from pipeline_steps.stores.files import write_atomically


_NOTICE = "USR1@180"  # seconds before its time is up, every process of a job but its shell gets this signal
_FAMILIES = ("gpus", "mem", "ntasks")  # options of sbatch of which a job may have one
_OPTION = re.compile(r"[A-Za-z][\w-]*", re.ASCII)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_TURNS = 20  # of a job that saves nothing before its time is up: then it will never end

# Exit code 75: the task has saved and stopped; 138: it was ended by the notice, having nothing to save.
# SLURM_EXPORT_ENV: under sbatch --export=NONE, srun would hand on nothing of what is exported here.
# One thread, as on other engines: on a CPU, the last bits of sums depend on the number of threads.
_BODY = """\
{environment}
export PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 SLURM_EXPORT_ENV=ALL OMP_NUM_THREADS="${{OMP_NUM_THREADS:-1}}"
export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))
export NUM_PROCESSES=$((SLURM_NNODES * ${{SLURM_GPUS_ON_NODE:-1}}))
job="${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
srun {flags} {command} --task $((${{2:-0}} + SLURM_ARRAY_TASK_ID)) --log {logs}/slurm-"$job".log
code=$?
if [ $code = 138 ] && [ "${{SLURM_RESTART_COUNT:-0}}" -ge {turns} ]; then
  echo "out of time again after {turns} restarts, with nothing saved: give the job more time; not requeued"
elif [ $code = 75 ] || [ $code = 138 ]; then
  scontrol requeue "$job"
fi
exit $code
"""


@dataclass(frozen=True)
class Part:
    """Tasks that are submitted at a time, since an array may be too long for one job.

    Attributes:
        numbers: the numbers of the array.
        first: the task that number 0 stands for.
    """

    numbers: tuple[int, ...]
    first: int = 0

    def array(self, workers: int) -> str:
        """Return the numbers as --array takes them, with the most that run at a time: 0-2,5%8."""
        runs: list[list[int]] = []
        for number in self.numbers:
            if runs and number == runs[-1][1] + 1:
                runs[-1][1] = number
            else:
                runs.append([number, number])
        said = ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
        return f"{said}%{workers}" if workers else said


def parts_of(plan: Plan, tasks: Collection[int]) -> Iterator[Part]:
    """Yield the parts in which tasks are submitted; a task has the same number whatever else is left."""
    longest = plan.study.engine.slurm.max_array_size
    for turn in sorted({task // longest for task in tasks}):
        yield Part(tuple(sorted(task % longest for task in tasks if task // longest == turn)), turn * longest)


def write_script(plan: Plan, stage: Stage, tasks: Collection[int]) -> Path:
    """Write the script of a stage, with the first array of the tasks that are to be done.

    Raises:
        InvalidStudy: sbatch cannot take a folder's name, or an option is more than one word of one line.
    """
    for name, folder in {"output": os.path.abspath(plan.output), "the working directory": os.getcwd()}.items():
        if re.search(r"[\s\x00-\x1f\x7f-\x9f]", folder):
            raise InvalidStudy(f"{folder!r} has a space in it, which sbatch cannot take: change {name}")
    check_lines(plan.study)
    job = job_of(plan.study, stage)
    logs = log_folder(plan, stage)
    logs.mkdir(parents=True, exist_ok=True)
    options = _options(plan, stage, job) | {"array": next(parts_of(plan, tasks)).array(job.workers)}
    lines = ["#!/bin/bash", *(f"#SBATCH {flag}" for flag in _flags(options))]
    nodes = str(options["nodes"])
    # A node that another has left alone has a minute to write what it has. Since Slurm 22.05, srun does not take the
    # number of CPUs from its job
    srun = {"nodes": nodes, "ntasks": nodes, "ntasks-per-node": 1, "kill-on-bad-exit": 0, "wait": 60}
    srun |= {"cpus-per-task": options["cpus-per-task"]} | job.srun_args
    body = _BODY.format(
        environment=_environment(job),
        flags=" ".join(_flags(srun)),
        command=shlex.join(["python", *command(plan, stage, None, "")[1:]]),
        logs=shlex.quote(str(logs)),
        turns=_TURNS,
    )
    path = script_path(plan, stage)
    write_atomically(str(path), "\n".join([*lines, body]).encode())
    return path


def script_path(plan: Plan, stage: Stage) -> Path:
    """Return where the script of a stage stands."""
    return Path(plan.output).absolute() / "slurm" / f"{stage.name}.sh"


def log_folder(plan: Plan, stage: Stage) -> Path:
    """Return the folder of a stage's logs, slurm-<job>_<number>.log."""
    return Path(plan.output).absolute() / "logs" / stage.name


def job_of(study: Study, stage: Stage) -> SlurmJob:
    """Return what a study says about a stage's jobs: `engine.cpu` goes before `engine.slurm` where no model is run."""
    slurm = study.engine.slurm
    return slurm if stage.devices else slurm.model_copy(update={"gpus_per_task": 0, **study.engine.cpu})


def _options(plan: Plan, stage: Stage, job: SlurmJob) -> dict[str, Any]:
    """Return options of sbatch; for trainings and measurements, `engine.training` goes before `engine.slurm`."""
    log = str(log_folder(plan, stage)).replace("%", "%%") + "/slurm-%A_%a.log"
    usual = {
        "job-name": job_name(plan, stage),
        "nodes": 1,
        "cpus-per-task": job.cpus_per_task,
        "mem-per-cpu": _memory(job.mem_per_cpu_gb),
        "gpus": job.gpus_per_task or None,
        "partition": job.partition or None,
        "qos": job.qos or None,
        "time": job.time,
        "requeue": True,
        "kill-on-invalid-dep": "yes",
        "signal": _NOTICE,
        "open-mode": "append",
        "chdir": os.getcwd(),
        "output": log,
        "error": log,
    }
    options = _without(usual, job.sbatch_args) | job.sbatch_args
    if stage.launched or stage.kind == "measured":
        own = plan.study.engine.training | ({"nodes": 1} if stage.kind == "measured" else {})
        options = _without(options, own) | own
    return options


def _without(options: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that others do not stand in for."""
    taken = {_family(name, value) for name, value in own.items()} - {""}
    return {name: value for name, value in options.items() if _family(name, value) not in taken}


def _family(name: str, value: Any) -> str:
    """Return what an option of sbatch asks for, of which a job may have one; "" if it stands alone."""
    if name.startswith(("gres", "tres-per-")) and "gpu" in str(value):
        return "gpus"
    return next((family for family in _FAMILIES if name.startswith(family)), "")


def _memory(gigabytes: float) -> str:
    """Return an amount as sbatch takes it, in whole numbers."""
    return f"{gigabytes:g}G" if gigabytes == int(gigabytes) else f"{round(gigabytes * 1024)}M"


def _flags(options: Mapping[str, Any]) -> list[str]:
    """Return options as words, quoted for bash and for #SBATCH: true has no value, false and null are left out."""
    said = {name: value for name, value in options.items() if value is not None and value is not False}
    bare = {name for name, value in said.items() if value is True or value == ""}
    return [f"--{name}" if name in bare else f"--{name}={shlex.quote(str(value))}" for name, value in said.items()]


def _environment(job: SlurmJob) -> str:
    """Return what makes `python` the one with winnow: as the study says, or the one that runs this."""
    if job.env_command:
        return job.env_command
    if job.condaenv:
        return f'source "$(conda info --base)/etc/profile.d/conda.sh"; conda activate {shlex.quote(job.condaenv)}'
    activate = job.venv_path or f"{sys.prefix}/bin/activate"
    if job.venv_path or os.path.exists(activate):
        return f"source {shlex.quote(activate)}"
    return f'export PATH={shlex.quote(f"{sys.prefix}/bin")}:"$PATH"'


def job_name(plan: Plan, stage: Stage) -> str:
    """Return what squeue shows, in plain characters."""
    return re.sub(r"[^\w.+-]", "_", f"{Path(plan.output).name}-{stage.name.replace('/', '-')}", flags=re.ASCII)


def check_lines(study: Study) -> None:
    """Refuse what would be more than one word of one line of a script: a line break starts a command.

    Raises:
        InvalidStudy: a value of engine.slurm, engine.cpu or engine.training has a control character, a name of an
            option is none, or a value is no text, number or boolean; names the option.
    """
    engine = study.engine
    sections = {"slurm": engine.slurm.model_dump(exclude_unset=True), "cpu": engine.cpu, "training": engine.training}
    for section, options in sections.items():
        _check_lines(study.path, f"engine.{section}", options)


def _check_lines(path: str, place: str, options: Mapping[Any, Any]) -> None:
    for name, value in options.items():
        where = f"{path}: {place}.{name}" if _OPTION.fullmatch(str(name)) else f"{path}: {place}"
        if not _OPTION.fullmatch(str(name)):
            raise InvalidStudy(f"{where} has an option {str(name)!r}: give its name in letters, digits, - and _")
        if isinstance(value, Mapping) and name in ("sbatch_args", "srun_args"):
            _check_lines(path, f"{place}.{name}", value)
        elif not isinstance(value, str | int | float | None):
            raise InvalidStudy(f"{where} must be text, a number, true or false, not {value!r}")
        elif _CONTROL.search(str(value)):
            raise InvalidStudy(f"{where} has a line break or another control character in it: give one line")
