"""`winnow select`: score a corpus, cut it exactly, and write the chosen documents as a dataset.

<work>/scores/...       what `winnow score` leaves; kept, for other cuts of the same corpus
<work>/writing/         the dataset while it is written: see launch.datasets.unfinished

    python -m launch.one_off.selecting FOLDER write|rewrite I/N        one process's share
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import Any

from launch import datasets
from launch.datasets import DatasetSettings
from launch.faults import as_process
from launch.one_off.scoring import ScoreSettings, check_settings, refuse_inside, score
from launch.processes import Job, run_jobs
from launch.progress import StageProgress
from pipeline_steps.credentials import refuse_credentials
from pipeline_steps.readers.corpus import list_corpus
from train.folders import locked


_STEPS = {"Write": ("write", datasets.rows_left), "To Parquet": ("rewrite", datasets.rewrites_left)}


def select_dataset(
    settings: DatasetSettings, scoring: ScoreSettings | None, work: str, workers: int, progress: StageProgress
) -> dict[str, Any]:
    """Do what is not done yet, and return what winnow.json says of the dataset.

    Args:
        settings: of the dataset.
        scoring: of its scores; None if the settings name a score store.
        work: local folder of scores and of what is not finished.
        workers: processes at a time.
        progress: where stages are shown.

    Raises:
        WinnowError: the input is at fault, or the output or the work folder holds something else.
    """
    refuse_credentials(work, "winnow select: --work")
    refuse_inside(settings.corpus, settings.output, work)
    files = check_settings(scoring) if scoring else list_corpus(settings.corpus)
    writing = Path(work) / "writing"
    with locked(Path(work), "winnow select"):
        if (there := datasets.is_published(settings, progress.note)) is not None:
            shutil.rmtree(writing, ignore_errors=True)
            return there
        datasets.check_begun(settings, writing)
        scores = score(work, scoring, files, workers, progress) if scoring else str(settings.scores)
        datasets.begin(settings, scores, writing)
        for title, (step, left) in _STEPS.items():
            if (total := len(left(writing))) or step == "write":
                _run(title, step, total, writing, workers, progress)
        return datasets.publish(writing)


def _run(title: str, step: str, total: int, writing: Path, workers: int, progress: StageProgress) -> None:
    """Write `total` groups in processes."""
    start, tasks = time.monotonic(), min(workers, total)
    jobs = [
        Job(
            "launch.one_off.selecting",
            (str(writing), step, f"{task}/{tasks}"),
            writing / "logs" / f"{step}-{task}.log",
        )
        for task in range(tasks)
    ]

    def tick() -> None:
        progress.update(title, 1 - len(datasets.rows_left(writing)) / total if step == "write" and total else None)

    if total:
        run_jobs(jobs, tasks, tick)
    progress.finish(title, time.monotonic() - start if total else None)


def main(argv: list[str] | None = None) -> int:
    """Do one process's share; a user's error is the last line on stderr, with exit status 2."""
    work, step, share = sys.argv[1:] if argv is None else argv
    task, tasks = map(int, share.split("/"))

    def run() -> int:
        (datasets.write_rows if step == "write" else datasets.rewrite)(Path(work), task, tasks)
        return 0

    return as_process(run)


if __name__ == "__main__":
    sys.exit(main())
