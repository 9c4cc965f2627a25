"""Label files in every format, matched with score stores; what is wrong with them is said by file and row."""

import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import document
from datatrove.pipeline.readers import JsonlReader
from word_count import score

from evaluate_suite.trust.documents import match
from evaluate_suite.trust.labels import LabelColumns, digest_of, read_labels
from pipeline_steps import MetadataLabels, MetadataScorer, ScoreStore
from pipeline_steps.errors import CorpusError, StoreMismatch
from pipeline_steps.numerics.keys import document_key
from pipeline_steps.scorers.metadata import LabelStore


ROWS = [
    {"id": f"doc-{number}", "label": number % 3, "source": "web" if number % 2 else "wiki"} for number in range(40)
]


def lines(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def write(path, rows, kind):
    if kind == "jsonl.gz":
        with gzip.open(f"{path}.{kind}", "wt") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    elif kind == "csv":
        body = "".join(f"{','.join(map(str, row.values()))}\n" for row in rows)
        (path.parent / f"{path.name}.csv").write_text(f"{','.join(rows[0])}\n{body}")
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), f"{path}.parquet")
    else:
        lines(path.parent / f"{path.name}.jsonl", [{"id": row["id"], "metadata": row} for row in rows])
    return f"{path}.{kind}"


@pytest.fixture
def store(corpus, tmp_path):
    score(corpus, tmp_path / "words")
    return ScoreStore.open(str(tmp_path / "words"))


@pytest.mark.parametrize("kind", ["jsonl.gz", "csv", "parquet", "jsonl"])
def test_any_format_says_the_same(kind, store, tmp_path):
    labels = read_labels(write(tmp_path / "labels", ROWS, kind), LabelColumns(stratum="source"))
    docs = match(labels, {"words": store}).documents
    assert docs.strata == ("web", "wiki")
    expected = {}
    for key, score_, name in zip(store.keys, store.scores, store.column("id"), strict=True):
        expected.setdefault(key, (score_, int(name[4:]) % 3))  # of copies, the first counts
    assert docs.key_N.tolist() == sorted(docs.key_N.tolist())
    for key, found, label in zip(docs.key_N, docs.scores["words"], docs.label_N, strict=True):
        assert (found, label) == expected[key]
    assert docs.label_N.size == 40


def test_the_order_of_rows_does_not_matter(store, tmp_path):
    found = []
    for number, rows in enumerate((ROWS, ROWS[::-1], ROWS + ROWS[:7])):
        labels = read_labels(lines(tmp_path / f"{number}.jsonl", rows), LabelColumns())
        docs = match(labels, {"words": store}).documents
        found.append((labels.repeated, docs.scores["words"].tolist(), digest_of(docs.key_N, docs.label_N)))
    assert [one[0] for one in found] == [0, 0, 7]
    assert found[0][1:] == found[1][1:] == found[2][1:]


def test_matching_by_key_made_of_id_and_text_or_given(store, tmp_path):
    rows = [{"name": f"doc-{n}", "body": document(n)["text"], "label": n % 2} for n in range(20)]
    rows.append({"name": "doc-21", "body": "another text", "label": 1})
    how = LabelColumns(on="key", id_key="name", text_key="body")
    matched = match(read_labels(lines(tmp_path / "texts.jsonl", rows), how), {"words": store})
    assert (matched.labels, matched.missing, matched.documents.label_N.size) == (21, {"words": 1}, 20)
    assert matched.documents.unit == "characters"  # the store counts no tokens
    assert matched.documents.length_N.max() == max(len(document(n)["text"]) for n in range(20))
    keys = [{"key": document_key(row["name"], row["body"]), "label": row["label"]} for row in rows]
    by_key = match(read_labels(lines(tmp_path / "keys.jsonl", keys), LabelColumns(on="key")), {"words": store})
    np.testing.assert_array_equal(by_key.documents.key_N, matched.documents.key_N)
    assert by_key.documents.length_N is None


def test_tokens_are_the_length_unless_a_column_is_named(corpus, tmp_path):
    for file in corpus.iterdir():
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        counted = [row | {"token_count": len(row["text"].split()), "edu": -len(row["id"])} for row in rows]
        lines(file, counted)
    for _ in MetadataScorer(str(tmp_path / "edu"), "edu", lower_is_better=True).run(JsonlReader(str(corpus)).run()):
        pass
    edu = ScoreStore.open(str(tmp_path / "edu"))
    rows = [document(n) | {"label": n % 2, "lines": n} for n in range(30)]
    path = lines(tmp_path / "labels.jsonl", rows)
    docs = match(read_labels(path, LabelColumns()), {"edu": edu}).documents
    assert docs.unit == "tokens"
    assert set(docs.scores["edu"]) == {5.0, 6.0}  # turned: low is good
    docs = match(read_labels(path, LabelColumns(length="lines")), {"edu": edu}).documents
    assert (docs.unit, sorted(docs.length_N)) == ("lines", list(range(30)))
    assert match(read_labels(path, LabelColumns(length="text")), {"edu": edu}).documents.unit == "characters"


