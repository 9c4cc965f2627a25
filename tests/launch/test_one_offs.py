"""winnow score, select and compare, as a user gives them."""

import gzip
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import hub
import numpy as np
import pytest
import yaml
from conftest import document
from dataset_files import files_of, load, made_of, without_output
from datatrove.pipeline.readers import JsonlReader
from here import in_this_process
from scipy.stats import kendalltau

from launch.cli import main
from launch.compare import overlap, rank_agreement
from launch.datasets.card import size_category
from pipeline_steps import Cut, MetadataScorer, ScoreStore, Selection, combine, select
from pipeline_steps.errors import InvalidCut


ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A corpus of two files; the second has columns that the first has not."""
    folder = tmp_path_factory.mktemp("one-offs")
    (folder / "corpus").mkdir()
    for name, numbers in {"a": range(30), "b": range(30, 100)}.items():
        with (folder / "corpus" / f"{name}.jsonl").open("w") as file:
            for number in numbers:
                row = document(number) | {"n": number, "about": {"host": f"h{number % 7}"}, "none": None, "empty": {}}
                if name == "b":
                    row |= {"n": number + 0.5, "late": [number], "none": "some"}
                file.write(json.dumps(row) + "\n")
    return folder


@pytest.fixture(scope="module")
def scores(folder):
    """Ask-LLM scores, made by the command."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        in_this_process(monkeypatch)
        assert run("score", "--corpus", folder / "corpus", "--sampler", "ask-llm", "--output", folder / "work") == 0
    return folder / "work" / "scores" / "ask-llm"


@pytest.fixture
def quick(monkeypatch):
    """No processes: most tests are not about them, and each takes seconds to start."""
    in_this_process(monkeypatch)


def run(*words):
    return main([*map(str, words)])


def choose(folder, scores, output, *more):
    return run("select", "--corpus", folder / "corpus", "--scores", scores, "--output", output, *more)


def read(path):
    return [json.loads(line) for name in ("a", "b") for line in (path / f"{name}.jsonl").open()]


