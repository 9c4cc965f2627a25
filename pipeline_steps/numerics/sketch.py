"""Count sketch of a kernel density: hash every embedding R times, count the hashes (App. A.2, Alg. 2; RACE).

The hash is p-stable (Datar et al. 2004): h(x) = floor((a.x + b) / w) with a ~ N(0, I), b ~ U[0, w), m of them
concatenated and folded into B buckets. Two points at distance c collide with probability p(c)^m + (1 - p(c)^m) / B,
so the mean count over rows estimates the sum of the kernel p(c)^m over all points.

Counts of parts add up to the counts of the whole, exactly, because codes are exact: coordinates and directions
are rounded to integers and multiplied in float64, where every partial sum is an integer below 2**53, so a code
depends on nothing but the embedding and the hash. Shapes: N embeddings, D dimensions, R rows, B buckets.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import erf, exp, pi, sqrt

import numpy as np

from pipeline_steps.numerics.keys import mix, uniform
from pipeline_steps.paper import SKETCH_BUCKETS, SKETCH_ROWS


_EMBEDDING_UNIT = 2.0**14  # coordinates of unit vectors to 6e-5, float16's own precision
_DIRECTION_UNIT = 2.0**8  # directions to 0.4 %: far below the noise of R rows
_TILE = 4096  # embeddings hashed at a time: 33 MB of projections at R = 1000


@dataclass(frozen=True)
class SketchHash:
    """R hash functions, drawn from a seed.

    Attributes:
        dimension: D of the embeddings, which must be unit vectors or of that order (|coordinate| < 2**10).
        width: w, in units of distance; small = sharp kernel.
        concatenated: m.
        rows: R.
        buckets: B.
        seed: of the draw.
    """

    dimension: int
    width: float
    concatenated: int = 8
    rows: int = SKETCH_ROWS
    buckets: int = SKETCH_BUCKETS
    seed: int = 0

    @cached_property
    def _directions(self) -> np.ndarray:
        """Integer-valued float64 [D, R * m]."""
        shape = (self.dimension, self.rows * self.concatenated)
        counter = np.arange(shape[0] * shape[1], dtype=np.uint64)
        radius = np.sqrt(-2 * np.log(uniform(counter, 3 * self.seed)))
        normal = radius * np.cos(2 * np.pi * uniform(counter, 3 * self.seed + 1))  # Box-Muller
        return np.rint(normal * _DIRECTION_UNIT).reshape(shape)

    def codes(self, embedding_ND: np.ndarray) -> np.ndarray:
        """Bucket of every embedding in every row, int32 [R, N]."""
        columns = [self._tile_codes(part) for part in _tiles(embedding_ND)]
        return np.concatenate(columns, axis=1) if columns else np.empty((self.rows, 0), np.int32)

    def _tile_codes(self, embedding_ND: np.ndarray) -> np.ndarray:
        whole = np.rint(embedding_ND.astype(np.float64) * _EMBEDDING_UNIT)
        cell = self.width * _EMBEDDING_UNIT * _DIRECTION_UNIT
        row = np.arange(self.rows, dtype=np.uint64)
        folded = np.zeros((len(whole), self.rows), dtype=np.uint64)
        for m in range(self.concatenated):
            columns = slice(m * self.rows, (m + 1) * self.rows)
            shift = uniform(row + np.uint64(m * self.rows), 3 * self.seed + 2) * cell
            hashed = np.floor((whole @ self._directions[:, columns] + shift) / cell).astype(np.int64)
            folded = mix(folded ^ hashed.astype(np.uint64), m)
        return (folded % np.uint64(self.buckets)).astype(np.int32).T

    def collision(self, distance: float) -> float:
        """The kernel p(c)^m: what a document at this distance adds to the density (Datar et al. 2004, Sec. 3.2)."""
        if distance == 0:
            return 1.0
        r = self.width / distance
        below = 0.5 * (1 + erf(-r / sqrt(2)))
        single = 1 - 2 * below - 2 / (sqrt(2 * pi) * r) * (1 - exp(-r * r / 2))
        return max(single, 0.0) ** self.concatenated


def empty_counts(hash: SketchHash) -> np.ndarray:
    """The sketch of no documents, int32 [R, B]."""
    return np.zeros((hash.rows, hash.buckets), dtype=np.int32)


def add(counts_RB: np.ndarray, hash: SketchHash, embedding_ND: np.ndarray) -> None:
    """Count embeddings into a sketch, in place."""
    for part in _tiles(embedding_ND):
        for row, code in zip(counts_RB, hash.codes(part), strict=True):
            row += np.bincount(code, minlength=hash.buckets).astype(np.int32)


def density(counts_RB: np.ndarray, documents: int, hash: SketchHash, embedding_ND: np.ndarray) -> np.ndarray:
    """Kernel sum over all sketched documents at each embedding, float64 [N].

    The mean count, less what folding into B buckets adds by chance: (S - N / B) / (1 - 1 / B). A sketched document
    counts itself, so the sum is at least 1; the estimate is cut off there.
    """
    rows = np.arange(hash.rows)[:, None]
    parts = [counts_RB[rows, hash.codes(part)].mean(axis=0) for part in _tiles(embedding_ND)]
    mean = np.concatenate(parts) if parts else np.empty(0)
    return np.maximum((mean - documents / hash.buckets) / (1 - 1 / hash.buckets), 1.0)


def suggest_width(embedding_ND: np.ndarray, documents: int, hash: SketchHash) -> float:
    """The width at which a corpus of documents at the median distance would weigh as much as the document itself.

    Takes a sample of embeddings (N of the order of 1,000) and solves documents * p(median pairwise distance)^m = 1 by
    bisection. Far below it every density is 1, far above it all tend to the same number. The median, because a few
    pairs of copies would decide the mean.
    """
    e = embedding_ND.astype(np.float64)
    square = np.maximum(2 - 2 * (e @ e.T), 0)[np.triu_indices(len(e), k=1)]
    distance = float(np.sqrt(np.median(square)))
    low, high = 1e-3, 16.0
    for _ in range(40):
        middle = sqrt(low * high)
        trial = replace(hash, width=middle)
        low, high = (low, middle) if documents * trial.collision(distance) > 1 else (middle, high)
    return round(low, 4)


def _tiles(embedding_ND: np.ndarray) -> list[np.ndarray]:
    return [embedding_ND[start : start + _TILE] for start in range(0, len(embedding_ND), _TILE)]
