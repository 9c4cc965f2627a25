"""The sketch must add up exactly and estimate the kernel sum it promises: against O(N^2) and O(D^2) references."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from pipeline_steps import paper
from pipeline_steps.errors import InvalidEmbedding
from pipeline_steps.numerics.random_projections import largest_coordinate, padded
from pipeline_steps.numerics.sketch import SketchHash, add, density, empty_counts, far_distance, suggest_hash
from pipeline_steps.numerics.vectors import embed_ngrams, word_hashes


PSTABLE = SketchHash(dimension=32, concatenated=2, width=0.8, rows=200, buckets=1000, seed=4)
ANGULAR = SketchHash(dimension=32, concatenated=5, rows=200, buckets=1000, seed=4)
HASHES = pytest.mark.parametrize("hash", [PSTABLE, ANGULAR], ids=["p-stable", "angular"])


def unit_vectors(n, dimension=32, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(n, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def clustered(n=600, dimension=32):
    """Half the points scattered, half in ten tight groups."""
    points = unit_vectors(n, dimension).astype(np.float64)
    points[: n // 2] = points[np.arange(n // 2) % 10] + 0.02 * points[: n // 2]
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float16)


def kernel_sums(points, hash, queries):
    """Sum of the collision probability over all points, the slow way."""
    p, q = points.astype(np.float64), queries.astype(np.float64)
    distance = np.sqrt(np.maximum((q**2).sum(1)[:, None] + (p**2).sum(1) - 2 * q @ p.T, 0))
    grid = np.linspace(0, 2.1, 5001)
    kernel = np.interp(distance, grid, [hash.collision(c) for c in grid])
    return np.where(distance < 1e-6, 1.0, kernel).sum(axis=1)


def slow_codes(points, hash):
    """The definition, with dense matrices in float64, which holds all these whole numbers."""
    p, n = hash.projections, padded(hash.dimension)
    hadamard = np.ones((1, 1))
    while len(hadamard) < n:
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
    grid = np.zeros((len(points), n))
    grid[:, : hash.dimension] = np.rint(points.astype(np.float32) * p.unit)
    shift = (n.bit_length() - 1) // 2
    flat = np.floor(((grid * p.first) @ hadamard + (1 << (shift - 1))) / (1 << shift))
    hashed = np.zeros((len(points), hash.rows), dtype=np.uint64)
    for top in range(0, hash.rows, n):
        for m in range(hash.concatenated):
            block = top // n * hash.concatenated + m
            cell = ((flat * p.second[block]) @ hadamard).astype(np.int64) + p.offset[block] >> p.bits
            product = cell.astype(np.uint64) * p.factor[block].astype(np.uint64)
            hashed[:, top : top + n] += product[:, : hash.rows - top]
    h = hashed & 0xFFFFFFFF
    for times, down in ((0x85EBCA6B, 16), (0xC2B2AE35, 13)):
        h = ((h ^ (h >> np.uint64(down))) * np.uint64(times)) & np.uint64(0xFFFFFFFF)
    return (((h ^ (h >> np.uint64(16))) * np.uint64(hash.buckets)) >> np.uint64(32)).T


@pytest.mark.parametrize(
    "hash",
    [
        PSTABLE,
        ANGULAR,
        SketchHash(100, 1, None, 1500, 70_000),
        SketchHash(1500, 3, 0.02, 70),
        SketchHash(3000, 2, 9.0, 7),
    ],
    ids=str,
)
def test_codes_equal_the_definition(hash):
    points = unit_vectors(530, hash.dimension, seed=1)
    points[3, :9] = 1e-7  # subnormal in float16
    np.testing.assert_array_equal(hash.codes(points), slow_codes(points, hash))


@HASHES
def test_sums_fit_where_an_embedding_is_just_not_refused(hash):
    """int32 must hold every sum of the longest embedding along the worst direction."""
    p = hash.projections
    longest = largest_coordinate(p, hash.dimension) * 0.99
    worst = (longest * p.first[: hash.dimension])[None].astype(np.float16)
    np.testing.assert_array_equal(hash.codes(worst), slow_codes(worst, hash))


@pytest.mark.parametrize("hash", [replace(PSTABLE, rows=1000, buckets=20_000), replace(ANGULAR, rows=1000)], ids=str)
def test_density_estimates_the_kernel_sum(hash):
    """1,000 queries: within four standard errors, without bias, in the order of the exact sums."""
    points = clustered(2000)
    exact = kernel_sums(points, hash, points[::2])
    counts = empty_counts(hash)
    add(counts, hash, points)
    estimate, error = density(counts, len(points), hash, points[::2])
    assert (np.abs(estimate - exact) < 4 * error).mean() > 0.95
    assert abs(estimate.sum() / exact.sum() - 1) < 0.01
    assert spearmanr(exact, estimate).statistic > 0.9  # within groups the sums are all but equal


@HASHES
def test_error_falls_with_the_root_of_the_rows(hash):
    """A little faster: the directions of a block are orthogonal, and make up for each other's errors."""
    points = clustered(200)
    exact, rows, errors = kernel_sums(points, hash, points), [60, 240, 960], []
    for r in rows:
        squares = []
        for seed in range(6):
            drawn = replace(hash, rows=r, seed=seed)
            counts = empty_counts(drawn)
            add(counts, drawn, points)
            squares.append(np.mean((density(counts, len(points), drawn, points)[0] / exact - 1) ** 2))
        errors.append(np.mean(squares) ** 0.5)
    slope = np.polyfit(np.log(rows), np.log(errors), 1)[0]
    assert -0.7 < slope < -0.42


