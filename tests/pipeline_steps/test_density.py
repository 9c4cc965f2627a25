"""Embed, sketch, merge, look up: the same densities for any number of tasks, and near-copies come out dense."""

import json
import re

import numpy as np
import pytest
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from datatrove.utils.logging import logger

from pipeline_steps import (
    DensityMerge,
    DensityScorer,
    DensitySketch,
    Embedder,
    IPSFilter,
    ScoreStore,
    combine_sketches,
)
from pipeline_steps.embedding.embeddings import HASHED_NGRAMS
from pipeline_steps.errors import InvalidEmbedding, MissingScore, StoreDamaged, StoreIncomplete, StoreMismatch
from pipeline_steps.numerics.priority import priority_code
from pipeline_steps.stores.files import load_tensors, read_json, write_json


@pytest.fixture
def crowded(tmp_path):
    """Three files: 60 strangers, 30 near-copies of one text, 10 strangers more."""
    rng = np.random.default_rng(5)
    words = [f"word{i}" for i in range(4000)]
    stranger = lambda: " ".join(rng.choice(words, 60))  # noqa: E731
    pattern = stranger().split()
    folder = tmp_path / "crowded"
    folder.mkdir()
    for name, size in {"a": 60, "b": 30, "c": 10}.items():
        with (folder / f"{name}.jsonl").open("w") as file:
            for i in range(size):
                text = " ".join([*pattern[:-2], f"copy{i}", "end"]) if name == "b" else stranger()
                file.write(json.dumps({"id": f"{name}{i}", "text": text}) + "\n")
    return folder


def density(corpus, folder, tasks, rows=300):
    """All four steps by hand, every task of each."""
    embeddings, sketch, scores = (str(folder / name) for name in ("embeddings", "sketch", "scores"))
    for rank in range(tasks):
        docs = JsonlReader(str(corpus)).run(None, rank, tasks)
        list(Embedder(embeddings, HASHED_NGRAMS, window_size=16).run(docs, rank, tasks))
    for rank in range(tasks):
        list(DensitySketch(embeddings, sketch, rows=rows, buckets=2000).run(None, rank, tasks))
    list(DensityMerge(embeddings, sketch).run())
    for rank in range(tasks):
        docs = JsonlReader(str(corpus)).run(None, rank, tasks)
        list(DensityScorer(scores, embeddings, sketch, window_size=16).run(docs, rank, tasks))
    return ScoreStore.open(scores)


@pytest.mark.parametrize("tasks", [2, 3, 5])
def test_densities_do_not_depend_on_the_number_of_tasks(crowded, tmp_path, tasks):
    one = density(crowded, tmp_path / "one", 1)
    many = density(crowded, tmp_path / "many", tasks)
    np.testing.assert_array_equal(one.keys, many.keys)
    np.testing.assert_array_equal(one.scores, many.scores)


def test_near_copies_are_dense_and_sampled_less(crowded, tmp_path):
    scores = density(crowded, tmp_path / "d", 1).scores
    copies, strangers = scores[60:90], np.delete(scores, slice(60, 90))
    assert copies.min() > strangers.max()
    kept = [doc.id for doc in IPSFilter(str(tmp_path / "d" / "scores"), k=20).run(JsonlReader(str(crowded)).run())]
    assert len(kept) == 20
    keys = ScoreStore.open(str(tmp_path / "d" / "scores")).keys
    first = [priority_code("ips", {"score": scores, "key": keys}, seed).argmax() for seed in range(2000)]
    share = np.isin(first, np.arange(60, 90)).mean()
    weight = np.exp(-scores.astype(float))
    assert share == pytest.approx(weight[60:90].sum() / weight.sum(), abs=4.5 * (0.25 / 2000) ** 0.5)  # 4.5 sd
    assert share < 0.1  # 30 of the 100 documents


