"""Outputs of a study that are deleted or damaged: their stage is done again, its neighbours are not."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from damage import damages
from prose import write_prose
from test_study_work import TEXT, make

from launch.cli import main as winnow
from launch.plan import Plan
from launch.proxies import build_proxy
from launch.records import Watched, tasks_left
from launch.runner import forget_lost
from launch.stages.base import PipelineStage
from launch.stages.scores import Proxy
from launch.study_file import parse_study
from launch.worker import run_task
from pipeline_steps import ScoreStore, Selection
from pipeline_steps.errors import StoreMismatch, WinnowError
from pipeline_steps.stores.files import read_json
from train.folders import locked
from train.token_store import TokenStore


CONFIG = {"model_type": "t5", "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """The plan of a study whose pipelines and proxy have all run."""
    folder = tmp_path_factory.mktemp("outputs")
    corpus = make(folder).corpus
    more = f"held_out: {{c4: {corpus}}}\ntarget: {corpus}\nproxies: {{tiny: {CONFIG}}}"
    samplers = "[dsir, quality-classifier, {by-proxy: {scorer: perplexity, model: tiny}}, random"
    text = TEXT.format(folder=folder, held_out=more).replace("[random", samplers)
    plan = Plan.of(parse_study("s.yaml", text))
    run_pipelines(plan)
    return plan


def run_pipelines(plan):
    """Every task that is left of the stages that need no training."""
    for name, stage in plan.stages.items():
        if isinstance(stage, PipelineStage | Proxy):
            assert not any(tasks_left(plan.output, need) for need in stage.inputs)
            for task in tasks_left(plan.output, stage):
                assert run_task(plan, name, task) == 0
            assert not tasks_left(plan.output, stage)


def lost(plan, wanted=()):
    """Names of the stages that are to be done again."""
    found = forget_lost(plan, [plan.stages[name] for name in wanted])
    return [one.partition(" is done again: ")[0] for one in found]


def files_of(plan):
    folder = Path(plan.output)
    kinds = ("scores/*/parts/*", "selections/**/*.safetensors", "clusters/**/*.safetensors", "density/*.safetensors")
    return {file: file.read_bytes() for kind in kinds for file in sorted(folder.glob(kind))}


def test_every_pipeline(scored):
    output = Path(scored.output)
    tokens = TokenStore.open(str(output / "tokens" / "train"))
    assert tokens.documents == 100
    for store in ("density", "semdedup", "prototypes", "ask-llm", "dsir", "quality-classifier"):
        assert len(ScoreStore.open(str(output / "scores" / store)).scores) == 100
    for sampler in scored.study.samplers:
        small, large = (
            Selection.load(str(output / "selections" / sampler.name / f"{rate}.safetensors")) for rate in (0.2, 0.5)
        )
        assert (small.documents, large.documents) == (20, 50)
        assert small.corpus_digest == tokens.corpus_digest
        assert (small.mask <= large.mask).all()


@pytest.mark.parametrize(
    ("stages", "pattern"),
    [
        (["tokens/train"], "tokens/train/parts/*/tokens.npy"),
        (["embeddings"], "embeddings/parts/*"),
        (["density/sketch", "density/merge"], "density/sketch.safetensors"),  # the merge has dropped what was counted
        (["clusters/fit"], "clusters/centroids.safetensors"),
        (["clusters/assign"], "clusters/assignments/parts/*"),
        (["clusters/similarities"], "clusters/similarities/*/*/*"),
        (["ngrams/raw"], "ngrams/raw/parts/*"),
        (["dsir"], "dsir/dsir.safetensors"),
        (["quality"], "quality/classifier.safetensors"),
        (["proxies/tiny"], "proxies/tiny/model.safetensors"),
        (["scores/density"], "scores/density/parts/*"),
        ([], "scores/keys/manifest.json"),  # which is derived again
        (["selections/density/0.2"], "selections/density/0.2.safetensors"),
    ],
)
def test_what_is_deleted_is_made_again_and_nothing_else(scored, stages, pattern):
    assert lost(scored) == []
    before = files_of(scored)
    file = sorted(Path(scored.output).glob(pattern))[0]
    file.unlink()
    # What is missing within a part is seen by who is about to read it
    assert lost(scored, stages if file.name == "tokens.npy" else ()) == stages
    run_pipelines(scored)
    assert lost(scored) == []
    assert files_of(scored) == before


@pytest.mark.parametrize(
    ("stage", "pattern"),
    [
        ("tokens/train", "tokens/train/parts/*/tokens.npy"),
        ("scores/density", "scores/density/parts/*"),
        ("clusters/fit", "clusters/centroids.safetensors"),
        ("clusters/similarities", "clusters/similarities/*/*/*"),
        ("ngrams/raw", "ngrams/raw/parts/*"),
        ("dsir", "dsir/dsir.safetensors"),
        ("proxies/tiny", "proxies/tiny/model.safetensors"),
        ("selections/density/0.2", "selections/density/0.2.safetensors"),
    ],
)
def test_no_damage_is_silent(scored, stage, pattern):
    scores = ScoreStore.open(f"{scored.output}/scores/density").scores
    wanted = scored.stages[stage]
    file = sorted(Path(scored.output).glob(pattern))[0]
    named = 0
    for _ in damages(file):
        try:
            wanted.check_output(scored.output, whole=True)
        except WinnowError as error:
            named += scored.output in str(error)
        else:  # Parquet has bytes that mean nothing
            assert file.suffix == ".parquet"
            assert np.array_equal(ScoreStore.open(f"{scored.output}/{stage}").scores, scores)
            named += 1
    assert named == 36


def test_what_is_about_to_be_read_is_verified_first(scored):
    """A damaged score is no reason to do anything, until a selection is to be made from it."""
    unreported = {name: stage for name, stage in scored.stages.items() if name != "report"}  # which reads all scores
    scored = dataclasses.replace(scored, stages=unreported)
    before = files_of(scored)
    part = sorted(Path(scored.output).glob("scores/density/parts/*"))[0]
    blob = bytearray(before[part])
    blob[blob.index(b"PAR1") + 60] ^= 1
    part.write_bytes(blob)
    assert lost(scored) == []
    (Path(scored.output) / "selections/density/0.5.safetensors").unlink()
    assert lost(scored) == ["scores/density", "selections/density/0.5"]
    run_pipelines(scored)
    assert files_of(scored) == before


def test_a_proxy_is_built_once_and_again_if_it_is_damaged(tmp_path):
    folder = tmp_path / "proxy"
    build_proxy(str(folder), "embedded", CONFIG)
    whole = {file.name: file.read_bytes() for file in folder.iterdir()}
    build_proxy(str(folder), "embedded", CONFIG)
    with pytest.raises(StoreMismatch, match="seed: None there, 1 now"):
        build_proxy(str(folder), "embedded", CONFIG | {"seed": 1})
    (folder / "config.json").write_bytes(whole["config.json"].replace(b"16", b"17"))
    build_proxy(str(folder), "embedded", CONFIG)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == whole
    assert [file.name for file in tmp_path.iterdir()] == ["proxy"]


STUDY = """\
output: {folder}/out
corpus: {folder}/corpus
samplers: [random, density]
rates: [0.3]
models:
  t5-tiny: {{total_tokens: 4096, batch_size: 8, input_length: 64, checkpoints: 2, report_to: none}}
