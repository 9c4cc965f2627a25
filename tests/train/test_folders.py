"""Folders appear whole, many writers of one target do not disturb each other, and what the dead leave is removed."""

import subprocess
import sys

from train.folders import whole_folder


WRITER = """
import sys, pathlib
from train.folders import whole_folder
target = pathlib.Path(sys.argv[1])
for _ in range(40):
    with whole_folder(target) as folder:
        for name in "abc":
            (folder / name).write_text(name)
"""


def test_writers_of_one_target_do_not_disturb_each_other(tmp_path):
    jobs = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "t")]) for _ in range(3)]
    assert [job.wait() for job in jobs] == [0, 0, 0]
    assert sorted(file.name for file in (tmp_path / "t").iterdir()) == ["a", "b", "c"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["t"]


def test_what_a_killed_writer_left_is_removed_and_what_a_living_one_fills_is_not(tmp_path):
    (tmp_path / ".t.tmp-dead").mkdir()
    with whole_folder(tmp_path / "t") as living:
        (living / "x").write_text("x")
        with whole_folder(tmp_path / "t") as faster:
            (faster / "x").write_text("x")
        assert living.exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["t"]
