"""Annotations become exactly the scores that pandas finds for them, however they are spread, killed or stored."""

import itertools
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datatrove.data import Document
from datatrove.pipeline.readers import JsonlReader
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_steps import JoinKeys, JoinScores, ScoreStore, TopKFilter
from pipeline_steps.errors import CorpusError, InvalidScore, StoreDamaged, StoreMismatch, WinnowError
from pipeline_steps.stores.source_store import SourceStore


def documents(*sources):
    """One document for each id of each source."""
    return [
        Document(f"text of {id}", id, metadata={"file_path": f"crawl/{number}.jsonl", "token_count": len(id)})
        for number, ids in enumerate(sources)
        for id in ids
    ]


def write_keys(folder, docs, on="id", tasks=1):
    sources = sorted({doc.metadata["file_path"] for doc in docs})
    for rank in range(tasks):
        step = JoinKeys(str(folder), on)
        step.corpus = "the same"
        mine = [doc for doc in docs if sources.index(doc.metadata["file_path"]) % tasks == rank]
        assert list(step.run(iter(mine), rank, tasks)) == mine
    return str(folder)


def write_annotations(folder, *files, **types):
    """Parquet files of rows (id, score)."""
    Path(folder).mkdir(exist_ok=True)
    for number, rows in enumerate(files):
        columns = [pa.array([row[at] for row in rows], types.get(name)) for at, name in enumerate(("id", "score"))]
        pq.write_table(pa.table(columns, ["id", "score"]), f"{folder}/{number}.parquet", row_group_size=3)
    return str(folder)


def join(folder, keys, annotations, *, name="scores", threads=2, **options):
    step = JoinScores(f"{folder}/{name}", keys, annotations, "score", **options)
    step.threads = threads
    list(step.run())
    return ScoreStore.open(f"{folder}/{name}")


def bytes_of(folder):
    return {file.name: file.read_bytes() for file in Path(folder, "parts").iterdir()}


IDS = st.sampled_from(["a", "b", "c", "d", "é", "a ", ""])
VALUES = st.one_of(st.none(), st.sampled_from([0.0, 0.5, -1.5, 3.0]))
FILES = st.lists(st.lists(st.tuples(IDS, VALUES), min_size=1, max_size=6), min_size=1, max_size=3)


@settings(max_examples=25)
@given(
    st.lists(st.lists(IDS, min_size=1, max_size=5), min_size=1, max_size=3), FILES, st.sampled_from(["max", "first"])
)
def test_the_scores_are_those_of_pandas(tmp_path_factory, sources, files, duplicates):
    folder = tmp_path_factory.mktemp("join")
    types = {"id": pa.string(), "score": pa.float64()}
    annotations = write_annotations(folder / "annotations", *files, **types)
    docs = documents(*sources)
    keys = write_keys(folder / "keys", docs)
    table = pd.DataFrame(list(itertools.chain(*files)), columns=["id", "score"]).dropna()
    grouped = table.groupby("id", sort=False)["score"]
    chosen = (grouped.max() if duplicates == "max" else grouped.first()).rename("score")
    frame = pd.DataFrame({"id": [doc.id for doc in docs]}).merge(chosen, on="id", how="left", validate="many_to_one")
    differing = frame["id"].map(grouped.nunique()).gt(1).sum()
    missing = frame["score"].isna().sum()
    if differing:
        with pytest.raises(CorpusError, match=f"annotations differ for {differing} of {len(docs)} documents"):
            join(folder, keys, annotations, default=0)
    if missing:
        with pytest.raises(CorpusError, match=f"{missing} of {len(docs)} documents have no 'score'"):
            join(folder, keys, annotations, duplicates=duplicates)
    assert not (folder / "scores").exists()  # what is refused claims nothing
    store = join(folder, keys, annotations, duplicates=duplicates, default=-9)
    assert store.scores.tolist() == frame["score"].fillna(-9).astype("float32").tolist()
    assert store.tokens.tolist() == [len(doc.id) for doc in docs]


