"""Perplexity must be what a plain computation says, on the same masks for every model, and be measured once."""

import json

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from datatrove.pipeline.readers import JsonlReader

from evaluate_suite.__main__ import main
from evaluate_suite.checkpoint import find_checkpoints
from evaluate_suite.measure import perplexity as measure_perplexity
from evaluate_suite.perplexity import HeldOut, trained_checkpoints, window_losses
from evaluate_suite.results import read_results
from pipeline_steps import EMBEDDED_PROXY
from pipeline_steps.errors import InvalidCut, StoreIncomplete
from train.pretrain import main as pretrain
from train.token_store import TokenStore
from train.token_store_writer import TokenStoreWriter


LENGTH = 64


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A held-out split and a model trained for four steps with two checkpoints."""
    folder = tmp_path_factory.mktemp("perplexity")
    words = "the river ran past an old mill and on through quiet fields to its harbour by the northern sea".split()
    with (folder / "a.jsonl").open("w") as file:
        for i in range(60):
            text = " ".join(words[(i * 7 + j * (1 + i % 4)) % len(words)] for j in range(50))
            file.write(json.dumps({"id": str(i), "text": text}) + "\n")
    list(
        TokenStoreWriter(str(folder / "tokens"), EMBEDDED_PROXY).run(
            JsonlReader(str(folder), glob_pattern="*.jsonl").run()
        )
    )
    train(folder / "tokens", folder / "run")
    return folder


def train(tokens, run, **changes):
    """Four steps with two checkpoints."""
    AcceleratorState._reset_state(reset_partial_state=True)
    arguments = {"tokens": tokens, "run-dir": run, "total-tokens": 4 * 4 * LENGTH} | changes
    arguments |= {"batch-size": 4, "input-length": LENGTH, "checkpoints": 2, "report-to": "none"}
    with pytest.raises(SystemExit) as ended:
        pretrain([str(word) for name, value in arguments.items() for word in (f"--{name}", value)])
    assert ended.value.code == 0


def checkpoints(run):
    return find_checkpoints("full", str(run))


def test_equals_a_plain_computation(made, tmp_path):
    """transformers' own loss, window by window, on a model it loads itself."""
    from transformers import T5ForConditionalGeneration

    from train.objectives import SpanCorruption

    split = HeldOut("t", str(made / "tokens"), max_windows=7, seed=3)
    measured = window_losses(checkpoints(made / "run")[-1], split, LENGTH, tmp_path)
    store = TokenStore.open(str(made / "tokens"))
    corruption = SpanCorruption(LENGTH, store.vocab_size - 1, store.sentinels)
    model = T5ForConditionalGeneration.from_pretrained(checkpoints(made / "run")[-1].model).eval()
    windows = store.tokens // corruption.raw_length
    tokens = np.empty(store.tokens, dtype=np.int32)
    store.copy(0, tokens)
    expected = []
    for i in range(7):
        window = i * windows // 7
        raw = tokens[window * corruption.raw_length : (window + 1) * corruption.raw_length]
        inputs, targets = corruption.rows(raw[None], np.array([window]), 3)
        with torch.no_grad():
            loss = model(input_ids=torch.tensor(inputs).long(), labels=torch.tensor(targets).long()).loss
        expected.append(loss.item())
    np.testing.assert_allclose(measured, expected, rtol=1e-5)


