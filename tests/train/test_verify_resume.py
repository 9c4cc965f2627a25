"""The proof of a resume starts our own modules, whatever lies in the working directory."""

import pytest

from pipeline_steps.errors import InvalidCut, StageFailed, StoreMismatch
from train import verify_resume


def test_a_users_own_train_is_not_run(tmp_path, monkeypatch):
    (tmp_path / "train.py").write_text("open('theirs', 'w')")
    monkeypatch.chdir(tmp_path)
    failed = pytest.raises(StageFailed, match=f"failed with status 2: see {tmp_path}/run.log")
    with verify_resume._run("nowhere", tmp_path / "run", 1, []) as process, failed:
        verify_resume._finish(process, tmp_path / "run")
    assert "nowhere holds nothing yet" in (tmp_path / "run.log").read_text()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["run.log", "train.py"]


def test_what_cannot_be_proved_is_refused(store, tmp_path):
    with pytest.raises(InvalidCut, match="trains nothing"):
        verify_resume.verify_resume(str(store.path), str(tmp_path / "new"), 0, [], 0, None)
    with pytest.raises(StoreMismatch, match="exists already"):
        verify_resume.verify_resume(str(store.path), str(tmp_path), 1, [], 0, None)
