"""Kinds of files that commands write: datasets, and marks of what is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline_steps.errors import StoreDamaged
from pipeline_steps.stores.files import read_json

from .damage import Kind
from .isolated import fork_tasks
from .kinds_of_training import in_a_fork
from .workloads import write_corpus


def make_commands(folder: Path) -> None:
    """Make a dataset, and the study that scored it."""
    write_corpus(folder, files=2, rows=20)
    _select(folder)


def _select(folder: Path) -> None:
    words = ["--corpus", str(folder / "corpus"), "--output", str(folder / "out"), "--workers", "1"]
    _winnow("select", "--sampler", "random", "--rate", "0.5", *words)


def _run(folder: Path) -> None:
    _winnow("run", str(folder / "out.work" / "random.yaml"))


def _winnow(*words: str) -> None:
    def work() -> int:
        from launch.cli import main

        fork_tasks()
        return main(list(words))

    in_a_fork(work)


def _dataset(folder: Path) -> Any:
    """A dataset as the command that wrote it looks at it when it is given again."""
    from launch.datasets.publish import LocalFolder

    place = LocalFolder(str(folder / "out"))
    record = place.record()
    assert record is not None
    if lacking := place.lacking(record):
        raise StoreDamaged(f"{', '.join(lacking)}: written again")
    return record


def _study_mark(folder: Path) -> Any:
    """A mark that is damaged is not believed: its task is done again."""
    from launch.records import _read

    found = {}
    for mark in sorted((folder / "out.work" / "stages").glob("**/*.json")):
        if (record := _read(mark)) is None:
            raise StoreDamaged(f"{mark} is not believed")
        found[mark] = record
    return found


def _receipt(folder: Path) -> Any:
    (receipt,) = (folder / "out.work" / "datasets").glob("*.json")
    return read_json(str(receipt))


def _claim(folder: Path) -> Any:
    return read_json(str(folder / "out.work" / "study.json"))


def _listing(folder: Path) -> Any:
    """The files that a corpus had when its study began, as tasks read them."""
    from launch.stages.corpora import Files

    return Files(str(folder / "corpus"), "train").files(str(folder / "out.work"))


COMMAND_KINDS = [
    Kind("dataset's record", "out/winnow.json", _dataset),
    Kind("dataset's data", "out/data/*", _dataset, _select),
    Kind("dataset's selection", "out/selection.safetensors", _dataset, _select),
    Kind("dataset's receipt", "out.work/datasets/*.json", _receipt, _run),
    Kind("study's mark", "out.work/stages/**/*.json", _study_mark),
    Kind("study's claim", "out.work/study.json", _claim),
    Kind("study's listing", "out.work/files/*.json", _listing),
]
