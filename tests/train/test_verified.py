"""A file is read once per machine, again whenever it may have changed, and damage is never remembered as intact."""

import os
import subprocess
import sys
import time

import pytest

from pipeline_steps.errors import StoreDamaged
from pipeline_steps.stores.files import file_digest
from train import verified
from train.verified import verify_files


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of notes, for a process that has verified nothing yet."""
    monkeypatch.setattr(verified, "_verified", {})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "winnow" / "verified"


@pytest.fixture
def read(monkeypatch):
    """Names of the files that are read."""
    found = []

    def counted(path, progress):
        found.append(path.name)
        return file_digest(path, progress)

    monkeypatch.setattr(verified, "file_digest", counted)
    return found


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Three files and their digests; that they were written just now does not count."""
    monkeypatch.setattr(verified, "_TICK", -1.0)
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        path.write_text(path.name * 1000)
    return {path: file_digest(path) for path in paths}


def another_process():
    """Forget what this process knows, so that only what is on disk counts."""
    verified._verified.clear()


def notes(cache):
    return list(cache.glob("[!.]*"))


def test_once_until_something_changes(cache, read, files, tmp_path, monkeypatch):
    verify_files(files, "mend it")
    assert sorted(read) == ["a", "b", "c"]
    verify_files(files, "mend it")
    another_process()
    verify_files(files, "mend it")
    assert len(read) == 3
    verify_files(files, "mend it", again=True)
    assert len(read) == 6
    stat = (tmp_path / "b").stat()
    (tmp_path / "b").write_text("x" * 1000)
    os.utime(tmp_path / "b", ns=(stat.st_atime_ns, stat.st_mtime_ns))  # its time of change tells all the same
    for _ in range(2):
        with pytest.raises(StoreDamaged, match="/b is damaged .*: mend it"):
            verify_files(files, "mend it")
    (tmp_path / "b").write_text("b" * 1000)
    another_process()
    read.clear()
    verify_files(files, "mend it")
    assert read == ["b"]
    monkeypatch.setattr(verified, "_boot", lambda: "another")
    verify_files(files, "mend it")
    assert sorted(read[1:]) == ["a", "b", "c"]


def test_notes_do_not_hold_for_ever(cache, read, files, tmp_path):
    verify_files(files, "mend it")
    (note,) = notes(cache)  # one for all files
    os.utime(note, (0, time.time() - 31 * 24 * 3600))
    only_a = {tmp_path / "a": files[tmp_path / "a"]}
    another_process()
    verify_files(only_a, "mend it")
    assert len(read) == 4
    assert len(notes(cache)) == 2  # the old one was looked at today already
    os.utime(cache / ".forgotten", (0, time.time() - 25 * 3600))
    verify_files(only_a, "mend it", again=True)
    assert len(notes(cache)) == 1
    another_process()
    verify_files(files, "mend it")
    assert sorted(read[-3:]) == ["a", "b", "c"]


def test_a_renewed_note_is_as_old_as_its_oldest_verification(cache, read, files, tmp_path):
    verify_files(files, "mend it")
    (note,) = notes(cache)
    before = time.time() - 29 * 24 * 3600
    os.utime(note, (before, before))
    another_process()
    (tmp_path / "b").write_text("b" * 1000)
    verify_files(files, "mend it")
    assert read[3:] == ["b"]
    assert note.stat().st_mtime == pytest.approx(before)


def test_files_that_move_with_their_folder_are_not_read_again(cache, read, files, tmp_path):
    (tmp_path / "old").mkdir()
    for path in files:
        path.rename(tmp_path / "old" / path.name)
    found = {tmp_path / "old" / path.name: digest for path, digest in files.items()}
    verify_files(found, "mend it")
    (tmp_path / "old").rename(tmp_path / "new")
    for _ in range(2):
        verify_files({tmp_path / "new" / path.name: digest for path, digest in files.items()}, "mend it")
        another_process()
    assert len(read) == 3


def test_a_damaged_note_is_no_note(cache, read, files):
    verify_files(files, "mend it")
    (note,) = notes(cache)
    note.write_bytes(b"\xff\x00" + note.read_bytes()[3:40])
    another_process()
    verify_files(files, "mend it")
    assert len(read) == 6  # not one of its lines is whole


def test_a_file_that_has_just_changed_is_not_remembered(cache, read, files, monkeypatch):
    """A change within the same tick of the file system's clock would not show."""
    monkeypatch.setattr(verified, "_TICK", 2.0)
    for _ in range(2):
        verify_files(files, "mend it")
    assert len(read) == 6


@pytest.mark.parametrize("home", ["/proc/nowhere", "relative"])
def test_without_a_cache_every_process_reads_everything_once(cache, read, files, monkeypatch, home):
    monkeypatch.setenv("XDG_CACHE_HOME", home)
    for _ in range(2):
        verify_files(files, "mend it")
    assert len(read) == 3
    another_process()
    verify_files(files, "mend it")
    assert len(read) == 6


def test_a_missing_and_an_unreadable_file_are_named(cache, files, tmp_path, monkeypatch):
    (tmp_path / "c").unlink()
    with pytest.raises(StoreDamaged, match="/c is missing: mend it"):
        verify_files(files, "mend it")

    def broken(path, progress):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(verified, "file_digest", broken)
    with pytest.raises(OSError, match="Input/output error: '.*/[ab]'"):
        verify_files(files, "mend it", again=True)


def test_of_several_processes_one_reads(cache, tmp_path):
    """Each appends to a log what it reads; the files are large enough to be read for a while."""
    paths = [tmp_path / name for name in "abcd"]
    for path in paths:
        path.write_bytes(os.urandom(1 << 24))
        os.utime(path, (0, 0))
    script = tmp_path / "reader.py"
    script.write_text(
        "import sys, pathlib\n"
        "from train import verified\n"
        "verified._TICK = -1.0\n"
        "digest = verified.file_digest\n"
        "def logged(path, progress):\n"
        "    with open(sys.argv[1], 'a') as log: log.write(path.name)\n"
        "    return digest(path, progress)\n"
        "verified.file_digest = logged\n"
        "verified.verify_files({pathlib.Path(path): digest(path) for path in sys.argv[2:]}, 'mend it')\n"
    )
    argv = [sys.executable, str(script), str(tmp_path / "log"), *map(str, paths)]
    jobs = [subprocess.Popen(argv) for _ in range(4)]
    assert [job.wait() for job in jobs] == [0] * 4
    assert sorted((tmp_path / "log").read_text()) == ["a", "b", "c", "d"]