def test_in_real_executors_with_processes(crowded, tmp_path):
    embeddings, sketch, scores = (str(tmp_path / name) for name in ("embeddings", "sketch", "scores"))
    reader = JsonlReader(str(crowded))
    stages = [
        ([reader, Embedder(embeddings, HASHED_NGRAMS, window_size=16)], 3),
        ([DensitySketch(embeddings, sketch, rows=300, buckets=2000)], 2),
        ([DensityMerge(embeddings, sketch)], 1),
        ([reader, DensityScorer(scores, embeddings, sketch, window_size=16)], 3),
    ]
    for number, (pipeline, tasks) in enumerate(stages):
        LocalPipelineExecutor(
            pipeline, tasks=tasks, workers=min(tasks, 2), logging_dir=str(tmp_path / f"logs{number}")
        ).run()
    by_hand = density(crowded, tmp_path / "by-hand", 1)
    np.testing.assert_array_equal(ScoreStore.open(scores).scores, by_hand.scores)


def test_what_is_missing_is_named(crowded, tmp_path):
    embeddings, sketch = str(tmp_path / "embeddings"), str(tmp_path / "sketch")
    with pytest.raises(StoreIncomplete, match="embeddings"):
        list(DensitySketch(embeddings, sketch).run())
    list(Embedder(embeddings, HASHED_NGRAMS).run(JsonlReader(str(crowded)).run()))
    with pytest.raises(StoreIncomplete, match="partials holds nothing yet"):
        list(DensityMerge(embeddings, sketch).run())
    list(DensitySketch(embeddings, sketch, rows=10, buckets=50).run(None, 0, 2))
    with pytest.raises(StoreIncomplete, match="partials is incomplete .1 of 2 tasks"):
        list(DensityMerge(embeddings, sketch).run())
    with pytest.raises(StoreIncomplete, match="holds no sketch"):
        list(DensityScorer(str(tmp_path / "s"), embeddings, sketch).run(JsonlReader(str(crowded)).run()))
    list(DensitySketch(embeddings, sketch, rows=10, buckets=50).run(None, 1, 2))
    list(DensityMerge(embeddings, sketch).run())
    (crowded / "b.jsonl").write_text('{"id": "b0", "text": "changed"}\n')
    with pytest.raises(MissingScore, match="b0"):
        list(DensityScorer(str(tmp_path / "s"), embeddings, sketch).run(JsonlReader(str(crowded)).run()))


def test_merging_again_after_a_kill_is_no_error(crowded, tmp_path):
    """The sketch is written, the partial ones are gone or half gone, and nobody knows that it was done."""
    embeddings, sketch = str(tmp_path / "embeddings"), str(tmp_path / "sketch")
    list(Embedder(embeddings, HASHED_NGRAMS).run(JsonlReader(str(crowded)).run()))
    for rank in range(2):
        list(DensitySketch(embeddings, sketch, rows=10, buckets=50).run(None, rank, 2))
    list(DensityMerge(embeddings, sketch).run())
    merged = (tmp_path / "sketch" / "sketch.safetensors").read_bytes()
    list(DensityMerge(embeddings, sketch).run())
    list(DensitySketch(embeddings, sketch, rows=10, buckets=50).run(None, 1, 2))
    list(DensityMerge(embeddings, sketch).run())
    assert (tmp_path / "sketch" / "sketch.safetensors").read_bytes() == merged


def test_partial_sketches_of_other_hashes_are_refused(crowded, tmp_path):
    embeddings, sketch = str(tmp_path / "embeddings"), str(tmp_path / "sketch")
    list(Embedder(embeddings, HASHED_NGRAMS).run(JsonlReader(str(crowded)).run()))
    list(DensitySketch(embeddings, sketch, rows=10, buckets=50, seed=0).run(None, 0, 2))
    with pytest.raises(StoreMismatch, match="seed: 0 there, 1 now"):
        list(DensitySketch(embeddings, sketch, rows=10, buckets=50, seed=1).run(None, 1, 2))


def test_the_run_that_fits_is_merged(crowded, tmp_path):
    """Partial sketches of an older corpus do not stand in the way, and are never merged with those of a newer one."""
    embeddings, sketch = str(tmp_path / "embeddings"), str(tmp_path / "sketch")
    list(Embedder(embeddings, HASHED_NGRAMS).run(JsonlReader(str(crowded)).run()))
    list(DensitySketch(embeddings, sketch, rows=10, buckets=50).run())
    (crowded / "d.jsonl").write_text('{"id": "d0", "text": "one more document"}\n')
    list(Embedder(embeddings, HASHED_NGRAMS).run(JsonlReader(str(crowded)).run()))
    with pytest.raises(StoreMismatch, match="other inputs.*run DensitySketch again"):
        list(DensityMerge(embeddings, sketch).run())
    for rank in range(2):
        list(DensitySketch(embeddings, sketch, rows=10, buckets=50).run(None, rank, 2))
        if rank == 0:
            with pytest.raises(StoreIncomplete, match="1 of 2 tasks"):
                list(DensityMerge(embeddings, sketch).run())
    list(DensityMerge(embeddings, sketch).run())
    assert load_tensors(f"{sketch}/sketch.safetensors").header["documents"] == 101


