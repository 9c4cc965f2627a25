"""Unigrams and bigrams in the buckets of the official DSIR package: SHA-256 modulo their number.

The package (data-selection 1.0.3, Xie et al. 2023) hashes one n-gram at a time. Here those that were not met lately go
through SHA-256 together, a vector lane each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numba import njit

from pipeline_steps.numerics.hashed_ngrams import MARGIN, Tokens, ngrams_of
from pipeline_steps.numerics.ngram_buckets import Array, Ngrams
from pipeline_steps.numerics.sha256_lanes import BLOCK, LANES, LONGEST, sha256


_SLOTS = 1 << 18  # n-grams whose bucket is remembered: 2 MB, beyond which looking up takes longer than it saves
_LONG = -1  # an n-gram that fills more than one block of SHA-256
assert MARGIN >= BLOCK


class DSIRNgrams:
    """The tokens, n-grams and buckets of the data-selection package, of lower-cased texts.

    Args:
        buckets: B, at most 2**18.
    """

    def __init__(self, buckets: int) -> None:
        if not 0 < buckets <= _SLOTS:
            raise ValueError(f"{buckets} buckets: choose 1 to {_SLOTS}")
        self._buckets = np.uint64(buckets)
        # 2**224, 2**192, ... 1 modulo B: the digest's eight words are its digits to base 2**32
        self._digits = np.array([pow(2, 32 * place, buckets) for place in range(7, -1, -1)], dtype=np.uint64)
        # Hashes of n-grams, at the slot of their lowest bits. These are known there, so the bucket takes their place.
        # An n-gram passes for another once in 2**46 = 7e13 look-ups; C4 has some 3e11 n-grams
        self._known = np.zeros(_SLOTS, dtype=np.uint64)
        self._bucket_bits = np.uint64((1 << (buckets - 1).bit_length()) - 1)

    def __call__(self, texts: Sequence[str]) -> Ngrams:
        """N-grams of texts. A text's n-grams do not depend on the other texts."""
        return ngrams_of(texts, self._bucket)

    def _bucket(self, tokens: Tokens) -> Array:
        bucket, new = _look_up(tokens.key, self._known, self._bucket_bits)
        ngram = tokens.ngram[new]
        found = _hash(tokens.words, tokens.edges, ngram, self._digits, self._buckets)
        for row in np.flatnonzero(found == _LONG):
            start, end = tokens.edges[ngram[row] >> 1, 0], tokens.edges[(ngram[row] + 1) >> 1, 1]
            digest = hashlib.sha256(tokens.words[start:end].tobytes()).hexdigest()
            found[row] = int(digest, 16) % int(self._buckets)
        bucket[new] = found
        _learn(tokens.key[new], found, self._known, self._bucket_bits)
        return bucket


@njit(cache=True)
def _look_up(key: Array, known: Array, bucket_bits: np.uint64) -> tuple[Array, Array]:
    """Buckets, int32 [G], and which of them are not known, int32."""
    bucket, new, count = np.empty(key.size, dtype=np.int32), np.empty(key.size, dtype=np.int32), 0
    for row in range(key.size):
        entry = known[key[row] & np.uint64(_SLOTS - 1)]
        bucket[row], new[count] = entry & bucket_bits, row
        count += (entry ^ key[row]) > bucket_bits
    return bucket, new[:count].copy()


@njit(cache=True)
def _learn(key: Array, bucket: Array, known: Array, bucket_bits: np.uint64) -> None:
    for row in range(key.size):
        known[key[row] & np.uint64(_SLOTS - 1)] = (key[row] & ~bucket_bits) | np.uint64(bucket[row])


@njit(cache=True)
def _hash(words: Array, edges: Array, ngram: Array, digits: Array, buckets: np.uint64) -> Array:
    """Buckets of n-grams, int32; _LONG for those of more than a block."""
    block, rows = np.zeros((LANES, BLOCK), dtype=np.uint8), np.empty(LANES, dtype=np.int32)
    scratch, digest = np.empty((64, LANES), dtype=np.uint32), np.empty((8, LANES), dtype=np.uint32)
    total = np.empty(LANES, dtype=np.uint64)
    bucket, used = np.full(ngram.size, _LONG, dtype=np.int32), 0
    for row in range(ngram.size):
        start = edges[ngram[row] >> 1, 0]
        size = edges[(ngram[row] + 1) >> 1, 1] - start
        if size <= LONGEST:
            for place in range(LONGEST + 1):  # a fixed number, which the compiler makes a few vector instructions
                block[used, place] = words[start + place] if place < size else 0
            block[used, size] = 0x80
            block[used, 62], block[used, 63] = size >> 5, 8 * size & 0xFF
            rows[used] = row
            used += 1
        if used == LANES or row + 1 == ngram.size:
            sha256(block, scratch, digest)
            total[:] = 0
            for word in range(8):
                for lane in range(LANES):
                    total[lane] += np.uint64(digest[word, lane]) * digits[word]
            for lane in range(used):
                bucket[rows[lane]] = total[lane] % buckets
            used = 0
    return bucket
