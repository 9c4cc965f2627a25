"""`winnow report`, from files to one file; every mistake is one sentence that names what to mend."""

import json
import re

import pytest
from conftest import document
from datatrove.pipeline.readers import JsonlReader
from synthetic_study import rows

from evaluate_suite.results import write_results
from launch.cli import main
from pipeline_steps import Cut, Embedder, KMeansAssign, KMeansFit, ScoreStore, select
from pipeline_steps.scorers.base import BaseScorer


class LengthScorer(BaseScorer):
    """Characters of a document times a sign."""

    def __init__(self, scores, sign=1):
        super().__init__(scores, "length")
        self.sign = sign

    def fingerprint(self):
        return {"scorer": "LengthScorer", "unit": "characters", "sign": self.sign}

    def score(self, docs):
        return [self.sign * float(len(doc.text)) + len(doc.id) % 3 for doc in docs]


@pytest.fixture
def results(tmp_path):
    (tmp_path / "runs").mkdir()
    made = rows(("random", "ask-llm-xl"), (0.4,), ("t5-small",), tasks=("c4",), steps=(1_000_000,))
    write_results(str(tmp_path / "runs" / "results.jsonl"), made)
    return str(tmp_path / "runs")


@pytest.fixture
def stores(corpus, tmp_path):
    path = lambda name: str(tmp_path / name)  # noqa: E731
    for name, sign in (("long", 1), ("short", -1)):
        list(LengthScorer(path(name), sign).run(JsonlReader(str(corpus)).run()))
        select(ScoreStore.open(path(name)), Cut("top", k=20)).save(path(f"{name}.safetensors"))
    return path


