"""Folders appear whole, many writers of one target do not disturb each other, and what the dead leave is removed."""

import errno
import os
import signal
import subprocess
import sys

import pytest
from damage import warnings_of

from pipeline_steps.errors import StoreDamaged, StoreMismatch
from train import folders
from train.folders import SealedFolder, locked, whole_folder


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
    child = os.fork()
    if child == 0:
        with whole_folder(tmp_path / "t") as folder:
            (folder / "x").write_text("x")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert len(list(tmp_path.iterdir())) == 2
    with whole_folder(tmp_path / "t") as living:
        (living / "x").write_text("x")
        assert len(list(tmp_path.iterdir())) == 2
        with whole_folder(tmp_path / "t") as faster:
            (faster / "x").write_text("x")
        assert living.exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["t"]


def test_a_damaged_folder_gives_way(tmp_path):
    for text in ("damaged", "whole"):
        with whole_folder(tmp_path / "t", replace=True) as folder:
            (folder / "x").write_text(text)
    assert (tmp_path / "t" / "x").read_text() == "whole"
    assert [entry.name for entry in tmp_path.iterdir()] == ["t"]


def test_a_replacement_that_fails_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "x").write_text("damaged")

    def busy(source, target, rename=os.rename):
        if source == tmp_path / "t":
            raise OSError(errno.EBUSY, "Device or resource busy")
        rename(source, target)

    monkeypatch.setattr(folders.os, "rename", busy)
    with pytest.raises(OSError, match="busy"), whole_folder(tmp_path / "t", replace=True) as folder:
        (folder / "x").write_text("whole")
    assert (tmp_path / "t" / "x").read_text() == "damaged"
    assert [entry.name for entry in tmp_path.iterdir()] == ["t"]


def test_a_folder_whose_files_cannot_be_removed_is_replaced(tmp_path, monkeypatch):
    """NFS keeps a file that somebody has open as .nfs..., and its folder cannot be removed until it is closed."""
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "x").write_text("damaged")
    with monkeypatch.context() as patch:
        patch.setattr(folders.shutil, "rmtree", lambda path, ignore_errors: None)
        with whole_folder(tmp_path / "t", replace=True) as folder:
            (folder / "x").write_text("whole")
    assert (tmp_path / "t" / "x").read_text() == "whole"
    assert len(list(tmp_path.iterdir())) == 2
    with whole_folder(tmp_path / "t") as folder:
        (folder / "x").write_text("whole")
    assert [entry.name for entry in tmp_path.iterdir()] == ["t"]


def test_what_somebody_put_into_a_damaged_folder_is_kept(tmp_path):
    (tmp_path / "t").mkdir()
    for name in ("x", "mine"):
        (tmp_path / "t" / name).write_text("damaged")

    def replace():
        with whole_folder(tmp_path / "t", replace=True) as folder:
            (folder / "x").write_text("whole")

    said = warnings_of(replace)
    (kept,) = tmp_path.glob(".t.removed-*")
    assert [file.name for file in kept.iterdir()] == ["mine"]
    assert f"{kept / 'mine'} was in a folder" in said
    assert [file.name for file in (tmp_path / "t").iterdir()] == ["x"]


def test_one_process_at_a_time(tmp_path):
    with (
        locked(tmp_path, "test"),
        pytest.raises(StoreMismatch, match="another test is running"),
        locked(tmp_path, "test"),
    ):
        pass
    with locked(tmp_path, "test"):
        pass


def test_a_sealed_folder_names_what_is_missing_and_what_is_strange(tmp_path):
    (tmp_path / "a").write_text("a")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b").write_text("b")
    ours = SealedFolder.seal(tmp_path, "meta.json", {"n": 1})
    assert SealedFolder.read(tmp_path, "meta.json", "mend it") == ours
    assert set(ours.files) == {tmp_path / "a", tmp_path / "sub" / "b"}
    (tmp_path / "c").write_text("c")
    with pytest.raises(StoreDamaged, match="/c was not written with the files beside it"):
        SealedFolder.read(tmp_path, "meta.json", "mend it")
    (tmp_path / "sub" / "b").unlink()
    with pytest.raises(StoreDamaged, match="/sub/b is missing: mend it"):
        SealedFolder.read(tmp_path, "meta.json", "mend it")
    (tmp_path / "meta.json").unlink()
    with pytest.raises(StoreDamaged, match="/meta.json is missing: mend it"):
        SealedFolder.read(tmp_path, "meta.json", "mend it")