def test_the_bytes_depend_on_neither_threads_nor_tasks_nor_memory(tmp_path):
    docs = documents(*([f"{source}-{number}" for number in range(4000)] for source in range(5)))
    rows = [(doc.id, float(number)) for number, doc in enumerate(docs[::-1])]
    annotations = write_annotations(tmp_path / "annotations", rows[:7000], rows[7000:])
    stores = []
    for threads, tasks, memory in ((1, 1, "1GB"), (4, 3, "1GB"), (2, 2, "60MB")):
        keys = write_keys(tmp_path / f"keys-{threads}", docs, tasks=tasks)
        join(tmp_path, keys, annotations, name=threads, threads=threads, memory=memory)
        stores.append(bytes_of(tmp_path / str(threads)))
    assert stores[0] == stores[1] == stores[2]
    assert ScoreStore.open(str(tmp_path / "1")).scores.tolist() == list(range(len(docs)))[::-1]
    assert not [path for path in tmp_path.glob("keys-*/.spill*") if path.is_dir()]


def test_texts_are_matched_as_they_stand(tmp_path):
    docs = [
        Document(text, str(at), metadata={"file_path": "a"})
        for at, text in enumerate(("é", "e\u0301", "\ud800", "x\0"))
    ]
    keys = write_keys(tmp_path / "keys", docs, "text")
    table = pa.table({"body": ["é", "x\0", None], "score": pa.array([1, 2, 3], pa.int16())})
    pq.write_table(table, tmp_path / "a.parquet")
    store = join(tmp_path, keys, str(tmp_path / "a.parquet"), key_column="body", default=0)
    assert store.scores.tolist() == [1, 0, 0, 2]


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        (["good", "bad", "it's", None], {"good": 1, "bad": 0, "it's": 0.5}),
        ([True, False, None, None], {"true": 1, "false": 0}),
        ([3, 0, 7, None], {"3": 1, "0": 0, "7": 0.5}),
        (pa.array(["good", "bad", "?", "?"]).dictionary_encode(), {"good": 1, "bad": 0}),
    ],
)
def test_labels(tmp_path, values, labels):
    keys = write_keys(tmp_path / "keys", documents("abcd"))
    pq.write_table(pa.table({"id": list("abcd"), "score": values}), tmp_path / "a.parquet")
    store = join(tmp_path, keys, str(tmp_path / "a.parquet"), labels=labels, default=-1)
    assert store.scores.tolist() == [1, 0, labels.get("it's", labels.get("7", -1)), -1]
    with pytest.raises(CorpusError, match=r"have null or unknown labels only\), first document [34] of crawl/0.jsonl"):
        join(tmp_path, keys, str(tmp_path / "a.parquet"), labels=labels, name="refused")