engine: {{workers: 2}}
"""


def winnow_run(folder):
    """Run the study, and return what was said beside its progress."""
    command = [sys.executable, "-m", "launch", "run", str(folder / "study.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"WINNOW_QUIET": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    return " ".join(done.stderr.split())


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_finished_study_that_was_damaged_everywhere(tmp_path):
    (tmp_path / "corpus").mkdir()
    write_prose(tmp_path / "corpus" / "prose.jsonl", 300)
    (tmp_path / "study.yaml").write_text(STUDY.format(folder=tmp_path))
    assert winnow_run(tmp_path) == ""
    output = tmp_path / "out"
    results, report = (output / "results.jsonl").read_bytes(), (output / "report.html").read_bytes()
    run = "t5-tiny/density-0.3-seed0"

    def one(pattern):
        return sorted(output.glob(pattern))[-1]

    one("scores/density/parts/*").unlink()
    blob = bytearray(one("selections/density/*").read_bytes())
    blob[len(blob) // 2] ^= 4
    one("selections/density/*").write_bytes(blob)
    one(f"runs/{run}/checkpoints/step-*/model.safetensors").unlink()
    one(f"evaluation/{run}/density/step-*/*.json").unlink()
    start, last = results.rindex(b'"value": '), results.count(b"\n")
    (output / "results.jsonl").write_bytes(results[:start] + results[start:].replace(b"0", b"1", 1))
    (output / "report.html").unlink()
    said = winnow_run(tmp_path)
    for name in ("scores/density", "selections/density/0.3", f"runs/{run}", f"measured/{run}/perplexity", "report"):
        assert f"{name} is done again: " in said
    assert f"results.jsonl, line {last}, is damaged" in said
    assert said.count("is done again: ") == 6  # and what had measured the damaged row
    assert (output / "results.jsonl").read_bytes() == results
    assert len((output / "report.html").read_bytes()) == pytest.approx(len(report), rel=0.01)  # hours differ
    (output / "results.jsonl").unlink()
    said = winnow_run(tmp_path)
    assert said.count("is done again: the results hold no") == 3
    assert (output / "results.jsonl").read_bytes() == results
    assert winnow_run(tmp_path) == ""


def test_a_second_run_forgets_nothing_of_a_living_one(tmp_path, capsys):
    """What the living one has not yet written looks as if it were lost."""
    study = make(tmp_path)
    (tmp_path / "s.yaml").write_text(TEXT.format(folder=tmp_path, held_out=f"held_out: {{c4: {study.corpus}}}"))
    tokens = Plan.of(study).stages["tokens/train"]
    for task in range(tokens.tasks):
        Watched(study.output, tokens, task, "").done()  # and no tokens are there
    before = {file: file.read_bytes() for file in (tmp_path / "out" / "stages").rglob("*.json")}
    for engine in ("local", "ray", "slurm"):
        with locked(tmp_path / "out", "winnow run"):
            assert winnow(["run", str(tmp_path / "s.yaml"), "--executor", engine]) == 2
        assert "another winnow run is running in" in " ".join(capsys.readouterr().err.split())
        assert {file: file.read_bytes() for file in before} == before


def test_a_damaged_marker_is_not_believed(scored):
    path = Path(scored.output) / "stages" / "embeddings" / "0-of-2.json"
    embeddings, wanted = scored.stages["embeddings"], read_json(str(path))
    assert tasks_left(scored.output, embeddings) == []
    for _ in damages(path):
        assert tasks_left(scored.output, embeddings) == [0] or read_json(str(path)) == wanted  # a blank
