"""The sketch must add up exactly and estimate the kernel sum it promises: against an O(N^2) reference."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_steps import paper
from pipeline_steps.numerics.ngram_embedding import embed, word_hashes
from pipeline_steps.numerics.sketch import SketchHash, add, density, empty_counts, suggest_width


HASH = SketchHash(dimension=32, width=0.8, concatenated=2, rows=200, buckets=1000, seed=4)


def unit_vectors(n, dimension=32, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(n, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def clustered(n=600):
    """Half the points scattered, half in ten tight groups."""
    points = unit_vectors(n).astype(np.float64)
    points[: n // 2] = points[np.arange(n // 2) % 10] + 0.02 * points[: n // 2]
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float16)


def kernel_sums(points, hash):
    """Sum of the collision probability over all pairs, the slow way."""
    p = points.astype(np.float64)
    distance = np.sqrt(np.maximum(((p[:, None] - p[None]) ** 2).sum(-1), 0))
    return np.vectorize(hash.collision)(distance).sum(axis=1)


def test_density_estimates_the_kernel_sum():
    points = clustered(300)
    exact = kernel_sums(points, HASH)
    hash = SketchHash(dimension=32, width=0.8, concatenated=2, rows=4000, buckets=1000)
    counts = empty_counts(hash)
    add(counts, hash, points)
    estimate = density(counts, len(points), hash, points)
    # a row's count has a standard deviation of the order of its mean, so R rows give 1 / sqrt(R); five of those
    np.testing.assert_allclose(estimate, exact, rtol=5 / 4000**0.5)


@pytest.mark.parametrize("distance", [0.1, 0.5, 1.0, 1.4])
def test_collision_probability_is_the_share_of_rows_that_collide(distance):
    hash = SketchHash(dimension=2, width=1.0, concatenated=2, rows=20_000, buckets=100_000)
    angle = 2 * np.arcsin(distance / 2)
    pair = np.array([[1.0, 0.0], [np.cos(angle), np.sin(angle)]])
    codes = hash.codes(pair)
    p = hash.collision(distance)
    assert (codes[:, 0] == codes[:, 1]).mean() == pytest.approx(p, abs=4.5 * (p * (1 - p) / 20_000) ** 0.5 + 1e-5)


@given(st.lists(st.integers(0, 60), max_size=4), st.randoms())
def test_counts_of_parts_add_up_in_any_order(cuts, random):
    points = clustered(60)
    whole = empty_counts(HASH)
    add(whole, HASH, points)
    parts = np.split(points, sorted(cuts))
    random.shuffle(parts)
    total = empty_counts(HASH)
    for part in parts:
        add(total, HASH, part)
    np.testing.assert_array_equal(total, whole)


@given(st.integers(0, 59), st.integers(1, 60))
def test_a_code_depends_on_nothing_but_the_embedding(start, size):
    points = clustered(60)
    np.testing.assert_array_equal(
        HASH.codes(points[start : start + size]), HASH.codes(points)[:, start : start + size]
    )


def test_codes_are_pinned():
    """A changed hash silently changes every published density."""
    assert HASH.codes(unit_vectors(2))[:3].tolist() == [[780, 813], [244, 144], [833, 833]]


def test_suggested_width_balances_one_document_against_the_rest():
    points = unit_vectors(500, seed=3)
    width = suggest_width(points, 500, HASH)
    hash = SketchHash(dimension=32, width=width, concatenated=2)
    p = points.astype(float)
    median = np.median(np.linalg.norm(p[:, None] - p[None], axis=-1)[np.triu_indices(500, 1)])
    assert 500 * hash.collision(median) == pytest.approx(1, rel=0.02)


def test_copies_do_not_decide_the_width():
    points = unit_vectors(500, seed=3)
    crowded = points.copy()
    crowded[:50] = points[0]
    assert suggest_width(crowded, 500, HASH) == pytest.approx(suggest_width(points, 500, HASH), rel=0.02)


def test_the_papers_sketch_takes_the_papers_memory():
    hash = SketchHash(dimension=768, width=1.0)
    assert empty_counts(hash).nbytes == paper.SKETCH_BYTES


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
    parts = [embed(part) for part in (texts[:cut], texts[cut:]) if part]
    np.testing.assert_array_equal(np.concatenate(parts), embed(texts))


def test_near_copies_are_near_and_strangers_are_not():
    text = "the quick brown fox jumps over the lazy dog while the sun sets behind distant violet hills tonight"
    a, b, c = embed([text, text.replace("lazy", "sleepy"), "parameters return shape dtype tensor kernel stride pad"])
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
    projected = embed(texts, dimension=4096)
    np.testing.assert_allclose(projected @ projected.T, dense @ dense.T, atol=5 / 4096**0.5)  # JL: 1 / sqrt(D) each
