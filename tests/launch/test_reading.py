"""Corpora of every format through the command line, from the Hub too, and what it says of bad rows."""

import json

import datasets
import hub
import pandas
import pytest
from conftest import document
from dataset_files import files_of, load, without_output
from here import in_this_process

from launch.cli import main
from pipeline_steps.errors import CorpusError
from pipeline_steps.readers.corpus import list_corpus
from pipeline_steps.stores.files import read_json


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    in_this_process(monkeypatch)


@pytest.fixture
def the_hub(monkeypatch):
    with hub.known(monkeypatch) as found:
        yield found


def run(*words):
    return main([*map(str, words)])


def select(corpus, output, *more):
    return run("select", "--corpus", corpus, "--sampler", "random", "--output", output, *more)


ROWS = [document(number) | {"n": number} for number in range(60)]


def write(path, rows=ROWS):
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = pandas.DataFrame(rows)
    if ".csv" in path.name:
        frame.to_csv(path, index=False)
    elif path.name.endswith("parquet"):
        frame.to_parquet(path)
    elif path.name.endswith("saved"):
        datasets.Dataset.from_list(rows).save_to_disk(path, num_shards=2)
    else:
        frame.to_json(path, orient="records", lines=True)


@pytest.mark.parametrize("name", ["a.jsonl.zst", "deep/a.csv.gz", "a.parquet", "saved"])
@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_a_selection_keeps_all_columns_of_every_format(tmp_path, name, format):
    write(tmp_path / "corpus" / name)
    corpus = tmp_path / "corpus" / name if name == "saved" else tmp_path / "corpus"
    assert select(corpus, tmp_path / "kept", "--k", 25, "--format", format) == 0
    found = load(tmp_path / "kept").to_list()
    wanted = {row["id"]: row for row in ROWS}
    assert len(found) == 25
    assert [row | {"n": int(row["n"])} for row in found] == [wanted[row["id"]] for row in found]
    store = read_json(str(tmp_path / "kept.work" / "scores" / "keys" / "artefact.json"))
    assert store  # every format goes through a score store


def bad_corpus(folder):
    """Rows under other keys, one in twenty of them bad."""
    for name in "ab":
        lines = [json.dumps({"body": row["text"], "url": f"{name}{row['n']}"}) for row in ROWS]
        for place, line in ((3, '{"body": null}'), (20, '{"bo'), (41, '{"body": "\\t", "url": "x"}')):
            lines.insert(place, line)
        write_text(folder / f"{name}.jsonl", lines)
    write_text(folder / "c.jsonl", [json.dumps({"body": "fine", "url": "c"})])
    write_text(folder / "other.jsonl", [json.dumps({"text": "of another kind"})])
    return folder


