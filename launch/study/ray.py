"""A study on Ray: pipelines are datatrove's RayPipelineExecutor, anything else a Ray task that starts a process."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

from datatrove.executor import RayPipelineExecutor
from datatrove.utils.logging import logger
from datatrove.utils.stats import PipelineStats

from launch.faults import StageFailed
from launch.processes import TICK, log_end
from launch.progress import StageProgress
from launch.study.progress import forgive, task_state, tasks_left
from launch.study.schema import Study
from launch.study.stage_executor import OfStudy
from launch.study.stages import Stage
from pipeline_steps.engines.models import require
from pipeline_steps.errors import InvalidStudy, WinnowError
from train.signals import signal_when_parent_dies


_LOOK = 2.0  # seconds between two looks at what tasks say: a file for each that is not done
_RESOURCES = {"num_cpus", "num_gpus", "memory", "resources", "label_selector"}  # of ray.remote, for a training


def run_ray(study: Study, stages: Mapping[str, Stage], made: Mapping[str, str], progress: StageProgress) -> None:
    """Run what is not done yet, on the cluster of `engine.ray.address` or RAY_ADDRESS, or on one started here.

    Args:
        study: the study.
        stages: those to run, each after those it needs.
        made: fingerprints of all stages.
        progress: where levels are shown.

    Raises:
        ModelError: Ray is not installed.
        InvalidStudy: a training asks for what only Slurm knows.
        WinnowError: a task found the input at fault.
        StageFailed: a task failed or was killed; the end of its log.
    """
    require("ray", "ray")
    import ray

    if unknown := sorted(study.engine.training.keys() - _RESOURCES):
        raise InvalidStudy(
            f"{study.path}: engine.training says {', '.join(unknown)}, which Ray does not know: it takes "
            f"{', '.join(sorted(_RESOURCES))}"
        )

    log = Path(study.output) / "logs" / "ray.log"
    logger.remove()  # a page for each pipeline
    logger.add(log)
    ray.init(address=study.engine.ray.get("address"), log_to_driver=False, logging_level=logging.ERROR)
    try:
        there: Any = ray.cluster_resources()  # type: ignore[no-untyped-call]
        for need in _absent(study, stages, made, there):
            progress.note(need)
        for number, level in enumerate(levels(stages)):
            title = _title(number, level)
            left = [stage for stage in level if tasks_left(study, stage, made[stage.name])]
            start = time.monotonic()
            if left:
                progress.update(title, 0.0)
                _run_level(study, left, made)
            progress.finish(title, time.monotonic() - start if left else None)
    finally:
        ray.shutdown()


def _absent(
    study: Study, stages: Mapping[str, Stage], made: Mapping[str, str], there: Mapping[str, float]
) -> Iterator[str]:
    """What tasks ask for and the cluster does not have: they would wait for it for ever, without a word."""
    left = [stage for name, stage in stages.items() if tasks_left(study, stage, made[name])]
    own = study.engine.ray
    heavy = {"num_gpus": own.get("gpus_per_task", 0)} | dict(study.engine.training)
    asked = {"CPU": float(own.get("cpus_per_task", 1)), "GPU": 0.0}
    if any(stage.gpu and stage.kind == "pipeline" for stage in left):
        asked["GPU"] = float(own.get("gpus_per_task", 0))
    if any(stage.kind in ("training", "measuring") for stage in left):
        asked = {"CPU": max(asked["CPU"], heavy.get("num_cpus", 1)), "GPU": max(asked["GPU"], heavy["num_gpus"])}
    for name, wanted in asked.items():
        if wanted > there.get(name, 0):
            yield (
                f"a task asks for {wanted:g} {name}s, of which the cluster has {there.get(name, 0):g}: it waits until "
                "there are more"
            )


def levels(stages: Mapping[str, Stage]) -> list[list[Stage]]:
    """Stages by the longest way that leads to them: those of a level do not need each other."""
    depth: dict[str, int] = {}
    for name, stage in stages.items():
        depth[name] = 1 + max((depth[need] for need in stage.needs if need in depth), default=-1)
    return [[stages[n] for n in stages if depth[n] == d] for d in range(max(depth.values(), default=-1) + 1)]


def _run_level(study: Study, level: list[Stage], made: Mapping[str, str]) -> None:
    """Commands are with Ray while one pipeline after the other runs: datatrove's log files know only their task."""
    commands = {stage.name: _start(study, stage, made[stage.name]) for stage in level if stage.kind != "pipeline"}
    for stage in level:
        if stage.kind == "pipeline":
            _run_pipeline(study, stage, made[stage.name])
    ended = {name: _result(reference) for name, reference in commands.items()}  # one's failure must not end the others
    for name, (code, log) in ended.items():
        _check(name, code, log)
    for stage in level:
        _refuse_rest(study, stage, made[stage.name])


