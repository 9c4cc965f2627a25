"""A study on one machine: stages level by level, their tasks as processes, as many at a time as there are workers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from launch.processes import Job, run_jobs
from launch.progress import StageProgress
from launch.study.progress import tasks_left
from launch.study.schema import Study
from launch.study.stages import Stage


def run_local(study: Study, stages: Mapping[str, Stage], made: Mapping[str, str], progress: StageProgress) -> None:
    """Run what is not done yet.

    Args:
        study: the study.
        stages: those to run, each after those it needs.
        made: fingerprints of all stages.
        progress: where levels are shown.

    Raises:
        WinnowError: a task found the input at fault.
        StageFailed: a task died; its log is named.
    """
    for number, level in enumerate(levels(stages)):
        title = _title(number, level)
        jobs = [_job(study, stage, task) for stage in level for task in tasks_left(study, stage, made[stage.name])]
        start, all_jobs = time.monotonic(), sum(stage.tasks for stage in level)
        if jobs:

            def tick(level: list[Stage] = level, title: str = title, all_jobs: int = all_jobs) -> None:
                left = sum(len(tasks_left(study, stage, made[stage.name])) for stage in level)
                progress.update(title, 1 - left / all_jobs)

            run_jobs(jobs, study.engine.workers, tick)
        progress.finish(title, time.monotonic() - start if jobs else None)


def levels(stages: Mapping[str, Stage]) -> list[list[Stage]]:
    """Stages by the longest way that leads to them: those of a level do not need each other."""
    depth: dict[str, int] = {}
    for name, stage in stages.items():
        depth[name] = 1 + max((depth[need] for need in stage.needs if need in depth), default=-1)
    return [[stages[n] for n in stages if depth[n] == d] for d in range(max(depth.values(), default=-1) + 1)]


def _job(study: Study, stage: Stage, task: int) -> Job:
    log = Path(study.output) / "logs" / stage.name / f"task-{task}.log"
    return Job("launch.study.work", (study.path, stage.name, "--task", str(task)), log)


def _title(number: int, level: list[Stage]) -> str:
    kinds = list(dict.fromkeys(stage.name.partition("/")[0] for stage in level))
    names = ", ".join(kinds[:3]) + (" …" if len(kinds) > 3 else "")
    return f"{number + 1}. {names} ({len(level)})" if len(level) > 1 else f"{number + 1}. {level[0].name}"
