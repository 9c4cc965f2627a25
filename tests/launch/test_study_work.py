"""Tasks of a study: every pipeline of a small one, and what its folder refuses."""

import json

import pytest
from conftest import document

from launch.study.commands import claim
from launch.study.progress import fingerprints, tasks_left
from launch.study.reading import parse_study
from launch.study.stages import stages_of
from launch.study.work import do
from pipeline_steps import EMBEDDED_PROXY, ScoreStore, Selection
from pipeline_steps.errors import InvalidStudy, StoreMismatch
from train.token_store import TokenStore


TEXT = """\
output: {folder}/out
corpus: {folder}/corpus
{held_out}
samplers: [random, density, semdedup, prototypes, {{asked: {{scorer: ask-llm, model: {proxy}}}}}]
rates: [0.2, 0.5]
models:
  t5-tiny: {{total_tokens: 8192}}
engine: {{tasks: 2}}
"""


def make(folder, held_out="held_out: {c4: CORPUS}"):
    (folder / "corpus").mkdir(exist_ok=True)
    for name, numbers in {"a": range(30), "b": range(30, 100)}.items():
        lines = [json.dumps(document(number)) + "\n" for number in numbers]
        (folder / "corpus" / f"{name}.jsonl").write_text("".join(lines))
    held_out = held_out.replace("CORPUS", str(folder / "corpus"))
    return parse_study("s.yaml", TEXT.format(folder=folder, held_out=held_out, proxy=EMBEDDED_PROXY))


def test_every_pipeline(tmp_path):
    study = make(tmp_path)
    stages = stages_of(study)
    made = fingerprints(stages)
    for name, stage in stages.items():
        if stage.kind == "pipeline":
            assert not any(tasks_left(study, stages[need], made[need]) for need in stage.needs)
            for task in range(stage.tasks):
                assert do(study, name, task) == 0
            assert not tasks_left(study, stage, made[name])
    output = tmp_path / "out"
    tokens = TokenStore.open(str(output / "tokens" / "train"))
    assert tokens.documents == 100
    for store in ("density", "semdedup", "prototypes", "asked"):
        assert len(ScoreStore.open(str(output / "scores" / store)).scores) == 100
    for sampler in study.samplers:
        small, large = (
            Selection.load(str(output / "selections" / sampler.name / f"{rate}.safetensors")) for rate in (0.2, 0.5)
        )
        assert (small.documents, large.documents) == (20, 50)
        assert small.corpus_digest == tokens.corpus_digest
        assert (small.mask <= large.mask).all()


def test_a_corpus_is_dealt_whole_or_not_at_all(tmp_path):
    study = make(tmp_path, held_out="")
    assert do(study, "corpus/deal", 0) == 0
    assert not (tmp_path / "out" / "corpus").exists()
    for _ in range(2):  # again changes nothing
        assert do(study, "corpus", 0) == 0
    files = list((tmp_path / "out" / "corpus").rglob("*.jsonl.gz"))
    assert files
    assert not (tmp_path / "out" / "corpus.partial").exists()


def test_a_folder_is_of_one_corpus(tmp_path):
    study = make(tmp_path)
    claim(study)
    claim(study)
    with pytest.raises(StoreMismatch, match="held_out"):
        claim(make(tmp_path, held_out=""))
    with pytest.raises(InvalidStudy, match="no task 7 of a stage embeddings"):
        do(study, "embeddings", 7)
