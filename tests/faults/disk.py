"""A disk that runs full, and one that may only be read: a small tmpfs, mounted for the purpose (as root)."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datatrove.pipeline.readers import JsonlReader

from faults.kills import Tally
from faults.kinds import run
from faults.workloads import LoggedScorer, write_corpus
from pipeline_steps import Cut, ScoreSelector, ScoreStore, TopKFilter


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A file system of so many bytes. Raises CalledProcessError where none may be mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)


def full_disk(trials: int, seed: int, folder: Path) -> Tally:
    """Score until the disk is full, make room, and go on; then read where nothing can be written."""
    chance, tally = random.Random(seed), Tally("full disk")
    home = folder / "full"
    write_corpus(home, files=4, rows=60)
    _work(home, home / "calm")
    wanted = _read(home / "calm")
    for _ in range(trials):
        with small_disk(folder / "disk", chance.randrange(20, 200) * 1024) as disk:
            try:
                _work(home, disk)
            except OSError as error:
                tally.kills += 1
                if str(disk) not in str(error):
                    tally.failed += 1
                    tally.notes.append(f"the error does not say where: {error}")
            _mount("-o", "remount,size=64m", str(disk))
            _work(home, disk)
            tally.differing += _read(disk) != wanted
            _mount("-o", "remount,ro", str(disk))
            kept = list(TopKFilter(str(disk / "scores"), k=11).run(JsonlReader(str(home / "corpus")).run()))
            tally.lost += 11 - len(kept)
        tally.trials += 1
    return tally


def _work(home: Path, disk: Path) -> None:
    run(home, JsonlReader(str(home / "corpus")), LoggedScorer(f"{disk}/scores", f"{home}/windows.log"), tasks=2)
    run(home, ScoreSelector(f"{disk}/scores", Cut("top", rate=0.4), selection=f"{disk}/selection.safetensors"))


def _read(disk: Path) -> dict[str, bytes]:
    _ = ScoreStore.open(str(disk / "scores")).scores
    files = [*sorted((disk / "scores" / "parts").iterdir()), disk / "selection.safetensors"]
    return {path.name: path.read_bytes() for path in files}
