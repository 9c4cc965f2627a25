"""Embed texts without weights: hashed word unigrams and bigrams, projected to unit vectors.

Every n-gram of a text is hashed; its square-rooted count is spread with random signs over a few of the D
coordinates, a sparse Johnson-Lindenstrauss projection (Kane & Nelson, "Sparser Johnson-Lindenstrauss transforms",
J. ACM 2014). Near-duplicates come out close, unrelated texts nearly orthogonal; meaning is not seen.

Shapes: N texts, T words over all of them, D coordinates.
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


def word_hashes(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Hash of every word of every text, in order, and the text it stands in (uint64 [T], int64 [T]).

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


def embed(texts: Sequence[str], dimension: int = 256, seed: int = 0) -> np.ndarray:
    """Float32 [N, D], rows of unit length; texts without words are all the first unit vector."""
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
