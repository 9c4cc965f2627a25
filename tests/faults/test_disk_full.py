"""A full disk ends a command with a sentence; once there is room, the same command ends with the same bytes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline_steps import EMBEDDED_PROXY

from .cases import good_lines, write


ROOT = Path(__file__).parents[2]
WANTED = 40_000_000  # bytes of a disk that any of the commands fits on


@pytest.fixture
def disk(tmp_path):
    """A small disk of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={WANTED}", "tmpfs", place], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def winnow(*words):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "launch", *map(str, words)], capture_output=True, text=True, cwd="/", env=environment
    )


def result(folder):
    """What was written, but for logs, times, and the folder's own name."""
    about = ("logs", "stages", "files", "random.yaml", "tokenize.yaml", "study.json", "README.md", "stats", ".lock")
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {str(p): content(file) for file in files if not {*(p := file.relative_to(folder)).parts} & {*about}}


def content(file):
    """The bytes of a file; of a dataset's record, without the card's entry: the card holds the folder's name."""
    if file.name != "winnow.json":
        return file.read_bytes()
    record = json.loads(file.read_bytes())
    del record["files"]["README.md"], record["xxh3"]
    return record


COMMANDS = {
    "score": ["score", "--sampler", "random"],
    "select": ["select", "--sampler", "random", "--rate", "0.9"],
    "tokenize": ["tokenize", "--tokenizer", EMBEDDED_PROXY],
}


@pytest.mark.slow
@pytest.mark.parametrize("room", [0, 20_000, 60_000])
@pytest.mark.parametrize("name", COMMANDS)
def test_make_room_and_go_on(disk, tmp_path, name, room):
    write(tmp_path / "corpus" / "a.jsonl", *good_lines(4000))
    command = [*COMMANDS[name], "--corpus", tmp_path / "corpus", "--workers", 1, "--output"]
    whole = winnow(*command, tmp_path / "whole" / "out")
    assert whole.returncode == 0, whole.stderr

    ballast = write(disk / "ballast", bytes(WANTED - room - 65_536))
    with ballast.open("ab") as file:
        while os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize > room:
            os.write(file.fileno(), bytes(4096))
    failed = winnow(*command, disk / "out")
    assert failed.returncode == 2, (failed.stdout, failed.stderr)
    assert "is full: make room and give the same command again" in failed.stderr
    assert len(failed.stderr.splitlines()) == 1

    ballast.unlink()
    after = winnow(*command, disk / "out")
    assert after.returncode == 0, after.stderr
    assert result(disk / "out") == result(tmp_path / "whole" / "out")
