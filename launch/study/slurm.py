"""A study on Slurm: pipelines are datatrove's SlurmPipelineExecutor, everything else an sbatch script; jobs wait for
the jobs they need (afterok), and what is done is not submitted again.

Each script is kept in <output>/slurm/<stage>.sh and can be submitted by hand.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from launch.study.pipelines import NoteDone, pipeline_of
from launch.study.progress import tasks_left
from launch.study.schema import Study
from launch.study.stages import Stage
from pipeline_steps.errors import ModelError
from pipeline_steps.files import write_atomically


_SIGNAL = "TERM@180"  # seconds before the end of its time a training saves and goes back into the queue


def submit(study: Study, stages: Mapping[str, Stage], made: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Submit what is not done, each job after those it needs: name and job id.

    Raises:
        ModelError: sbatch refuses a job; what it says.
    """
    jobs: dict[str, str] = {}
    for name, stage in stages.items():
        if tasks_left(study, stage, made[name]):
            after = [jobs[need] for need in stage.needs if need in jobs]
            submit_one = _submit_pipeline if stage.kind == "pipeline" else _submit_script
            jobs[name] = submit_one(study, stage, made[name], after)
            yield name, jobs[name]


def write_scripts(study: Study, stages: Mapping[str, Stage], made: Mapping[str, str]) -> list[Path]:
    """The sbatch script of every stage that is not done, without what it waits for; nothing is submitted."""
    left = [stage for name, stage in stages.items() if tasks_left(study, stage, made[name])]
    return [
        _write_pipeline(study, stage, made[stage.name]) if stage.kind == "pipeline" else _write_script(study, stage)
        for stage in left
    ]


def _write_pipeline(study: Study, stage: Stage, made: str) -> Path:
    """What datatrove would submit; only it can, for it also ships the pipeline."""
    executor = _executor(study, stage, made, [])
    arguments = executor.get_sbatch_args(min(stage.tasks, executor.max_array_size))
    pickled = executor.logging_dir.resolve_paths("executor.pik")
    text = executor.get_launch_file_contents(arguments, f"srun -l -n 1 launch_pickled_pipeline {pickled}")
    path = Path(study.output).absolute() / "slurm" / f"{stage.name}.sh"
    write_atomically(str(path), text.encode())
    return path


def _submit_pipeline(study: Study, stage: Stage, made: str, after: list[str]) -> str:
    executor = _executor(study, stage, made, after)
    executor.run()
    return str(executor.job_id)


def _executor(study: Study, stage: Stage, made: str, after: list[str]) -> Any:
    from datatrove.executor import SlurmPipelineExecutor

    # Its record of finished tasks knows neither inputs nor their number: a folder of its own for each
    logs = f"{os.path.abspath(study.output)}/logs/{stage.name}/slurm-{made}-{stage.tasks}"
    arguments = dict(study.engine.slurm)
    extra = {"kill-on-invalid-dep": "yes"} | dict(arguments.pop("sbatch_args", {}))
    if not stage.gpu:
        arguments.pop("gpus_per_task", None)
    return SlurmPipelineExecutor(
        pipeline=[*pipeline_of(study, stage.name), NoteDone(study, stage, made)],
        tasks=stage.tasks,
        job_name=_job_name(study, stage),
        logging_dir=logs,
        depends_job_id=":".join(after) or None,
        sbatch_args=extra,
        **{"time": "24:00:00", "partition": "main", "qos": "", "mail_type": "NONE"} | arguments,
    )


def _submit_script(study: Study, stage: Stage, made: str, after: list[str]) -> str:
    command = ["sbatch", "--parsable", *([f"--dependency=afterok:{':'.join(after)}"] if after else [])]
    command += ["--kill-on-invalid-dep=yes", str(_write_script(study, stage))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ModelError(
            f"sbatch refuses {stage.name} ({done.stderr.strip()}): correct engine.training in {study.path}"
        )
    return done.stdout.strip().partition(";")[0]


def _write_script(study: Study, stage: Stage) -> Path:
    path = Path(study.output).absolute() / "slurm" / f"{stage.name}.sh"
    log = path.parent.parent / "logs" / stage.name / "slurm-%j.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    heavy = stage.kind in ("training", "measuring")
    options: dict[str, Any] = {"job-name": _job_name(study, stage), "output": log, "open-mode": "append"}
    options |= {"requeue": None, "signal": f"B:{_SIGNAL}"} | (dict(study.engine.training) if heavy else {})
    lines = [f"#SBATCH --{name}" + ("" if value is None else f"={value}") for name, value in options.items()]
    work = shlex.join([sys.executable, "-m", "launch.study.work", os.path.abspath(study.path), stage.name])
    body = _BODY.format(environment=_environment(study), folder=shlex.quote(os.getcwd()), work=work)
    text = "\n".join(["#!/bin/bash", *lines, body])
    write_atomically(str(path), text.encode())
    return path


# The job's own shell gets the signal, passes it on, waits for the checkpoint, and asks for another turn
_BODY = """\
{environment}
cd {folder}
{work} &
worker=$!
trap 'kill -TERM $worker; wait $worker; scontrol requeue "$SLURM_JOB_ID"; exit 0' TERM
wait $worker
"""


def _environment(study: Study) -> str:
    slurm = study.engine.slurm
    if slurm.get("env_command"):
        return str(slurm["env_command"])
    return f"source {slurm['venv_path']}" if slurm.get("venv_path") else ""


def _job_name(study: Study, stage: Stage) -> str:
    return f"{Path(study.output).name}-{stage.name.replace('/', '-')}"
