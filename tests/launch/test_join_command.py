"""winnow join, as a user gives it: from published annotations to the documents that were kept."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import document
from dataset_files import load
from here import in_this_process

from launch.cli import main
from pipeline_steps import ScoreStore


ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def corpus(tmp_path):
    """Three files of 20 documents."""
    (tmp_path / "corpus").mkdir()
    for file in range(3):
        lines = [json.dumps(document(number)) for number in range(20 * file, 20 * file + 20)]
        (tmp_path / "corpus" / f"{file}.jsonl").write_text("\n".join(lines))
    return tmp_path / "corpus"


def annotate(file, **columns):
    file.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), file)


def run(*words):
    return main([*map(str, words)])


def scores(folder):
    return ScoreStore.open(str(folder)).scores.tolist()


def test_from_annotations_to_documents(corpus, tmp_path, capsys, monkeypatch):
    in_this_process(monkeypatch)
    ids = [document(number)["id"] for number in range(59, -1, -1)]
    annotate(tmp_path / "edu" / "1.parquet", doc=ids[:30], edu=[float(i % 7) for i in range(30)])
    edu = [float(i) for i in (*range(30), 100)]
    annotate(tmp_path / "edu" / "2.parquet", doc=[*ids[31:], "beyond", ids[31]], edu=edu)
    store = tmp_path / "store"
    words = ["join", tmp_path / "edu", "--corpus", corpus, "--column", "edu", "--id-key", "doc", "--output", store]

    def refused():
        assert run(*words, "--workers", 2) == 2
        return " ".join(capsys.readouterr().err.split())

    assert "annotations differ for 1 of 60 documents, first for document 9 of" in refused()
    words += ["--duplicates", "max"]
    said = refused()
    assert "1 of 60 documents have no 'edu'" in said
    assert "first document 10 of" in said
    words += ["--unmatched", "default=-1"]
    assert run(*words) == 0
    said = capsys.readouterr().out
    assert "59 of 60 documents have an annotation" in said
    assert "1 got -1" in said
    assert "1 had annotations that differ, and got the largest" in said
    expected = {id: float(i % 7) if i < 30 else i - 31.0 for i, id in enumerate(ids)} | {ids[31]: 100.0, ids[30]: -1.0}
    assert scores(store) == [expected[id] for id in reversed(ids)]
    assert run(*words) == 0
    assert run("inspect", store) == 0
    assert "JoinScores" in capsys.readouterr().out
    assert run("plan", store / "join.yaml") == run("status", store / "join.yaml") == 0
    assert run("select", "--corpus", corpus, "--scores", store, "--k", 10, "--output", tmp_path / "kept") == 0
    best = sorted(ids, key=expected.get)[-10:]
    assert {row["id"]: row["score"] for row in load(tmp_path / "kept")} == {id: expected[id] for id in best}
    words[-1] = "default=0"
    assert "default: -1.0 there, 0.0 now" in refused()
    words[-1] = "default=-1"
    annotate(tmp_path / "edu" / "1.parquet", doc=ids[:30], edu=[0.5] * 30)
    assert f"{tmp_path / 'edu'} has changed since {store} was made of it" in refused()


def test_labels_of_texts_from_the_hub(corpus, tmp_path, capsys, monkeypatch):
    in_this_process(monkeypatch)
    texts = [document(number)["text"] for number in range(60)]
    annotate(tmp_path / "a.parquet", text=texts, label=["good", "bad", "ugly"] * 20)
    with hub.known(monkeypatch) as the_hub:
        the_hub.repos["them/labels"] = {"data/a.parquet": (tmp_path / "a.parquet").read_bytes(), "README.md": b"#"}
        words = ["join", "hf://datasets/them/labels", "--corpus", corpus, "--column", "label", "--on", "text"]
        words += ["--labels", "good=1,bad=0", "--unmatched", "default=0.5", "--output", tmp_path / "store"]
        assert run(*words) == 0
    assert "20 of them with null or unknown labels only" in " ".join(capsys.readouterr().out.split())
    assert scores(tmp_path / "store") == [1, 0, 0.5] * 20


@pytest.mark.slow  # the join itself is killed in tests/pipeline_steps/test_joins.py
def test_killed_it_goes_on(corpus, tmp_path):
    annotate(tmp_path / "a.parquet", id=[document(number)["id"] for number in range(60)], score=list(range(60)))
    words = ["join", tmp_path / "a.parquet", "--corpus", corpus, "--column", "score", "--output", tmp_path / "store"]
    for wanted in ("join/parts/*", "parts"):
        process = subprocess.Popen([sys.executable, "-m", "launch", *map(str, words)], cwd=ROOT, process_group=0)
        while process.poll() is None and not list((tmp_path / "store").glob(wanted)):
            time.sleep(0.005)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert run(*words) == 0
    assert scores(tmp_path / "store") == list(range(60))


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("--unmatched", "skip", "a score store covers every document of its corpus"),
        ("--unmatched", "default=x", "'default=x' is neither error nor default=SCORE"),
        ("--labels", "good=1,bad", "'bad' is not LABEL=SCORE"),
        ("--labels", "a=1,a=2", "'a=2' is not LABEL=SCORE with a finite score, or its label is there twice"),
        ("--memory", "lots", "'lots' is not an amount"),
        ("--limit", "0", "--limit 0 reads nothing"),
    ],
)
def test_mistakes(corpus, tmp_path, capsys, flag, value, said):
    words = ["join", corpus, "--corpus", corpus, "--column", "c", "--output", tmp_path / "store", flag, value]
    assert run(*words) == 2
    shown = capsys.readouterr().err
    assert said in " ".join(shown.split())
    assert len(shown.splitlines()) == 1
    assert not (tmp_path / "store").exists()
