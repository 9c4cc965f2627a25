"""Nearest centroids and similarities within a cluster, exact to the last bit.

The inner product of two unit vectors in float16 is a whole number of 2**-48 below 2: float64 holds it, and every
partial sum, without rounding. So the values here do not depend on the order of summation, which is to say on the
batch, the threads and the library. Shapes: N embeddings, D dimensions, K centroids.
"""

from __future__ import annotations

import numpy as np


Array = np.ndarray
_TILE = 2048  # embeddings compared at a time: 80 MB of similarities to 10,000 centroids


def nearest_centroids(embedding_ND: Array, centroid_KD: Array) -> tuple[Array, Array]:
    """Centroid of largest cosine to each unit vector, int32 [N], and that cosine, float32 [N]; of equals the first.

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
    """Cosine of each pair of vectors (float16), float32 [N]."""
    one, other = one_ND.astype(np.float64), other_ND.astype(np.float64)
    norms = np.sqrt((one**2).sum(axis=1)) * np.sqrt((other**2).sum(axis=1))
    return ((one * other).sum(axis=1) / norms).astype(np.float32)


def similarity_to_preferred(embedding_ND: Array) -> Array:
    """Largest cosine of each vector to any before it, float32 [N]; -1 for the first.

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