def test_strata_of_the_whole_corpus(corpus, store, tmp_path):
    reader = JsonlReader(str(corpus)).run()
    docs = (doc for doc in reader if not doc.metadata.update(kind=f"kind {doc.id[-1]}"))
    for _ in MetadataLabels(str(tmp_path / "kinds"), "kind").run(docs):
        pass
    labels = read_labels(lines(tmp_path / "labels.jsonl", ROWS), LabelColumns())
    found = match(labels, {"words": store}, LabelStore.open(str(tmp_path / "kinds"))).documents
    assert found.strata == tuple(f"kind {digit}" for digit in range(10))
    assert np.bincount(found.stratum_N).tolist() == [4] * 10
    lines(tmp_path / "other.jsonl", [document(1)])
    docs = (doc for doc in JsonlReader(str(tmp_path), glob_pattern="other.jsonl").run())
    for _ in MetadataLabels(str(tmp_path / "few"), "kind", default="x").run(docs):
        pass
    with pytest.raises(StoreMismatch, match=r"no stratum of 39 labelled documents, first that of .*labels.jsonl, "):
        match(labels, {"words": store}, LabelStore.open(str(tmp_path / "few")))


def test_words_are_labels_with_grades_and_rows_without_a_label_are_counted(tmp_path):
    rows = [{"id": 1, "label": "keep"}, {"id": 2, "label": "drop"}, {"id": 3, "label": None}, {"id": 4, "label": ""}]
    grades = {"keep": 1.0, "drop": 0.0}
    labels = read_labels(lines(tmp_path / "l.jsonl", rows), LabelColumns(grades=grades))
    assert {name: label.value for name, label in labels.by_name.items()} == {"1": 1.0, "2": 0.0}
    assert labels.unlabelled == 2
    truth = read_labels(lines(tmp_path / "b.jsonl", [{"id": "a", "label": True}]), LabelColumns())
    assert truth.by_name["a"].value == 1.0


@pytest.mark.parametrize(
    ("rows", "how", "message"),
    [
        ([{"id": "a", "label": "good"}], {}, r"row 1: 'label' is 'good', which is not a finite number: give --grades"),
        ([{"id": "a", "label": float("inf")}], {}, r"row 1: the line is not JSON|'label' is inf"),
        (["{"], {}, r"row 1: the line is not JSON.*correct the row"),
        (["[1]"], {}, r"row 1: the line is list, no object"),
        (
            [{"id": "a", "label": 1}, {"id": "a", "label": 0}],
            {},
            r"row 2: document 'a' has the label 0 here, and 1 in",
        ),
        ([{"id": "a", "score": 1}], {}, r"row 1: there is no column 'label'; its columns are id, score \(--column"),
        ([{"name": "a", "label": 1}], {}, r"there is no column 'id'.*--id-key names another"),
        ([{"id": "", "label": 1}], {}, r"row 1: 'id' is empty"),
        ([{"id": "a", "label": None}], {}, r"holds no labels \(1 rows without one"),
        ([{"id": "a", "label": 1}], {"stratum": "source"}, r"there is no column 'source'.*--stratum"),
        ([{"id": "a", "label": 1, "source": ""}], {"stratum": "source"}, r"'source' is empty"),
        ([{"id": "a", "label": 1, "n": "long"}], {"length": "n"}, r"'n' is 'long', which is not a finite number"),
        (
            [{"id": "a", "label": "x"}],
            {"grades": {"good": 1.0}},
            r"the label 'x' has no grade; those given are of go",
        ),
        ([{"key": -1, "label": 1}], {"on": "key"}, r"row 1: -1 is no key"),
        ([{"key": "x", "label": 1}], {"on": "key"}, r"row 1: 'x' is no key"),
        ([{"id": "a", "label": 1}], {"on": "key"}, r"there is no column 'text'.*a key is made of id and text"),
    ],
)
def test_what_is_wrong_is_said_by_file_and_row(rows, how, message, tmp_path):
    path = lines(tmp_path / "labels.jsonl", rows)
    with pytest.raises(CorpusError, match=message) as error:
        read_labels(path, LabelColumns(**how))
    assert "labels.jsonl" in str(error.value)


def test_a_damaged_file_is_named(tmp_path):
    path = write(tmp_path / "labels", ROWS, "parquet")
    with open(path, "r+b") as file:
        file.truncate(300)
    with pytest.raises(CorpusError, match=r"labels.parquet cannot be read"):
        read_labels(path, LabelColumns())


def test_labels_of_other_documents_are_refused_with_an_example_of_both(store, tmp_path):
    labels = read_labels(lines(tmp_path / "l.jsonl", [{"id": "web/1", "label": 1}]), LabelColumns())
    with pytest.raises(CorpusError, match=r"none of the 1 documents .* like 'web/1' there, and like 'doc-0' in the"):
        match(labels, {"words": store})


def test_an_id_of_two_texts_and_two_corpora_are_refused(corpus, store, tmp_path):
    labels = read_labels(lines(tmp_path / "l.jsonl", ROWS), LabelColumns())
    changed = tmp_path / "changed"
    changed.mkdir()
    lines(changed / "a.jsonl", [document(n) | {"text": f"other {n}"} for n in range(10)])
    score(changed, tmp_path / "others")
    other = ScoreStore.open(str(tmp_path / "others"))
    with pytest.raises(StoreMismatch, match=r"document 'doc-\d' has another text in .*others than in .*words"):
        match(labels, {"words": store, "others": other})
    lines(changed / "b.jsonl", [document(3)])
    score(changed, tmp_path / "twice")
    with pytest.raises(CorpusError, match=r"two documents 'doc-3' with different texts, the second in .*--on key"):
        match(labels, {"twice": ScoreStore.open(str(tmp_path / "twice"))})