def test_of_a_causal_model(made, tmp_path):
    """Next-token loss, window by window, on a Llama that transformers loads itself."""
    from transformers import LlamaForCausalLM

    run = tmp_path / "run"
    train(made / "tokens", run, preset="llama-tiny", **{"optimizer": "adamw", "warmup-steps": 2})
    checkpoint = checkpoints(run)[-1]
    measured = window_losses(checkpoint, HeldOut("t", str(made / "tokens"), max_windows=5), LENGTH, tmp_path)
    store = TokenStore.open(str(made / "tokens"))
    tokens = np.empty(store.tokens, dtype=np.int32)
    store.copy(0, tokens)
    model = LlamaForCausalLM.from_pretrained(checkpoint.model).eval()
    count = store.tokens // LENGTH
    for i in range(5):
        window = tokens[i * count // 5 * LENGTH :][:LENGTH]
        shown = torch.tensor([[store.eos, *window[:-1].tolist()]])
        with torch.no_grad():
            logits = model(input_ids=shown).logits[0]
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(window).long())
        assert measured[i] == pytest.approx(loss.item(), rel=1e-4)


def test_the_same_masks_for_every_model(made, tmp_path):
    """Two checkpoints differ on a window, but their losses rise and fall together: the targets are the same."""
    split = HeldOut("t", str(made / "tokens"), max_windows=20)
    first, second = (window_losses(one, split, LENGTH, tmp_path) for one in checkpoints(made / "run"))
    assert (first != second).all()
    other = window_losses(
        checkpoints(made / "run")[1], HeldOut("u", str(made / "tokens"), 20, seed=9), LENGTH, tmp_path
    )
    assert np.corrcoef(first, second)[0, 1] > np.corrcoef(first, other)[0, 1]


def test_measured_once_and_again_if_anything_differs(made, tmp_path, monkeypatch):
    calls = []
    from evaluate_suite import perplexity

    real = perplexity._measure
    monkeypatch.setattr(perplexity, "_measure", lambda *args: calls.append(1) or real(*args))
    runs, tokens, output = {"full": str(made / "run")}, {"t": str(made / "tokens")}, str(tmp_path / "r.jsonl")
    for _ in range(2):
        rows = measure_perplexity(runs, tokens, output, max_windows=4)
    assert len(calls) == 2  # two checkpoints
    assert [row.step for row in rows] == [2, 4]
    assert rows[-1].rate == 1.0
    assert rows[-1].encoder_tokens == 4 * 4 * LENGTH
    assert read_results(output) == sorted(rows)
    measure_perplexity(runs, tokens, output, max_windows=4, seed=1)
    assert len(calls) == 4


def test_command_line(made, tmp_path, capfd):
    """Results go to stdout, a line for each measurement to stderr, and a mistake is one line with exit code 2."""
    output = tmp_path / "r.jsonl"
    where = ["--tokens", f"held={made / 'tokens'}", "--output", str(output), "--max-windows", "3"]
    assert main(["perplexity", "--runs", f"full={made / 'run'}", *where]) == 0
    assert len(output.read_text().splitlines()) == 2
    out, err = capfd.readouterr()
    for row in read_results(str(output)):
        shown = next(line for line in out.splitlines() if f"step {row.step}" in line)
        assert all(text in shown for text in ("full, t5-tiny", "held", "perplexity", f"{row.value:.5g}"))
        assert f"{row.ci95_low:.4g} to {row.ci95_high:.4g}" in shown
    assert f"2 rows in {output}" in out
    assert [line.rpartition(",")[0] for line in err.splitlines() if line.startswith("[")] == [
        "[1/2] full step-00000002: held",
        "[2/2] full step-00000004: held",
    ]
    assert main(["perplexity", "--runs", f"full={made / 'run'}", "other=/nowhere", *where]) == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "/nowhere has no checkpoint" in err


def test_too_little_text_and_no_checkpoint_are_named(made, tmp_path):
    docs = JsonlReader(str(made), glob_pattern="*.jsonl", limit=5).run()
    list(TokenStoreWriter(str(made / "short"), EMBEDDED_PROXY).run(docs))
    with pytest.raises(InvalidCut, match="less than two windows"):
        window_losses(checkpoints(made / "run")[-1], HeldOut("t", str(made / "short")), 1024, tmp_path)
    with pytest.raises(StoreIncomplete, match="has no checkpoint"):
        trained_checkpoints("x", str(tmp_path))
