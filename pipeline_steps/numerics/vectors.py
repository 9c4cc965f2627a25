"""Vectors of texts without weights, and nearest centroids and similarities that are exact to the last bit.

Embedding: every word unigram and bigram of a text is hashed; its square-rooted count is spread with random signs over
a few of the D coordinates, a sparse Johnson-Lindenstrauss projection (Kane & Nelson, "Sparser Johnson-Lindenstrauss
transforms", J. ACM 2014). Near-duplicates come out close, unrelated texts nearly orthogonal; meaning is not seen.

Comparing: the inner product of two unit vectors in float16 is a whole number of 2**-48 below 2: float64 holds it, and
every partial sum, without rounding. So a value does not depend on the order of summation, which is to say on the
batch, the threads and the library.

Shapes: N texts or vectors, T words over all texts, D dimensions, K centroids.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline_steps.numerics.keys import mix


_MAX_WORD = 32  # bytes of a word that count; longer ones are URLs and debris
_NONZEROS = 4  # coordinates an n-gram touches; Kane & Nelson: a few suffice for distances within 10-20 %
_BASE = np.uint64(0x100000001B3)  # any odd base makes the polynomial hash injective enough; this is FNV-1a's prime
_IS_WORD = np.zeros(256, dtype=bool)
_IS_WORD[[*range(ord("0"), ord("9") + 1), *range(ord("a"), ord("z") + 1), *range(128, 256)]] = True
Array = np.ndarray
_TILE = 2048  # embeddings compared at a time: 80 MB of similarities to 10,000 centroids


def word_hashes(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the hash of every word of every text, in order, and the text it stands in (uint64 [T], int64 [T]).

    Words are runs of letters and digits of the lower-cased text; bytes above 127 count as letters.
    """
    blobs = [text.lower().encode("utf-8", "replace") + b"\n" for text in texts]
    byte_B = np.frombuffer(b"".join(blobs), dtype=np.uint8)
    edges = np.flatnonzero(np.diff(_IS_WORD[byte_B].astype(np.int8), prepend=0, append=0))
    start_T, length_T = edges[::2], np.minimum(edges[1::2] - edges[::2], _MAX_WORD)
    if start_T.size == 0:
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    with np.errstate(over="ignore"):
        powers = np.cumprod(np.full(_MAX_WORD, _BASE, dtype=np.uint64))
        first = np.concatenate([[0], np.cumsum(length_T)[:-1]])
        within = np.arange(int(length_T.sum())) - np.repeat(first, length_T)
        terms = byte_B[np.repeat(start_T, length_T) + within] * powers[within]
        hash_T = np.add.reduceat(terms, first)
    ends_N = np.cumsum([len(blob) for blob in blobs])
    return hash_T, np.searchsorted(ends_N, start_T, side="right")


def embed_ngrams(texts: Sequence[str], dimension: int = 256, seed: int = 0) -> np.ndarray:
    """Return vectors of unit length, float32 [N, D]; texts without words are all the first unit vector."""
    word_T, text_T = word_hashes(texts)
    with np.errstate(over="ignore"):
        pair_T = mix(word_T[:-1], 1) + word_T[1:]
    inside = text_T[:-1] == text_T[1:]
    gram = np.concatenate([word_T, pair_T[inside]])
    text = np.concatenate([text_T, text_T[:-1][inside]])
    order = np.lexsort((gram, text))
    gram, text = gram[order], text[order]
    new = np.ones(gram.size, dtype=bool)
    new[1:] = (gram[1:] != gram[:-1]) | (text[1:] != text[:-1])
    starts = np.flatnonzero(new)
    weight = np.sqrt(np.diff(np.append(starts, gram.size)))  # sub-linear, as in tf-idf: frequent words are not content
    gram, text = gram[starts], text[starts]
    vectors = np.zeros(len(texts) * dimension)
    for nonzero in range(_NONZEROS):
        bits = mix(gram, seed * _NONZEROS + nonzero)
        sign = np.where(bits >> np.uint64(63), 1.0, -1.0)
        cell = text * dimension + (bits % np.uint64(dimension)).astype(np.int64)
        vectors += np.bincount(cell, weights=sign * weight, minlength=vectors.size)
    matrix = vectors.reshape(len(texts), dimension)
    matrix[~matrix.any(axis=1), 0] = 1.0
    return (matrix / np.linalg.norm(matrix, axis=1, keepdims=True)).astype(np.float32)


def nearest_centroids(embedding_ND: Array, centroid_KD: Array) -> tuple[Array, Array]:
    """Return the centroid of largest cosine to each unit vector, int32 [N], and that cosine, float32 [N].

    Both arguments are float16. float32 finds the candidates, float64 decides between those that rounding could have
    exchanged.
    """
    centroids = centroid_KD.astype(np.float64)
    direction_KD = (centroids / np.linalg.norm(centroids, axis=1, keepdims=True)).astype(np.float32)
    cluster_N = np.empty(len(embedding_ND), dtype=np.int32)
    for start in range(0, len(embedding_ND), _TILE):
        part = embedding_ND[start : start + _TILE]
        cluster_N[start : start + _TILE] = _nearest(part, centroids, direction_KD)
    return cluster_N, cosines(embedding_ND, centroid_KD[cluster_N])


def _nearest(part: Array, centroids: Array, direction_KD: Array) -> Array:
    single = part.astype(np.float32)
    rough = single @ direction_KD.T
    best = rough.max(axis=1, keepdims=True)
    # A float32 sum of D products errs by less than D 2**-24 times the norms, and the directions by as much again
    doubt = 4 * part.shape[1] * 2.0**-24 * np.linalg.norm(single, axis=1, keepdims=True)
    row, candidate = np.nonzero(rough >= best - doubt)
    bounds = np.append(np.searchsorted(row, np.arange(len(part))), row.size)
    nearest = candidate[bounds[:-1]]
    for at in np.flatnonzero(np.diff(bounds) > 1):
        among = candidate[bounds[at] : bounds[at + 1]]
        norms = np.sqrt((centroids[among] ** 2).sum(axis=1))
        nearest[at] = among[np.argmax((centroids[among] * part[at].astype(np.float64)).sum(axis=1) / norms)]
    return nearest


def cosines(one_ND: Array, other_ND: Array) -> Array:
    """Return the cosine of each pair of vectors (float16), float32 [N]."""
    one, other = one_ND.astype(np.float64), other_ND.astype(np.float64)
    norms = np.sqrt((one**2).sum(axis=1)) * np.sqrt((other**2).sum(axis=1))
    return ((one * other).sum(axis=1) / norms).astype(np.float32)


def similarity_to_preferred(embedding_ND: Array) -> Array:
    """Return the largest cosine of each vector to any before it, float32 [N]; -1 for the first.

    The vectors (float16) are in order of preference, the one to keep first.
    """
    vectors = embedding_ND.astype(np.float64)
    norm_N = np.sqrt((vectors**2).sum(axis=1))
    found = np.full(len(vectors), -1.0)
    for start in range(0, len(vectors), _TILE):
        end = min(start + _TILE, len(vectors))
        for before in range(0, end, _TILE):
            past = min(before + _TILE, end)
            cosine = vectors[start:end] @ vectors[before:past].T / (norm_N[start:end, None] * norm_N[before:past])
            if before == start:
                cosine[np.triu_indices(end - start)] = -1.0
            np.maximum(found[start:end], cosine.max(axis=1), out=found[start:end])
    return found.astype(np.float32)
