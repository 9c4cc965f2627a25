"""Random projections of embeddings in exact integer arithmetic, and the cells of a hash they fall in.

Directions are the rows of H D2 H D1, with H a Walsh-Hadamard matrix and D diagonals of random signs, which stand in
for a random rotation (Ailon & Chazelle, "The Fast Johnson-Lindenstrauss Transform", SIAM J. Comput. 2009; Andoni et
al., "Practical and Optimal LSH for Angular Distance", NIPS 2015, take three rounds: a third changes neither the bias
nor the variance of a density measurably). D1 is shared, D2 is drawn anew for every block of n directions. That takes
n log2 n additions for n projections, instead of n D multiplications.

Everything is int32 after the embedding has been rounded to a grid, and no sum overflows, so a code depends on
nothing but the embedding and the hash: not on the batch, the thread or the machine.

Shapes: N embeddings, D dimensions, n = D padded to a power of two, R rows of a sketch, M hashes a row concatenates,
C = ceil(R / n) blocks of rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, log2

import numpy as np
from numba import njit

from pipeline_steps.numerics.keys import mix


Array = np.ndarray

_LEAST = 1024  # n: coordinates that a projection sums over; a normal distribution to within 1 / n
_LANES = 16  # embeddings side by side: one 512-bit register of int32
_FINEST = 2.0**18  # steps of the grid per unit of distance at most; float16 has 2**11 between 1 and 2
_U = np.uint64  # unsigned indices spare numba the test for negative ones
_WIDEST = 2.0**25  # norm, in steps of the grid, at which all sums fit: 2**25 sqrt(1024) = 2**30, and the offset


@dataclass(frozen=True)
class Projections:
    """Directions and cells of R x M hash functions, drawn from a seed."""

    unit: np.float32  # steps of the grid per unit of the embedding
    first: Array  # int32 [n], D1's signs
    second: Array  # int32 [C * M, n], D2's
    offset: Array  # int32 [C * M, n], added to a projection before it is cut into cells
    factor: Array  # uint32 [C * M, n], odd; what a cell is multiplied with where cells of one row are put together
    bits: int  # a cell is 2**bits steps of a projection; 31 leaves its sign


def padded(dimension: int) -> int:
    """Return n, the dimension of the transform."""
    return max(_LEAST, 1 << (dimension - 1).bit_length())


def draw(dimension: int, rows: int, concatenated: int, width: float | None, seed: int) -> Projections:
    """Return hash functions with cells of `width`, in units of distance; None leaves the signs of the projections."""
    n = padded(dimension)
    blocks = -(-rows // n) * concatenated
    shift = _shift(n)
    growth = n**0.5 / 2.0**shift  # of a projection onto N(0, I)
    bits = 31 if width is None else min(14, floor(log2(_FINEST * width * growth)))
    unit = 2.0**15 if width is None else 2.0**bits / (width * growth)
    random = mix(np.arange(3 * blocks * n + n, dtype=np.uint64), seed)
    signs = np.where(random >> _U(63), 1, -1).astype(np.int32)
    first, second = signs[:n], signs[n : n + blocks * n].reshape(blocks, n)
    offset, factor = random[n + blocks * n :].reshape(2, blocks, n)
    low = (offset & _U((1 << bits) - 1)).astype(np.int32) if width is not None else np.zeros((blocks, n), np.int32)
    return Projections(np.float32(unit), first, second, low, (factor | _U(1)).astype(np.uint32), bits)


def largest_coordinate(projections: Projections, dimension: int) -> float:
    """Return what every coordinate must be smaller than."""
    n = projections.first.size
    return _WIDEST * (_LEAST / n) ** 0.5 / float(projections.unit) / dimension**0.5


def write_codes(
    code_RN: Array, embedding_ND: Array, projections: Projections, concatenated: int, buckets: int
) -> None:
    """Write the bucket of every embedding (float16) in every row; releases the GIL.

    `code_RN` has whole fours of rows and whole sixteens of columns, some of which may be beyond the last row and
    embedding. Every coordinate must be finite and smaller than `largest_coordinate`.
    """
    p = projections
    settings = (concatenated, buckets, _shift(p.first.size), p.bits)
    bits_ND = np.ascontiguousarray(embedding_ND, dtype=np.float16).view(np.uint16)
    _codes(bits_ND, p.unit, p.first, p.second, p.offset, p.factor, settings, code_RN)


def _shift(n: int) -> int:
    """Return the shift by which a round is scaled down: the root of n, or of n / 2."""
    return (n.bit_length() - 1) // 2


@njit(forceinline=True)
def _butterflies(v: Array, start: np.uint64, count: np.uint64, apart: np.uint64) -> None:
    """Do two levels of the transform on `count` numbers and the three times as many that lie `apart`.

    `apart` is a constant to the compiler, which spares tests for overlap.
    """
    for i in range(start, start + count):
        a, b, c, d = v[i], v[i + apart], v[i + _U(2) * apart], v[i + _U(3) * apart]
        p, q, r, s = a + b, a - b, c + d, c - d
        v[i], v[i + apart], v[i + _U(2) * apart], v[i + _U(3) * apart] = p + r, q + s, p - r, q - s


@njit(forceinline=True)
def _signed_butterflies(to: Array, of: Array, sign: Array, row: int) -> None:
    """Do the same on four neighbouring rows of another array, after each has got its sign.

    Four rows at a time, here and below: of fewer, the compiler makes loops that 16 lanes are too short for.
    """
    e, f, g, h = sign[row], sign[row + 1], sign[row + 2], sign[row + 3]
    start, apart = _U(row) * _U(_LANES), _U(_LANES)
    for i in range(start, start + apart):
        a, b, c, d = of[i] * e, of[i + apart] * f, of[i + _U(2) * apart] * g, of[i + _U(3) * apart] * h
        p, q, r, s = a + b, a - b, c + d, c - d
        to[i], to[i + apart], to[i + _U(2) * apart], to[i + _U(3) * apart] = p + r, q + s, p - r, q - s


@njit(forceinline=True)
def _transform(v: Array, of: Array, sign: Array) -> None:
    """Apply signs, then the Walsh-Hadamard transform along the first axis of int32 [n, lanes], flat, into `v`.

    n is at least 1024. The first six levels stay within 64 rows, which the first-level cache holds.
    """
    lanes, n = _U(_LANES), sign.size
    for top in range(0, n, 64):
        for row in range(top, top + 64, 4):
            _signed_butterflies(v, of, sign, row)
        for row in range(top, top + 64, 16):
            _butterflies(v, _U(row) * lanes, _U(4) * lanes, _U(4) * lanes)
        _butterflies(v, _U(top) * lanes, _U(16) * lanes, _U(16) * lanes)
    for top in range(0, n, 256):
        _butterflies(v, _U(top) * lanes, _U(64) * lanes, _U(64) * lanes)
    for top in range(0, n, 1024):
        _butterflies(v, _U(top) * lanes, _U(256) * lanes, _U(256) * lanes)
    apart = 1024
    while apart < n:
        for top in range(0, n, 2 * apart):
            for i in range(top * _LANES, (top + apart) * _LANES):
                a, b = v[i], v[i + apart * _LANES]
                v[i], v[i + apart * _LANES] = a + b, a - b
        apart *= 2


@njit(forceinline=True)
def _scale_down(v: Array, shift: int) -> None:
    half = np.int32(1 << (shift - 1))
    for i in range(v.size):
        v[i] = np.int32(v[i] + half) >> np.int32(shift)


@njit(forceinline=True)
def _load(v: Array, bits_ND: Array, first: int, unit: np.float32, scratch: Array, grid: Array) -> None:
    """Load up to 16 embeddings, rounded to the grid and transposed; beyond the last, and from D to n, zeros.

    float16 is widened by hand: subnormal numbers must not depend on whether this thread flushes them.
    `scratch` and `grid` are int32 [D].
    """
    for i in range(v.size):
        v[i] = 0
    as_float = scratch.view(np.float32)
    for lane in range(min(_LANES, bits_ND.shape[0] - first)):
        bits_D = bits_ND[first + lane]
        for d in range(grid.size):
            scratch[d] = (np.int32(bits_D[d] & np.uint16(0x7FFF)) << np.int32(13)) + np.int32(112 << 23)
        for d in range(grid.size):
            size = np.int32(bits_D[d] & np.uint16(0x7FFF))
            value = as_float[d] if size >= np.int32(1024) else np.float32(size) * np.float32(2.0**-24)
            whole = np.int32(np.rint(value * unit))
            grid[d] = -whole if bits_D[d] & np.uint16(0x8000) else whole
        for d in range(grid.size):
            v[d * _LANES + lane] = grid[d]


@njit(forceinline=True)
def _add_cells(hashed: Array, v: Array, offset: Array, factor: Array, bits: np.int32) -> None:
    """Put one more cell into the hash of every row; `hashed` has whole fours of rows."""
    step = _U(_LANES)
    for row in range(0, hashed.size // _LANES, 4):
        o, p, q, r = offset[row], offset[row + 1], offset[row + 2], offset[row + 3]
        e, f, g, h = factor[row], factor[row + 1], factor[row + 2], factor[row + 3]
        start = _U(row) * step
        for i in range(start, start + step):
            j, k, m = i + step, i + _U(2) * step, i + _U(3) * step
            hashed[i] += np.uint32(np.int32(v[i] + o) >> bits) * e
            hashed[j] += np.uint32(np.int32(v[j] + p) >> bits) * f
            hashed[k] += np.uint32(np.int32(v[k] + q) >> bits) * g
            hashed[m] += np.uint32(np.int32(v[m] + r) >> bits) * h


@njit(forceinline=True)
def _scramble(hashed: Array, buckets: int) -> None:
    """Apply Murmur3's finaliser, then a bucket by Lemire's multiply-shift."""
    for i in range(hashed.size):
        h = hashed[i]
        h = np.uint32(h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B)
        h = np.uint32(h)
        h = np.uint32(h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35)
        h = np.uint32(h)
        h = np.uint32(h ^ (h >> np.uint32(16)))
        hashed[i] = np.uint32((_U(h) * _U(buckets)) >> _U(32))


@njit(forceinline=True)
def _store(code_RN: Array, first: int, hashed: Array) -> None:
    """Write columns `first` to `first` + 16, transposed back; the array has whole fours of rows."""
    step = _U(_LANES)
    for row in range(0, code_RN.shape[0], 4):
        a, b, c, d = code_RN[row], code_RN[row + 1], code_RN[row + 2], code_RN[row + 3]
        of, to = _U(row) * step, _U(first)
        for i in range(_U(0), step):
            a[to + i] = hashed[of + i]
            b[to + i] = hashed[of + step + i]
            c[to + i] = hashed[of + _U(2) * step + i]
            d[to + i] = hashed[of + _U(3) * step + i]


@njit(nogil=True, cache=True)
def _codes(
    bits_ND: Array,
    unit: np.float32,
    first: Array,
    second: Array,
    offset: Array,
    factor: Array,
    settings: tuple[int, int, int, int],
    code_RN: Array,
) -> None:
    concatenated, buckets, shift, bits = settings
    n, rows = first.size, code_RN.shape[0]
    scratch, grid = np.empty(bits_ND.shape[1], dtype=np.int32), np.empty(bits_ND.shape[1], dtype=np.int32)
    flat, block = np.empty(n * _LANES, dtype=np.int32), np.empty(n * _LANES, dtype=np.int32)
    hashed = np.empty(n * _LANES, dtype=np.uint32)
    for start in range(0, bits_ND.shape[0], _LANES):
        _load(block, bits_ND, start, unit, scratch, grid)
        _transform(flat, block, first)
        _scale_down(flat, shift)
        for top in range(0, rows, n):
            end = min(top + n, rows)
            some = hashed[: (end - top) * _LANES]
            for i in range(some.size):
                some[i] = 0
            for m in range(concatenated):
                which = top // n * concatenated + m
                _transform(block, flat, second[which])
                _add_cells(some, block, offset[which], factor[which], np.int32(bits))
            _scramble(some, buckets)
            _store(code_RN[top:end], start, some)
