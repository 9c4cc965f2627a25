"""The sbatch script of each stage of a study, in <output>/slurm/<stage>.sh.

Pipelines are datatrove's SlurmPipelineExecutor; a training, a measurement and the report are one `srun` on each node.
Both understand the same `engine.slurm`.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dill  # type: ignore[import-untyped]
from datatrove.executor import SlurmPipelineExecutor

from launch.study.progress import tasks_left
from launch.study.schema import Study
from launch.study.stage_executor import OfStudy
from launch.study.stages import Stage
from pipeline_steps.errors import InvalidStudy
from pipeline_steps.stores.files import write_atomically


_NOTICE = "USR1@180"  # seconds before its time is up, every process of a job but its shell is told so
_UNSAID = ("partition", "qos", "mail-type")  # that datatrove gives without a value
_FAMILIES = ("gpus", "mem", "ntasks")  # options of sbatch of which a job may have one
# One thread, as on other engines and under torchrun: on a CPU, the last bits of sums depend on their number
_THREADS = 'export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"'
_OPTION = re.compile(r"[A-Za-z][\w-]*", re.ASCII)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_TURNS = 20  # of a job that saves nothing before its time is up: then it will never end


@dataclass(frozen=True)
class Part:
    """What is submitted at a time: an array may be too long for one job.

    Attributes:
        arguments: of sbatch.
        numbers: of the array; 0 for what is none.
        first: what is added to a number.
        each: tasks that a number stands for.
    """

    arguments: tuple[str, ...] = ()
    numbers: tuple[int, ...] = (0,)
    first: int = 0
    each: int = 1


@dataclass(frozen=True)
class Script:
    """A script that can be submitted.

    Attributes:
        path: of it.
        parts: each time it is to be submitted.
    """

    path: Path
    parts: tuple[Part, ...] = (Part(),)


class StageExecutor(OfStudy, SlurmPipelineExecutor):
    """datatrove's executor for a stage.

    Args:
        study: the study.
        stage: one of its pipelines.
        made: its fingerprint.
    """

    def __init__(self, study: Study, stage: Stage, made: str) -> None:
        check_lines(study)
        # Its files know neither inputs nor the number of tasks: a folder of its own for each
        logs = f"{os.path.abspath(study.output)}/logs/{stage.name}/slurm-{made}-{stage.tasks}"
        options = _arguments(study, stage)
        super().__init__(study, stage, made, job_name=job_name(study, stage), logging_dir=logs, **options)

    def begin(self, rank: int) -> str:
        """File that a task logs to."""
        if int(os.environ.get("SLURM_RESTART_COUNT", 0)) >= _TURNS:  # what begins anew each time never ends
            signal.signal(signal.SIGUSR1, _out_of_time)
        job, number = (os.environ.get(f"SLURM_ARRAY_{name}", "") for name in ("JOB_ID", "TASK_ID"))
        return f"{self.slurm_logs_folder}/{job}_{number}.out"

    def get_sbatch_args(self, max_array: int = 1) -> dict[str, Any]:
        """Options of sbatch by name; without those that are not said, which are the cluster's own."""
        options = super().get_sbatch_args(max_array)
        return {name: value for name, value in options.items() if value or name not in _UNSAID}

    def parts(self, tasks: Collection[int]) -> tuple[Part, ...]:
        """What to submit for these tasks; the numbers of an array are always those of all tasks, whatever is done."""
        longest = self.max_array_size if self.max_array_size > 0 else self.tasks
        jobs = sorted({task // self.tasks_per_job for task in tasks})
        most = f"%{self.workers}" if self.workers > 0 else ""
        found = []
        for offset in sorted({job // longest for job in jobs}):
            numbers = [job % longest for job in jobs if job // longest == offset]
            arguments = (f"--array={_ranges(numbers)}{most}", f"--export=ALL,RUN_OFFSET={offset}")
            found.append(Part(arguments, tuple(numbers), offset * longest, self.tasks_per_job))
        return tuple(found)

    def write(self, tasks: Collection[int]) -> Script:
        """The script; datatrove's own submission knows the last of several arrays only, and leaves the others out of
        what later jobs wait for."""
        parts = self.parts(tasks)
        options = self.get_sbatch_args() | {"array": parts[0].arguments[0].removeprefix("--array=")}
        command = ["srun", *_flags(_srun(options, self.srun_args)), "-l", "-n", "1", "launch_pickled_pipeline"]
        path = script_path(self.study, self.stage)
        text = self.get_launch_file_contents(options, shlex.join([*command, self._shipped]))
        write_atomically(str(path), text.encode())
        return Script(path, parts)

    def ship(self) -> None:
        """Write what the jobs read; some may be about to, of another submission of the stage."""
        write_atomically(self._shipped, dill.dumps(self))
        write_atomically(
            self.logging_dir.resolve_paths("ranks_to_run.json"), json.dumps([*range(self.tasks)]).encode()
        )

    @property
    def _shipped(self) -> str:
        """What says which tasks a number of an array stands for: jobs in the queue keep theirs."""
        return str(self.logging_dir.resolve_paths(f"executor-{self.tasks_per_job}-{self.max_array_size}.pik"))


def _out_of_time(number: int, frame: Any) -> None:
    raise TimeoutError(f"out of time again after {_TURNS} restarts: give it more (engine.slurm.time); not requeued")


def write_script(study: Study, stage: Stage, made: str, tasks: Collection[int] | None = None) -> Script:
    """Write the script of a stage, for those of its tasks that are to be done; without them, for all that are left.

    Raises:
        InvalidStudy: sbatch cannot take the output's path.
    """
    for name, path in {"output": os.path.abspath(study.output), "the working directory": os.getcwd()}.items():
        if re.search(r"[\s\x00-\x1f\x7f-\x9f]", path):
            raise InvalidStudy(f"{path!r} has a space in it, which sbatch cannot take: change {name}")
    base = StageExecutor(study, stage, made)
    if stage.kind == "pipeline":
        return base.write(tasks_left(study, stage, made) if tasks is None else tasks)
    options = _options(study, stage, base.get_sbatch_args())
    lines = [f"#SBATCH --{name}" + ("" if value in (None, "") else f"={value}") for name, value in options.items()]
    nodes = str(options.get("nodes", 1))
    # Whoever is left alone by another node's end has a minute to write what he has
    flags = {"nodes": nodes, "ntasks": nodes, "ntasks-per-node": 1, "kill-on-bad-exit": 0, "wait": 60}
    flags |= _srun(options, base.srun_args)
    path = os.path.abspath(study.path) if os.path.exists(study.path) else study.path  # one that comes with us
    work = ["python", "-m", "launch.study.work", path, stage.name, "--made", made, "--log"]
    log = f'{shlex.quote(os.path.dirname(options["output"]))}/slurm-"$SLURM_JOB_ID".log'
    step = f"srun {shlex.join(_flags(flags))} {shlex.join(work)} {log}"
    body = _BODY.format(environment=base.env_command, step=step, turns=_TURNS)
    write_atomically(str(script_path(study, stage)), "\n".join(["#!/bin/bash", *lines, body]).encode())
    return Script(script_path(study, stage))


def script_path(study: Study, stage: Stage) -> Path:
    """Where the script of a stage stands."""
    return Path(study.output).absolute() / "slurm" / f"{stage.name}.sh"


def check_lines(study: Study) -> None:
    """Refuse what would be more than one word of one line of a script: a line break starts a command.

    Raises:
        InvalidStudy: a value of engine.slurm, engine.cpu or engine.training has a control character, a name of an
            option is none, or a value is no text, number or boolean; names the option.
    """
    for section in ("slurm", "cpu", "training"):
        _check_lines(study.path, f"engine.{section}", getattr(study.engine, section))


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


def job_name(study: Study, stage: Stage) -> str:
    """Return what squeue shows. datatrove prints the name by a shell, so it has plain characters only."""
    return re.sub(r"[^\w.+-]", "_", f"{Path(study.output).name}-{stage.name.replace('/', '-')}", flags=re.ASCII)


# 75: it has saved and stopped, 138: it was ended by the notice, having nothing to save
_BODY = """\
{environment}
export PYTHONUNBUFFERED=1
export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))
export NUM_PROCESSES=$((SLURM_NNODES * ${{SLURM_GPUS_ON_NODE:-1}}))
{step}
code=$?
if [ $code = 138 ] && [ "${{SLURM_RESTART_COUNT:-0}}" -ge {turns} ]; then
  echo "out of time again after {turns} restarts, with nothing saved: give the job more time; not requeued"
elif [ $code = 75 ] || [ $code = 138 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit $code
"""


def _arguments(study: Study, stage: Stage) -> dict[str, Any]:
    """Of SlurmPipelineExecutor."""
    given = {"time": "24:00:00", "partition": "", "qos": ""} | dict(study.engine.slurm)
    if not stage.gpu:
        given |= {"gpus_per_task": 0} | dict(study.engine.cpu)
    usual = {"kill-on-invalid-dep": "yes", "signal": _NOTICE, "open-mode": "append", "chdir": os.getcwd()}
    given["sbatch_args"] = _flagged(usual | dict(given.get("sbatch_args") or {}))
    given["env_command"] = _environment(given) + (f"; {_THREADS}" if stage.gpu else "")
    return given


def _flagged(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of sbatch that are true are said without a value, those that are false not at all."""
    return {name: "" if value is True else value for name, value in options.items() if value not in (None, False)}


def _environment(given: Mapping[str, Any]) -> str:
    """What makes `python` the one with winnow: as the study says, or the one that runs this."""
    if given.get("env_command"):
        return str(given["env_command"])
    if given.get("condaenv"):
        return f'source "$(conda info --base)/etc/profile.d/conda.sh"; conda activate {shlex.quote(given["condaenv"])}'
    activate = given.get("venv_path") or f"{sys.prefix}/bin/activate"
    if given.get("venv_path") or os.path.exists(activate):
        return f"source {shlex.quote(str(activate))}"
    return f'export PATH={shlex.quote(f"{sys.prefix}/bin")}:"$PATH"'


def _options(study: Study, stage: Stage, options: dict[str, Any]) -> dict[str, Any]:
    """Of sbatch, for what is no pipeline; `engine.training` goes before `engine.slurm` for what runs a model."""
    own = _flagged(study.engine.training) if stage.kind in ("training", "measuring") else {}
    if stage.kind == "measuring":
        own["nodes"] = 1
    taken = {_family(name, value) for name, value in own.items()} - {""}
    log = Path(study.output).absolute() / "logs" / stage.name / "slurm-%j.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in options.items() if name != "array" and _family(name, value) not in taken}
    return kept | {"output": str(log), "error": str(log)} | own


def _family(name: str, value: Any) -> str:
    """Of an option of sbatch; "" if it stands alone."""
    if name.startswith(("gres", "tres-per-")) and "gpu" in str(value):
        return "gpus"
    return next((family for family in _FAMILIES if name.startswith(family)), "")


def _srun(options: Mapping[str, Any], own: Mapping[str, Any] | None) -> dict[str, Any]:
    """Options of srun: the job's CPUs, which it does not take from the job any more since Slurm 22.05."""
    return {"cpus-per-task": options["cpus-per-task"]} | dict(own or {})


def _flags(options: Mapping[str, Any]) -> list[str]:
    return [f"--{name}={value}" for name, value in options.items()]


def _ranges(numbers: list[int]) -> str:
    """As --array takes them: 0-2,5."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in found)