class StageExecutor(OfStudy, RayPipelineExecutor):
    """datatrove's executor for a stage.

    Args:
        study: the study.
        stage: one of its pipelines.
        made: its fingerprint.
    """

    def __init__(self, study: Study, stage: Stage, made: str) -> None:
        self.folder = os.getcwd()
        logs = f"{os.path.abspath(study.output)}/logs/{stage.name}/ray-{made}-{stage.tasks}"
        options = {name: value for name, value in study.engine.ray.items() if name != "address"}
        if not stage.gpu:
            options["gpus_per_task"] = 0
        super().__init__(study, stage, made, logging_dir=logs, **options)

    def begin(self, rank: int) -> str:
        """File that a task logs to; Ray's processes start elsewhere, and a study's paths may be relative."""
        os.chdir(self.folder)
        return str(self.logging_dir.resolve_paths(f"logs/task_{rank:05d}.log"))

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> PipelineStats:
        """One task. datatrove's log of it stands in the node's temporary folder meanwhile, by the task's number alone:
        two studies on one node would write the same file, so each task has a temporary folder of its own."""
        with tempfile.TemporaryDirectory(prefix="winnow-ray-") as own:
            usual, tempfile.tempdir = tempfile.tempdir, own
            try:
                return super()._run_for_rank(rank, local_rank, node_rank)
            finally:
                tempfile.tempdir = usual


def _run_pipeline(study: Study, stage: Stage, made: str) -> None:
    """Its executor returns as if nothing were wrong when tasks fail, and never when one is killed: look ourselves."""
    forgive(study, stage, made)
    running = Thread(target=StageExecutor(study, stage, made).run, daemon=True)
    running.start()
    while running.is_alive():
        end = time.monotonic() + _LOOK
        while running.is_alive() and time.monotonic() < end:
            running.join(TICK)
        _refuse_failures(study, stage, made)
    _refuse_rest(study, stage, made)


def _refuse_rest(study: Study, stage: Stage, made: str) -> None:
    if left := tasks_left(study, stage, made):
        raise StageFailed(
            f"{stage.name}: {len(left)} of {stage.tasks} tasks were not done; see {study.output}/logs/{stage.name}"
        )


def _refuse_failures(study: Study, stage: Stage, made: str) -> None:
    for task in tasks_left(study, stage, made):
        found = task_state(study, stage, task, made)
        if found.state == "failed":
            end = "".join(f"  | {line}\n" for line in log_end(found.log).splitlines())
            raise StageFailed(
                f"{stage.name}, task {task} of {stage.tasks}: {found.error}\n{end}The same command goes on from there."
            )


def _start(study: Study, stage: Stage, made: str) -> Any:
    """A reference to (exit code, log) of the process of a stage."""
    import ray

    log = Path(study.output).absolute() / "logs" / stage.name / "ray.log"
    heavy = stage.kind in ("training", "measuring")
    options: dict[str, Any] = {"num_cpus": 1, "max_retries": 0}
    if heavy:
        options |= {"num_gpus": study.engine.ray.get("gpus_per_task", 0)} | dict(study.engine.training)
    path = os.path.abspath(study.path) if os.path.exists(study.path) else study.path  # one that comes with us
    command = [sys.executable, "-m", "launch.study.work", path, stage.name, "--made", made, "--log", str(log)]
    return ray.remote(_process).options(**options).remote(command, str(log), os.getcwd())


def _process(command: list[str], log: str, folder: str) -> tuple[int, str]:
    os.makedirs(os.path.dirname(log), exist_ok=True)
    # A cluster that srun has started: its nodes' numbers are not those of a training on several
    environment = {name: value for name, value in os.environ.items() if name not in ("SLURM_NODEID", "SLURM_JOB_ID")}
    ends_with_us = partial(signal_when_parent_dies, signal.SIGTERM)
    with open(log, "ab") as file:
        options: dict[str, Any] = {"stdout": file, "stderr": file, "stdin": subprocess.DEVNULL}
        done = subprocess.run(command, cwd=folder, env=environment, preexec_fn=ends_with_us, **options)
    return done.returncode, log


def _result(reference: Any) -> tuple[int, str]:
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:  # its node died
        return 1, f"none: Ray lost its process ({str(error).splitlines()[0]})"


def _check(name: str, code: int, log: str) -> None:
    end = log_end(log)
    if code == 2:
        raise WinnowError(end.rsplit("\n", 1)[-1])
    if code:
        raise StageFailed(
            f"{name} ended with status {code}; the end of its log, {log}:\n{end}\nThe same command goes on from there."
        )


def _title(number: int, level: list[Stage]) -> str:
    kinds = list(dict.fromkeys(stage.name.partition("/")[0] for stage in level))
    names = ", ".join(kinds[:3]) + (" …" if len(kinds) > 3 else "")
    return f"{number + 1}. {names} ({len(level)})" if len(level) > 1 else f"{number + 1}. {level[0].name}"