def failed(capsys, *arguments):
    """The one sentence a refused command says."""
    assert main(["report", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("winnow: ")
    assert "Traceback" not in said
    return said


def test_runs_scores_selections_and_documents_in_one_page(results, stores, corpus, tmp_path):
    output = tmp_path / "report.html"
    command = ["report", results, "--output", str(output), "--figures", str(tmp_path / "figures")]
    command += ["--scores", f"ask-llm-small={stores('long')}", f"ask-llm-xl={stores('short')}"]
    command += ["--lower-is-better", "ask-llm-xl", "--corpus", str(corpus), "--scoring-hours", "ask-llm-xl=10.0"]
    command += ["--selections", f"long={stores('long.safetensors')}", f"short={stores('short.safetensors')}"]
    assert main(command) == 0
    page = output.read_text()
    for section in ("outcome", "scorers", "documents", "methods"):
        assert f'<h2 id="{section}">' in page
    assert "Every scorer likes them" in page
    assert "−characters" in page
    drawn = {file.suffix for file in (tmp_path / "figures").iterdir()}
    assert drawn == {".svg", ".pdf", ".png"}
    shown = re.search(r"Every scorer likes them.*?<pre>(.*?)</pre>", page, flags=re.DOTALL)[1]
    assert shown.strip()


class AskLLMScorer(LengthScorer):
    """Lengths that pass for the judgement of a proxy."""

    def fingerprint(self):
        return super().fingerprint() | {"scorer": "AskLLMScorer"}


def clustered(folder, corpus):
    """Clusters of a corpus in a folder."""
    list(Embedder(f"{folder}/embeddings", "hashed-ngrams").run(JsonlReader(str(corpus)).run()))
    list(KMeansFit(f"{folder}/embeddings", f"{folder}/clusters", n_clusters=4).run())
    list(KMeansAssign(f"{folder}/embeddings", f"{folder}/clusters").run())
    return f"{folder}/clusters"


def test_selections_are_shown_by_coverage_and_quality(results, stores, corpus, tmp_path, capsys):
    list(AskLLMScorer(stores("asked")).run(JsonlReader(str(corpus)).run()))
    figures, output = tmp_path / "figures", tmp_path / "report.html"
    command = ["report", results, "--output", str(output), "--figures", str(figures)]
    command += ["--selections", f"long={stores('long.safetensors')}", f"short={stores('short.safetensors')}"]
    command += ["--scores", f"ask-llm={stores('asked')}", f"long={stores('long')}"]
    assert main(command) == 0
    assert not (figures / "coverage-and-quality.svg").exists()
    assert main([*command, "--clusters", clustered(tmp_path / "one", corpus)]) == 0
    drawn = (figures / "coverage-and-quality.svg").read_text()
    assert "mean percentile by Ask-LLM" in drawn
    assert 'aria-label="Samplers between coverage and quality"' in output.read_text()
    capsys.readouterr()
    unjudged = [one for one in command if not one.startswith("ask-llm=")]
    assert main([*unjudged, "--clusters", f"{tmp_path}/one/clusters"]) == 0
    assert "Coverage and quality are not drawn" in capsys.readouterr().out
    other = tmp_path / "other"
    other.mkdir()
    (other / "c.jsonl").write_text("".join(json.dumps(document(number)) + "\n" for number in range(500, 530)))
    capsys.readouterr()
    assert "has 0 in the one and 5 in the other" in failed(
        capsys, *command[1:], "--clusters", clustered(tmp_path / "two", other)
    )
    assert "NOWHERE" in failed(capsys, *command[1:], "--clusters", "NOWHERE")


def test_markdown_is_for_a_model_card(results, tmp_path):
    output = tmp_path / "card.md"
    assert main(["report", f"{results}/results.jsonl", "--output", str(output), "--format", "markdown"]) == 0
    assert "| Sampler" in output.read_text()
    assert "<svg" not in output.read_text()


def test_no_results(capsys, tmp_path):
    assert "give a results.jsonl" in failed(capsys, str(tmp_path), "--output", str(tmp_path / "report.html"))
    assert not (tmp_path / "report.html").exists()


def test_an_incomplete_suite_names_the_flag(capsys, tmp_path):
    made = rows(("random",), (0.4,), ("t5-small",), tasks=("gsm8k",), steps=(1_000_000,))
    write_results(str(tmp_path / "results.jsonl"), made)
    where = [str(tmp_path / "results.jsonl"), "--output", str(tmp_path / "card.md"), "--format", "markdown"]
    assert "--partial" in failed(capsys, *where)
    assert main(["report", *where, "--partial"]) == 0
    assert "Reasoning (1/4)" in (tmp_path / "card.md").read_text()


def test_unknown_scorer_other_corpus_and_corpus_without_scores(capsys, results, stores, corpus, tmp_path):
    where = [results, "--output", str(tmp_path / "report.html")]
    scores = ["--scores", f"long={stores('long')}"]
    assert "those given are long" in failed(capsys, *where, *scores, "--lower-is-better", "lnog")
    assert "give --scores as well" in failed(capsys, *where, "--corpus", str(corpus))
    other = tmp_path / "other-corpus"
    other.mkdir()
    (other / "a.jsonl").write_text('{"id": "x", "text": "another text"}\n')
    assert "not the one that was scored" in failed(capsys, *where, *scores, "--corpus", str(other))
    list(LengthScorer(str(tmp_path / "third")).run(JsonlReader(str(other)).run()))
    mixed = [*scores, f"third={tmp_path / 'third'}"]
    assert "are not of the same documents" in failed(capsys, *where, *mixed)
    select(ScoreStore.open(str(tmp_path / "third")), Cut("top", k=1)).save(str(tmp_path / "third.safetensors"))
    selections = ["--selections", f"third={tmp_path / 'third.safetensors'}"]
    assert "different corpora" in failed(capsys, *where, *scores, *selections)


def test_arguments_that_are_not_name_and_value(capsys, tmp_path):
    for wrong in (["--scores", "scores"], ["--scoring-hours", "ask-llm-xl=ten"], ["--scoring-hours", "x=-1"]):
        assert main(["report", "runs", "--output", "x", *wrong]) == 2
        assert "NAME=" in capsys.readouterr().err


def test_help_teaches_by_example(capsys):
    assert main(["report", "--help"]) == 0
    assert "winnow report runs/ --output report.html" in capsys.readouterr().out
