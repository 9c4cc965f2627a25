"""Fine-tuning must measure every task of a suite, continue to the same numbers, and say what it cannot do."""

import json
import math
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
from training_runs import ENVIRONMENT, ROOT, launch, read_rows

from evaluate_suite import fine_tune
from evaluate_suite.checkpoint import Checkpoint, find_checkpoints
from evaluate_suite.encoder_decoder_lm import EncoderDecoderLM
from evaluate_suite.fine_tune import SuiteArguments, TaskScores, training_pairs, validation_examples
from evaluate_suite.fine_tuning_runs import FineTuning, fine_tuned_rows
from evaluate_suite.registry import by_suite, registry
from pipeline_steps import EMBEDDED_PROXY
from pipeline_steps.errors import InvalidCut, ModelError
from train.checkpoints import load_pretrained
from train.fine_tune import BUDGETS, PAPER
from train.losses import TokenLosses
from train.model import build_model
from train.run_directory import sealed_row


SUITES = ("glue", "superglue", "cnn_dailymail", "squad")
SCRIPT = ("-m", "evaluate_suite.fine_tune")


@pytest.fixture(scope="session")
def model():
    """Folder of a T5 that is small but real, with its tokenizer."""
    return EMBEDDED_PROXY


def flags(suite, run_dir, data_root, model, **changes):
    values = {"suite": suite, "run_dir": run_dir, "data_root": data_root, "model": model, "budget": "smoke"}
    values |= {"steps": 6, "eval_every": 3, "log_every": 1}
    return [f"--{name}={value}" for name, value in (values | changes).items()]


def main(argv):
    AcceleratorState._reset_state(reset_partial_state=True)
    with pytest.raises(SystemExit) as ended:
        fine_tune.main(argv)
    return ended.value.code


@pytest.fixture
def launched(monkeypatch):
    """Fine-tune in this process where accelerate would be launched, and list the commands."""
    commands = []

    def launch(command, run_dir, environment):
        commands.append(command)
        assert command[:4] == [sys.executable, "-P", "-m", "accelerate.commands.launch"]
        return main(command[command.index("evaluate_suite.fine_tune") + 1 :])

    monkeypatch.setattr("evaluate_suite.fine_tuning_runs.run_launcher", launch)
    return commands


