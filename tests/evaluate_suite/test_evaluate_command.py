"""winnow evaluate, as a user would: from a run to rows, once."""

import json

import pytest
from test_perplexity import made  # noqa: F401  a run with two checkpoints

from evaluate_suite.__main__ import main
from evaluate_suite.results import read_results


@pytest.fixture
def run(made):  # noqa: F811
    return made / "run"


def test_perplexity_by_source(made, run, tmp_path, capsys):  # noqa: F811
    output = tmp_path / "results.jsonl"
    tokens = made / "tokens"
    argv = ["perplexity", "--runs", f"random={run}", "--tokens", f"high_quality={tokens},{tokens}", f"c4={tokens}"]
    assert main([*argv, "--output", str(output), "--max-windows", "8"]) == 0
    rows = read_results(str(output))
    assert {row.task for row in rows} == {"c4", "high_quality", "high_quality/tokens", "cost"}
    seconds = [json.loads(line)["seconds"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert max(row.value for row in rows if row.task == "cost") == pytest.approx(sum(seconds) / 3600)
    assert {row.n for row in rows if row.task == "high_quality"} == {8}
    assert {row.n for row in rows if row.task == "high_quality/tokens"} == {4}


def test_few_shot_adds_rows(run, data_root, tmp_path, capsys):
    output = tmp_path / "results.jsonl"
    argv = ["few-shot", "--runs", f"random={run}", "--data-root", str(data_root), "--output", str(output)]
    assert main([*argv, "--tasks", "anatomy"]) == 0
    assert main([*argv, "--tasks", "arc_easy", "--every-checkpoint"]) == 0
    rows = [row for row in read_results(str(output)) if row.task != "cost"]
    assert {(row.task, row.step) for row in rows} == {("anatomy", 4), ("arc_easy", 2), ("arc_easy", 4)}
    assert {(row.sampler, row.model, row.rate) for row in rows} == {("random", "t5-tiny", 1.0)}
    assert main([*argv, "--tasks", "anatomi"]) == 2
    assert "did you mean anatomy" in capsys.readouterr().err


def test_fine_tuned_and_instruction_tuned(run, data_root, tmp_path, monkeypatch):
    """accelerate is really launched, twice; a second time nothing is."""
    output, few = tmp_path / "results.jsonl", "--tasks qa --instruction-tune".split()
    common = ["--runs", f"random={run}", "--data-root", str(data_root), "--output", str(output), "--budget", "smoke"]
    more = ["--tuning", "--steps", "4", "--eval_every", "2"]
    fine = ["fine-tune", *common, "--suites", "squad", *more]
    flan = ["few-shot", *common, *few, *more, "--checkpoints", "2", "--input_length", "64"]
    assert main(fine) == main(flan) == 0
    rows = read_results(str(output))
    steps = {row.task: row.value for row in rows if row.metric == "fine_tuning_step"}
    assert set(steps) == {"squad", "unifiedqa", "qa_boolq", "arc_easy", "arc_challenge"}
    assert len({steps[task] for task in steps if task != "squad"}) == 1  # one checkpoint for all suites
    assert all(row.step == 4 for row in rows)  # of pre-training
    before = output.read_bytes()
    monkeypatch.setattr("evaluate_suite.encoder_decoder_lm.EncoderDecoderLM.__init__", lambda *_, **__: 1 / 0)
    assert main(flan) == 0
    assert output.read_bytes() == before
    cached = sorted(path.parent.name for path in (tmp_path / "evaluation").rglob("flan/measured/*/arc_easy.json"))
    assert cached == ["step-00000002", "step-00000004"]
    assert json.loads((tmp_path / "evaluation/random/step-00000004/flan/resolved.json").read_text())["suite"] == "flan"


def test_what_is_not_there_is_said(run, tmp_path, capsys):
    argv = ["few-shot", "--output", str(tmp_path / "r.jsonl"), "--tasks", "anatomy"]
    assert main([*argv, "--runs", f"a={tmp_path / 'none'}"]) == 2
    assert "neither a local folder nor to be had from the Hub" in capsys.readouterr().err
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    assert main([*argv, "--runs", f"a={tmp_path / 'empty'}"]) == 2
    assert "has no checkpoint: train it first" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["few-shot", "--runs", str(run)])
    assert "is not NAME=DIR" in capsys.readouterr().err