@pytest.mark.parametrize(
    ("rows", "options", "error", "said"),
    [
        (
            [("a", 1.0), ("a", 2.0)],
            {},
            CorpusError,
            r"document 1 of .*0.jsonl \(.*0.parquet, row 1: 1.0; .*, row 2: 2",
        ),
        ([("b", 1.0), ("a", np.nan)], {}, InvalidScore, r"not a finite .*document 1 of .*0.parquet, row 2: nan"),
        ([("a", 1e39), ("b", 1.0)], {}, InvalidScore, r"float32: document 1 of .*row 1: 1e\+39"),
        ([("a", 1.0)], {}, CorpusError, r"1 of 2 documents have no 'score' in .*first document 2 of crawl/0.jsonl"),
        ([("a", "x")], {}, CorpusError, r"0.parquet: column 'score' holds string, and not numbers"),
        ([("a", 1.0)], {"labels": {"1": 1}}, CorpusError, r"0.parquet: column 'score' holds double, and not labels"),
        ([(1.5, 1.0)], {}, CorpusError, r"0.parquet: column 'id' holds double, and not ids"),
        (
            [("a", 1.0)],
            {"key_column": "key"},
            CorpusError,
            r"0.parquet has no column 'key': its columns are id, score",
        ),
        ([("a", 1.0)], {"default": np.inf}, InvalidScore, r"the default has the score inf"),
        ([("a", 1.0)], {"memory": "nothing"}, WinnowError, r"memory 'nothing' is not an amount"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, rows, options, error, said):
    keys = write_keys(tmp_path / "keys", documents("ab"))
    annotations = write_annotations(tmp_path / "annotations", rows)
    with pytest.raises(error, match=said):
        join(tmp_path, keys, annotations, **options)
    assert not (tmp_path / "scores").exists()


def test_files_of_several_types_are_one_and_of_several_kinds_refused(tmp_path):
    keys = write_keys(tmp_path / "keys", documents(["1", "2"]))
    annotations = write_annotations(tmp_path / "annotations", [(1, 3)], [(2, 0.5)])
    assert join(tmp_path, keys, annotations).scores.tolist() == [3, 0.5]
    pq.write_table(pa.table({"id": ["3"], "other": [1]}), f"{annotations}/2.parquet")
    with pytest.raises(CorpusError, match=r"2.parquet has no column 'score'"):
        join(tmp_path, keys, annotations)
    (tmp_path / "annotations" / "2.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(CorpusError, match=r"2.parquet cannot be read as Parquet"):
        join(tmp_path, keys, annotations)


def test_a_finished_store_refuses_other_annotations_documents_and_settings(tmp_path):
    keys = write_keys(tmp_path / "keys", documents("ab"))
    annotations = write_annotations(tmp_path / "annotations", [("a", 1.0), ("b", 2.0)])
    before = join(tmp_path, keys, annotations).fingerprint
    assert join(tmp_path, keys, annotations).fingerprint == before
    with pytest.raises(StoreMismatch, match="default: None there, 0.0 now"):
        join(tmp_path, keys, annotations, default=0)
    other = write_keys(tmp_path / "other", documents("ba"))
    with pytest.raises(StoreMismatch, match="other documents of crawl/0.jsonl"):
        join(tmp_path, other, annotations)
    write_annotations(tmp_path / "annotations", [("a", 1.0), ("b", 3.0), ("c", 0.0)])
    with pytest.raises(StoreMismatch, match="files: '1 files"):
        join(tmp_path, keys, annotations)
    part = next((tmp_path / "keys" / "parts").iterdir())
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    with pytest.raises(StoreDamaged, match=part.name):
        join(tmp_path, keys, annotations, name="new")


def test_killed_while_it_writes_it_ends_with_the_same_bytes(tmp_path):
    keys, own = (write_keys(tmp_path / name, documents("ab", "cd", "ef")) for name in ("keys", "own"))
    annotations = write_annotations(tmp_path / "annotations", [(id, float(ord(id))) for id in "fedcba"])
    whole = bytes_of(join(tmp_path, own, annotations, name="whole").path)
    for sealed in range(3):
        child = multiprocessing.get_context("fork").Process(
            target=die_after, args=(sealed, tmp_path, keys, annotations)
        )
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL
        assert len(list((tmp_path / "scores").glob("parts/*.parquet"))) == sealed
        next(tmp_path.glob("keys/.spill-*.lock")).with_suffix("").mkdir(exist_ok=True)  # as a large join leaves it
    join(tmp_path, keys, annotations)
    assert bytes_of(tmp_path / "scores") == whole
    assert not [path for path in tmp_path.glob("keys/.spill*") if path.is_dir()]


def die_after(sealed, folder, keys, annotations):
    seal, left = SourceStore.seal, iter(range(sealed - len(list((folder / "scores").glob("parts/*.parquet")))))

    def dying(*given):
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        seal(*given)

    SourceStore.seal = dying
    join(folder, keys, annotations)


def test_on_s3(s3, corpus, tmp_path):
    s3.mkdir("joins")
    s3.put(str(corpus), "joins/corpus", recursive=True)
    ids = [doc.id for doc in JsonlReader(str(corpus)).run()]
    rows = [(id, float(number)) for number, id in enumerate(dict.fromkeys(ids))]
    s3.put(write_annotations(tmp_path / "annotations", rows[:50], rows[50:]), "joins/annotations", recursive=True)
    list(JoinKeys(str(tmp_path / "keys")).run(JsonlReader("s3://joins/corpus").run()))
    for annotations in ("s3://joins/annotations", "s3://joins/annotations/*.parquet"):
        scores = f"s3://joins/{len(annotations)}"
        list(JoinScores(scores, str(tmp_path / "keys"), annotations, "score").run())
        assert ScoreStore.open(scores).scores.tolist() == [dict(rows)[id] for id in ids]
        kept = TopKFilter(scores, k=7).run(JsonlReader("s3://joins/corpus").run())
        assert {doc.id for doc in kept} == {id for id, _ in rows[-7:]}
