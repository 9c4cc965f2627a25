"""Engines start worker commands after others, and know nothing of stages: local processes, Slurm, Ray.

`engine_of` makes the one that a study asks for. A runner submits the tasks of each stage after the handles of what the
stage needs, then polls attended engines until nothing is left; Slurm goes on by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from launch.stages.base import Stage


if TYPE_CHECKING:
    from launch.plan import Plan

NEVER_STARTED = -1000  # the exit code of a task whose needs have failed: no signal has this number


@dataclass(frozen=True)
class Task:
    """A task of a stage as engines see it.

    Attributes:
        stage: the stage.
        number: the task's number, from 0.
        command: what runs it.
        log: the file that its output is appended to.
    """

    stage: Stage
    number: int
    command: tuple[str, ...]
    log: str

    @property
    def title(self) -> str:
        """Return the task's name in messages."""
        return self.stage.title(self.number)


class Engine:
    """Something that runs commands, each after others, and ends with this process unless it says otherwise."""

    attended: bool = True
    """Whether the engine ends with this process, so that somebody has to poll it."""
    notes: Sequence[str] = ()
    """What the user should know before anything is started."""

    def queued(self, stage: Stage) -> Mapping[int, str]:
        """Return handles by task of what waits or runs already, from an earlier command."""
        return {}

    def submit(self, tasks: Sequence[Task], after: Sequence[str]) -> list[str]:
        """Take tasks of one stage, to be started after others have ended well, and return a handle for each.

        Raises:
            InvalidStudy: the engine refuses them, and says why.
        """
        raise NotImplementedError

    def wait_anew(self, stage: Stage, after: Sequence[str]) -> None:
        """Let what is queued of a stage wait for these: some of what it waited for has been submitted anew."""

    def poll(self) -> Mapping[str, int]:
        """Return exit codes by handle of tasks that have ended since the last call, `NEVER_STARTED` among them."""
        return {}

    def close(self) -> None:
        """End what still runs, and wait for its end."""


def engine_of(plan: Plan, chosen: Iterable[Stage]) -> Engine:
    """Return the engine of a study, for stages that are about to be submitted."""
    engine = plan.study.engine
    if engine.kind == "slurm":
        from launch.engines.slurm import Slurm

        return Slurm(plan, chosen)
    if engine.kind == "ray":
        from launch.engines.ray import Ray

        return Ray(plan)
    from launch.engines.local import Local

    return Local(engine.workers)