@HASHES
@pytest.mark.parametrize("distance", [0.1, 0.5, 1.0, 1.4])
def test_collision_probability_is_the_share_of_rows_that_collide(hash, distance):
    hash = replace(hash, rows=20_000, buckets=100_000, dimension=2)
    angle = 2 * np.arcsin(distance / 2)
    pair = np.array([[1.0, 0.0], [np.cos(angle), np.sin(angle)]])
    codes = hash.codes(pair)
    p = hash.collision(distance)
    # 4.5 standard errors, and what directions of the same length instead of normal ones may do: 1 / 1024
    assert (codes[:, 0] == codes[:, 1]).mean() == pytest.approx(p, abs=4.5 * (p * (1 - p) / 20_000) ** 0.5 + 1e-3)


@HASHES
@settings(max_examples=25)
@given(cuts=st.lists(st.integers(0, 60), max_size=4), random=st.randoms(), threads=st.integers(1, 3))
def test_counts_of_parts_add_up_in_any_order(hash, cuts, random, threads):
    points = clustered(60)
    whole = empty_counts(hash)
    add(whole, hash, points)
    parts = np.split(points, sorted(cuts))
    random.shuffle(parts)
    total = empty_counts(hash)
    for part in parts:
        add(total, hash, part, threads)
    np.testing.assert_array_equal(total, whole)


@HASHES
@settings(max_examples=25)
@given(start=st.integers(0, 599), size=st.integers(1, 600))
def test_a_code_depends_on_nothing_but_the_embedding(hash, start, size):
    points = clustered(600)
    np.testing.assert_array_equal(
        hash.codes(points[start : start + size]), codes_of_all(hash)[:, start : start + size]
    )


@cache
def codes_of_all(hash):
    return hash.codes(clustered(600))


@HASHES
def test_densities_do_not_depend_on_threads_or_company(hash):
    hash, points = replace(hash, rows=50), clustered(20_000)  # more than one tile
    counts = empty_counts(hash)
    add(counts, hash, points, threads=3)
    expected = empty_counts(hash)
    add(expected, hash, points)
    np.testing.assert_array_equal(counts, expected)
    np.testing.assert_array_equal(counts.sum(axis=1), 20_000)
    one, three = (density(counts, 20_000, hash, points, threads) for threads in (1, 3))
    alone = density(counts, 20_000, hash, points[17_000:17_001])
    for own, other, single in zip(one, three, alone, strict=True):
        np.testing.assert_array_equal(own, other)
        np.testing.assert_array_equal(own[17_000:17_001], single)


def test_codes_are_pinned():
    """A changed hash silently changes every published density."""
    assert PSTABLE.codes(unit_vectors(2))[:3].tolist() == [[654, 368], [288, 955], [973, 839]]
    assert ANGULAR.codes(unit_vectors(2))[:3].tolist() == [[0, 238], [23, 425], [938, 998]]


