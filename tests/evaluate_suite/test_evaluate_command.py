"""winnow evaluate, as a user would: from a run to rows, once."""

import json
import os
import shutil
import signal

import pytest
from datatrove.pipeline.readers import JsonlReader
from test_fine_tune import launched  # noqa: F401  fine-tuning in this process
from test_perplexity import made, train  # noqa: F401  a run with two checkpoints
from tiny_decoders import write_decoder

from evaluate_suite import few_shot, measure
from evaluate_suite.__main__ import main
from evaluate_suite.averages import extra_scores
from evaluate_suite.checkpoint import cost_rows, find_checkpoints
from evaluate_suite.fine_tuning_runs import FineTuning
from evaluate_suite.registry import extra_suites
from evaluate_suite.results import read_results
from pipeline_steps import EMBEDDED_PROXY
from pipeline_steps.errors import StoreIncomplete, WinnowError
from train.run_directory import sealed_row
from train.token_store_writer import TokenStoreWriter


@pytest.fixture
def run(made):  # noqa: F811
    return made / "run"


def test_perplexity_by_source(made, run, tmp_path, capsys):  # noqa: F811
    output = tmp_path / "results.jsonl"
    tokens, other = made / "tokens", tmp_path / "other"
    (tmp_path / "text").mkdir()
    lines = [json.dumps({"id": str(n), "text": f"{n} other words are in this line, " * 30}) for n in range(20)]
    (tmp_path / "text" / "b.jsonl").write_text("\n".join(lines))
    list(TokenStoreWriter(str(other), EMBEDDED_PROXY).run(JsonlReader(str(tmp_path / "text")).run()))
    argv = ["perplexity", "--runs", f"random={run}", "--tokens", f"high_quality={tokens},{other}", f"c4={tokens}"]
    assert main([*argv, "--output", str(output), "--max-windows", "8"]) == 0
    rows = read_results(str(output))
    assert {row.task for row in rows} == {"c4", "high_quality", "high_quality/tokens", "high_quality/other"}
    seconds = [json.loads(line)["seconds"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    costs = read_results(str(tmp_path / "costs.jsonl"))
    hours = [row.value for row in costs if row.metric == "training_accelerator_hours"]
    assert max(hours) == pytest.approx(sum(seconds) / 3600)
    amounts = {"selected_documents", "selected_tokens", "parameters", "recipe_number"}
    assert {(row.task, row.metric) for row in costs} == {("cost", m) for m in ("training_accelerator_hours", *amounts)}
    assert {row.n for row in rows if row.task == "high_quality"} == {8}
    last = {row.task: row.value for row in rows if row.step == 4}
    sources = last["high_quality/tokens"], last["high_quality/other"]
    assert last["high_quality"] == pytest.approx((sources[0] * sources[1]) ** 0.5)  # the same share of each
    assert abs(sources[0] - sources[1]) > 1
    assert {row.n for row in rows if row.task == "high_quality/tokens"} == {4}


def test_hours_are_of_all_processes_up_to_the_checkpoint(run, tmp_path):
    """Also where a run went on with another number of them, and died while it wrote a row."""
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    rows = [{"step": 1, "seconds": 3600.0, "processes": 2}, {"step": 2, "seconds": 1800.0, "processes": 4}]
    rows.append({"step": 4, "seconds": 900.0, "processes": 4})
    (copy / "metrics.jsonl").write_text("".join(map(sealed_row, rows)) + '{"step": 4, "sec')
    hours = [cost_rows(checkpoint)[0].value for checkpoint in find_checkpoints("random", str(copy))]
    assert hours == [4.0, 5.0]  # of steps 2 and 4


def test_few_shot_adds_rows(run, data_root, tmp_path, capsys):
    output = tmp_path / "results.jsonl"
    argv = ["few-shot", "--runs", f"random={run}", "--data-root", str(data_root), "--output", str(output)]
    assert main([*argv, "--tasks", "anatomy"]) == 0
    assert main([*argv, "--tasks", "arc_easy", "--every-checkpoint"]) == 0
    rows = read_results(str(output))
    assert {(row.task, row.step) for row in rows} == {("anatomy", 4), ("arc_easy", 2), ("arc_easy", 4)}
    assert {(row.sampler, row.model, row.rate) for row in rows} == {("random", "t5-tiny", 1.0)}
    assert main([*argv, "--tasks", "anatomi"]) == 2
    assert "did you mean anatomy" in capsys.readouterr().err


def test_further_suites_have_rows_of_their_own(run, data_root, tmp_path, capsys):
    """CORE's terms are rows too; a suite of which a task is missing has none."""
    output = tmp_path / "results.jsonl"
    argv = [
        "few-shot",
        "--runs",
        f"random={run}",
        "--data-root",
        str(data_root),
        "--output",
        str(output),
        "--limit",
        "2",
    ]
    assert main([*argv, "--tasks", "core_v2", "mmlu_cloze", "--metrics", "margin"]) == 0
    found = {(row.task, row.metric): row for row in read_results(str(output))}
    tasks = extra_suites()["core_v2"]
    terms = [found[task.name, "centred_accuracy"] for task in tasks]
    core = found["core_v2", "centred_accuracy"]
    assert core.value == pytest.approx(sum(row.value for row in terms) / 22)
    assert core.stderr == pytest.approx(sum(row.stderr**2 for row in terms) ** 0.5 / 22)
    for task, row in zip(tasks, terms, strict=True):
        score = found[task.name, task.metrics[0]].value
        assert row.value == pytest.approx((score - task.chance) / (1 - task.chance / 100))
    older = {"core_commonsense_qa": 20, "core_agi_eval_lsat_ar": 20, "core_bigbench_language_identification": 9.1}
    shift = sum(
        (found[task.name, task.metrics[0]].value - older[task.name]) / (1 - older[task.name] / 100) - row.value
        for task, row in zip(tasks, terms, strict=True)
        if task.name in older
    )
    assert found["core_v1", "centred_accuracy"].value == pytest.approx(core.value + shift / 22)
    assert found["core_copa", "margin"].n == 2
    assert ("core_jeopardy", "margin") not in found  # nothing to compare
    assert ("early_signal", "bits_per_byte") not in found
    cached = {path.name for path in (tmp_path / "evaluation").rglob("mmlu_cloze-*.json")}
    assert len(cached) == 57  # what is lost with a kill is a subject
    assert main([*argv, "--tasks", "early_signal", "--metrics", "marign"]) == 2
    assert "did you mean margin" in capsys.readouterr().err
    assert main([*argv, "--tasks", "early_signal"]) == 0
    found = {(row.task, row.metric): row.value for row in read_results(str(output))}
    names = [task.name for task in extra_suites()["early_signal"]]
    for metric in ("accuracy", "accuracy_per_character", "bits_per_byte", "choice_probability"):
        assert found["early_signal", metric] == pytest.approx(sum(found[name, metric] for name in names) / 9)
    with pytest.raises(StoreIncomplete, match=r"21 of 22 tasks were measured; core_copa are missing"):
        extra_scores([row for row in read_results(str(output)) if row.task != "core_copa"], "core_v2")


def test_few_shot_of_decoders(made, data_root, tmp_path, capsys):  # noqa: F811
    """A run of ours on a T5's vocabulary, and a folder of transformers'; they are not fine-tuned."""
    train(made / "tokens", tmp_path / "own", preset="llama-tiny", **{"optimizer": "adamw", "warmup-steps": 2})
    output = tmp_path / "results.jsonl"
    runs = ["--runs", f"own={tmp_path / 'own'}", f"peer={write_decoder(tmp_path / 'gpt2', 'gpt2')}"]
    argv = [*runs, "--data-root", str(data_root), "--output", str(output)]
    for refused in (["few-shot", *argv, "--instruction-tune"], ["fine-tune", *argv, "--suites", "squad"]):
        assert main(refused) == 2
        assert "step-00000004 is decoder-only, and only T5s are fine-tuned here" in capsys.readouterr().err
    assert not read_results(str(output))
    assert main(["few-shot", *argv, "--tasks", "anatomy", "qa_boolq", "navigate", "svamp"]) == 0
    rows = read_results(str(output))
    tasks = {"anatomy", "qa_boolq", "navigate", "svamp"}
    assert {(row.sampler, row.model, row.task) for row in rows} == {
        (*names, task) for names in (("own", "llama-tiny"), ("peer", "gpt2")) for task in tasks
    }
    assert {row.step for row in rows if row.sampler == "own"} == {4}


def killed_at(name, argv):
    """Give a command in a fork of this process, which kills itself where it would measure a task; the exit code."""
    child = os.fork()
    if not child:
        inner = few_shot.ask
        few_shot.ask = lambda task, *rest: (
            os.kill(os.getpid(), signal.SIGKILL) if task.name == name else inner(task, *rest)
        )
        try:
            main(argv)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_killed_and_given_again(run, data_root, tmp_path, monkeypatch):
    """What was measured before SIGKILL is not measured again, and the results are those of an undisturbed run."""

    def argv(name):
        output = ["--data-root", str(data_root), "--output", str(tmp_path / name / "results.jsonl")]
        return ["few-shot", "--runs", f"random={run}", "--tasks", "qa", *output]

    assert killed_at("arc_challenge", argv("killed")) == -signal.SIGKILL
    units = sorted(path.stem for path in (tmp_path / "killed").rglob("step-*/*.json"))
    assert units == ["arc_easy", "qa_boolq", "unifiedqa"]
    assert main(argv("undisturbed")) == 0
    measured = []
    inner = few_shot.ask
    monkeypatch.setattr(few_shot, "ask", lambda task, *rest: measured.append(task) or inner(task, *rest))
    assert main(argv("killed")) == 0
    assert [task.name for task in measured] == ["arc_challenge"]
    assert (tmp_path / "killed/results.jsonl").read_bytes() == (tmp_path / "undisturbed/results.jsonl").read_bytes()


@pytest.mark.parametrize("where", ["here", pytest.param("under accelerate", marks=pytest.mark.slow)])
def test_fine_tuned_and_instruction_tuned(where, run, data_root, tmp_path, monkeypatch, request):
    """Fine-tuning is launched twice; a second time nothing is."""
    if where == "here":
        request.getfixturevalue("launched")
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
    monkeypatch.setattr("evaluate_suite.fine_tuning_runs.run_launcher", lambda *_: 1 / 0)
    assert main(flan) == 0
    assert output.read_bytes() == before
    cached = sorted(path.parent.name for path in (tmp_path / "evaluation").rglob("flan/measured/*/arc_easy.json"))
    assert cached == ["step-00000002", "step-00000004"]
    assert json.loads((tmp_path / "evaluation/random/step-00000004/flan/resolved.json").read_text())["suite"] == "flan"


def test_no_credential_gets_into_a_file(run, tmp_path):
    """Also where a study's worker measures in its own process, without a command line."""
    secret, output = "hf_" + "a" * 34, tmp_path / "r.jsonl"
    with pytest.raises(WinnowError, match="holds a credential") as refused:
        measure.fine_tune({"a": str(run)}, ["squad"], str(output), how=FineTuning(flags=["--report_to", secret]))
    with pytest.raises(WinnowError, match="holds a credential"):
        measure.few_shot({"a": f"https://user:{secret}@host/run"}, ["anatomy"], str(output))
    assert secret not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_runs_of_one_sampler_may_be_several(run, made, tmp_path):  # noqa: F811
    """Pairs, as `--runs random=A random=B` gives them: rows of two seeds do not hide each other."""
    train(made / "tokens", tmp_path / "other", seed=5)
    runs = [("random", str(run)), ("random", str(tmp_path / "other"))]
    rows = measure.perplexity(runs, {"c4": str(made / "tokens")}, str(tmp_path / "r.jsonl"), max_windows=2)
    assert {(row.seed, row.step) for row in read_results(str(tmp_path / "r.jsonl"))} == {
        (row.seed, row.step) for row in rows
    }
    assert len(rows) == 4


def test_what_is_not_there_is_said(run, tmp_path, capsys):
    argv = ["few-shot", "--output", str(tmp_path / "r.jsonl"), "--tasks", "anatomy"]
    assert main([*argv, "--runs", f"a={tmp_path / 'none'}"]) == 2
    assert "neither a local folder nor to be had from the Hub" in capsys.readouterr().err
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    assert main([*argv, "--runs", f"a={tmp_path / 'empty'}"]) == 2
    assert "has no checkpoint: train it first" in capsys.readouterr().err
    for given, said in (
        (["--tasks", "glue"], "cola is not asked with exemplars: winnow evaluate fine-tune"),
        (["--limit", "-1"], "limit -1 must be at least 0"),
    ):
        assert main([*argv, "--runs", f"a={run}", *given]) == 2
        assert said in capsys.readouterr().err
    for output, said in (("s3://bucket/r.jsonl", "is not a local file"), (str(tmp_path), "error: ")):
        assert main(["few-shot", "--runs", f"a={run}", "--tasks", "anatomy", "--output", output]) == 2
        assert said in capsys.readouterr().err
    (tmp_path / "foreign.jsonl").write_text('{"other": 1}\n')
    assert main(["few-shot", "--runs", f"a={run}", "--output", str(tmp_path / "foreign.jsonl")]) == 2
    assert "foreign.jsonl, line 1, has no digest" in capsys.readouterr().err
    for given, said in (
        (["--runs", str(run)], "is not NAME=DIR"),
        (["--runs"], "--runs needs NAME=DIR"),
        (["--runs", "a="], "is not NAME=DIR"),
        (["--runs", "a=b", "--task", "anatomy"], "Did you mean --tasks?"),
        (["--runs", "a=b", "--budget", "smok"], 'Did you mean "smoke"?'),
        (["--runs", "a=b", "--data-root", os.devnull], "--data-root: /dev/null is a device"),
    ):
        assert main([*argv, *given]) == 2
        err = capsys.readouterr().err
        assert said in err
        assert err.count("\n") == 1
    assert main(["few-shto", "--runs", "a=b"]) == 2
    assert "did you mean few-shot?" in capsys.readouterr().err
    assert main(["perplexity", "--runs", "a=b", "--output", "r", "--tokens", "c4=a", "c4=b"]) == 2
    assert "put commas between" in capsys.readouterr().err
