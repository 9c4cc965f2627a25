"""Tasks of a study, and what its folder refuses."""

import dataclasses
import json

import numpy as np
import pytest
from conftest import document
from prose import write_prose
from scipy.stats import kendalltau

from launch.plan import Plan
from launch.records import Watched, tasks_left
from launch.runner import check_access, claim, left_out, note_files
from launch.study_file import parse_study
from launch.study_samplers import store_of
from launch.worker import run_task
from pipeline_steps import ScoreStore, Selection
from pipeline_steps.errors import CorpusError, InvalidStudy, ModelError, StoreMismatch
from pipeline_steps.samplers import find
from train.token_store import TokenStore


TEXT = """\
output: {folder}/out
corpus: {folder}/corpus
{held_out}
samplers: [random, density, semdedup, prototypes, {{asked: {{scorer: ask-llm, model: embedded}}}}]
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
    return parse_study("s.yaml", TEXT.format(folder=folder, held_out=held_out))


def changed(study, **change):
    return study.model_copy(update=change)


def do(study, name, task, made=""):
    return run_task(Plan.of(study), name, task, made=made)


def stages_of(study, *names):
    stages = Plan.of(study).stages
    return [stages[name] for name in names]


def test_a_corpus_is_dealt_whole_or_not_at_all(tmp_path):
    study = make(tmp_path, held_out="")
    stale = tmp_path / "out" / "corpus.partial" / "train" / "99.jsonl.gz"  # of a corpus that has been mended since
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"")
    assert do(study, "corpus/deal", 0) == 0
    assert not stale.exists()
    assert not (tmp_path / "out" / "corpus").exists()
    with pytest.raises(CorpusError, match=r"too small for held-out text of its own \(high_quality is empty\)"):
        do(study, "corpus", 0)  # none of these documents is prose
    write_prose(tmp_path / "corpus" / "prose.jsonl", 300)
    assert do(study, "corpus/deal", 0) == 0
    for _ in range(2):  # again changes nothing
        assert do(study, "corpus", 0) == 0
    files = list((tmp_path / "out" / "corpus").rglob("*.jsonl.gz"))
    assert files
    assert not (tmp_path / "out" / "corpus.partial").exists()


def test_files_that_arrive_later_belong_to_no_task(tmp_path):
    study = make(tmp_path)
    assert do(study, "tokens/train", 0) == 0
    (tmp_path / "corpus" / "0.jsonl").write_text(json.dumps(document(1000)) + "\n")
    assert do(study, "tokens/train", 1) == 0
    assert TokenStore.open(str(tmp_path / "out" / "tokens" / "train")).documents == 100
    assert left_out(Plan.of(study)) == 1  # which winnow run says
    assert left_out(Plan.of(changed(study, output=str(tmp_path / "new")))) == 0


def test_a_checkpoint_that_is_not_there_is_said_so(tmp_path):
    study = make(tmp_path)
    scorer = find("perplexity").scorer
    scored = dataclasses.replace(
        study.samplers[1], name="late", row="perplexity", scorer=scorer, stands_on="", model="t5-tiny@1"
    )
    study = changed(study, samplers=[scored])
    (tmp_path / "out" / "runs" / "t5-tiny" / "full-1-seed0").mkdir(parents=True)
    (full,) = stages_of(study, "runs/t5-tiny/full-1-seed0")
    Watched(study.output, full, 0, "").done()
    with pytest.raises(ModelError, match="has no checkpoint of step 1, which scores perplexity"):
        do(study, f"scores/{store_of(scored)}", 0)


def test_the_report_of_a_study_knows_its_stores(tmp_path):
    study = make(tmp_path)
    study = changed(study, samplers=study.samplers[:1])
    for task in (0, 1):
        assert do(study, "tokens/train", task) == 0
    settings = Plan.of(study).stages["report"].settings(study.output)
    assert settings.scores == {}
    assert settings.selections == {"random": f"{tmp_path}/out/selections/random/0.2.safetensors"}
    assert settings.facts["corpus"].startswith("100 documents (")
    study = changed(study, models={"mine": {"preset": "t5-tiny", "total_tokens": 8192}})
    assert "The models are tiny (mine)" in " ".join(Plan.of(study).stages["report"].settings(study.output).notes)


def test_a_folder_is_of_one_corpus(tmp_path):
    study = make(tmp_path)
    claim(Plan.of(study))
    claim(Plan.of(study))
    with pytest.raises(StoreMismatch, match="held_out"):
        claim(Plan.of(make(tmp_path, held_out="")))
    without = changed(study, samplers=study.samplers[:1], embedder="another")  # that nothing asks for
    claim(Plan.of(without))
    with pytest.raises(StoreMismatch, match="embedder"):
        claim(Plan.of(changed(study, embedder="another")))
    with pytest.raises(InvalidStudy, match="no task 7 of a stage embeddings"):
        do(study, "embeddings", 7)
    decoders = changed(study, models={**study.models, "llama": {"preset": "llama-nano", "total_tokens": 8192}})
    claim(Plan.of(decoders))
    claim(Plan.of(changed(decoders, decoder_tokenizer="embedded-bpe")))  # which is the default
    with pytest.raises(StoreMismatch, match="decoder_tokenizer: 'embedded-bpe' there, 'another' now"):
        claim(Plan.of(changed(decoders, decoder_tokenizer="another")))


def test_nothing_begins_on_half_of_what_it_needs(tmp_path):
    """Slurm forgets jobs that have failed, and files are edited while jobs wait."""
    study = make(tmp_path)
    (embeddings,) = stages_of(study, "embeddings")
    for task in (0, 1):
        with pytest.raises(InvalidStudy, match=r"scores/density needs density/merge, which is not done"):
            do(study, "scores/density", task)
    assert do(study, "embeddings", 0) == 0
    with pytest.raises(InvalidStudy, match=r"density/sketch needs embeddings, which is not done"):  # but half of it
        do(study, "density/sketch", 0)
    edited = changed(study, embedder="another/model")
    with pytest.raises(InvalidStudy, match=r"s\.yaml has changed since embeddings was started"):
        do(edited, "embeddings", 1, made=embeddings.made)
    assert do(study, "embeddings", 1, made=embeddings.made) == 0
    assert not tasks_left(study.output, embeddings)


def test_files_are_listed_once(tmp_path):
    study = make(tmp_path)
    plan, corpus = Plan.of(study), tmp_path / "corpus"
    tokens, held_out, embeddings = stages_of(study, "tokens/train", "tokens/c4/c4", "embeddings")
    note_files(plan, check_access(plan, [tokens, held_out]), [])
    (corpus / "a.jsonl").rename(corpus / "c.jsonl")  # nothing has been read yet: what is there now counts
    note_files(plan, check_access(plan, [tokens]), [])
    (corpus / "d.jsonl").write_text((corpus / "b.jsonl").read_text())
    note_files(plan, check_access(plan, [tokens]), [embeddings])  # which has read the others
    assert left_out(plan) == 1
    for task in (0, 1):
        assert do(study, "tokens/train", task) == 0
    assert TokenStore.open(str(tmp_path / "out" / "tokens" / "train")).documents == 100


def test_the_papers_density_stands_beside_the_default(tmp_path):
    """App. B.2: "We use the PStable hash"."""
    study = make(tmp_path)
    text = TEXT.format(folder=tmp_path, held_out=f"held_out: {{c4: {study.corpus}}}")
    paper = "{paper-density: {scorer: density, foundations: {density: {kernel: p-stable, rows: 200}}}}"
    plan = Plan.of(parse_study("s.yaml", text.replace("semdedup, prototypes", paper)))
    for name, stage in plan.stages.items():
        if name.startswith(("embeddings", "density", "scores/density", "selections/paper-density")):
            for task in range(stage.tasks):
                assert run_task(plan, name, task) == 0
    default, own = (
        plan.stages[f"scores/{store_of(one)}"] for one in plan.study.samplers if one.scorer_name == "DensityScorer"
    )
    made = [ScoreStore.open(one.folder(plan.output)).made["hash"] for one in (default, own)]
    assert [one["width"] is None for one in made] == [True, False]
    assert [one["rows"] for one in made] == [1000, 200]
    both = [ScoreStore.open(one.folder(plan.output)).scores for one in (default, own)]
    assert not np.allclose(*both)
    assert kendalltau(*both).statistic > 0.2  # of the same embeddings
    kept = Selection.load(plan.stages["selections/paper-density/0.2"].file(plan.output))
    assert kept.documents == 20
