"""What a study is doing, read from the records of its tasks and from the metrics of its runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from launch.plan import Plan
from launch.processes import log_end
from launch.records import TaskState, is_untouched, task_state
from launch.stages.base import Stage
from launch.stages.runs import Training
from train.run_directory import last_row


_SHOWN = 8  # running and failed tasks that are listed


@dataclass(frozen=True)
class TaskStatus:
    """One task of a study, and how far it is.

    Attributes:
        stage: the stage that the task belongs to.
        number: the task's number, from 0.
        found: its state.
        share: how much of a training is done, from 0 to 1; 0 for other kinds.
        tokens_per_second: the speed of a training that runs; 0 for other kinds.
    """

    stage: Stage
    number: int
    found: TaskState
    share: float = 0.0
    tokens_per_second: float = 0.0

    @property
    def seconds_left(self) -> float | None:
        """Return the seconds left at the task's own speed; None if that is not known."""
        return self.found.seconds * (1 - self.share) / self.share if self.share else None


def tasks_of(plan: Plan, lost: Mapping[tuple[str, int], tuple[str, str]] | None = None) -> list[TaskStatus]:
    """Return all tasks in the stages' order.

    What is lost are jobs and logs, by stage and task, of tasks that said nothing before they ended.
    """
    return list(_tasks(plan, lost or {}))


def _tasks(plan: Plan, lost: Mapping[tuple[str, int], tuple[str, str]]) -> Iterator[TaskStatus]:
    for stage in plan.stages.values():
        untouched = is_untouched(plan.output, stage)
        for number in range(stage.tasks):
            found = TaskState("waiting") if untouched else task_state(plan.output, stage, number)
            if found.state == "waiting" and (stage.name, number) in lost:
                job, log = lost[stage.name, number]
                error = f"its job, {job}, was cancelled, or has ended without a word"
                found = TaskState("failed", found.seconds, log, error)
            if isinstance(stage, Training) and found.state in ("running", "failed"):
                row = last_row(Path(stage.folder(plan.output)) / "metrics.jsonl")
                share = row.get("encoder_tokens", 0) / stage.arguments["total_tokens"]
                yield TaskStatus(stage, number, found, share, row.get("tokens_per_second", 0.0))
            else:
                yield TaskStatus(stage, number, found)


def exit_code(tasks: list[TaskStatus]) -> int:
    """Return 0 if all is done, 1 if a task has failed, 3 otherwise."""
    states = {task.found.state for task in tasks}
    return 0 if states == {"done"} else 1 if "failed" in states else 3


def is_stuck(tasks: list[TaskStatus]) -> bool:
    """Return whether a task has failed and none runs."""
    states = {task.found.state for task in tasks}
    return "failed" in states and "running" not in states


def show(plan: Plan, tasks: list[TaskStatus]) -> RenderableType:
    """Return a line for each kind of stage; what runs; what has failed, with the end of its log and how to go on."""
    left = seconds_left_by_kind(tasks)
    table = Table(title=f"{plan.study.path}: {len(plan.study.runs())} runs, {_ready(tasks)}", title_justify="left")
    for name in ("stage", "stages", "tasks", "done", "running", "failed", "waiting", "tokens/s", "time left"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    for kind, members in by_kind(tasks).items():
        counts = [
            sum(one.found.state == state for one in members) for state in ("done", "running", "failed", "waiting")
        ]
        speed = sum(one.tokens_per_second for one in members if one.found.state == "running")
        cells = [f"{len({one.stage.name for one in members}):,}", f"{len(members):,}"]
        cells += [f"{count:,}" if count else "" for count in counts]
        style = "red" if counts[2] else "dim" if counts[0] == len(members) else ""
        more = [f"{speed:,.0f}" if speed else "", _duration(left[kind]) if kind in left else ""]
        table.add_row(kind, *cells, *more, style=style)
    return Group(table, *_running(tasks), *_failed(plan, tasks))


def by_kind(tasks: list[TaskStatus]) -> dict[str, list[TaskStatus]]:
    """Group tasks by the kind of their stages."""
    found: dict[str, list[TaskStatus]] = {}
    for task in tasks:
        found.setdefault(task.stage.kind, []).append(task)
    return found


def seconds_left_by_kind(tasks: list[TaskStatus]) -> dict[str, float]:
    """Return the seconds until each kind that has begun is through, if as many tasks run at a time as run now.

    A training's own speed tells; of other tasks the mean of those that are done, of the same kind.
    """
    found = {}
    for kind, members in by_kind(tasks).items():
        done = [one.found.seconds for one in members if one.found.state == "done"]
        own = [one.seconds_left for one in members if one.seconds_left is not None]
        whole = [one.found.seconds / one.share for one in members if one.share]
        usual = sum(done + whole) / len(done + whole) if done or whole else None
        waiting = [one for one in members if one.found.state != "done" and one.seconds_left is None]
        if usual is None or not (own or waiting):
            continue
        at_a_time = max(1, sum(one.found.state == "running" for one in members))
        found[kind] = (sum(own) + sum(max(0.0, usual - one.found.seconds) for one in waiting)) / at_a_time
    return found


def as_json(tasks: list[TaskStatus]) -> dict[str, Any]:
    """Return tasks by state and kind, and the failed ones."""
    counts: dict[str, dict[str, int]] = {}
    for task in tasks:
        of_kind = counts.setdefault(task.stage.kind, dict.fromkeys(("done", "running", "failed", "waiting"), 0))
        of_kind[task.found.state] += 1
    failed = [
        {"stage": one.stage.name, "task": one.number, "error": one.found.error, "log": one.found.log}
        for one in tasks
        if one.found.state == "failed"
    ]
    return {"stages": counts, "failed": failed, "seconds_left": seconds_left_by_kind(tasks)}


def _ready(tasks: list[TaskStatus]) -> str:
    done = sum(one.found.state == "done" for one in tasks)
    return "done" if done == len(tasks) else f"{done:,} of {len(tasks):,} tasks done"


def _running(tasks: list[TaskStatus]) -> Iterator[RenderableType]:
    running = [one for one in tasks if one.found.state == "running"]
    for one in running[:_SHOWN]:
        share = f", {one.share:.0%}, {one.tokens_per_second:,.0f} tokens/s" if one.share else ""
        yield Text(f"running  {one.stage.title(one.number)}: {_duration(one.found.seconds)}{share}")
    if len(running) > _SHOWN:
        yield Text(f"         and {len(running) - _SHOWN:,} more", style="dim")


def _failed(plan: Plan, tasks: list[TaskStatus]) -> Iterator[RenderableType]:
    failed = [one for one in tasks if one.found.state == "failed"]
    for one in failed[:_SHOWN]:
        yield Text(f"failed   {one.stage.title(one.number)}: {one.found.error}", style="red")
        if one.found.log:
            yield Text(f"         {one.found.log}")
            yield Text("".join(f"         | {line}\n" for line in log_end(one.found.log, 5).splitlines()), style="dim")
    if len(failed) > _SHOWN:
        yield Text(f"         and {len(failed) - _SHOWN:,} more", style="red")
    if failed:
        yield Text(f"to go on: winnow run {plan.study.path}")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"
