"""How far a stage is, read from the files it writes; and the bars that show it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn

from pipeline_steps.terminal import is_quiet
from train.run_directory import last_row


Fraction = Callable[[], float | None]
"""Share of a stage that is done, from 0 to 1; None while nobody knows."""


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


class StoreRows:
    """Fraction of a corpus that a SourceStore holds, windows of unfinished sources included; it never falls."""

    def __init__(self, store: Path, documents: int) -> None:
        self._store, self._documents = store, max(documents, 1)
        self._rows: dict[Path, int] = {}
        self._most = 0

    def __call__(self) -> float:
        """Return the rows in the store per document of the corpus."""
        # Windows first: those that are sealed between the two listings are in a part that the second one shows
        windows = list(self._store.glob("windows/*/*.parquet"))
        parts = list(self._store.glob("parts/*.parquet"))
        sealed = {part.stem for part in parts}
        files = [*parts, *(window for window in windows if window.parent.name not in sealed)]
        self._most = max(self._most, sum(map(self._rows_of, files)))
        return self._most / self._documents

    def _rows_of(self, file: Path) -> int:
        if file not in self._rows:
            try:
                with file.open("rb") as opened:
                    self._rows[file] = pq.read_metadata(opened).num_rows
            except (OSError, pa.ArrowException):  # it was sealed or replaced after it was listed, or is damaged
                return 0
        return self._rows[file]


class TrainedTokens:
    """Fraction of its token budget that a training run has consumed."""

    def __init__(self, run_dir: Path, total_tokens: int) -> None:
        self._metrics, self._total = run_dir / "metrics.jsonl", total_tokens

    def __call__(self) -> float:
        """Encoder tokens of the last logged step per token of the budget."""
        return last_row(self._metrics).get("encoder_tokens", 0) / self._total