def alone(argv, script=SCRIPT):
    """Run in a process of its own."""
    command = [sys.executable, *script, *argv]
    return subprocess.run(command, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("suite", SUITES)
def test_every_task_from_end_to_end(suite, data_root, model, tmp_path):
    measured = (3, 6) if suite == "squad" else (4,)
    assert main(flags(suite, tmp_path, data_root, model, steps=measured[-1], eval_every=measured[0])) == 0
    found = read_rows(tmp_path / "held_out.jsonl")
    scored = [task for task in by_suite()[suite] if task.scored]
    assert [(row["step"], row["split"]) for row in found] == [(s, task.name) for s in measured for task in scored]
    for row, task in zip(found, scored * len(measured), strict=True):
        assert all(math.isfinite(row[name]) for metric in task.metrics for name in (metric, f"{metric}_stderr"))
        assert row["score"] == pytest.approx(sum(row[name] for name in task.metrics) / len(task.metrics))
        assert ("majority" in row) == bool(task.labels)
        assert row["examples"] >= 6
    resolved = json.loads((tmp_path / "resolved.json").read_text())
    assert (resolved["input_length"], resolved["target_length"]) == fine_tune.LENGTHS[suite]
    assert (resolved["learning_rate"], resolved["dropout"]) == (1e-3, 0.1)  # Raffel et al. 2020, Sec. 3.1.2
    assert {row["lr"] for row in read_rows(tmp_path / "metrics.jsonl")} == {1e-3}


@pytest.mark.parametrize("name", ["stsb", "mnli_matched", "record", "multirc", "wsc", "squad", "cnn_dailymail"])
def test_lm_eval_measures_the_same_with_our_task_files(name, data_root, model):
    """One model, greedy answers: by this project's loop, and by lm-eval from the YAML file."""
    task = registry()[name]
    AcceleratorState._reset_state(reset_partial_state=True)
    scores = TaskScores({task: validation_examples(task, str(data_root), 0)}, model, 512, 84)
    t5 = load_pretrained(model)
    (row,) = scores(TokenLosses(t5), Accelerator(cpu=True))
    config = load_yaml(files("evaluate_suite") / "harness" / f"winnow_t5_{name}.yaml")
    config["dataset_path"] = str(data_root / task.dataset)
    config["generation_kwargs"]["max_gen_toks"] = 84
    manager = TaskManager(include_defaults=False)
    found = simple_evaluate(EncoderDecoderLM(t5, model), tasks=[config], bootstrap_iters=0, task_manager=manager)
    (result,) = found["results"].values()
    assert {m: 100 * result[f"{m},none"] for m in task.metrics} == pytest.approx({m: row[m] for m in task.metrics})


def test_all_training_splits_one_after_the_other(data_root):
    """In proportion to their size: MNLI's once, of WSC only rows that name the right noun, DPR beside them."""

    def pairs(suite):
        return list(training_pairs(SuiteArguments("model", "run", suite=suite, data_root=str(data_root))))

    glue = pairs("glue")
    assert len(glue) == 12 * 8
    assert sum(one.startswith("mnli ") for one, _ in glue) == 12
    superglue = pairs("superglue")
    dpr = [pair for pair in superglue if pair[0].startswith("wsc: The fox saw the owl")]
    assert len(dpr) == 6
    assert dpr[1] == ("wsc: The fox saw the owl 1 times because *it* was hungry.", "the owl")
    assert sum(one.startswith("wsc: ") for one, _ in superglue) == 6 + 6


@pytest.fixture(scope="module")
def undisturbed(data_root, model, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("undisturbed")
    assert main(flags("squad", run_dir, data_root, model, steps=8, eval_every=2)) == 0
    return run_dir


def outcome(run_dir):
    """Losses and metrics, and the bytes of the last weights."""
    weights = (run_dir / "checkpoints" / "step-00000008" / "model.safetensors").read_bytes()
    losses = {row["step"]: row["nll"] for row in read_rows(run_dir / "metrics.jsonl")}
    return losses, read_rows(run_dir / "held_out.jsonl"), weights


WATCH = """
import importlib, os, signal
calls = []
def die_at_second(owner, name):
    inner = getattr(owner, name)
    def call(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return inner(*args, **kwargs)
    setattr(owner, name, call)
{place}
from evaluate_suite.fine_tune import main
if __name__ == "__main__":
    main()
"""
ANSWERING = "from evaluate_suite.fine_tune import TaskScores; die_at_second(TaskScores, 'greedy')"
SAVING = "from train import folders; die_at_second(folders, 'seal')"


@pytest.mark.slow
def test_killed_and_continued_ends_the_same(undisturbed, data_root, model, tmp_path):
    """SIGKILL while the questions of step 4 are answered, then while a checkpoint is written."""
    argv = flags("squad", tmp_path / "run", data_root, model, steps=8, eval_every=2)
    for place, steps in {ANSWERING: [[2]], SAVING: [[2, 4], [2, 4, 6]]}.items():
        script = tmp_path / "dying.py"
        script.write_text(WATCH.format(place=place))
        assert alone(argv, [str(script)]).returncode == -signal.SIGKILL
        assert [row["step"] for row in read_rows(tmp_path / "run" / "held_out.jsonl")] in steps
    assert main(argv) == 0
    assert outcome(tmp_path / "run") == outcome(undisturbed)


@pytest.mark.slow
def test_two_processes_say_the_same(undisturbed, data_root, model, tmp_path):
    argv = flags("squad", tmp_path, data_root, model, steps=8, eval_every=2)
    finished = launch(2, argv, SCRIPT)
    assert finished.returncode == 0, finished.stderr
    ours, theirs = outcome(tmp_path), outcome(undisturbed)
    assert ours[0] == pytest.approx(theirs[0], rel=1e-4)
    assert [row["split"] for row in ours[1]] == [row["split"] for row in theirs[1]]
    assert [row["answer_f1"] for row in ours[1]] == pytest.approx([row["answer_f1"] for row in theirs[1]], abs=20)


def test_rows_of_the_best_step_of_each_task(data_root, model, tmp_path, undisturbed, launched):
    """Nothing is computed again for a finished run."""
    cache = tmp_path / "cache"
    shutil.copytree(undisturbed, cache / "random" / "tiny" / "squad")
    file = cache / "random" / "tiny" / "squad" / "held_out.jsonl"
    changed = [row | {"score": {4: 9.0, 6: 9.0}.get(row["step"], 1.0)} for row in read_rows(file)]
    file.write_text("".join(map(sealed_row, changed)))
    more = ["--steps=8", "--eval_every=2", "--log_every=1"]
    how = FineTuning(flags=more, data_root=str(data_root), budget="smoke")
    (checkpoint,) = find_checkpoints("random", model)
    found = fine_tuned_rows(replace(checkpoint, name="tiny"), "squad", cache, how)
    assert {row.metric for row in found} == {"answer_f1", "answer_exact_match", "invalid_share", "fine_tuning_step"}
    assert {row.value for row in found if row.metric == "fine_tuning_step"} == {4}  # the earlier of two that tie
    assert read_rows(file) == changed
    assert fine_tuned_rows(replace(checkpoint, name="tiny"), "squad", cache, how) == found
    assert len(launched) == 1  # not even to find out that all is done


def test_paper_and_smaller_budgets():
    paper = SuiteArguments("model", "run", suite="glue")
    assert (paper.steps, paper.batch_size, paper.input_length) == (2**18, 128, 512)
    assert paper.steps * paper.batch_size * paper.input_length == 17_179_869_184  # 3.3 % of a 524B pre-training
    assert PAPER["eval_every"] == 5_000
    assert SuiteArguments("model", "run", budget="smoke", steps=7).steps == 7
    assert all(budget.keys() == PAPER.keys() for budget in BUDGETS.values())


def test_mistakes_are_told_in_one_sentence(data_root, model, tmp_path, capsys):
    def said(**changes):
        given = {"suite": "glue", "run_dir": tmp_path / "run", "data_root": data_root, "model": model} | changes
        assert main(flags(**given)) == 2
        return capsys.readouterr().err

    assert "no suite 'clue'" in said(suite="clue")
    assert "glue has no task 'squad'" in said(tasks="squad")
    assert "neither a local folder nor to be had from the Hub" in said(model="nobody/nothing")
    assert "hf download nyu-mll/glue" in said(data_root=tmp_path / "empty")
    bare = tmp_path / "bare"
    build_model("t5-tiny", 1000, 0).save_pretrained(bare)
    assert "has no tokenizer" in said(model=bare)
    causal = tmp_path / "causal"
    build_model("llama-tiny", 1000, 0).save_pretrained(causal)
    shutil.copy(Path(model) / "tokenizer.json", causal)
    shutil.copy(Path(model) / "tokenizer_config.json", causal)
    assert "not a T5" in said(model=causal)
    assert main(flags("squad", tmp_path / "twice", data_root, model, steps=3)) == 0
    assert "steps: 3 there, 6 now" in said(suite="squad", run_dir=tmp_path / "twice")
    with pytest.raises(InvalidCut, match="dropout 1.0"):
        SuiteArguments("model", "run", dropout=1.0)


def test_what_ends_before_its_time_is_an_error_that_says_how_to_go_on(tmp_path, monkeypatch, capfd):
    """accelerate is really launched, in a folder with modules whose names are ours; they are not imported."""
    for name in ("train", "evaluate_suite", "pipeline_steps", "accelerate"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'a').write({name!r})")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    checkpoint = Checkpoint("random", str(tmp_path / "nowhere"), "t5", {}, "w", "tiny")
    with pytest.raises(ModelError, match="ended with code 1: see above; the same command goes on"):
        fine_tuned_rows(checkpoint, "squad", tmp_path, FineTuning())
    assert "neither a local folder nor to be had from the Hub" in capfd.readouterr().err
    assert not (tmp_path / "imported").exists()


def test_the_module_teaches(capsys):
    assert main(["--help"]) == 0
    assert "accelerate launch -m evaluate_suite.fine_tune" in capsys.readouterr().out


def test_instruction_tuning_keeps_checkpoints_to_choose_from():
    assert SuiteArguments("model", "run", suite="flan").checkpoints == 10
    assert SuiteArguments("model", "run", suite="flan", checkpoints=2).checkpoints == 2
    assert SuiteArguments("model", "run", suite="glue").checkpoints == 1


def test_other_data_are_other_runs(data_root, model, tmp_path, capsys):
    """The digests of training and validation data are the run's: what was measured on others is not taken for it."""
    other = tmp_path / "other"
    shutil.copytree(data_root / "rajpurkar", other / "rajpurkar")
    assert main(flags("squad", tmp_path / "run", other, model, steps=3)) == 0
    file = next((other / "rajpurkar").rglob("validation*"))
    file.write_text(file.read_text().replace("slept", "snored"))
    assert main(flags("squad", tmp_path / "run", other, model, steps=3)) == 2
    assert "data: " in capsys.readouterr().err


def test_a_run_directory_stands_for_its_last_checkpoint_and_a_tuned_one_for_itself(data_root, model, tmp_path):
    assert main(flags("squad", tmp_path / "first", data_root, model, steps=3)) == 0
    assert main(flags("squad", tmp_path / "second", data_root, tmp_path / "first", steps=3)) == 0
    (tuned,) = find_checkpoints("x", str(tmp_path / "second"))
    assert tuned.row("squad", "answer_f1", (1.0, 0.1, 6), 0, "h").model == "step-00000003"
    before = find_checkpoints("x", model)[0]
    assert before.tuned(Path(tuned.model)).row("t", "m", (1.0, 0.1, 6), 0, "h").model == before.architecture


def test_a_mixture_that_is_too_large_is_drawn_from(data_root):
    drawn = [
        [pair for pair in fine_tune._drawn(iter([(str(n), "x") for n in range(500)]), 50, seed)] for seed in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    numbers = [int(text) for text, _ in drawn[0]]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == 50
    assert 150 < sum(numbers) / 50 < 350