def test_a_part_in_anothers_place_is_refused(crowded, tmp_path):
    embeddings, sketch = str(tmp_path / "embeddings"), str(tmp_path / "sketch")
    list(Embedder(embeddings, HASHED_NGRAMS).run(JsonlReader(str(crowded)).run()))
    for rank in range(2):
        list(DensitySketch(embeddings, sketch, rows=10, buckets=50).run(None, rank, 2))
    first, second = sorted((tmp_path / "sketch" / "partials" / "parts").iterdir())
    first.write_bytes(second.read_bytes())
    with pytest.raises(StoreDamaged, match=f"{first.name} is not the file the manifest speaks of"):
        list(DensityMerge(embeddings, sketch).run())


def test_an_older_sketch_is_not_taken_for_one_with_other_settings(crowded, tmp_path):
    embeddings, sketch = str(tmp_path / "embeddings"), str(tmp_path / "sketch")
    list(Embedder(embeddings, HASHED_NGRAMS).run(JsonlReader(str(crowded)).run()))
    list(DensitySketch(embeddings, sketch, rows=10, buckets=50).run())
    list(DensityMerge(embeddings, sketch).run())
    list(DensitySketch(embeddings, sketch, rows=10, buckets=50, kernel="p-stable", seed=5).run(None, 0, 2))
    with pytest.raises(StoreIncomplete, match="1 of 2 tasks"):
        list(DensityMerge(embeddings, sketch).run())


def sketched(corpus, folder, like=None, pattern=None, seed=0):
    """Embeddings and a merged sketch of some files."""
    embeddings, sketch = str(folder / "embeddings"), str(folder / "sketch")
    list(Embedder(embeddings, HASHED_NGRAMS).run(JsonlReader(str(corpus), glob_pattern=pattern).run()))
    list(DensitySketch(embeddings, sketch, rows=40, buckets=500, seed=seed, like=like).run())
    list(DensityMerge(embeddings, sketch).run())
    return sketch


def test_a_sketch_follows_a_growing_and_shrinking_crawl(crowded, tmp_path):
    whole = sketched(crowded, tmp_path / "whole")
    parts = [sketched(crowded, tmp_path / name, whole, f"{name}.jsonl") for name in "abc"]
    combine_sketches(str(tmp_path / "sum"), parts)
    combine_sketches(str(tmp_path / "less"), [whole], [parts[1]])
    combine_sketches(str(tmp_path / "ac"), [parts[0], parts[2]])
    read = lambda folder: (tmp_path / folder / "sketch.safetensors").read_bytes()  # noqa: E731
    assert read("sum") == read("whole/sketch")
    assert read("less") == read("ac")
    with pytest.raises(StoreMismatch, match=r"both hold .*a.jsonl"):
        combine_sketches(str(tmp_path / "x"), [whole, parts[0]])
    with pytest.raises(StoreMismatch, match=r"b.jsonl, which is not in the sum"):
        combine_sketches(str(tmp_path / "x"), [parts[0]], [parts[1]])
    other = sketched(crowded, tmp_path / "other", pattern="a.jsonl", seed=1)
    with pytest.raises(StoreMismatch, match="other hashes"):
        combine_sketches(str(tmp_path / "x"), [parts[1], other])
    with pytest.raises(StoreIncomplete, match="holds no sketch"):
        combine_sketches(str(tmp_path / "x"), [whole], [str(tmp_path / "nowhere")])
    assert not (tmp_path / "x").exists()


def test_embeddings_of_another_model_are_refused(crowded, tmp_path):
    sketch, embeddings = sketched(crowded, tmp_path / "one"), tmp_path / "one" / "embeddings"
    about = read_json(f"{embeddings}/artefact.json")
    write_json(f"{embeddings}/artefact.json", about | {"made": about["made"] | {"embedder": "another"}})
    with pytest.raises(StoreMismatch, match="another"):
        list(DensityScorer(str(tmp_path / "s"), str(embeddings), sketch).run(JsonlReader(str(crowded)).run()))


