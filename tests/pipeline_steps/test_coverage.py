"""What IPS over Density is for: a selection that is even over what there is, and the report that says so."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from datatrove.pipeline.readers import JsonlReader
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq

from pipeline_steps import (
    Cut,
    DensityMerge,
    DensityScorer,
    DensitySketch,
    Embedder,
    KMeansAssign,
    KMeansFit,
    MetadataScorer,
    ScoreStore,
    Selection,
    combine,
    coverage,
    select,
)
from pipeline_steps.embedding.embeddings import HASHED_NGRAMS
from pipeline_steps.errors import StoreMismatch
from pipeline_steps.numerics.keys import mix
from pipeline_steps.numerics.priority import priority_code
from pipeline_steps.numerics.sketch import SketchHash, add, density, empty_counts, suggest_hash
from pipeline_steps.numerics.statistics import attainable_entropy, discrepancy, entropy


SIZES = (20_000, 2_000, 200)  # 100 : 10 : 1


@pytest.fixture(scope="module")
def mixture():
    """Labels, and densities by the suggested bandwidth, of three clusters that are well separated."""
    rng = np.random.default_rng(3)
    label = np.repeat(np.arange(3), SIZES)
    centres = np.linalg.qr(rng.normal(size=(64, 3)))[0].T
    points = 3 * centres[label] + rng.normal(size=(len(label), 64)) / 8
    points = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float16)
    hash = suggest_hash(SketchHash(64, 1, rows=400), points[rng.choice(len(points), 1000, replace=False)], len(points))
    counts = empty_counts(hash)
    add(counts, hash, points)
    return label, density(counts, len(points), hash, points)[0]


@pytest.mark.parametrize("rate", [0.01, 0.1])
def test_ips_over_density_makes_a_mixture_even(mixture, rate):
    """At 10 % the smallest cluster runs out. Beside it: random, both ends, and the inclusion probabilities."""
    label, sums = mixture
    k = round(rate * len(label))
    columns = {"score": np.log(sums).astype(np.float32), "key": mix(np.arange(len(label), dtype=np.uint64), 9)}
    best = attainable_entropy(np.array(SIZES), k)
    found = {}
    for mode in ("ips", "random", "top", "bottom"):
        kept = np.argsort(priority_code(mode, columns, seed=1), kind="stable")[-k:]
        found[mode] = np.bincount(label[kept], minlength=3)
    assert entropy(found["ips"]) >= 0.97 * best
    assert entropy(found["random"]) < 0.5 * best
    assert entropy(found["top"]) < 0.05 * best  # nothing but the largest cluster
    assert found["bottom"][2] == min(200, k)  # the smallest goes first, whole
    # Successive sampling includes a document with 1 - exp(-t / S) (Rosen 1997), t such that they sum to k
    t = brentq(lambda t: (1 - np.exp(-t / sums)).sum() - k, 0, 1e9)
    p = 1 - np.exp(-t / sums)
    expected = np.bincount(label, weights=p)
    deviation = np.sqrt(np.bincount(label, weights=p * (1 - p)))
    assert (np.abs(found["ips"] - expected) <= 4 * deviation + 1e-9).all()


@given(st.lists(st.integers(0, 30), min_size=1, max_size=6), st.data())
def test_attainable_entropy_is_that_of_taking_turns(sizes, data):
    """Give every cluster that has some left one more document, until all are given."""
    if not sum(sizes):
        return
    documents = data.draw(st.integers(1, sum(sizes)))
    taken = np.zeros(len(sizes))
    for _ in range(documents):
        open_ = np.flatnonzero(taken < sizes)
        taken[open_[np.argmin(taken[open_])]] += 1
    best = attainable_entropy(np.array(sizes), documents)
    assert entropy(taken) <= best + 1e-9
    assert entropy(taken) >= best - len(sizes) / documents  # whole documents against fractions of one


def test_discrepancy_is_the_distance_of_kernel_means():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 5, size=(50, 30))
    one, other = rng.random(30), rng.random(30)
    difference = one / one.sum() - other / other.sum()
    kernel = np.mean([row[:, None] == row for row in codes], axis=0)
    assert discrepancy(codes, one, other) == pytest.approx((difference @ kernel @ difference) ** 0.5)
    assert discrepancy(codes, one, 7 * one) == pytest.approx(0)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """A corpus of four subjects of very different sizes, with quality, clusters and density."""
    folder = tmp_path_factory.mktemp("coverage")
    rng = np.random.default_rng(1)
    docs = []
    for subject, size in enumerate((400, 120, 40, 10)):
        words = [f"s{subject}w{i}" for i in range(20)]
        for _ in range(size):
            text = " ".join(rng.choice(words, 40))
            docs.append({"id": str(len(docs)), "text": text, "quality": float(rng.normal() + subject % 2)})
    rng.shuffle(docs)
    for name, part in zip("ab", np.array_split(np.array(docs, dtype=object), 2), strict=True):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in part))
    path = lambda name: str(folder / name)  # noqa: E731
    read = lambda: JsonlReader(str(folder), glob_pattern="*.jsonl").run()  # noqa: E731
    list(Embedder(path("embeddings"), HASHED_NGRAMS).run(read()))
    list(MetadataScorer(path("quality"), "quality").run(read()))
    list(KMeansFit(path("embeddings"), path("clusters"), n_clusters=4).run())
    list(KMeansAssign(path("embeddings"), path("clusters")).run())
    list(DensitySketch(path("embeddings"), path("sketch"), rows=200).run())
    list(DensityMerge(path("embeddings"), path("sketch")).run())
    list(DensityScorer(path("density"), path("embeddings"), path("sketch")).run(read()))
    combine(path("both"), {path("quality"): 1.0, path("density"): -1.0}, "product")
    return path


def test_the_report_shows_the_trade_off(stores):
    """Quality alone, coverage alone, and both: log quality less log density, drawn with direct weights."""
    cuts = {
        "quality": ("quality", Cut("top", k=60)),
        "coverage": ("density", Cut("ips", k=60, seed=1)),
        "both": ("both", Cut("direct", k=60, seed=1)),
        "random": ("density", Cut("random", k=60, seed=1)),
    }
    where = [stores(name) for name in ("clusters", "embeddings", "density", "quality")]
    found = {
        name: coverage(select(ScoreStore.open(stores(store)), cut), *where) for name, (store, cut) in cuts.items()
    }
    assert {report.documents for report in found.values()} == {60}
    assert found["coverage"].to_uniform < found["random"].to_uniform
    assert found["random"].to_corpus < found["coverage"].to_corpus
    assert found["quality"].quality > found["both"].quality > found["random"].quality
    assert found["both"].to_uniform < found["quality"].to_uniform
    assert found["coverage"].corpus_quality == found["random"].corpus_quality


def test_everything_is_no_distance_from_the_corpus(stores):
    all_of_it = select(ScoreStore.open(stores("density")), Cut("top", rate=1.0))
    report = asdict(coverage(all_of_it, stores("clusters"), stores("embeddings"), stores("density")))
    assert report["to_corpus"] == pytest.approx(0, abs=1e-9)
    assert report["entropy"] == pytest.approx(report["attainable"])
    assert report["clusters"] == 4
    assert report["quality"] is None


def test_copies_weigh_as_much_as_they_are(stores):
    store, where = ScoreStore.open(stores("density")), [stores(n) for n in ("clusters", "embeddings", "density")]
    once, twice = (coverage(select(store, Cut("top", copies={-1000: n})), *where) for n in (1, 2))
    assert (twice.documents, twice.copies) == (once.documents, 2 * once.copies)
    assert (twice.entropy, twice.attainable) == (pytest.approx(once.entropy), pytest.approx(once.attainable))
    assert twice.to_corpus == pytest.approx(0, abs=1e-9)
    some = select(store, Cut("top", k=60))
    heavy = Selection(some.counts * (np.arange(some.counts.size) % 5), some.corpus_digest, {})
    rows = np.repeat(np.arange(heavy.counts.size), heavy.counts)
    found = coverage(heavy, *where, stores("quality"))
    quality = ScoreStore.open(stores("quality")).scores[rows].mean(dtype=float)
    assert (found.copies, found.quality) == (rows.size, pytest.approx(quality))


def test_a_store_of_another_kind_is_refused(stores):
    selection = select(ScoreStore.open(stores("density")), Cut("top", k=5))
    with pytest.raises(StoreMismatch, match="quality was made by MetadataScorer, not by DensityScorer"):
        coverage(selection, stores("clusters"), stores("embeddings"), stores("quality"))
