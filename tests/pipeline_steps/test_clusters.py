"""Clusters, SemDeDup and Prototypes against O(N^2) references, for any number of tasks."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_steps import (
    Embedder,
    KMeansAssign,
    KMeansFit,
    PrototypesScorer,
    ScoreStore,
    SemDeDupScorer,
    SemDeDupSimilarities,
    TopKFilter,
)
from pipeline_steps.embedding.embeddings import HASHED_NGRAMS
from pipeline_steps.embedding.kmeans import load_centroids
from pipeline_steps.errors import MissingScore, StoreIncomplete, StoreMismatch
from pipeline_steps.numerics.keys import document_key
from pipeline_steps.numerics.vectors import nearest_centroids, similarity_to_preferred
from pipeline_steps.stores.files import load_tensors, read_json, write_json
from pipeline_steps.stores.source_store import SourceStore


PAIRS = 60


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """600 texts of 12 subjects in five files; 60 of them have a near-copy elsewhere."""
    rng = np.random.default_rng(7)
    subjects = [[f"s{subject}w{i}" for i in range(30)] for subject in range(12)]
    texts = [" ".join([*rng.choice(subjects[i % 12], 25), *(f"u{i}x{j}" for j in range(12))]) for i in range(540)]
    copies = [text.replace("x3", "y3") for text in texts[:PAIRS]]
    docs = [{"id": f"t{i}", "text": text} for i, text in enumerate([*texts, *copies])]
    order = rng.permutation(len(docs))
    folder = tmp_path_factory.mktemp("twins")
    for name, rows in zip("abcde", np.array_split(order, 5), strict=True):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(docs[row]) + "\n" for row in rows))
    return folder


def run(step, corpus, tasks, order=None):
    for rank in order or range(tasks):
        list(step.run(JsonlReader(str(corpus)).run(None, rank, tasks), rank, tasks))


def cluster(corpus, folder, tasks=1, fitted=None, keep="hard"):
    """All steps by hand. Centroids from another folder, if given."""
    embeddings, clusters = str(folder / "embeddings"), str(folder / "clusters")
    run(Embedder(embeddings, HASHED_NGRAMS, window_size=50), corpus, tasks)
    if fitted:
        (folder / "clusters").mkdir()
        shutil.copy(fitted / "clusters" / "centroids.safetensors", folder / "clusters")
    else:
        list(KMeansFit(embeddings, clusters, n_clusters=12, seed=1).run())
    for step in (KMeansAssign(embeddings, clusters), SemDeDupSimilarities(clusters, keep)):
        for rank in range(tasks):
            list(step.run(None, rank, tasks))
    run(SemDeDupScorer(str(folder / "semdedup"), clusters, keep, window_size=64), corpus, tasks)
    run(PrototypesScorer(str(folder / "prototypes"), clusters, window_size=64), corpus, tasks)
    return folder


@pytest.fixture(scope="module")
def one(twins, tmp_path_factory):
    return cluster(twins, tmp_path_factory.mktemp("one"))


def ids_in_corpus_order(corpus):
    docs = JsonlReader(str(corpus)).run()
    return {document_key(doc.id, doc.text): doc.id for doc in docs}


@pytest.mark.parametrize("tasks", [2, 7])
def test_any_number_of_tasks_gives_the_same_bytes(twins, one, tmp_path, tasks):
    many = cluster(twins, tmp_path, tasks, fitted=one)
    for kind in ("clusters/assignments/parts", "clusters/similarities", "clusters/members"):
        files = sorted(path.relative_to(one) for path in (one / kind).rglob("*.*") if path.is_file())
        assert files
        assert files == sorted(path.relative_to(many) for path in (many / kind).rglob("*.*") if path.is_file())
        for path in files:
            assert (one / path).read_bytes() == (many / path).read_bytes(), path
    for name in ("semdedup", "prototypes"):
        own, other = ScoreStore.open(str(one / name)), ScoreStore.open(str(many / name))
        np.testing.assert_array_equal(own.keys, other.keys)
        np.testing.assert_array_equal(own.scores, other.scores)


def test_scores_equal_the_slow_way(one):
    """In float64, over all pairs; the member of smaller cosine to the centroid is preferred, then of smaller key."""
    store = SourceStore(str(one / "embeddings"))
    vectors = store.column("embedding").astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    centroids = load_centroids(str(one / "clusters")).tensors["centroids"].astype(np.float64)
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    cosine = vectors @ centroids.T
    nearest = cosine.argmax(axis=1)
    to_centroid = cosine.max(axis=1).astype(np.float32)
    assigned = SourceStore(str(one / "clusters" / "assignments"))
    np.testing.assert_array_equal(assigned.column("cluster"), nearest)
    prototypes = ScoreStore.open(str(one / "prototypes"))
    np.testing.assert_allclose(prototypes.scores, 1 - to_centroid, atol=1e-7)
    keys, expected = store.column("key"), np.full(len(vectors), -1.0)
    for i in range(len(vectors)):
        for j in np.flatnonzero(nearest == nearest[i]):
            if (to_centroid[j], keys[j]) < (to_centroid[i], keys[i]):
                expected[i] = max(expected[i], vectors[i] @ vectors[j])
    np.testing.assert_allclose(ScoreStore.open(str(one / "semdedup")).scores, expected, atol=1e-6)


def test_one_of_each_pair_is_removed(twins, one):
    """At the rate of what was planted, and the one that is kept is the one farther from the centroid."""
    reader = JsonlReader(str(twins))
    kept = {doc.id for doc in TopKFilter(str(one / "semdedup"), k=540, order="bottom").run(reader.run())}
    distance = dict(
        zip(ids_in_corpus_order(twins).values(), ScoreStore.open(str(one / "prototypes")).scores, strict=True)
    )
    for i in range(PAIRS):
        pair = {f"t{i}", f"t{540 + i}"}
        assert len(pair & kept) == 1
        assert max(pair, key=distance.get) in kept


def test_easy_keeps_the_other(twins, one, tmp_path):
    easy = cluster(twins, tmp_path, fitted=one, keep="easy")
    kept = {}
    for folder in (one, easy):
        docs = TopKFilter(str(folder / "semdedup"), k=540, order="bottom").run(JsonlReader(str(twins)).run())
        kept[folder] = {doc.id for doc in docs}
    for i in range(PAIRS):
        hard, other = ({f"t{i}", f"t{540 + i}"} & kept[folder] for folder in (one, easy))
        assert len(hard) == len(other) == 1
        assert hard != other


def test_prototypes_drops_what_is_nearest_to_its_centroid(twins, one):
    store = SourceStore(str(one / "clusters" / "assignments"))
    kept = {doc.id for doc in TopKFilter(str(one / "prototypes"), k=500).run(JsonlReader(str(twins)).run())}
    ids = list(ids_in_corpus_order(twins).values())
    nearest = np.argsort(-store.column("cosine"))[:100]
    assert not kept & {ids[row] for row in nearest}


def test_in_real_executors_with_processes(twins, one, tmp_path):
    embeddings, clusters, scores = (str(tmp_path / name) for name in ("embeddings", "clusters", "scores"))
    reader = JsonlReader(str(twins))
    stages = [
        ([reader, Embedder(embeddings, HASHED_NGRAMS, window_size=50)], 3),
        ([KMeansFit(embeddings, clusters, n_clusters=12, seed=1)], 1),
        ([KMeansAssign(embeddings, clusters)], 2),
        ([SemDeDupSimilarities(clusters)], 2),
        ([reader, SemDeDupScorer(scores, clusters, window_size=64)], 3),
    ]
    for number, (pipeline, tasks) in enumerate(stages):
        LocalPipelineExecutor(
            pipeline, tasks=tasks, workers=min(tasks, 2), logging_dir=str(tmp_path / f"logs{number}")
        ).run()
    np.testing.assert_array_equal(ScoreStore.open(scores).scores, ScoreStore.open(str(one / "semdedup")).scores)


def test_steps_that_are_done_do_nothing(twins, one, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in (one / "clusters").rglob("*.safetensors")}
    embeddings, clusters = str(one / "embeddings"), str(one / "clusters")
    for step in (KMeansFit(embeddings, clusters, 12, seed=1), KMeansAssign(embeddings, clusters)):
        list(step.run())
    list(SemDeDupSimilarities(clusters).run())
    assert before == {path: path.stat().st_mtime_ns for path in (one / "clusters").rglob("*.safetensors")}


def test_what_does_not_fit_is_named(twins, one, tmp_path):
    embeddings, clusters = str(one / "embeddings"), str(one / "clusters")
    with pytest.raises(StoreMismatch, match="clusters: 12 there, 80 now"):
        list(KMeansFit(embeddings, clusters, n_clusters=80).run())
    with pytest.raises(StoreIncomplete, match="600 documents: too few for 601"):
        list(KMeansFit(embeddings, str(tmp_path / "c"), n_clusters=601).run())
    with pytest.raises(StoreIncomplete, match="holds no centroids"):
        list(KMeansAssign(embeddings, str(tmp_path / "c")).run())
    with pytest.raises(StoreIncomplete, match="easy.*is not there: run SemDeDupSimilarities"):
        run(SemDeDupScorer(str(tmp_path / "s"), clusters, keep="easy"), twins, 1)
    other = tmp_path / "corpus"
    shutil.copytree(twins, other)
    (other / "a.jsonl").write_text('{"id": "t1", "text": "changed"}\n')
    stranger = JsonlReader(str(other)).run()
    with pytest.raises(MissingScore, match=r"corpus/a.jsonl"):
        list(PrototypesScorer(str(tmp_path / "p"), clusters).run(stranger))
    shutil.copytree(one / "embeddings", tmp_path / "embeddings")
    about = read_json(f"{tmp_path}/embeddings/artefact.json")
    write_json(f"{tmp_path}/embeddings/artefact.json", about | {"made": about["made"] | {"embedder": "another"}})
    with pytest.raises(StoreMismatch, match="another"):
        list(KMeansAssign(str(tmp_path / "embeddings"), clusters).run())


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), size=st.integers(1, 40))
def test_assignments_are_those_of_exact_arithmetic(seed, size):
    """With centroids so alike that float32 cannot tell them apart; one at a time, and all together."""
    rng = np.random.default_rng(seed)
    centroids = np.repeat(rng.normal(size=(5, 64)), 6, axis=0) + 1e-4 * rng.normal(size=(30, 64))
    centroids = (centroids / np.linalg.norm(centroids, axis=1, keepdims=True)).astype(np.float16)
    points = (centroids[rng.integers(0, 30, size)] + 1e-3 * rng.normal(size=(size, 64))).astype(np.float16)
    cluster, cosine = nearest_centroids(points, centroids)
    c = centroids.astype(np.longdouble)
    exact = points.astype(np.longdouble) @ (c / np.sqrt((c**2).sum(axis=1, keepdims=True))).T
    np.testing.assert_allclose(
        np.take_along_axis(exact, cluster[:, None].astype(int), 1)[:, 0], exact.max(axis=1), rtol=1e-14
    )
    for at in range(size):
        single = nearest_centroids(points[at : at + 1], centroids)
        assert (single[0][0], single[1][0]) == (cluster[at], cosine[at])


def test_similarities_over_several_tiles():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(4500, 8))
    points = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float16)
    points[4400] = points[17]
    cosine = points.astype(np.float64) @ points.astype(np.float64).T
    norm = np.sqrt(np.diag(cosine))
    expected = np.where(np.tri(4500, k=-1, dtype=bool), cosine / norm / norm[:, None], -1).max(axis=1)
    found = similarity_to_preferred(points)
    np.testing.assert_allclose(found, expected, atol=1e-7)
    assert found[0] == -1
    assert found[4400] == 1


def test_copies_within_a_file_are_told_apart(tmp_path):
    """One of two documents of the same id and text is kept, in whatever window it stands."""
    words = [" ".join(f"w{i}x{j}" for j in range(20)) for i in range(12)]
    docs = [{"id": f"d{i}", "text": text} for i, text in enumerate(words)]
    docs = [*docs[:5], docs[2], *docs[5:], docs[8], docs[2]]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    path = lambda name: str(tmp_path / name)  # noqa: E731
    read = lambda: JsonlReader(str(tmp_path), glob_pattern="a.jsonl").run()  # noqa: E731
    list(Embedder(path("e"), HASHED_NGRAMS).run(read()))
    list(KMeansFit(path("e"), path("c"), n_clusters=2).run())
    list(KMeansAssign(path("e"), path("c")).run())
    list(SemDeDupSimilarities(path("c")).run())
    for size in (4, 100):
        list(SemDeDupScorer(path(f"s{size}"), path("c"), window_size=size).run(read()))
        kept = [doc.id for doc in TopKFilter(path(f"s{size}"), k=12, order="bottom").run(read())]
        assert sorted(kept) == sorted(f"d{i}" for i in range(12))


def test_lost_members_are_named(twins, one, tmp_path):
    shutil.copytree(one / "clusters", tmp_path / "clusters")
    shutil.rmtree(tmp_path / "clusters" / "members")
    with pytest.raises(StoreIncomplete, match="members.*is lost: run KMeansAssign again"):
        list(SemDeDupSimilarities(str(tmp_path / "clusters"), keep="easy").run())


def test_members_are_all_embeddings_once(one):
    keys = [load_tensors(str(path))[0]["key"] for path in (one / "clusters" / "members").rglob("*.safetensors")]
    expected = SourceStore(str(one / "embeddings"), pa.schema([])).column("key")
    np.testing.assert_array_equal(np.sort(np.concatenate(keys)), np.sort(expected))