@HASHES
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, "largest coordinate of embedding 700 is nan"),
        (np.inf, "embedding 700 is inf"),
        (0.0, "embedding 700 is 0.0; it must be above 0"),
        (60_000.0, "embedding 700 is 6.*below"),
    ],
)
def test_bad_embeddings_are_named(hash, value, message):
    points = unit_vectors(900)
    points[700] = value
    with pytest.raises(InvalidEmbedding, match=message):
        add(empty_counts(hash), hash, points)
    with pytest.raises(InvalidEmbedding, match=r"shape \(4, 31\), the sketch is of dimension 32"):
        density(empty_counts(hash), 1, hash, unit_vectors(4, 31))


def test_suggested_bandwidth_balances_a_document_against_the_rest():
    points = unit_vectors(500, seed=3)
    far = far_distance(points)
    wide = suggest_hash(replace(PSTABLE, rows=1000, buckets=20_000), points, 500)
    assert 500 * wide.collision(far) == pytest.approx(3, rel=0.02)
    bits = suggest_hash(replace(ANGULAR, rows=1000), points, 500)
    assert 500 * bits.collision(far) <= 3 < 500 * replace(bits, concatenated=bits.concatenated - 1).collision(far)
    # of a crawl, what folding into buckets leaves in doubt is more than three documents
    crawl = suggest_hash(replace(PSTABLE, concatenated=8, rows=1000, buckets=20_000), points, 364_000_000)
    assert 364e6 * crawl.collision(far) == pytest.approx(10 * (364e6 / 20e6) ** 0.5, rel=0.02)


@HASHES
def test_copies_do_not_decide_the_bandwidth(hash):
    points = unit_vectors(500, seed=3)
    crowded = points.copy()
    crowded[:50] = points[0]
    one, other = suggest_hash(hash, crowded, 500), suggest_hash(hash, points, 500)
    assert one.collision(1.0) == pytest.approx(other.collision(1.0), rel=0.1)


def test_the_papers_sketch_takes_the_papers_memory():
    assert empty_counts(SketchHash(768, 1)).nbytes == paper.SKETCH_BYTES


# -- the embedding without weights ---------------------------------------------------------------------------------


def test_words_are_split_as_a_reference_splits_them():
    import re

    texts = ["Hello, hello WORLD 42x", "", "?!", "naïve café – ok", "a_b"]
    hashes, owner = word_hashes(texts)
    expected = [re.findall(r"[a-z0-9\x80-\xff]+", t.lower().encode().decode("latin1")) for t in texts]
    assert np.bincount(owner, minlength=5).tolist() == [len(words) for words in expected]
    flat = [word for words in expected for word in words]
    for i, a in enumerate(flat):
        for j, b in enumerate(flat):
            assert (hashes[i] == hashes[j]) == (a == b)


@given(st.lists(st.text(max_size=60), min_size=1, max_size=8), st.data())
def test_an_embedding_depends_on_its_text_alone(texts, data):
    cut = data.draw(st.integers(0, len(texts)))
    parts = [embed_ngrams(part) for part in (texts[:cut], texts[cut:]) if part]
    np.testing.assert_array_equal(np.concatenate(parts), embed_ngrams(texts))


def test_near_copies_are_near_and_strangers_are_not():
    text = "the quick brown fox jumps over the lazy dog while the sun sets behind distant violet hills tonight"
    a, b, c = embed_ngrams(
        [text, text.replace("lazy", "sleepy"), "parameters return shape dtype tensor kernel stride pad"]
    )
    assert a @ b > 0.75
    assert abs(a @ c) < 0.25
    np.testing.assert_allclose(np.linalg.norm([a, b, c], axis=1), 1, rtol=1e-6)


def test_projection_keeps_the_cosine_of_the_counts():
    """Against a dense bag of words and bigrams computed without hashing."""
    from collections import Counter

    texts = [" ".join(f"w{(i * j) % 37}" for j in range(60)) for i in range(1, 7)]
    bags = []
    for text in texts:
        words = text.split()
        bags.append(Counter(words) + Counter(zip(words, words[1:], strict=False)))
    vocabulary = sorted({gram for bag in bags for gram in bag}, key=str)
    dense = np.sqrt(np.array([[bag[gram] for gram in vocabulary] for bag in bags], dtype=float))
    dense /= np.linalg.norm(dense, axis=1, keepdims=True)
    projected = embed_ngrams(texts, dimension=4096)
    np.testing.assert_allclose(projected @ projected.T, dense @ dense.T, atol=5 / 4096**0.5)  # JL: 1 / sqrt(D) each
