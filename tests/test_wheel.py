"""What a user gets: the wheel without extras, in an environment of its own, at the versions of constraints.txt."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from email import message_from_string
from pathlib import Path

import pytest


pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
ROOT = Path(__file__).parent.parent
COMMANDS = "quickstart run status plan report schema score join select compare inspect coverage tokenize materialise"
COMMANDS += " pretrain average verify-resume evaluate help completion"
CUT = """
from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter

from pipeline_steps import Cut, MetadataScorer, ScoreStore, TopKFilter, select

steps = [JsonlReader("corpus"), MetadataScorer("scores", "stars")]
LocalPipelineExecutor(steps, tasks=2, workers=1, logging_dir="logs/score").run()
select(ScoreStore.open("scores"), Cut("top", k=7)).save("kept.safetensors")
steps = [JsonlReader("corpus"), TopKFilter("scores", k=7), JsonlWriter("kept", compression=None)]
LocalPipelineExecutor(steps, tasks=2, workers=1, logging_dir="logs/cut").run()
"""


def start(*words, folder):
    """Run a command without the variables that this project's own environment sets."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(list(map(str, words)), cwd=folder, env=environment, capture_output=True, text=True)


def run(*words, folder):
    done = start(*words, folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    source = tmp_path_factory.mktemp("source")
    for name in ("pipeline_steps", "train", "evaluate_suite", "launch"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", source / "dist", source)
    run(*build, folder=source)
    (found,) = (source / "dist").glob("winnow_llm-*.whl")
    return found


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """The programs of an environment that holds the wheel and what it needs, and nothing else."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", folder, folder=folder)
    run(folder / "bin" / "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", wheel, folder=folder)
    return folder / "bin"


def test_files_and_extras_of_the_wheel(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        about = message_from_string(archive.read(metadata).decode())
    for name in ("launch/studies/paper.yaml", "train/configs/tiny-cpu.yaml", "launch/commands/select.py"):
        assert name in names
    assert {name.split("/")[0] for name in names if not name.startswith("winnow_llm-")} == {
        "pipeline_steps",
        "train",
        "evaluate_suite",
        "launch",
    }
    extras = set("score train report eval density cluster quickstart s3 ray warc embed join".split())
    assert extras <= set(about.get_all("Provides-Extra"))


def test_without_extras_it_explains_itself_and_cuts(environment, tmp_path):
    assert run(environment / "winnow", "--version", folder=tmp_path).startswith("winnow ")
    page = run(environment / "winnow", "--help", folder=tmp_path)
    for name in COMMANDS.split():
        assert f" {name} " in page
        assert name in run(environment / "winnow", name, "--help", folder=tmp_path)
    (tmp_path / "corpus").mkdir()
    for part in range(2):
        lines = [{"text": f"text {part} {i}", "id": f"{part}-{i}", "stars": i} for i in range(10)]
        (tmp_path / "corpus" / f"{part}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "cut.py").write_text(f"if __name__ == '__main__':\n{CUT}".replace("\n", "\n    "))
    run(environment / "python", "cut.py", folder=tmp_path)
    kept = [json.loads(line) for file in (tmp_path / "kept").glob("*.jsonl") for line in file.open()]
    assert len(kept) == 7
    assert min(one["metadata"]["stars"] for one in kept) == 6


def test_what_an_extra_would_bring_is_named(environment, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a", "id": "a"}\n')
    score = ["score", "--corpus", "a.jsonl", "--sampler", "ask-llm", "--output", "work"]
    for words in (score, ["pretrain", "--tokens", "t", "--run-dir", "r", "--total-tokens", "128"]):
        done = start(environment / "winnow", *words, folder=tmp_path)
        assert done.returncode == 2, done.stderr
        *notes, said = done.stderr.splitlines()
        assert said.startswith("winnow: ")
        assert "pip install 'winnow-llm[" in said
        assert len(notes) <= 1
