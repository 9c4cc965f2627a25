"""The README's examples run as they stand, one after the other, in an empty folder with a corpus in it."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import document
from datatrove.pipeline.readers import JsonlReader


README = Path(__file__).parent.parent / "README.md"


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), flags=re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three source files of 30 documents."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "corpus").mkdir()
    for number in range(3):
        docs = [document(30 * number + i) for i in range(30)]
        for doc in docs:
            doc |= {"words": len(doc["text"].split()), "host": f"host-{len(doc['id']) % 2}.example"}
        (folder / "corpus" / f"{number}.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    return folder


def run(command, folder):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_the_examples_run_in_order(folder):
    runnable = [block for block in blocks("python") if "import" in block and "Slurm" not in block]
    assert len(runnable) == 10
    for number, block in enumerate(runnable):
        script = folder / f"example{number}.py"
        if number:  # the first shows that processes work; each of them imports everything anew
            block = block.replace("workers=2", "workers=1")
        script.write_text(block)
        run([sys.executable, str(script)], folder)
    kept = subprocess.run(f"zcat {folder}/kept/*.gz | wc -l", shell=True, capture_output=True, text=True)
    assert int(kept.stdout) == 18  # a fifth of 90
    dropped = subprocess.run(f"zcat {folder}/dropped/*.gz | wc -l", shell=True, capture_output=True, text=True)
    assert int(dropped.stdout) == 72
    by_host = subprocess.run(f"zcat {folder}/kept-by-host/*.gz | wc -l", shell=True, capture_output=True, text=True)
    assert int(by_host.stdout) == 18  # 2 of the 10 with one digit, 16 of the 80 with two

    outputs = {name: len(list(JsonlReader(str(folder / name)).run())) for name in ("upsampled", "mixed", "soft")}
    assert outputs == {"upsampled": 90, "mixed": 20, "soft": 20}

    d4 = subprocess.run(f"zcat {folder}/d4/*.gz | wc -l", shell=True, capture_output=True, text=True)
    minhashed = subprocess.run(f"zcat {folder}/minhashed/*.gz | wc -l", shell=True, capture_output=True, text=True)
    assert int(d4.stdout) == round(0.5 * round(0.75 * int(minhashed.stdout)))

    (pretrain,) = [block for block in blocks("bash") if block.startswith("winnow pretrain")]
    words = shlex.split(pretrain.replace("\\\n", " "))
    run([sys.executable, "-m", "launch", *words[1:], "--", "--num_processes", "1"], folder)
    state = json.loads(sorted((folder / "runs/ask-llm/checkpoints").glob("step-*/state.json"))[-1].read_text())
    assert state["encoder_tokens"] == 65536
    assert state["selected_documents"] == 45


def test_studies_can_be_read():
    from launch.plan import Plan
    from launch.study_file import parse_study

    (study,) = [block for block in blocks("yaml") if "samplers:" in block]
    assert len(parse_study("README.md", study).runs()) == 2 + 5 * 2
    head = "output: o\nsamplers: [random]\nrates: [0.1]\nmodels: {t5-tiny: {total_tokens: 65536}}\n"
    text = (README.parent / "docs" / "slurm.md").read_text()
    engines = re.findall(r"```yaml\n(engine:.*?)```", text, flags=re.DOTALL)
    studies = [parse_study("slurm.md", head + engine) for engine in engines]
    assert [study.engine.kind for study in studies] == ["slurm"] * 3
    runs = [Plan.of(study).stages["runs/t5-tiny/full-1-seed0"] for study in studies]
    assert [run.devices for run in runs] == [1, 8, 16]


def test_unrunnable_examples_name_what_exists():
    """Blocks that need the Hub are not run; their calls must still bind."""
    import inspect

    import pipeline_steps

    (block,) = [block for block in blocks("python") if "import" not in block]
    for name, arguments in re.findall(r"^(\w+)\((.*)\)", block, flags=re.MULTILINE):
        keywords = eval(f"dict(a={arguments})", vars(pipeline_steps) | {"RUBRIC": pipeline_steps.RUBRIC})
        first = keywords.pop("a")
        inspect.signature(getattr(pipeline_steps, name)).bind(first, **keywords)


def test_files_and_commands_it_names_exist():
    text = README.read_text()
    for target in re.findall(r"\]\((?!http)([^)]+)\)", text):
        assert (README.parent / target).exists(), target
    makefile = (README.parent / "Makefile").read_text()
    for goal in re.findall(r"^make (\w+)", text, flags=re.MULTILINE):
        assert f"\n{goal}:" in makefile


def test_slurm_examples_make_executors(monkeypatch):
    """They need a cluster to run; their pipelines and settings must be right."""
    from datatrove.executor import SlurmPipelineExecutor

    made = []
    monkeypatch.setattr(SlurmPipelineExecutor, "run", lambda executor: made.append(executor))
    for block in blocks("python"):
        if "Slurm" in block:
            exec(block, {})
    assert [executor.job_name for executor in made] == ["ask-llm", "flan-xl", "gemma"]
