"""SHA-256 (FIPS 180-4) of many messages of one block each, one vector lane a message."""

from __future__ import annotations

from math import isqrt

import numpy as np
from numba import njit, uint32

from pipeline_steps.numerics.ngram_buckets import Array


BLOCK = 64  # bytes
LANES = 256  # with fewer the loops' own cost shows: with 64 a message takes half as long again
LONGEST = 55  # bytes of a message that one block holds beside its padding


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
    """Digests of one block of every lane.

    Args:
        block: uint8 [LANES, 64], the padded messages.
        message: uint32 [64, LANES], overwritten.
        state: uint32 [8, LANES], overwritten with the digests.
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
