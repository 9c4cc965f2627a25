"""A study on one machine: tasks as processes, as many at a time as there are workers, each after those it needs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from launch.processes import Job, run_jobs
from launch.progress import StageProgress
from launch.study.progress import forgive, task_state, tasks_left
from launch.study.schema import Study
from launch.study.stages import Stage, devices_of


_LOOK = 1.0  # seconds between two looks at what is done


def run_local(study: Study, stages: Mapping[str, Stage], made: Mapping[str, str], progress: StageProgress) -> None:
    """Run what is not done yet.

    Args:
        study: the study.
        stages: those to run, each after those it needs.
        made: fingerprints of all stages.
        progress: where they are shown.

    Raises:
        WinnowError: a task found the input at fault.
        StageFailed: a task died; its log is named.
    """
    for name, stage in stages.items():
        forgive(study, stage, made[name])
    jobs = {
        name: [_job(study, stage, task, made[name]) for task in tasks_left(study, stage, made[name])]
        for name, stage in stages.items()
    }
    after = {
        job: [one for need in stages[name].needs for one in jobs.get(need, ())] for name in jobs for job in jobs[name]
    }
    bars = _Bars(study, stages, made, progress)
    run_jobs([job for one in jobs.values() for job in one], study.engine.workers, bars.tick, after)
    bars.show()


class _Bars:
    """A line for each kind of stage."""

    def __init__(
        self, study: Study, stages: Mapping[str, Stage], made: Mapping[str, str], progress: StageProgress
    ) -> None:
        self._study, self._made, self._progress = study, made, progress
        self._kinds: dict[str, list[Stage]] = {}
        for stage in stages.values():
            self._kinds.setdefault(stage.name.partition("/")[0], []).append(stage)
        self._start: dict[str, float] = {}
        self._finished: set[str] = set()
        self._looked = 0.0
        self.show()

    def tick(self) -> None:
        """Look again, unless that was a moment ago: a look reads a file for each task."""
        if time.monotonic() - self._looked > _LOOK:
            self.show()

    def show(self) -> None:
        """How many tasks of each kind are done, and since when its first runs."""
        for kind in [one for one in self._kinds if one not in self._finished]:
            tasks = sum(stage.tasks for stage in self._kinds[kind])
            left = sum(len(tasks_left(self._study, stage, self._made[stage.name])) for stage in self._kinds[kind])
            title = f"{kind} ({tasks:,} tasks)" if tasks > 1 else kind
            if left == 0:
                self._finished.add(kind)
                start = self._start.get(kind)
                self._progress.finish(title, None if start is None else time.monotonic() - start)
            elif kind in self._start or any(map(self._has_begun, self._kinds[kind])):
                self._start.setdefault(kind, time.monotonic())
                self._progress.update(title, 1 - left / tasks)
        self._looked = time.monotonic()

    def _has_begun(self, stage: Stage) -> bool:
        made = self._made[stage.name]
        return any(task_state(self._study, stage, task, made).state != "waiting" for task in range(stage.tasks))


def _job(study: Study, stage: Stage, task: int, made: str) -> Job:
    title = stage.name if stage.tasks == 1 else f"{stage.name}, task {task} of {stage.tasks},"
    log = Path(study.output) / "logs" / stage.name / f"task-{task}.log"
    arguments = (study.path, stage.name, "--task", str(task), "--log", str(log), "--made", made)
    return Job("launch.study.work", arguments, log, title, devices_of(study, stage))
