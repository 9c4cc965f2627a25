"""How fast embeddings are counted into a density sketch and looked up, beside the matrix product it would take.

    python tests/benchmarks/bench_density.py [--embeddings 200000] [--kmeans] [--stream 10000000]

Times are microseconds an embedding, the best of three runs in turn, all threads. "m" hashes are put together in each
of 1,000 rows. Peers project with dense normal directions in float32 and count with NumPy or torch. --kmeans times one
iteration of faiss's k-means with 10,000 clusters; --stream shows that memory does not grow.
"""

import argparse
import json
import resource
import time

import numpy as np
import torch
from scipy.stats import spearmanr

from pipeline_steps.engines.models import own_threads
from pipeline_steps.numerics.random_projections import padded
from pipeline_steps.numerics.sketch import SketchHash, add, density, empty_counts


DIMENSION, ROWS, BUCKETS, TILE, ROUNDS = 768, 1000, 20_000, 16_384, 3
C4 = 364_000_000  # documents, paper App. A.2


def unit_vectors(count, seed=0):
    """Clusters of many sizes around a common direction, as text embeddings have them; float16."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(1000, DIMENSION)).astype(np.float32) + 0.7
    member = (rng.random(count) ** 3 * 1000).astype(int)
    found = np.empty((count, DIMENSION), dtype=np.float16)
    for start in range(0, count, TILE):
        part = member[start : start + TILE]
        x = centres[part] + 1.5 * rng.standard_normal((len(part), DIMENSION), dtype=np.float32)
        found[start : start + TILE] = x / np.linalg.norm(x, axis=1, keepdims=True)
    return found


class Dense:
    """What one would write: a float32 product, floor, remainder, count."""

    def __init__(self, width):
        generator = torch.Generator().manual_seed(0)
        self.directions = torch.randn(DIMENSION, ROWS, generator=generator)
        self.shift = torch.rand(ROWS, generator=generator) * width
        self.width, self.row = width, torch.arange(ROWS) * BUCKETS
        self.counts = torch.zeros(ROWS * BUCKETS, dtype=torch.int32)

    def project(self, x):
        for start in range(0, len(x), TILE):
            yield torch.from_numpy(x[start : start + TILE]).float() @ self.directions

    def codes(self, x):
        for projected in self.project(x):
            yield ((projected + self.shift) / self.width).floor_().long().remainder_(BUCKETS) + self.row

    def bincount(self, x):
        for codes in self.codes(x):
            self.counts += torch.bincount(codes.flatten(), minlength=self.counts.numel()).int()

    def add_at(self, x):
        counts = self.counts.numpy()
        for codes in self.codes(x):
            np.add.at(counts, codes.numpy().ravel(), 1)


def float64_scores(x, hash, queries):
    """Density by the same directions and folding, projected in float64 without rounding to a grid."""
    p, n = hash.projections, padded(hash.dimension)
    hadamard = np.ones((1, 1))
    while len(hadamard) < n:
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
    flat_DN = hadamard[:DIMENSION] * p.first[:DIMENSION, None] / n**0.5
    hashed = np.zeros((len(x), ROWS), dtype=np.uint64)
    for m in range(hash.concatenated):
        projected = x.astype(np.float64) @ ((flat_DN * p.second[m]) @ hadamard)[:, :ROWS]
        cell = (
            np.floor(projected / hash.width + p.offset[m, :ROWS] / 2.0**p.bits)
            if hash.width
            else np.minimum(np.sign(projected), 0)
        )
        hashed += cell.astype(np.int64).astype(np.uint64) * p.factor[m, :ROWS]
    h = hashed & 0xFFFFFFFF
    for times, down in ((0x85EBCA6B, 16), (0xC2B2AE35, 13)):
        h = ((h ^ (h >> np.uint64(down))) * np.uint64(times)) & np.uint64(0xFFFFFFFF)
    code_NR = ((h ^ (h >> np.uint64(16))) * np.uint64(BUCKETS)) >> np.uint64(32)
    total = np.zeros(len(queries))
    for code_N in code_NR.T:
        total += np.bincount(code_N.astype(np.int64), minlength=BUCKETS)[code_N[queries].astype(np.int64)]
    return total / ROWS


def best(jobs, count):
    """Microseconds an embedding of each job, the best of some rounds in turn."""
    times = {name: [] for name in jobs}
    for _ in range(ROUNDS):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            times[name].append((time.perf_counter() - start) / count * 1e6)
    return {name: min(values) for name, values in times.items()}


def bench(count):
    x, threads = unit_vectors(count), own_threads()
    hashes = {"m=1, p-stable": SketchHash(DIMENSION, 1, 0.3), "m=8, p-stable": SketchHash(DIMENSION, 8, 1.3)}
    hashes["m=14, angular"] = SketchHash(DIMENSION, 14)
    counts = {name: empty_counts(hash) for name, hash in hashes.items()}
    dense, few = Dense(0.3), x[: 2 * TILE]
    for name, hash in hashes.items():  # compile, and draw the directions
        add(counts[name], hash, few[:32], threads)
        density(counts[name], 32, hash, few[:32], threads)
    jobs = {"float32 product": lambda: [0 for _ in dense.project(x)], "torch.bincount": lambda: dense.bincount(few)}
    jobs["numpy.add.at"] = lambda: dense.add_at(few)
    for name, hash in hashes.items():
        jobs[f"update, {name}"] = lambda name=name, hash=hash: add(counts[name], hash, x, threads)
        jobs[f"query, {name}"] = lambda name=name, hash=hash: density(counts[name], count, hash, x, threads)
    times = best(jobs, count)
    for name in ("torch.bincount", "numpy.add.at"):
        times[name] *= count / len(few)
    for name, value in times.items():
        line = {"what": name, "us": round(value, 2)}
        line |= {f"x {peer}": round(times[peer] / value, 1) for peer in list(jobs)[:3]}
        if name.startswith("update"):
            m = int(name.split("m=")[1].split(",")[0])
            line["x float32 product of as many projections"] = round(times["float32 product"] * m / value, 1)
            seconds = (value + times[name.replace("update", "query")]) / 1e6 * C4
            line["C4, both passes, core-hours"] = round(seconds * threads / 3600, 1)
        print(json.dumps(line), flush=True)
    sample = x[:: max(1, count // 10_000)]
    queries = np.arange(0, len(sample), 10)
    for name, hash in hashes.items():
        own = empty_counts(hash)
        add(own, hash, sample, threads)
        ours = density(own, len(sample), hash, sample[queries], threads)[0]
        rank = spearmanr(ours, float64_scores(sample, hash, queries)).statistic
        print(json.dumps({"what": f"Spearman with float64 codes, {name}", "value": round(float(rank), 4)}), flush=True)
    return times


def bench_kmeans(count, both_passes):
    import faiss

    x = unit_vectors(count).astype(np.float32)
    kmeans = faiss.Kmeans(DIMENSION, 10_000, niter=1, spherical=True, min_points_per_centroid=1)
    start = time.perf_counter()
    kmeans.train(x)
    each = (time.perf_counter() - start) / count * 1e6
    line = {"what": "faiss k-means, 10,000 clusters, one iteration", "us": round(each, 1)}
    line["20 iterations over both density passes"] = round(20 * each / both_passes, 1)
    print(json.dumps(line), flush=True)


def bench_stream(most):
    """Peak memory while a stream of embeddings is counted and looked up."""
    hash, tile, threads = SketchHash(DIMENSION, 1, 0.3), unit_vectors(TILE), own_threads()
    counts, seen = empty_counts(hash), 0
    for size in (10**5, 10**6, 10**7):
        if size > most:
            break
        while seen < size:
            add(counts, hash, np.roll(tile, seen // TILE, axis=1), threads)
            seen += TILE
        density(counts, seen, hash, tile, threads)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"what": f"peak memory after {size:,} embeddings, MB", "value": round(peak)}), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embeddings", type=int, default=200_000)
    parser.add_argument("--kmeans", action="store_true")
    parser.add_argument("--stream", type=int, default=0, help="embeddings to stream through (100,000 or more)")
    args = parser.parse_args()
    bench_stream(args.stream)
    times = bench(args.embeddings)
    if args.kmeans:
        bench_kmeans(min(args.embeddings, 50_000), times["update, m=14, angular"] + times["query, m=14, angular"])


if __name__ == "__main__":
    main()
