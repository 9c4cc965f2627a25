"""Exact selection from a store of 40M scores, against numpy and polars on the same files; and how it grows.

    python tests/benchmarks/bench_cut.py [--rows 40000000] [--rate 0.2]

Every measurement is a process of its own: CPU seconds and peak resident memory, start and imports included, so that
nothing is hidden; `work` is the CPU of the selection alone. The peers do less: numpy finds the k-th score
(load and partition) but no exact k among equal scores; polars finds the k rows. Both read the score column only
where that is enough. Growth is measured without a disk, on scores made on the fly. Prints JSON lines.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np


SOURCE_ROWS = 356_000  # documents of one of C4's 1,024 files


def write_store(path, rows):
    """A store as a scorer leaves it."""
    import pyarrow as pa

    from pipeline_steps.stores.score_store import SCORE_FIELDS
    from pipeline_steps.stores.source_store import SourceStore

    store = SourceStore(path, pa.schema([pa.field("key", pa.uint64()), *SCORE_FIELDS[1:]]))
    store.begin("scores", {"scorer": "benchmark"}, None)
    rng, sources = np.random.default_rng(0), []
    for start in range(0, rows, SOURCE_ROWS):
        n = min(SOURCE_ROWS, rows - start)
        columns = {
            "key": rng.integers(0, 2**64, n, dtype=np.uint64),
            "score": rng.normal(size=n).astype(np.float32),
            "tokens": rng.integers(1, 2000, n).astype(np.uint32),
        }
        sources.append(f"c4/{start:012d}.json.gz")
        store.seal(sources[-1], columns)
    store.finish_task(0, 1, sources)
    return 0


def ours(mode, **amount):
    def run(path, k):
        from pipeline_steps.filters.cuts import Cut, FoundCut
        from pipeline_steps.stores.score_store import ScoreStore

        wanted = amount or {"k": k}
        start = time.process_time()
        FoundCut(ScoreStore.open(path), Cut(mode, **wanted, seed=time.time_ns()))  # a new seed: no published cut
        return time.process_time() - start

    return run


def numpy_partition(path, k):
    import pyarrow.parquet as pq

    start = time.process_time()
    scores = pq.read_table(f"{path}/parts", columns=["score"]).column("score").to_numpy()
    assert (scores >= np.partition(scores, -k)[-k]).sum() >= k
    return time.process_time() - start


def numpy_keys(path, k):
    import pyarrow.parquet as pq

    start = time.process_time()
    table = pq.read_table(f"{path}/parts", columns=["key", "score"])
    keys = table.column("key").to_numpy()[np.argpartition(table.column("score").to_numpy(), -k)[-k:]]
    assert keys.size == k
    return time.process_time() - start


def polars_top_k(path, k):
    import polars as pl

    start = time.process_time()
    kept = pl.scan_parquet(f"{path}/parts/*.parquet").select("key", "score").top_k(k, by="score").collect()
    assert len(kept) == k
    return time.process_time() - start


def on_the_fly(rows, mode):
    """Rows that are made while they are read: only the arithmetic of a cut, for any number of them.

    "curve" keeps documents up to seven times, and as many copies as there are rows.
    """
    from pipeline_steps.numerics.copies import CopiesByCurve, UpsamplingCurve, shares
    from pipeline_steps.numerics.priority import find_thresholds

    size, rng = 1 << 17, np.random.default_rng(0)
    score, key = rng.normal(size=size).astype(np.float32), rng.integers(0, 2**64, size, dtype=np.uint64)

    def read(columns, wanted):
        for start in range(0, rows, size):
            if wanted is None or ((wanted >= start) & (wanted < start + size)).any():
                made = {"score": score * np.float32(1 + start / rows / 8), "key": key + np.uint64(start)}
                yield start, {name: made[name][: rows - start] for name in columns}

    start = time.process_time()
    if mode == "curve":
        copies = CopiesByCurve(UpsamplingCurve(), "top", 0, shares(read, "top", 0, None, 1))
        (held,) = copies.held(read, None, 1)
        copies.find_thresholds(read, [min(rows, held)])
    else:
        find_thresholds(read, mode, [rows // 5])
    return time.process_time() - start


JOBS = {
    "numpy load and partition": numpy_partition,
    "numpy load, argpartition, keys": numpy_keys,
    "polars top_k": polars_top_k,
    "ours top": ours("top"),
    "ours random": ours("random"),
    "ours ips": ours("ips"),
    "ours poisson": ours("poisson"),
    "ours top, token budget": ours("top", token_budget=10**9),
}


def measure(*arguments):
    """Run one job of this file in a fresh process."""
    out = subprocess.run([sys.executable, __file__, *map(str, arguments)], check=True, capture_output=True, text=True)
    return json.loads(out.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=40_000_000)
    parser.add_argument("--rate", type=float, default=0.2)
    parser.add_argument("--job", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        name, path = args.job
        begun = time.perf_counter()
        if name == "write":  # not in the parent: a child's peak memory starts from its parent's
            work = write_store(path, args.rows)
        else:
            work = on_the_fly(args.rows, path) if name == "fly" else JOBS[name](path, int(args.rate * args.rows))
        usage = resource.getrusage(resource.RUSAGE_SELF)
        cpu, peak = usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
        wall = time.perf_counter() - begun
        print(
            json.dumps({"work_s": round(work, 2), "cpu_s": round(cpu, 2), "wall_s": round(wall, 2), "mb": round(peak)})
        )
        return
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "scores")
        options = ("--rows", args.rows, "--rate", args.rate)
        measure(*options, "--job", "write", path)
        rounds = {name: [measure(*options, "--job", name, path) for _ in range(3)] for name in JOBS}
    best = {name: min(results, key=lambda result: result["cpu_s"]) for name, results in rounds.items()}
    for name, result in best.items():
        print(json.dumps({"job": name, "rows": args.rows, **result}))
    numpy, polars, top = (best[name] for name in ("numpy load and partition", "polars top_k", "ours top"))
    faster = min((numpy, polars), key=lambda result: result["cpu_s"])
    print(json.dumps({f"{q} of the faster peer's": round(top[q] / faster[q], 2) for q in ("work_s", "cpu_s", "mb")}))
    for mode in ("top", "ips", "curve"):
        for rows in (4_000_000, 40_000_000, 400_000_000):
            result = measure("--rows", rows, "--job", "fly", mode)
            print(json.dumps({"on the fly": mode, "rows": rows, **result}))


if __name__ == "__main__":
    main()