def write_text(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


KEYS = ["--text-key", "body", "--id-key", "url", "--glob", "?.jsonl"]


def test_bad_rows_are_left_out_listed_and_counted_once(tmp_path, capsys):
    corpus = bad_corpus(tmp_path / "corpus")
    assert select(corpus, tmp_path / "kept", "--rate", 0.5, *KEYS, "--workers", 2) == 2
    assert "a.jsonl, row 4: 'body' is null" in " ".join(capsys.readouterr().err.split())
    outputs, listed = [], []
    for output, workers in (("kept", 2), ("kept", 1), ("again", 3)):
        words = ["--rate", 0.5, *KEYS, "--on-bad-row", "skip", "--workers", workers]
        assert select(corpus, tmp_path / output, *words) == 0
        said = capsys.readouterr()
        assert "60 of 121 documents" in said.out or "61 of 121 documents" in said.out
        outputs.append(without_output(files_of(tmp_path / output)))
        listed.append((tmp_path / f"{output}.work" / "bad-rows" / "train.jsonl").read_text())
    for reason, first in (("'body' is null", 4), ("not JSON", 21), ("'body' is empty", 42)):
        assert [line.split("│")[2:5] for line in said.err.splitlines() if reason in line] == [
            [f" {reason:<16} ", " 2    ", f" a.jsonl, row {first:<2} "]
        ]
    assert outputs[0] == outputs[1] == outputs[2]
    assert listed[0] == listed[1] == listed[2]
    found = [json.loads(line) for line in listed[0].splitlines()]
    assert [(row["file"][-7:], row["row"], row["reason"]) for row in found] == [
        (f"{name}.jsonl", row, reason)
        for name in "ab"
        for row, reason in ((4, "'body' is null"), (21, "not JSON"), (42, "'body' is empty"))
    ]
    assert (
        "--text-key body --id-key url --glob '?.jsonl' --on-bad-row skip" in (tmp_path / "kept/README.md").read_text()
    )
    assert {row["body"] for row in load(tmp_path / "kept")} <= {"fine", *(row["text"] for row in ROWS)}


def test_keys_belong_to_what_was_made(tmp_path, capsys):
    corpus = bad_corpus(tmp_path / "corpus")
    words = ["score", "--corpus", corpus, "--sampler", "random", "--output", tmp_path / "work", "--on-bad-row", "skip"]
    assert run(*words, *KEYS) == 0
    assert run(*words, *KEYS[:4], "--glob", "c.jsonl") == 2
    assert "glob: '?.jsonl' there, 'c.jsonl' now" in " ".join(capsys.readouterr().err.split())
    assert run(*words[:-2], *KEYS) == 2  # what was left out is an error now
    assert "--on-bad-row skip" in " ".join(capsys.readouterr().err.split())
    assert run("quickstart", "--output", tmp_path / "q", "--text-key", "body") == 2
    assert "--text-key is of a corpus: give --corpus" in " ".join(capsys.readouterr().err.split())


def test_rows_left_out_of_given_scores_and_of_a_study(tmp_path, capsys):
    corpus = bad_corpus(tmp_path / "corpus")
    study = tmp_path / "study.yaml"
    study.write_text(
        f"{{output: {tmp_path}/study, corpus: {corpus}, text_key: body, id_key: url, glob: '?.jsonl',"
        f" on_bad_row: skip, target: {corpus}/a.jsonl, token_store: {{}}, samplers: [random, dsir]}}"
    )
    assert run("run", study) == 0
    said = capsys.readouterr().err
    assert "target" in said
    assert len((tmp_path / "study" / "bad-rows" / "target.jsonl").read_text().splitlines()) == 3
    flags = [*KEYS, "--on-bad-row", "skip", "--rate", 0.5]
    words = ["--corpus", corpus, "--scores", tmp_path / "study" / "scores" / "dsir", "--output", tmp_path / "kept"]
    assert run("select", *words, *flags) == 0
    lists = [tmp_path / folder / "bad-rows" / "train.jsonl" for folder in ("study", "kept.work")]
    assert lists[0].read_text() == lists[1].read_text()


def test_datasets_of_the_hub_by_configuration_and_split(tmp_path, the_hub, capsys):
    files = {
        name: json.dumps({"id": name, "text": name}).encode() for name in ("en/a.jsonl", "en/b.jsonl", "de.jsonl")
    }
    card = "---\nconfigs:\n- config_name: en\n  data_files:\n  - {split: train, path: en/a*}\n"
    card += "  - {split: test, path: en/b*}\n"
    the_hub.repos["me/by-card"] = files | {
        "README.md": f"{card}- {{config_name: de, data_files: de.jsonl}}\n---\n".encode()
    }
    the_hub.repos["me/by-name"] = {"data/train-0.jsonl": b"{}", "data/test-0.jsonl": b"{}", "README.md": b"words"}
    the_hub.repos["me/plain"] = {"one.jsonl": b'{"text": "a"}\n' * 9, "sub/two.jsonl": b'{"text": "b"}\n'}

    def names(path):
        return list(list_corpus(f"hf://datasets/me/{path}").sizes)

    assert names("by-card?config=en&split=train") == ["en/a.jsonl"]
    assert names("by-card?split=test&config=en") == ["en/b.jsonl"]
    assert names("by-card?config=de") == ["de.jsonl"]
    assert names("by-name?split=test") == ["data/test-0.jsonl"]
    assert names("by-name@main?split=test") == ["data/test-0.jsonl"]
    assert names("plain") == ["one.jsonl", "sub/two.jsonl"]
    assert names("by-card/en") == ["a.jsonl", "b.jsonl"]
    for path, said in {
        "by-card": "has the configs en, de: add",
        "by-card?config=en": "has the splits train, test: add",
        "by-card?config=fr": "has no config 'fr': it has en, de",
        "by-name?split=dev": "has no split 'dev': it has train, test",
        "by-name?splits=dev": "after the question mark comes config=NAME",
        "none": "cannot be listed",
    }.items():
        with pytest.raises(CorpusError, match=said):
            names(path)
    assert select("hf://datasets/me/plain?split=train", tmp_path / "kept", "--k", 5) == 0
    assert load(tmp_path / "kept")["id"][0].startswith("one.jsonl/")


def test_other_commands_take_the_same_flags(tmp_path, capsys):
    corpus = bad_corpus(tmp_path / "corpus")
    words = ["--rate", 0.5, *KEYS, "--on-bad-row", "skip"]
    assert select(corpus, tmp_path / "kept", *words) == 0
    assert (
        run("tokenize", "--corpus", corpus, "--output", tmp_path / "tokens", *words[2:], "--tokenizer", "embedded")
        == 0
    )
    assert "121 documents" in capsys.readouterr().out
    both = [tmp_path / "kept", tmp_path / "kept.work" / "scores" / "keys", "--corpus", corpus, "--json"]
    assert run("compare", *both, *words[2:]) == 0
    shown = json.loads(capsys.readouterr().out)["documents"]
    assert {row["id"][0] for rows in shown.values() for row in rows} <= set("abc")
    assert run("compare", *both) == 2
