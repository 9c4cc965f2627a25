"""`winnow coverage` and `winnow inspect --embeddings`, on a corpus with known neighbours."""

import json

import numpy as np
import pytest
from datatrove.pipeline.readers import JsonlReader

from launch.cli import main
from pipeline_steps import (
    Cut,
    DensityMerge,
    DensityScorer,
    DensitySketch,
    Embedder,
    KMeansAssign,
    KMeansFit,
    ScoreStore,
    select,
)
from pipeline_steps.embedding.embeddings import HASHED_NGRAMS
from pipeline_steps.stores.source_store import SourceStore


@pytest.fixture
def stores(corpus, tmp_path):
    path = lambda name: str(tmp_path / name)  # noqa: E731
    read = lambda: JsonlReader(str(corpus)).run()  # noqa: E731
    list(Embedder(path("embeddings"), HASHED_NGRAMS).run(read()))
    list(KMeansFit(path("embeddings"), path("clusters"), n_clusters=5).run())
    list(KMeansAssign(path("embeddings"), path("clusters")).run())
    list(DensitySketch(path("embeddings"), path("sketch"), rows=50).run())
    list(DensityMerge(path("embeddings"), path("sketch")).run())
    list(DensityScorer(path("density"), path("embeddings"), path("sketch")).run(read()))
    for name, mode in {"top": "top", "ips": "ips"}.items():
        select(ScoreStore.open(path("density")), Cut(mode, k=20)).save(path(name))
    return path


def test_selections_side_by_side(stores, capsys):
    where = [f"--{name}={stores(name)}" for name in ("clusters", "embeddings", "density")]
    assert main(["coverage", stores("top"), stores("ips"), *where, "--quality", stores("density"), "--json"]) == 0
    top, ips = json.loads(capsys.readouterr().out)
    assert (top["documents"], ips["documents"]) == (20, 20)
    assert top["quality"] > ips["quality"]
    assert ips["to_uniform"] < top["to_uniform"]
    assert main(["coverage", stores("ips"), *where]) == 0
    shown = capsys.readouterr().out
    assert "evenness" in shown
    assert "quality" not in shown.split("evenness")[1].splitlines()[0]
    assert main(["coverage", stores("nothing"), *where]) == 2
    assert "select(store, cut).save" in capsys.readouterr().err


def test_neighbours_of_the_ends_are_those_of_all_pairs(stores, capsys):
    assert main(["inspect", stores("density"), "--embeddings", stores("embeddings"), "--json"]) == 0
    examples = json.loads(capsys.readouterr().out)["examples"]
    store, vectors = ScoreStore.open(stores("density")), SourceStore(stores("embeddings"))
    places = [(source, row) for source, size in store.sources.items() for row in range(size)]
    unit = vectors.column("embedding").astype(float)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    assert [example["score"] for example in examples[:3]] == sorted(store.scores.tolist())[:-4:-1]
    assert [example["score"] for example in examples[3:]] == sorted(store.scores.tolist())[2::-1]
    for example in examples:
        at = places.index((example["source"], example["document"]))
        cosine = unit @ unit[at]
        cosine[at] = -1
        np.testing.assert_allclose([near["cosine"] for near in example["nearest"]], np.sort(cosine)[:-4:-1], atol=1e-6)
    assert main(["inspect", stores("density"), "--embeddings", stores("embeddings")]) == 0
    assert "the nearest documents" in " ".join(capsys.readouterr().out.split())