def card_of(path):
    _, head, body = (Path(path) / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(head), body


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_a_dataset_that_load_dataset_reads(folder, scores, tmp_path, quick, format):
    assert choose(folder, scores, tmp_path / "kept", "--rate", 0.4, "--format", format) == 0
    store = ScoreStore.open(str(scores))
    mask = select(store, Cut("top", rate=0.4)).mask
    wanted = [row for row, keep in zip(read(folder / "corpus"), mask, strict=True) if keep]
    found = load(tmp_path / "kept")
    assert found["id"] == [row["id"] for row in wanted]
    assert found["text"] == [row["text"] for row in wanted]
    assert found["n"] == [row["n"] for row in wanted]
    assert found["about"] == [row["about"] for row in wanted]
    assert found["none"] == [row["none"] for row in wanted]
    assert found["late"] == [row.get("late") for row in wanted]
    assert np.array_equal(np.array(found["ask_llm"], dtype=np.float32), store.scores[mask])
    assert str(found.features["ask_llm"].dtype) == "float32"


def test_the_card_says_how(folder, scores, tmp_path, quick):
    assert choose(folder, scores, tmp_path / "kept", "--k", 25, "--seed", 3) == 0
    head, body = card_of(tmp_path / "kept")
    assert head["size_categories"] == ["n<1K"]
    assert head["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]
    store = ScoreStore.open(str(scores))
    mask = select(store, Cut("top", k=25, seed=3)).mask
    tokens = f"| tokens | {store.tokens.sum():,} | {store.tokens[mask].sum():,} |"
    said = ("25 of 100 documents", tokens, "askllm-proxy", store.made["proxy"]["digest"], "2402.09668", "--k 25")
    assert all(part in body for part in said)
    assert "The proxy is the one that ships with winnow-llm" in body
    assert f"| score threshold | `{store.scores[mask].min():.9g}` |" in body
    record = json.loads((tmp_path / "kept" / "winnow.json").read_text())
    assert record["documents"] == [100, 25]
    assert Selection.load(str(tmp_path / "kept" / "selection.safetensors")).mask.tolist() == mask.tolist()
    assert [size_category(size) for size in (999, 1000, 5 * 10**8)] == ["n<1K", "1K<n<10K", "100M<n<1B"]


def test_with_any_workers_the_bytes_are_the_same(folder, tmp_path, quick):
    words = ["select", "--corpus", folder / "corpus", "--sampler", "random", "--rate", 0.5]
    for workers in (1, 3):
        assert run(*words, "--workers", workers, "--output", tmp_path / str(workers)) == 0
    assert without_output(files_of(tmp_path / "1")) == without_output(files_of(tmp_path / "3"))


@pytest.mark.slow
def test_killed_at_any_time_the_bytes_are_the_same(folder, tmp_path, quick):
    words = ["select", "--corpus", folder / "corpus", "--sampler", "random", "--rate", 0.5]
    assert run(*words, "--workers", 1, "--output", tmp_path / "whole") == 0
    command = [sys.executable, "-m", "launch", *map(str, [*words, "--workers", 2, "--output", tmp_path / "killed"])]
    for sign in ("scores", "datasets/random-*/rows"):
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        while not list((tmp_path / "killed.work").glob(sign)):
            assert process.poll() is None
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "killed").exists()
    assert run(*words[:-1], 0.4, "--output", tmp_path / "killed") == 2
    assert run(*words, "--workers", 3, "--output", tmp_path / "killed") == 0
    assert without_output(files_of(tmp_path / "whole")) == without_output(files_of(tmp_path / "killed"))
    assert not [path for path in (tmp_path / "killed.work").glob("datasets/*") if path.is_dir()]


def test_damaged_scores_are_made_again_by_the_same_command(folder, tmp_path, quick, capsys):
    """datatrove has noted each of these tasks as done."""
    work, score = tmp_path / "work", ["score", "--corpus", folder / "corpus", "--sampler", "density", "--output"]
    kept, select = tmp_path / "kept", ["select", "--corpus", folder / "corpus", "--sampler", "random", "--rate", 0.5]
    parts = {work: ("embeddings/parts/*", "density/sketch.safetensors", "scores/density/parts/*")}
    assert run(*score, work) == 0
    whole = files_of(work)
    for number in (1, 3):  # the scores, and then all that they are made from too
        for pattern in parts[work][-number:]:
            file = sorted(work.glob(pattern))[0]
            file.write_bytes(file.read_bytes()[:-9])
        assert run(*score, work) == 0
        for pattern in parts[work]:
            assert all(file.read_bytes() == whole[file.relative_to(work)] for file in work.glob(pattern))
    assert run(*select, "--output", kept) == 0
    whole = files_of(kept)
    (part,) = Path(f"{kept}.work").glob("scores/keys/parts/a.jsonl*")
    (data,) = kept.glob("data/*")
    for file in (part, data):
        file.write_bytes(file.read_bytes()[:-9])
    assert run(*select, "--output", kept) == 0
    assert files_of(kept) == whole
    capsys.readouterr()
    part.write_bytes(part.read_bytes()[:-9])
    assert run("inspect", part.parents[1]) == 2
    assert part.name in (said := " ".join(capsys.readouterr().err.split()))
    assert "make it again with the same command" in said


def test_refused_by_name(folder, scores, tmp_path, quick, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where the work of an output that is elsewhere goes
    output, corpus = tmp_path / "kept", folder / "corpus"

    def refused(why, *words):
        assert run(*words) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert why in said, said
        assert "Traceback" not in said

    for _ in range(2):  # the second time there is nothing to do
        assert choose(folder, scores, output, "--rate", 0.2) == 0
    (output / "README.md").unlink()
    assert choose(folder, scores, output, "--rate", 0.2) == 0
    assert (output / "README.md").exists()
    base = ["select", "--corpus", corpus, "--scores", scores, "--output", output]
    refused("rate: 0.2 there, 0.1 now", *base, "--rate", 0.1)
    refused("score_column: 'ask_llm' there, 'x' now", *base, "--rate", 0.2, "--score-column", "x")
    refused("holds other files", *base[:-1], folder, "--rate", 0.2)
    refused("is inside the corpus", *base[:-1], corpus / "kept", "--rate", 0.2)
    refused("is inside the corpus", "score", "--corpus", corpus, "--sampler", "random", "--output", f"{corpus}/work")
    (tmp_path / "file").touch()
    refused("cannot be used: Not a directory", *base[:-1], tmp_path / "file" / "kept", "--rate", 0.2)
    refused("cannot be used (", *base[:-1], "no-such://kept", "--rate", 0.2)
    refused("not of ask-llm-xl", *base, "--rate", 0.2, "--sampler", "ask-llm-xl")
    refused("holds scores of AskLLMScorer, not of density", *base, "--rate", 0.2, "--sampler", "density")
    refused("no sampler 'ask-lm'", "select", "--corpus", corpus, "--sampler", "ask-lm", "--k", 1, "--output", "x")
    refused("asked to keep 101", *base[:-1], tmp_path / "b", "--k", 101)
    more = ["select", "--corpus", corpus, "--sampler", "random", "--k", 101, "--output", tmp_path / "more"]
    refused("--k asks for 101 documents, and", *more)  # before anything is scored
    assert not Path(f"{tmp_path}/more.work").exists()
    refused("keeps none of", *base[:-1], tmp_path / "c", "--k", 0)
    secret = "s3://key:SECRET@bucket/crawl"
    assert run("select", "--corpus", secret, "--sampler", "random", "--k", 1, "--output", tmp_path / "d") == 2
    assert "SECRET" not in capsys.readouterr().err
    refused("needs --target", "score", "--corpus", corpus, "--sampler", "dsir", "--output", tmp_path / "e")
    refused(
        "leave --proxy out", *["score", "--corpus", corpus, "--sampler", "density", "--proxy", "x"], "--output", "e"
    )
    refused("give its Hub id", "score", "--corpus", corpus, "--sampler", "perplexity", "--output", tmp_path / "e")
    again = ["score", "--corpus", corpus, "--sampler", "ask-llm", "--output", folder / "work"]
    refused("limit: -1 there, 5 now", *again, "--limit", 5)
    refused("samplers: ", *again, "--proxy", "x")
    refused("documents that the cut", "select", "--corpus", corpus / "a.jsonl", *base[3:-1], tmp_path / "f", "--k", 90)


def test_a_mistake_binds_nobody(folder, scores, tmp_path, quick, capsys):
    words = ["select", "--corpus", folder / "corpus", "--sampler", "random", "--output", tmp_path / "kept"]
    asked = ["select", "--corpus", folder / "corpus", "--sampler", "ask-llm", "--output", tmp_path / "asked"]
    scored = ["select", "--corpus", folder / "corpus", "--scores", scores, "--output", tmp_path / "scored", "--k", 9]
    for wrong, why in {
        (*words, "--token-budget", 9): "does not know the tokens",
        (*asked, "--k", 9, "--proxy", "no/such"): "neither a local folder nor",
        (*scored, "--score-column", "n"): "has a column 'n' already",
    }.items():
        assert run(*wrong) == 2
        assert why in " ".join(capsys.readouterr().err.split())
    for right in ([*words, "--k", 9], scored):
        assert run(*right) == 0
    assert not list(tmp_path.glob("asked.work/*.yaml"))


def test_one_selection_after_another(folder, tmp_path, quick):
    """A dataset is a corpus; a column that says where a row was from is one as any other."""
    corpus = made_of(tmp_path / "corpus", [{"file_path": f"f{n % 2}", "media": ["m"]} for n in range(30)])
    words = ["--sampler", "random", "--rate", 0.5, "--output"]
    assert run("select", "--corpus", corpus, *words, tmp_path / "half") == 0
    assert run("select", "--corpus", f"{tmp_path / 'half'}/", *words, tmp_path / "quarter.jsonl") == 0
    assert len(found := load(tmp_path / "quarter.jsonl")) == 8
    assert set(found["file_path"]) <= {"f0", "f1"}
    assert found["media"] == [["m"]] * 8


def test_a_corpus_that_changes(tmp_path, quick, capsys):
    corpus = made_of(tmp_path / "corpus", [{} for _ in range(9)])
    words = ["score", "--sampler", "random", "--output", tmp_path / "work", "--corpus"]
    assert run(*words, corpus) == run(*words, f"{corpus}/") == 0
    with (corpus / "a.jsonl").open("a") as file:
        file.write(json.dumps(document(99)) + "\n")
    assert run(*words, corpus) == 2
    assert f"corpus has changed since {tmp_path / 'work'} was made of it" in " ".join(capsys.readouterr().err.split())


def test_scores_of_a_folder_share_what_they_stand_on(folder, tmp_path, quick, capsys):
    words = ["score", "--corpus", folder / "corpus", "--output", tmp_path, "--workers", 2]
    assert run(*words, "--sampler", "density") == 0
    assert run(*words, "--sampler", "prototypes") == 0
    shown = capsys.readouterr()
    assert shown.out.count("100 documents scored") == 2
    assert re.search(r"embeddings.* already done", shown.err)
    for sampler in ("density", "prototypes"):
        assert ScoreStore.open(str(tmp_path / "scores" / sampler)).documents == 100
    (tmp_path / "corpus").mkdir()
    assert run(*words[:2], tmp_path / "corpus", *words[3:], "--sampler", "density") == 2
    assert not (tmp_path / "tokens").exists()


def test_the_first_documents_only(folder, tmp_path, quick):
    words = ["select", "--corpus", folder / "corpus", "--sampler", "random", "--limit", 40, "--rate", 0.5]
    assert run(*words, "--workers", 2, "--output", tmp_path / "kept.jsonl") == 0
    (file,) = (tmp_path / "kept.jsonl" / "data").iterdir()
    numbers = [json.loads(line)["n"] for line in gzip.decompress(file.read_bytes()).splitlines()]
    assert len(numbers) == 20
    assert max(numbers) < 41
    assert numbers == sorted(numbers)


@pytest.fixture
def bucket(s3, folder):
    """The client, and a bucket that holds the corpus."""
    s3.mkdir("one-offs")
    s3.put(str(folder / "corpus"), "one-offs/corpus", recursive=True)
    return s3


def test_from_s3_and_to_s3(folder, bucket, tmp_path, quick, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["select", "--sampler", "random", "--rate", 0.3, "--corpus"]
    assert run(*words, "s3://one-offs/corpus", "--output", "s3://one-offs/kept") == 0
    assert run(*words, "s3://one-offs/corpus", "--output", "s3://one-offs/kept") == 0
    assert run(*words, folder / "corpus", "--output", tmp_path / "here") == 0
    file = "data/train-00000-of-00001.parquet"
    assert bucket.cat_file(f"one-offs/kept/{file}") == (tmp_path / "here" / file).read_bytes()
    assert {name.removeprefix("one-offs/kept/") for name in bucket.find("one-offs/kept")} == {
        file,
        "README.md",
        "selection.safetensors",
        "winnow.json",
    }
    every = b"".join(map(bucket.cat_file, bucket.find("one-offs/kept")))
    assert b"testing" not in every
    shutil.rmtree(tmp_path / "kept.work")
    assert run(*words[:4], 0.2, "--corpus", "s3://one-offs/corpus", "--output", "s3://one-offs/kept") == 2
    assert "rate: 0.3 there, 0.2 now" in " ".join(capsys.readouterr().err.split())
    assert run(*words, "s3://one-offs/corpus", "--output", "s3://one-offs/corpus") == 2
    bucket.rm("one-offs/kept/README.md")  # as if it had been killed before its last file
    assert run(*words, "s3://one-offs/corpus", "--output", "s3://one-offs/kept") == 0
    assert bucket.exists("one-offs/kept/README.md")
    whole = bucket.cat_file(f"one-offs/kept/{file}")
    bucket.pipe_file(f"one-offs/kept/{file}", whole[:-9] + b"x" + whole[-8:])  # of the same size
    assert run(*words, "s3://one-offs/corpus", "--output", "s3://one-offs/kept") == 0
    assert bucket.cat_file(f"one-offs/kept/{file}") == whole
    assert run(*words, "s3://one-offs/corpus", "--output", "s3://on-offs/kept") == 2
    assert "there is no bucket on-offs" in " ".join(capsys.readouterr().err.split())
    assert not bucket.exists("on-offs")


@pytest.fixture
def the_hub(monkeypatch):
    """A Hub, and this process with it."""
    with hub.known(monkeypatch) as found:
        yield found


def test_to_the_hub(folder, the_hub, tmp_path, quick, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["select", "--corpus", folder / "corpus", "--sampler", "random", "--private", "--output"]
    monkeypatch.setenv("HF_TOKEN", "hf_stale")
    assert run(*words, "hf://datasets/me/kept", "--rate", 0.3) == 2
    assert "hf auth login" in " ".join(capsys.readouterr().err.split())
    assert not Path("kept.work/scores").exists()  # it is told before anything is scored
    monkeypatch.setenv("HF_TOKEN", the_hub.token)
    assert run(*words, "hf://datasets/me/kept", "--rate", 0.3) == 0
    assert run(*words, "hf://datasets/me/kept", "--rate", 0.3) == 0
    assert run(*words, tmp_path / "here", "--rate", 0.3) == 0
    wanted = files_of("here")
    assert the_hub.commits == [sorted(map(str, wanted))]
    pushed = the_hub.repos["me/kept"]
    assert without_output({name: pushed[str(name)] for name in wanted}) == without_output(wanted)
    assert b"--output hf://datasets/me/kept" in pushed["README.md"]
    pushed["selection.safetensors"] = pushed["selection.safetensors"][:-1]
    assert run(*words, "hf://datasets/me/kept", "--rate", 0.3) == 0
    assert len(pushed["selection.safetensors"]) == Path("here/selection.safetensors").stat().st_size
    assert the_hub.private == {"me/kept"}
    assert run(*words, "hf://datasets/me/kept", "--rate", 0.2) == 2
    assert "rate: 0.3 there, 0.2 now" in " ".join(capsys.readouterr().err.split())
    assert run(*words, "hf://datasets/me/kept/tenth", "--rate", 0.1) == 0
    assert "tenth/README.md" in the_hub.commits[-1]
    the_hub.repos["me/others"] = {"data.csv": b"a,b"}
    assert run(*words, "hf://datasets/me/others", "--rate", 0.1) == 2
    assert "holds other files" in " ".join(capsys.readouterr().err.split())


def test_compare_counts_what_is_in_both(folder, scores, tmp_path, capsys):
    store = ScoreStore.open(str(scores))
    a, b = select(store, Cut("top", k=30)), select(store, Cut("random", k=50))
    for name, selection in {"a": a, "b": b}.items():
        selection.save(str(tmp_path / f"{name}.safetensors"))
    words = ["compare", tmp_path / "a.safetensors", tmp_path / "b.safetensors", "--corpus", folder / "corpus"]
    assert run(*words, "--json", "--documents", 100) == 0
    found = json.loads(capsys.readouterr().out)
    one, other = set(np.flatnonzero(a.mask)), set(np.flatnonzero(b.mask))
    assert found["both"] == len(one & other)
    assert found["jaccard"] == len(one & other) / len(one | other)
    assert found["share_of_a_in_b"] == len(one & other) / 30
    assert (found["share_of_a_in_b_by_chance"], found["share_of_b_in_a_by_chance"]) == (0.5, 0.3)
    assert {shown["row"] for shown in found["documents"]["only_a"]} == one - other
    documents = read(folder / "corpus")
    for shown in found["documents"]["only_b"]:
        assert shown["id"] == documents[shown["row"]]["id"]
        assert documents[shown["row"]]["text"].startswith(shown["text"][:50])
    assert run(*words) == 0
    assert "Jaccard" in capsys.readouterr().out


def test_compare_counts_copies(scores, tmp_path, capsys):
    store = ScoreStore.open(str(scores))
    a, b = Selection(np.arange(100) % 4, store.corpus_digest, {}), select(store, Cut("top", k=30))
    for name, selection in {"a": a, "b": b}.items():
        selection.save(str(tmp_path / f"{name}.safetensors"))
    assert run("compare", tmp_path / "a.safetensors", tmp_path / "b.safetensors", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kept"] == [75, 30]
    both, either = np.minimum(a.counts, b.counts).sum(), np.maximum(a.counts, b.counts).sum()
    assert found["copies"] == {"kept": [150, 30], "both": both, "jaccard": both / either}
    assert run("compare", tmp_path / "a.safetensors", tmp_path / "b.safetensors") == 0
    assert "Jaccard of copies" in capsys.readouterr().out


def test_compare_scores_and_refuses_other_corpora(folder, scores, tmp_path, quick, capsys):
    store = ScoreStore.open(str(scores))
    both = combine(str(tmp_path / "noisy"), {str(scores): 1.0}, "rank")
    assert run("compare", scores, tmp_path / "noisy", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tau"]["tau"] == pytest.approx(kendalltau(store.scores, both.scores).statistic)
    assert (found["kept"], found["tau"]["pairs"]) == ([20, 20], 4950)
    select(ScoreStore.open(str(scores)), Cut("top", k=9)).save(str(tmp_path / "nine.safetensors"))
    assert run("compare", scores, tmp_path / "nine.safetensors", "--json") == 0
    assert json.loads(capsys.readouterr().out)["both"] == 9
    Selection(np.ones(100, dtype=bool), "0" * 32, {}).save(str(tmp_path / "other.safetensors"))
    assert run("compare", scores, tmp_path / "other.safetensors") == 2
    assert "are of different corpora" in " ".join(capsys.readouterr().err.split())
    assert run("score", "--corpus", folder / "corpus", "--sampler", "random", "--output", folder / "work") == 0
    capsys.readouterr()
    assert run("compare", folder / "work" / "scores" / "keys", scores, "--json") == 0  # by chance, in no order
    found = json.loads(capsys.readouterr().out)
    assert found["kept"] == [20, 20]
    assert "tau" not in found
    assert run("compare", "s3://no-such/kept", scores) == 2
    assert run("compare", scores, scores, "--documents", -1) == 2
    capsys.readouterr()
    words = ["compare", scores, tmp_path / "noisy", "--corpus", folder / "corpus" / "a.jsonl"]
    assert run(*words) == 2
    assert "is not the corpus of these" in " ".join(capsys.readouterr().err.split())


def test_compare_keeps_the_low_scores_that_are_good(folder, tmp_path, quick, capsys):
    """The scores of `lengths` are those of `lengths-are-bad`, the other way around."""
    for name, lower in (("lengths", False), ("lengths-are-bad", True)):
        docs = list(JsonlReader(str(folder / "corpus")).run())
        for doc in docs:
            doc.metadata["length"] = -len(doc.text) if lower else len(doc.text)
        list(MetadataScorer(str(tmp_path / name), "length", lower_is_better=lower).run(iter(docs)))
    assert run("compare", tmp_path / "lengths", tmp_path / "lengths-are-bad", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["tau"]["tau"], found["jaccard"]) == (pytest.approx(1), pytest.approx(1))
    assert found["kept_by"] == ["its highest 20%", "its lowest 20%"]


def test_compare_names_the_extra_that_brings_scipy(folder, scores, tmp_path, monkeypatch, capsys):
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "scipy" else found(name))
    assert run("compare", scores, scores) == 2
    assert capsys.readouterr().err.split("\n") == [
        "winnow: this step needs scipy: pip install 'winnow-llm[eval]'",
        "",
    ]
    select(ScoreStore.open(str(scores)), Cut("top", k=9)).save(str(tmp_path / "nine.safetensors"))
    assert run("compare", tmp_path / "nine.safetensors", tmp_path / "nine.safetensors") == 0  # ranks nothing


def test_numbers_of_a_comparison(monkeypatch):
    generator = np.random.default_rng(0)
    a, b = generator.random((2, 1000)) < 0.3
    found = overlap(a, b)
    assert found["jaccard_by_chance"] == pytest.approx(
        a.sum() * b.sum() / 1000 / (a.sum() + b.sum() - found["both"]), abs=0.02
    )
    with pytest.raises(InvalidCut, match="keeps nothing"):
        overlap(a, np.zeros(1000, dtype=bool))
    x = generator.normal(size=1000)
    y, key = x + generator.normal(size=1000), generator.integers(0, 2**63, 1000).astype(np.uint64)
    whole = rank_agreement(x, y, key)
    low, high = whole["interval"]
    assert low < whole["tau"] < high
    monkeypatch.setattr("launch.compare.MOST_RANKED", 400)
    part, order = rank_agreement(x, y, key), generator.permutation(1000)
    assert part["documents"] == 400
    assert abs(part["tau"] - whole["tau"]) < 0.1
    assert rank_agreement(x[order], y[order], key[order])["tau"] == pytest.approx(part["tau"])  # chosen by key


@pytest.mark.parametrize("command", ["score", "select", "compare"])
def test_help_shows_examples(command, capsys):
    assert main([command, "--help"]) == 0
    assert f"  winnow {command} " in capsys.readouterr().out
