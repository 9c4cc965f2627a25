"""How far a study is, kind by kind: live bars on a terminal, a line for each kind elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from launch.records import task_state, tasks_left
from launch.stages.base import Stage
from pipeline_steps.terminal import is_quiet


_LOOK = 1.0  # seconds between two looks at what is done


class StageProgress:
    """One line per stage: a live bar on a terminal, elsewhere one line when a stage is done; if quiet, notes only."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._quiet = is_quiet()
        self._live = console.is_terminal and not self._quiet
        self._bars = Progress(
            TextColumn("{task.description:<34}", markup=False),
            BarColumn(bar_width=32),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not self._live,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> StageProgress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def update(self, title: str, fraction: float | None) -> None:
        """Show a stage at a fraction of its work."""
        if title not in self._tasks:
            self._tasks[title] = self._bars.add_task(title, total=None)
        if fraction is not None:
            self._bars.update(self._tasks[title], total=1.0, completed=min(fraction, 1.0))

    def finish(self, title: str, seconds: float | None) -> None:
        """Show a stage as done; `seconds` is None if there was nothing to do."""
        self.update(title, 1.0)
        self._bars.stop_task(self._tasks[title])
        if not self._live and not self._quiet:
            self._console.print(f"{title:<34} {'already done' if seconds is None else f'{seconds:6.1f} s'}")

    def note(self, text: str) -> None:
        """Say something beside the stages."""
        self._console.print(text, style="yellow", highlight=False, soft_wrap=True)

    def show(self, table: Table) -> None:
        """Show a table below the stages."""
        self._console.print(table)


class Stages:
    """A line of progress for each kind of stage, of the stages whose records are in the study's folder."""

    def __init__(self, output: str, stages: Sequence[Stage], progress: StageProgress) -> None:
        self._output, self._progress = output, progress
        self._kinds: dict[str, list[Stage]] = {}
        for stage in stages:
            self._kinds.setdefault(stage.kind, []).append(stage)
        self._start: dict[str, float] = {}
        self._finished: set[str] = set()
        self._looked = time.monotonic()

    def tick(self) -> None:
        """Look again, unless that was a moment ago: a look reads a file for each task."""
        if time.monotonic() - self._looked > _LOOK:
            self.show()

    def show(self) -> None:
        """Show how many tasks of each kind are done, and since when its first runs."""
        for kind in [one for one in self._kinds if one not in self._finished]:
            tasks = sum(stage.tasks for stage in self._kinds[kind])
            left = sum(len(tasks_left(self._output, stage)) for stage in self._kinds[kind])
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
        return any(task_state(self._output, stage, task).state != "waiting" for task in range(stage.tasks))
