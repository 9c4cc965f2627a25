"""Nothing is started where a credential, a model or a folder is missing: one sentence says which."""

import json

import pytest
from conftest import document, forget_s3

from launch.cli import main
from launch.plan import Plan
from launch.runner import check_access
from launch.study_file import parse_study
from pipeline_steps.errors import CorpusError, ModelError


STUDY = """\
output: {folder}/out
corpus: {folder}/corpus.jsonl
held_out: {{c4: {folder}/corpus.jsonl}}
samplers: [random]
rates: [0.2]
models:
  t5-tiny: {{total_tokens: 8192}}
"""


@pytest.fixture
def text(tmp_path):
    (tmp_path / "corpus.jsonl").write_text(json.dumps(document(1)) + "\n")
    return STUDY.format(folder=tmp_path)


def check(text, *, without=()):
    plan = Plan.of(parse_study("s.yaml", text))
    check_access(plan, [stage for stage in plan.stages.values() if stage.name not in without])


@pytest.fixture
def no_credentials(monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    forget_s3()
    yield
    forget_s3()


def test_everything_is_there(text):
    check(text)


def test_no_credentials(text, no_credentials, tmp_path, capsys):
    file = tmp_path / "s.yaml"
    file.write_text(text.replace(f"corpus: {tmp_path}/corpus.jsonl", "corpus: s3://bucket/crawl", 1))
    assert main(["run", str(file)]) == 2
    said = capsys.readouterr().err
    assert "s3://bucket/crawl cannot be listed" in said
    assert "AWS_ACCESS_KEY_ID" in said
    assert not (tmp_path / "out").exists()


def test_held_out_text_that_is_not_there(text, tmp_path):
    with pytest.raises(CorpusError, match=r"nowhere\.jsonl does not exist"):
        check(text.replace(f"c4: {tmp_path}/corpus", f"c4: {tmp_path}/nowhere"))


def test_a_model_is_asked_for_only_if_its_scores_are_to_be_made(text):
    asked = text.replace("[random]", "[ask-llm-xl]")
    with pytest.raises(ModelError, match=r"google/flan-t5-xl is neither a local folder nor"):
        check(asked)
    check(asked, without=["scores/ask-llm-xl"])
    check(text.replace("[random]", "[{mine: {scorer: ask-llm, model: embedded}}]"))


def test_evaluation_data_that_is_not_there(text, tmp_path):
    with pytest.raises(CorpusError, match="data_root, is no folder"):
        check(f"{text}evaluation: {{suites: [glue], data_root: {tmp_path}/nowhere}}\n")