def test_a_bad_embedding_is_named(crowded, tmp_path, monkeypatch):
    embeddings = str(tmp_path / "embeddings")
    list(Embedder(embeddings, HASHED_NGRAMS).run(JsonlReader(str(crowded)).run()))
    step = DensitySketch(embeddings, str(tmp_path / "sketch"), kernel="p-stable", width=1e-3, rows=4)
    monkeypatch.setattr("pipeline_steps.numerics.sketch.largest_coordinate", lambda *_: 1e-3)
    with pytest.raises(InvalidEmbedding, match=r"a.jsonl in .*embeddings: the largest coordinate of embedding 0"):
        list(step.run())


def test_a_bandwidth_that_tells_documents_apart_is_not_reported(crowded, tmp_path):
    corpus, heard = tmp_path / "corpus", []
    corpus.mkdir()
    (corpus / "all.jsonl").write_text("".join((crowded / f"{name}.jsonl").read_text() for name in "abc"))
    sketch = sketched(corpus, tmp_path)
    handle = logger.add(heard.append, level="WARNING")
    list(DensityScorer(str(tmp_path / "s"), str(tmp_path / "embeddings"), sketch).run(JsonlReader(str(corpus)).run()))
    logger.remove(handle)
    assert heard == []


@pytest.mark.parametrize(("concatenated", "message"), [(1, "too wide.*more"), (64, "too sharp.*fewer")])
def test_a_bandwidth_that_says_nothing_is_reported(tmp_path, concatenated, message):
    """Unrelated texts: all alike to a wide kernel, all alone to a sharp one."""
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{i}" for i in rng.integers(0, 10**6, 40)) for _ in range(150)]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps({"id": i, "text": t}) + "\n" for i, t in enumerate(texts)))
    reader = JsonlReader(str(tmp_path), glob_pattern="c.jsonl")
    embeddings, sketch = str(tmp_path / "e"), str(tmp_path / "k")
    list(Embedder(embeddings, HASHED_NGRAMS).run(reader.run()))
    list(DensitySketch(embeddings, sketch, concatenated=concatenated, rows=100).run())
    list(DensityMerge(embeddings, sketch).run())
    heard = []
    handle = logger.add(heard.append, level="WARNING")
    list(DensityScorer(str(tmp_path / "s"), embeddings, sketch).run(reader.run()))
    logger.remove(handle)
    assert len(heard) == 1
    assert re.search(message, heard[0], re.DOTALL)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kernel": "gaussian"}, "'angular' or 'p-stable'"),
        ({"width": 1.0}, "the angular kernel has no width"),
        ({"kernel": "p-stable", "width": 0.0}, "width must be above 0"),
        ({"concatenated": 0}, "concatenated must be above 0"),
        ({"rows": 0}, "rows must be above 0"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(ValueError, match=message):
        DensitySketch("embeddings", "sketch", **settings)


def test_the_p_stable_kernel_in_the_pipeline(crowded, tmp_path):
    """Its width is taken from the corpus; a given one is used as it is."""
    embeddings = str(tmp_path / "embeddings")
    list(Embedder(embeddings, HASHED_NGRAMS).run(JsonlReader(str(crowded)).run()))
    for name, settings in {"own": {}, "given": {"width": 0.7, "concatenated": 3}}.items():
        list(DensitySketch(embeddings, str(tmp_path / name), kernel="p-stable", rows=100, **settings).run())
        list(DensityMerge(embeddings, str(tmp_path / name)).run())
        header = load_tensors(str(tmp_path / name / "sketch.safetensors")).header
        found = (header["hash"]["width"], header["hash"]["concatenated"])
        assert found == (0.7, 3) if name == "given" else found[0] > 0 and found[1] == 8
        scorer = DensityScorer(str(tmp_path / f"{name}-scores"), embeddings, str(tmp_path / name))
        list(scorer.run(JsonlReader(str(crowded)).run()))
        scores = ScoreStore.open(str(tmp_path / f"{name}-scores")).scores
        assert scores[60:90].min() > np.delete(scores, slice(60, 90)).max()
