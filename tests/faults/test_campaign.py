"""Some minutes of the campaign; and that its judges can find something."""

import subprocess
import sys
from pathlib import Path

import pytest

from .damage import Kind, damage
from .kills import Workload, campaign


ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_nothing_is_lost_doubled_or_silently_changed():
    words = [sys.executable, "-m", "tests.faults", "--kills", "60", "--seed", "1"]
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr[-2000:]
    assert "nothing is there that must not be" in ended.stdout


def test_a_reader_that_does_not_look_is_found_out(tmp_path):
    (tmp_path / "x").write_bytes(bytes(100))
    row = damage(Kind("unread", "x", lambda folder: (folder / "x").read_bytes()), tmp_path, 0)
    assert row.silent == row.trials == 40
    kind = Kind("raw", "x", lambda folder: 1 // (not any((folder / "x").read_bytes())))
    raw = damage(kind, tmp_path, 0, truncations=0)
    assert raw.raw == 30
    assert raw.bad


def test_a_job_that_appends_to_what_it_left_is_found_out(tmp_path):
    def live(folder, life):
        for number in range(200):
            with open(folder / "kept", "a") as file:
                file.write(f"{number}\n")

    results = {"results": lambda folder: {"kept": (folder / "kept").read_bytes()}}
    kept = {"documents": lambda folder: (folder / "kept").read_text().splitlines()}
    workload = Workload("appends", lambda folder: folder.mkdir(), live, **results, **kept, moments=(0.0, 0.02))
    tally = campaign(workload, 3, 0, tmp_path)
    assert tally.bad
    assert tally.doubled
