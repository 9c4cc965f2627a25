"""The proof of a resume starts our own modules, whatever lies in the working directory."""

import pytest

from pipeline_steps.errors import InvalidCut, StageFailed, StoreMismatch
from train import verify_resume
from train.run_directory import sealed_row


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


def test_a_branch_that_differs_is_found(tmp_path):
    for name in ("undisturbed", "killed"):
        for place in ("", "branches/64"):
            run = tmp_path / name / place
            (run / "checkpoints/step-00000002").mkdir(parents=True)
            (run / "checkpoints/step-00000002/model.safetensors").write_bytes(b"weights")
            row = {"step": 2, "samples": 4, "nll": 3.5, "z_loss": 0.1, "grad_norm": 1.0}
            (run / "metrics.jsonl").write_text(sealed_row(row))
    assert verify_resume._compare(tmp_path / "undisturbed", tmp_path / "killed") == 2
    (tmp_path / "killed/branches/64/metrics.jsonl").write_text(sealed_row(row | {"nll": 3.6}))
    with pytest.raises(StoreMismatch, match="at step 2: nll is 3.5 undisturbed and 3.6 after the kills; see .*/64"):
        verify_resume._compare(tmp_path / "undisturbed", tmp_path / "killed")
    (tmp_path / "killed/branches/64/metrics.jsonl").write_text(sealed_row(row))
    (tmp_path / "killed/branches/64/checkpoints/step-00000002/model.safetensors").write_bytes(b"others")
    with pytest.raises(StoreMismatch, match="branches/64/checkpoints/.* differs"):
        verify_resume._compare(tmp_path / "undisturbed", tmp_path / "killed")
