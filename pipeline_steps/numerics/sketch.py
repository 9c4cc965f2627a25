"""Count sketch of a kernel density: hash every embedding R times, count the hashes (App. A.2, Alg. 2; RACE).

Two hashes, each of m cells put together and folded into B buckets:

- p-stable (Datar et al. 2004): h(x) = floor((a.x + b) / w) with a ~ N(0, I), b ~ U[0, w); points at distance c fall
  in one cell with probability p(c) = 1 - 2 Phi(-w / c) - 2 c / (sqrt(2 pi) w) (1 - exp(-w^2 / (2 c^2)));
- angular (Charikar 2002): h(x) = sign(a.x); points at angle t, with probability 1 - t / pi.

Two points share a bucket with probability p^m + (1 - p^m) / B, so the mean count over rows, less what folding adds,
estimates the sum of the kernel p^m over all points. Codes are exact (`random_projections`), so counts of parts add
up to the counts of the whole. Shapes: N embeddings, D dimensions, R rows, B buckets, S slabs of W embeddings.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from math import erf, exp, pi, sqrt

import numpy as np
from numba import njit

from pipeline_steps.errors import InvalidEmbedding
from pipeline_steps.numerics.random_projections import Projections, draw, largest_coordinate, write_codes
from pipeline_steps.paper import SKETCH_BUCKETS, SKETCH_ROWS


Array = np.ndarray

_SLAB = 512  # W: embeddings hashed by one thread at a time
_TILE = 32 * _SLAB  # embeddings whose codes are counted row by row: a row's counters are loaded once for all of them
# On 30,000 web texts, rank correlation with exact sums (angular) is 0.989 with 1, 0.990 with 3, 0.991 with 10
_BACKGROUND, _FAR = 3.0, 0.9
_MOST_BITS = 64
_GROUPS = 10  # parts of the rows whose means differ by the standard error


@dataclass(frozen=True)
class SketchHash:
    """R hash functions, drawn from a seed."""

    dimension: int  # D of the embeddings
    concatenated: int  # m; many = sharp kernel
    width: float | None = None  # w of the p-stable hash, in units of distance, small = sharp; None: the angular hash
    rows: int = SKETCH_ROWS  # R
    buckets: int = SKETCH_BUCKETS  # B
    seed: int = 0

    @cached_property
    def projections(self) -> Projections:
        """Directions and cells."""
        return draw(self.dimension, self.rows, self.concatenated, self.width, self.seed)

    def codes(self, embedding_ND: Array) -> Array:
        """Return the bucket of every embedding in every row, [R, N]."""
        slabs = [code_SRW[0, : self.rows, :size].copy() for code_SRW, size in _coded(self, embedding_ND, 1, _SLAB)]
        return np.concatenate(slabs, axis=1) if slabs else np.empty((self.rows, 0), np.uint16)

    def collision(self, distance: float) -> float:
        """Return the kernel p^m: what a document at this distance adds to the density.

        For the angular kernel the distance is that of unit vectors, 2 sin(t / 2).
        """
        if distance == 0:
            return 1.0
        if self.width is None:
            return (1 - 2 * np.arcsin(min(distance / 2, 1.0)) / pi) ** self.concatenated
        r = self.width / distance
        below = 0.5 * (1 + erf(-r / sqrt(2)))
        single = 1 - 2 * below - 2 / (sqrt(2 * pi) * r) * (1 - exp(-r * r / 2))
        return max(single, 0.0) ** self.concatenated


def empty_counts(hash: SketchHash) -> Array:
    """Return the sketch of no documents, int32 [R, B]."""
    return np.zeros((hash.rows, hash.buckets), dtype=np.int32)


def add(counts_RB: Array, hash: SketchHash, embedding_ND: Array, threads: int = 1) -> None:
    """Count embeddings into a sketch, in place. Raises InvalidEmbedding, as `density` does."""
    parts = np.linspace(0, hash.rows, threads + 1, dtype=int)
    with ThreadPoolExecutor(threads) as pool:
        for code_SRW, size in _coded(hash, embedding_ND, threads):
            jobs = [pool.submit(_count, counts_RB[a:b], code_SRW[:, a:b], size) for a, b in pairwise(parts)]
            _ = [job.result() for job in jobs]


def density(
    counts_RB: Array, documents: int, hash: SketchHash, embedding_ND: Array, threads: int = 1
) -> tuple[Array, Array]:
    """Return the kernel sum over all sketched documents at each embedding and its standard error, float64 [N].

    The mean count C, less what folding into B buckets adds by chance: (C - N / B) / (1 - 1 / B). A sketched document
    counts itself, so the sum is at least 1; the estimate is cut off there.

    Raises:
        InvalidEmbedding: an embedding is not finite, zero, too long or of another dimension.
    """
    edges = np.linspace(0, hash.rows, min(_GROUPS, hash.rows) + 1, dtype=int)
    means = [np.empty((len(edges) - 1, 0))]
    with ThreadPoolExecutor(threads) as pool:
        for code_SRW, size in _coded(hash, embedding_ND, threads):
            jobs = [pool.submit(_look_up, counts_RB[a:b], code_SRW[:, a:b], size) for a, b in pairwise(edges)]
            means.append(np.stack([job.result() for job in jobs]) / np.diff(edges)[:, None])
    mean_GN = np.concatenate(means, axis=1)
    mean_N = np.average(mean_GN, axis=0, weights=np.diff(edges))
    error_N = mean_GN.std(axis=0, ddof=1) / sqrt(len(mean_GN)) if len(mean_GN) > 1 else np.full(mean_N.shape, np.nan)
    unfolded = 1 - 1 / hash.buckets
    return np.maximum((mean_N - documents / hash.buckets) / unfolded, 1.0), error_N / unfolded


def suggest_hash(hash: SketchHash, embedding_ND: Array, documents: int) -> SketchHash:
    """Return the hash whose bandwidth suits a corpus: with another `width`, or for the angular kernel `concatenated`.

    The kernel sum of a corpus all of whose documents were as far off as `far_distance`, `documents` * p^m, is brought
    to max(3, 10 e): what has nothing in common with a document weighs a little more than the document itself, and
    ten times the error that folding leaves, e = sqrt(N / (B R)). Far below that, every density is 1 or drowned in the
    error, far above, they all tend to the same number.
    """
    distance = far_distance(embedding_ND)
    wanted = max(_BACKGROUND, 10 * sqrt(documents / (hash.buckets * hash.rows)))
    if hash.width is None:
        sharper = (replace(hash, concatenated=m) for m in range(1, _MOST_BITS))
        enough = (trial for trial in sharper if documents * trial.collision(distance) <= wanted)
        return next(enough, replace(hash, concatenated=_MOST_BITS))
    low, high = 1e-3 * distance, 1e3 * distance
    for _ in range(60):
        middle = sqrt(low * high)
        trial = replace(hash, width=middle)
        low, high = (low, middle) if documents * trial.collision(distance) > wanted else (middle, high)
    return replace(hash, width=float(f"{low:.4g}"))


def far_distance(embedding_ND: Array) -> float:
    """Return the distance that nine in ten pairs of a sample (N of the order of 1,000) stay below.

    Not a smaller share: a cluster that holds most of the corpus would take its own width for the corpus's, and come
    out as thin as the rest.
    """
    e = embedding_ND.astype(np.float64)
    square = (e**2).sum(axis=1)
    pairs = np.triu_indices(len(e), k=1)
    return float(np.sqrt(np.quantile(np.maximum(square[:, None] + square - 2 * (e @ e.T), 0)[pairs], _FAR)))


def _coded(hash: SketchHash, embedding_ND: Array, threads: int, tile: int = _TILE) -> Iterator[tuple[Array, int]]:
    """Yield codes of some embeddings at a time, [S, R', W], and how many they are; the array is used again."""
    if embedding_ND.ndim != 2 or embedding_ND.shape[1] != hash.dimension:
        raise InvalidEmbedding(
            f"embeddings are of shape {embedding_ND.shape}, the sketch is of dimension {hash.dimension}"
        )
    tile = min(tile, max(1, -(-len(embedding_ND) // _SLAB)) * _SLAB)
    dtype = np.uint16 if hash.buckets <= 1 << 16 else np.uint32
    code_SRW = np.empty((tile // _SLAB, -(-hash.rows // 4) * 4, _SLAB), dtype=dtype)

    def write(start: int) -> None:
        part = np.ascontiguousarray(embedding_ND[start : start + _SLAB], dtype=np.float16)
        _check(hash, part, start)
        write_codes(code_SRW[start % tile // _SLAB], part, hash.projections, hash.concatenated, hash.buckets)

    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(embedding_ND), tile):
            end = min(start + tile, len(embedding_ND))
            _ = list(pool.map(write, range(start, end, _SLAB)))
            yield code_SRW, end - start


def _check(hash: SketchHash, embedding_ND: Array, first: int) -> None:
    largest_N = (embedding_ND.view(np.uint16) & np.uint16(0x7FFF)).max(axis=1).view(np.float16)
    bound = largest_coordinate(hash.projections, hash.dimension)
    bad = np.flatnonzero(~((largest_N > 0) & (largest_N < bound)))
    if bad.size:
        raise InvalidEmbedding(
            f"the largest coordinate of embedding {first + bad[0]} is {largest_N[bad[0]]}; "
            f"it must be above 0 and below {bound:g}"
        )


@njit(nogil=True, cache=True)
def _count(counts_RB: Array, code_SRW: Array, size: int) -> None:
    for row in range(counts_RB.shape[0]):
        counts = counts_RB[row]
        for slab in range(-(-size // _SLAB)):
            code = code_SRW[slab, row]
            for i in range(min(_SLAB, size - slab * _SLAB)):
                counts[code[i]] += 1


@njit(nogil=True, cache=True)
def _look_up(counts_RB: Array, code_SRW: Array, size: int) -> Array:
    """Return sums over rows, int64 [N]."""
    found = np.zeros(size, dtype=np.int64)
    for row in range(counts_RB.shape[0]):
        counts = counts_RB[row]
        for slab in range(-(-size // _SLAB)):
            code, start = code_SRW[slab, row], slab * _SLAB
            for i in range(min(_SLAB, size - start)):
                found[start + i] += counts[code[i]]
    return found
