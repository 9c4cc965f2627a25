"""Unigrams and bigrams in the buckets of the official DSIR package: SHA-256 modulo their number.

The package (data-selection 1.0.3, Xie et al. 2023) hashes one n-gram at a time. Here those that were not met lately go
through SHA-256 (FIPS 180-4) together, a vector lane each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from math import isqrt

import numpy as np
from numba import njit, uint32

from pipeline_steps.numerics.ngrams import MARGIN, Array, Ngrams, Tokens, ngrams_of


BLOCK = 64  # bytes
LANES = 256  # with fewer the loops' own cost shows: with 64 a message takes half as long again
LONGEST = 55  # bytes of a message that one block holds beside its padding
_SLOTS = 1 << 18  # n-grams whose bucket is remembered: 2 MB, beyond which looking up takes longer than it saves
_LONG = -1  # an n-gram that fills more than one block of SHA-256


def _primes(count: int) -> list[int]:
    found: list[int] = []
    number = 2
    while len(found) < count:
        if all(number % prime for prime in found):
            found.append(number)
        number += 1
    return found


def _cube_root(number: int) -> int:
    root = round(number ** (1 / 3))
    while root**3 > number:
        root -= 1
    while (root + 1) ** 3 <= number:
        root += 1
    return root


# The first 32 bits of the fractions of the primes' cube and square roots (4.2.2 and 5.3.3)
_K = np.array([_cube_root(prime << 96) & 0xFFFFFFFF for prime in _primes(64)], dtype=np.uint32)
_H = np.array([isqrt(prime << 64) & 0xFFFFFFFF for prime in _primes(8)], dtype=np.uint32)


@njit(inline="always")
def _rotated(x: np.uint32, bits: int) -> np.uint32:
    return uint32((x >> bits) | (x << (32 - bits)))


@njit(cache=True)
def sha256(block: Array, message: Array, state: Array) -> None:
    """Write into `state`, uint32 [8, LANES], the digests of padded messages of a block each, uint8 [LANES, 64].

    `message`, uint32 [64, LANES], is overwritten too.
    """
    word = block.view(np.uint32)
    for t in range(16):
        for lane in range(LANES):
            x = word[lane, t]  # its bytes are the other way round
            message[t, lane] = (x >> 24) | ((x >> 8) & 0xFF00) | ((x << 8) & 0xFF0000) | (x << 24)
    for t in range(16, 64):
        for lane in range(LANES):
            x, y = message[t - 15, lane], message[t - 2, lane]
            small_0 = _rotated(x, 7) ^ _rotated(x, 18) ^ (x >> 3)
            small_1 = _rotated(y, 17) ^ _rotated(y, 19) ^ (y >> 10)
            message[t, lane] = uint32(message[t - 16, lane] + small_0 + message[t - 7, lane] + small_1)
    for row in range(8):
        state[row] = _H[row]
    for t in range(64):
        # Instead of moving the eight working variables down, their names move up
        a, b, c, d = -t & 7, (1 - t) & 7, (2 - t) & 7, (3 - t) & 7
        e, f, g, h = (4 - t) & 7, (5 - t) & 7, (6 - t) & 7, (7 - t) & 7
        for lane in range(LANES):
            at_a, at_e = state[a, lane], state[e, lane]
            big_1 = _rotated(at_e, 6) ^ _rotated(at_e, 11) ^ _rotated(at_e, 25)
            choice = (at_e & state[f, lane]) ^ (~at_e & state[g, lane])
            first = uint32(state[h, lane] + big_1 + uint32(choice) + _K[t] + message[t, lane])
            big_0 = _rotated(at_a, 2) ^ _rotated(at_a, 13) ^ _rotated(at_a, 22)
            majority = (at_a & state[b, lane]) ^ (at_a & state[c, lane]) ^ (state[b, lane] & state[c, lane])
            state[d, lane] += first
            state[h, lane] = uint32(first + big_0 + majority)
    for row in range(8):
        state[row] += _H[row]


assert MARGIN >= BLOCK


class DSIRNgrams:
    """The tokens, n-grams and up to 2**18 buckets of the data-selection package, of lower-cased texts."""

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
        """Return the n-grams of texts. A text's n-grams do not depend on the other texts."""
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
    """Return buckets, int32 [G], and which of them are not known, int32."""
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
    """Return buckets of n-grams, int32; _LONG for those of more than a block."""
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
