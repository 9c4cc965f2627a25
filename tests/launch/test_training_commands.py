"""The commands around training, as a user gives them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from here import in_this_process

from launch.cli import main
from pipeline_steps import EMBEDDED_PROXY
from pipeline_steps.stores.selection import Selection
from train.token_store import TokenStore


ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    for number in range(3):
        with (folder / f"{number}.jsonl").open("w") as file:
            for i in range(40):
                words = [f"w{(i * 7 + j * (number + 1)) % 97}" for j in range(60)]
                file.write(json.dumps({"id": f"{number}-{i}", "text": " ".join(words)}) + "\n")
    return folder


def tokenize(corpus, output, *more):
    return main(["tokenize", "--corpus", str(corpus), "--tokenizer", EMBEDDED_PROXY, "--output", str(output), *more])


@pytest.fixture(scope="module")
def tokens(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    assert tokenize(corpus, folder, "--workers", "2") == 0
    return folder


@pytest.fixture
def quick(monkeypatch):
    """No processes: most tests are not about them, and each takes seconds to start."""
    in_this_process(monkeypatch)


def sealed(folder):
    return {file.relative_to(folder): file.read_bytes() for file in sorted(folder.glob("parts/*/*"))}


def test_tokenize_in_one_process_or_two(corpus, tokens, tmp_path, quick, capsys):
    assert tokenize(corpus, tmp_path / "one", "--workers", "1") == 0
    assert "120 documents" in capsys.readouterr().out
    assert sealed(tmp_path / "one") == sealed(tokens)
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "one").glob("parts/*/*")}
    assert tokenize(corpus, tmp_path / "one") == 0  # nothing is done twice
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "one").glob("parts/*/*")} == before


@pytest.mark.slow
def test_a_damaged_source_is_tokenised_again_and_a_changed_corpus_refused(corpus, tokens, tmp_path, capsys):
    own = shutil.copytree(corpus, tmp_path / "corpus")
    assert tokenize(own, tmp_path / "out") == 0
    before = sealed(tmp_path / "out")
    victim = sorted((tmp_path / "out").glob("parts/*/tokens.npy"))[1]
    victim.write_bytes(victim.read_bytes()[:-4] + b"oops")
    assert tokenize(own, tmp_path / "out") == 0
    assert sealed(tmp_path / "out") == before
    (own / "1.jsonl").write_text('{"id": "x", "text": "other"}\n')
    assert tokenize(own, tmp_path / "out") == 2
    assert f"{own} has changed since {tmp_path / 'out'} was made of it (3 files" in capsys.readouterr().err
    text = (own / "0.jsonl").read_text()
    shutil.copy(corpus / "1.jsonl", own)
    assert tokenize(own, tmp_path / "new") == 0
    (own / "0.jsonl").write_text(text.replace("w1 ", "w2 "))  # of the same size
    assert tokenize(own, tmp_path / "new") == 2
    assert "the time it was written differs" in capsys.readouterr().err


def test_what_is_damaged_or_deleted_in_a_store_is_made_again(corpus, tmp_path, quick, capsys):
    """Whatever has been noted as done; what says whose the store is has to be deleted first, by name."""
    out = tmp_path / "out"
    assert tokenize(corpus, out, "--workers", "1") == 0
    before = sealed(out)
    for pattern in ("artefact.json", "study.json", "files/train.json"):
        file = sorted(out.glob(pattern))[0]
        file.write_bytes(file.read_bytes()[:-9])
        capsys.readouterr()
        assert tokenize(corpus, out, "--workers", "1") == 2
        said = " ".join(capsys.readouterr().err.split())
        assert f"{file.name} is damaged" in said
        assert "delete it and make it again with the same command" in said
        file.unlink()
        assert tokenize(corpus, out, "--workers", "1") == 0
        assert sealed(out) == before
    announcement = sorted(out.glob("announced/*"))[0]
    announcement.write_bytes(announcement.read_bytes()[:-9])
    assert tokenize(corpus, out, "--workers", "1") == 0
    assert sealed(out) == before
    for pattern in ("tokenizer/tokenizer.json", "manifest.json", "runs/*/*/*"):
        file = sorted(out.glob(pattern))[0]
        file.unlink()
        assert tokenize(corpus, out, "--workers", "1") == 0
        assert sealed(out) == before
    (out / "tokenizer" / "tokenizer.json").unlink()
    assert main(["materialise", "--tokens", str(out), "--output", str(tmp_path / "rows")]) == 2
    assert "make it again with the same command" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_tokenize_killed_goes_on(corpus, tokens, tmp_path):
    words = ["tokenize", "--corpus", corpus, "--tokenizer", EMBEDDED_PROXY, "--output", tmp_path / "out"]
    process = subprocess.Popen([sys.executable, "-m", "launch", *map(str, words)], cwd=ROOT)
    while not (tmp_path / "out" / "parts").exists():
        assert process.poll() is None
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert tokenize(corpus, tmp_path / "out") == 0
    assert sealed(tmp_path / "out") == sealed(tokens)


def test_tokenize_refuses_another_corpus(corpus, tokens, tmp_path, quick, capsys):
    assert tokenize(corpus / "0.jsonl", tokens) == 2
    assert "was made with other settings" in capsys.readouterr().err
    assert tokenize(corpus, tokens, "--append-eos") == 2
    assert "token_store: {'append_eos': False} there, {'append_eos': True} now" in capsys.readouterr().err
    assert tokenize(tmp_path / "nowhere", tmp_path / "out") == 2
    assert "does not exist" in capsys.readouterr().err


def test_documents_end_in_eos_if_asked(corpus, tokens, tmp_path, quick):
    assert tokenize(corpus, tmp_path, "--append-eos") == 0
    plain, ended = TokenStore.open(str(tokens)), TokenStore.open(str(tmp_path))
    assert ended.tokens == plain.tokens + plain.documents
    ids = np.empty(ended.tokens, dtype=np.int32)
    ended.copy(0, ids)
    lengths = np.concatenate(list(ended.lengths_by_source()))
    assert (ids[np.cumsum(lengths) - 1] == ended.eos).all()
    assert (ids == ended.eos).sum() == ended.documents


def test_materialise(tokens, tmp_path, capsys):
    store = TokenStore.open(str(tokens))
    Selection(np.arange(store.documents) % 2 == 0, store.corpus_digest, {}).save(str(tmp_path / "half"))
    words = ["materialise", "--tokens", str(tokens), "--selection", str(tmp_path / "half")]
    assert main([*words, "--output", str(tmp_path / "out")]) == 0
    assert "60 documents (none ends in EOS)" in capsys.readouterr().out
    assert len(list((tmp_path / "out").glob("*.ds"))) == 3
    sizes = []
    for flags in ((), ("--no-append-eos",)):
        assert main([*words, "--format", "megatron", *flags, "--output", str(tmp_path / f"m{len(flags)}")]) == 0
        sizes.append((tmp_path / f"m{len(flags)}" / "text_document.bin").stat().st_size)
    assert "60 documents (EOS appended to each)" in capsys.readouterr().out
    assert sizes[0] == sizes[1] + 60 * 2


def test_plan(tokens, capsys):
    assert main(["plan", "t5-small-paper.yaml"]) == 0
    shown = capsys.readouterr().out
    assert all(part in shown for part in ("524,288,000,000", "581,632,000,000", "31.61", "60.5M"))
    assert main(["plan", "tiny-cpu.yaml", "--tokens", str(tokens), "--batch-size", "8", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["steps"] == 1000
    assert found["corpus_tokens"] == TokenStore.open(str(tokens)).tokens
    assert found["epochs"]["0.1"] == pytest.approx(found["raw_tokens"] / (0.1 * found["corpus_tokens"]))
    assert main(["plan", "t5-small-paper.yaml", "--accelerator", "abacus"]) == 2
    assert "choose one of" in capsys.readouterr().err
    assert main(["plan", "t5-small-paper.yaml", "--mfu", "40"]) == 2


def test_a_mistake_in_an_average_is_one_line(tmp_path, capsys):
    assert main(["average", str(tmp_path), "--last", "3", "--output", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith(f"winnow: {tmp_path} holds no run: give a run directory")


def test_a_decoders_tokens_and_plan(corpus, tmp_path, capsys):
    """From the embedded tokenizer, whose vocabulary decides what the model's size is."""
    words = ["tokenize", "--corpus", str(corpus), "--tokenizer", "embedded-bpe", "--workers", "1"]
    assert main([*words, "--output", str(tmp_path / "open")]) == 0
    assert "The documents do not end in EOS" in capsys.readouterr().out
    assert main([*words, "--append-eos", "--output", str(tmp_path / "ended")]) == 0
    assert "do not end" not in capsys.readouterr().out
    store = TokenStore.open(str(tmp_path / "ended"))
    assert (store.vocab_size, store.sentinels, store.append_eos) == (8192, 0, True)
    planned = ["plan", "tiny-cpu.yaml", "--preset", "olmo-4m"]
    assert main([*planned, "--tokens", str(tmp_path / "ended"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    body = 16 * 64**2 * 8 + 17 * 64
    assert found["parts"] == {"body": body, "head": 64 * 8192, "counted": body + 64 * 8192, "total": body + 128 * 8192}
    assert found["tokens_per_parameter"] == found["target_tokens"] / found["parts"]["counted"]
    assert main(planned) == 0  # without a store, by the published vocabulary
    shown = capsys.readouterr().out
    assert all(part in shown for part in ("0.53M", "3.22M", "3.74M"))


def test_arguments_of_training_go_only_where_they_belong(capsys):
    assert main(["inspect", "somewhere", "--batch-size", "8"]) == 2
    assert "inspect has no flag --batch-size" in capsys.readouterr().err


@pytest.mark.slow
def test_verify_resume(tokens, tmp_path, capsys):
    words = ["verify-resume", "--tokens", str(tokens), "--output", str(tmp_path / "proof")]
    branched = ["--schedule", "wsd", "--warmup_steps", "2", "--decay_at", str(10 * 8 * 128)]
    assert main([*words, *branched]) == 0
    shown = capsys.readouterr()
    assert "the same to the bit: 40 losses" in " ".join(shown.out.split())
    assert shown.err.count("killed after step") == 2
    metrics = tmp_path / "proof" / "killed" / "metrics.jsonl"
    assert [json.loads(line)["step"] for line in metrics.open()] == list(range(1, 31))
    assert main(words) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_tokenizer_that_cannot_be_used_does_not_claim_the_folder(corpus, tmp_path, quick, capsys):
    words = ["--corpus", str(corpus), "--output", str(tmp_path / "out"), "--workers", "1"]
    assert main(["tokenize", "--tokenizer", "nope/nope", *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("winnow: nope/nope is neither a local folder nor to be had from the Hub (")
    assert len(said.splitlines()) == 1
    assert main(["tokenize", "--tokenizer", EMBEDDED_PROXY, *words]) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "winnow: a command is needed: winnow --help lists them"),
        (("tokenise",), 'winnow: there is no command "tokenise". Did you mean tokenize? (see winnow --help)'),
        (("score", "--corpus", "c"), "winnow: score needs --sampler (see winnow score --help)"),
        (("compare", "a", "b", "--rate", "x"), 'winnow: Invalid value for --rate: unable to convert "x" into float'),
        (("inspect", "x", "--a\x1b[31m\nb"), r"winnow: inspect has no flag --a\x1b[31m b (see winnow inspect --help)"),
        (
            ("evaluate", "perplexity", "--runs", "x"),
            "winnow: perplexity needs --output (see winnow evaluate perplexity --help)",
        ),
        (
            ("evaluate", "perplexity", "--runs", "x", "--tokens", "t=x", "--output", "r.jsonl"),
            "winnow: --runs: 'x' is not NAME=DIR",
        ),
    ],
)
def test_a_mistake_is_one_line(capsys, words, said):
    assert main(list(words)) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(said)
    assert len(shown.err.splitlines()) == 1
