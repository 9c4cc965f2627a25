"""The whole main job as a user runs it: to the end, killed in every stage, and on input that cannot be used."""

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from here import in_this_process
from prose import write_prose

from launch.cli import main
from train.folders import locked


SAMPLERS = ("full", "random", "density", "ask-llm")
KINDS = ("corpus", "embeddings", "density", "scores", "selections", "tokens", "runs", "measured", "report")
TOKENS = 20_480  # forty steps of the tiny model


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prose")
    write_prose(folder / "prose.jsonl", 250)
    return folder


def words(corpus, output, *more):
    tokens = [] if "--train-tokens" in more else ["--train-tokens", str(TOKENS)]
    return ["quickstart", "--corpus", str(corpus), "--output", str(output), *tokens, *more]


def command(corpus, output, *more):
    return [sys.executable, "-m", "launch", *words(corpus, output, *more)]


def workers_of(logs):
    """Return the ids of the processes that write to logs whose path begins so."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if os.readlink(process / "fd" / "1").startswith(str(logs)):
                found.append(int(process.name))
    return found


def run(command):
    return subprocess.run(command, capture_output=True, text=True, timeout=540)


def run_of(output, sampler):
    return next((output / "runs" / "t5-tiny").glob(f"{sampler}-*-seed0"))


@pytest.fixture(scope="module")
def undisturbed(corpus, tmp_path_factory):
    output = tmp_path_factory.mktemp("undisturbed") / "run"
    done = run(command(corpus, output, "--workers", "2"))
    assert done.returncode == 0, done.stdout + done.stderr
    return output, done.stdout + done.stderr


@pytest.mark.slow
def test_table_and_files(undisturbed):
    output, shown = undisturbed
    for sampler in SAMPLERS:
        assert re.search(rf"{sampler} .*{TOKENS:,}", shown)
    for column in ("epochs", "in-distribution", "HQ", "training"):
        assert column in shown
    page = (output / "report.html").read_text()
    assert page.count("Liked most") == page.count("Liked least") == 2  # of two scorers
    assert page.count("<details>") == 80  # ten each of these, and of what both like, none likes, and one likes


@pytest.mark.slow
def test_every_model_is_trained_alike(undisturbed):
    """Same initial weights, same tokens to the last; a fifth of the documents is repeated five times as often."""
    output, _ = undisturbed
    resolved = {s: json.loads((run_of(output, s) / "resolved.json").read_text()) for s in SAMPLERS}
    assert {r["total_tokens"] for r in resolved.values()} == {TOKENS}
    assert len({(r["init_seed"], r["seed"], r["preset"], r["corpus_digest"]) for r in resolved.values()}) == 1
    states = {
        s: json.loads(sorted((run_of(output, s) / "checkpoints").glob("step-*/state.json"))[-1].read_text())
        for s in SAMPLERS
    }
    assert {state["encoder_tokens"] for state in states.values()} == {TOKENS}
    assert states["random"]["selected_documents"] == round(0.2 * states["full"]["selected_documents"])
    assert states["random"]["epoch"] > 3 * states["full"]["epoch"]


@pytest.mark.slow
def test_results_are_complete(undisturbed):
    output, _ = undisturbed
    rows = [json.loads(line) for line in (output / "results.jsonl").open()]
    assert len(rows) == len(SAMPLERS) * 5 * 2 * 3  # checkpoints, splits, seeds
    assert all(row["ci95_low"] < row["value"] < row["ci95_high"] for row in rows)
    for sampler in SAMPLERS:
        own = [row for row in rows if (row["sampler"], row["task"], row["seed"]) == (sampler, "in_distribution", 0)]
        assert own[-1]["value"] < own[0]["value"]


@pytest.mark.slow
def test_run_again_it_does_nothing_and_says_the_same(corpus, undisturbed):
    output, _ = undisturbed
    before = (output / "results.jsonl").read_bytes()
    again = run(command(corpus, output, "--workers", "1"))
    assert again.returncode == 0
    assert again.stderr.count("already done") == len(KINDS)
    assert (output / "results.jsonl").read_bytes() == before


@pytest.mark.slow
def test_what_was_damaged_since_is_done_again(corpus, undisturbed):
    output, _ = undisturbed
    before = (output / "results.jsonl").read_bytes()
    (output / "results.jsonl").write_bytes(before.replace(b"0", b"1", 1))
    selection = output / "selections" / "random" / "0.2.safetensors"
    selection.write_bytes(selection.read_bytes()[:-1])
    sorted((output / "evaluation").glob("t5-tiny/full-1-seed0/full/*/*.json"))[0].unlink()
    again = run(command(corpus, output))
    assert again.returncode == 0, again.stdout + again.stderr
    assert "selections/random/0.2 is done again: " in again.stderr
    assert "measured/t5-tiny/full-1-seed0/perplexity is done again: " in again.stderr
    assert (output / "results.jsonl").read_bytes() == before


@pytest.mark.slow
@pytest.mark.timeout(900)  # the driver starts four times; on a busy machine that takes minutes
def test_killed_in_stages_of_each_kind_it_comes_to_the_same_results(corpus, undisturbed, tmp_path):
    """kill -9 of the driver; nothing it started may live on, and the rest is done by another number of workers."""
    output = tmp_path / "run"
    for kind in ("scores", "runs", "measured"):
        job = subprocess.Popen(
            command(corpus, output, "--workers", "2"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while job.poll() is None and not list((output / "logs" / kind).rglob("task-*.log")):
            time.sleep(0.05)
        time.sleep(0.7)  # into the stage
        job.send_signal(signal.SIGKILL)
        assert job.wait() == -signal.SIGKILL, f"the run ended before it could be killed in {kind}"
        time.sleep(0.3)
        assert not workers_of(output / "logs"), f"processes of {kind} outlived the driver"
    done = run(command(corpus, output, "--workers", "3"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert (output / "results.jsonl").read_bytes() == (undisturbed[0] / "results.jsonl").read_bytes()


def test_ctrl_c_says_how_to_go_on(corpus, tmp_path):
    job = subprocess.Popen(
        command(corpus, tmp_path / "run"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # As at a terminal: what a shell starts in the background ignores Ctrl-C, and its children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not (tmp_path / "run" / "logs").exists():
        assert job.poll() is None
        time.sleep(0.05)
    job.send_signal(signal.SIGINT)
    assert "same command goes on" in job.communicate(timeout=60)[1]
    assert job.returncode == 130


@pytest.mark.slow
def test_a_killed_worker_is_noticed_and_named(corpus, tmp_path):
    """The process a stage runs in dies, as in an out-of-memory kill; the driver must not wait for ever."""
    job = subprocess.Popen(
        command(corpus, tmp_path / "run"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    while not (found := workers_of(tmp_path / "run" / "logs" / "scores" / "ask-llm")):
        assert job.poll() is None
        time.sleep(0.05)
    os.kill(found[0], signal.SIGKILL)
    said = job.communicate(timeout=300)[1]
    assert job.returncode == 1
    assert "ask-llm" in said
    assert "signal 9 (out of memory?)" in said


def test_two_at_once_in_one_folder_are_refused(corpus, tmp_path, capsys):
    with locked(tmp_path / "run", "winnow quickstart"):
        assert main(words(corpus, tmp_path / "run")) == 2
    assert "another winnow quickstart is running" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is too small for held-out text"),
        (b'{"text": "fine"}\n{"text": ""}\n', r"a.jsonl, row 2: 'text' is empty"),
        (b'{"text": "fine"}\n{"te\n', r"a.jsonl, row 2: the line is not JSON"),
        (gzip.compress(b'{"text": "fine"}\n' * 100, mtime=0)[:-9], r"a.jsonl.gz cannot be read"),
        (b'{"id": 1, "text": "one lonely document"}\n', "is too small for held-out text"),
    ],
    ids=["empty", "no-text", "not-json", "truncated-gzip", "too-small"],  # the same in every test process
)
def test_unusable_input_is_one_sentence_and_exit_2(tmp_path, content, message, monkeypatch, capsys):
    in_this_process(monkeypatch)
    file = tmp_path / ("a.jsonl.gz" if content[:2] == b"\x1f\x8b" else "a.jsonl")
    file.write_bytes(content)
    assert main(words(file, tmp_path / "run")) == 2
    said = capsys.readouterr()
    assert re.search(message, said.err)
    assert "Traceback" not in said.out + said.err
    assert sum(line.startswith("winnow: ") for line in said.err.splitlines()) == 1


def test_other_settings_in_a_used_folder_are_refused(corpus, tmp_path, monkeypatch, capsys):
    in_this_process(monkeypatch)
    monkeypatch.setattr("launch.runner.attend", lambda *_: None)  # as if it had been stopped at once
    main(words(corpus, tmp_path / "run"))
    capsys.readouterr()
    assert main(words(corpus, tmp_path / "run", "--rate", "0.5")) == 2
    assert "rates: [0.2] there, [0.5] now" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--proxy", "nobody/no-such-model"], "neither a local folder nor to be had from the Hub"),
        (["--embedder", "nobody/no-such-model"], "neither a local folder nor to be had from the Hub"),
        (["--rate", "20"], "the rate 20 must be above 0 and below 1"),
        (["--train-tokens", "40"], "less than one sample"),
        (["--workers", "0"], "--workers 0 does nothing"),
    ],
)
def test_mistakes_are_told_at_once(corpus, tmp_path, arguments, message, capsys):
    assert main(words(corpus, tmp_path / "run", *arguments)) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert message in said
    assert "Traceback" not in said
    assert not (tmp_path / "run").exists()


def test_a_mended_corpus_leaves_nothing_of_the_broken_one(tmp_path, monkeypatch, capsys):
    """The first attempt dies on the last row, after its good rows were written."""
    in_this_process(monkeypatch)
    write_prose(tmp_path / "a.jsonl", 300)
    with open(tmp_path / "a.jsonl", "a") as file:
        file.write("broken\n")
    assert main(words(tmp_path / "a.jsonl", tmp_path / "run")) == 2
    (tmp_path / "a.jsonl").write_text('{"text": "three"}\n{"text": "short"}\n{"text": "texts"}\n')
    capsys.readouterr()
    assert main(words(tmp_path / "a.jsonl", tmp_path / "run")) == 2
    assert "too small for held-out text of its own" in " ".join(capsys.readouterr().err.split())


def test_help_teaches(capsys):
    assert main(["quickstart", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "hf://datasets/allenai/c4" in shown
    assert "google/flan-t5-small" in shown
