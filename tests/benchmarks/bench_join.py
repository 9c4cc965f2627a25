"""Annotations joined with a corpus, against polars and pandas on the same files: seconds and peak memory.

    python tests/benchmarks/bench_join.py [--annotations 2000000] [--documents 200000] [--memory 1.5GB] [--only ours]

Annotations are 40 hexadecimal digits and a float32, shuffled, in files of a million; of the documents, one in twenty
has none. Every measurement is a process of its own. Ours reads what JoinKeys wrote, refuses duplicates, and ends with
a sealed score store; the peers end with one Parquet file of a score for each document. Prints JSON lines, at the end
the ratios to ours; each result is compared with the scores that the documents must have.
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


FILE_ROWS, SOURCE_ROWS = 1_000_000, 500_000
ENGINES = ("ours", "polars", "pandas")


def ids(numbers):
    """40 hexadecimal digits for each number, and their scores."""
    from pipeline_steps.numerics.keys import mix

    numbers = np.asarray(numbers, dtype=np.uint64)
    words = np.stack([mix(numbers, seed) for seed in range(3)], axis=1)[:, ::-1].copy()
    digits = words.view(np.uint8).reshape(len(numbers), 24)[:, :20].tobytes().hex()
    return [digits[at : at + 40] for at in range(0, len(digits), 40)], scores(numbers)


def scores(numbers):
    return (np.asarray(numbers, dtype=np.int64) % 100_003 / 1000).astype(np.float32)


def generate(folder, annotations, documents):
    """Annotations 0 ... A in an order that a multiplication shuffles; documents every A / D-th, some beyond A."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pipeline_steps.joins.keys import KIND, SCHEMA, _published, open_keys
    from pipeline_steps.stores.files import file_digest

    (folder / "annotations").mkdir(parents=True)
    step = 611_953 if annotations % 611_953 else 611_957  # a prime
    for start in range(0, annotations, FILE_ROWS):
        numbers = np.arange(start, min(start + FILE_ROWS, annotations)) * step % annotations
        id, score = ids(numbers)
        path = folder / "annotations" / f"{start:012d}.parquet"
        pq.write_table(pa.table({"id": id, "score": score}), path, compression="zstd")
    keys = open_keys(str(folder / "keys"))
    keys.begin(KIND, {"on": "id"}, None)
    keys.announce()
    entries = {}
    for start in range(0, documents, SOURCE_ROWS):
        numbers = np.arange(start, min(start + SOURCE_ROWS, documents))
        id, _ = ids(document_numbers(numbers, annotations, documents))
        source = f"crawl/{start:012d}.jsonl"
        columns = [pa.array([one.encode() for one in id]), numbers.astype(np.uint64), numbers.astype(np.uint32)]
        with _published(keys.part(source)) as path:
            pq.write_table(pa.table(columns, schema=SCHEMA), path, compression="zstd", row_group_size=1 << 15)
        entries[source] = {"documents": len(numbers), "xxh3": file_digest(keys.part(source))}
    keys.finish(0, 1, entries)


def document_numbers(row, annotations, documents):
    return np.where(row % 20 == 0, annotations + row, row * (annotations // documents))


def ours(folder, out, memory):
    from pipeline_steps.joins.scores import JoinScores

    list(
        JoinScores(
            str(out), str(folder / "keys"), str(folder / "annotations"), "score", default=-1, memory=memory
        ).run()
    )


def polars(folder, out, memory):
    import polars as pl

    documents = pl.scan_parquet(folder / "keys/parts").select(pl.col("match").cast(pl.String).alias("id"), "key")
    found = documents.join(pl.scan_parquet(folder / "annotations"), on="id", how="left")
    found.select("key", pl.col("score").fill_null(-1)).sink_parquet(f"{out}.parquet")


def pandas(folder, out, memory):
    import pandas as pd

    documents = pd.read_parquet(folder / "keys/parts", columns=["match", "key"])
    documents["id"] = documents.pop("match").str.decode("utf-8")
    found = documents.merge(pd.read_parquet(folder / "annotations"), on="id", how="left")
    found[["key", "score"]].fillna(-1).to_parquet(f"{out}.parquet")


def wrong(folder, out, annotations, documents):
    """How many documents have another score than they must have."""
    import pyarrow.parquet as pq

    table = pq.read_table(
        f"{out}.parquet" if Path(f"{out}.parquet").exists() else f"{out}/parts", columns=["key", "score"]
    )
    key, score = table.column("key").to_numpy().astype(np.int64), table.column("score").to_numpy()
    number = document_numbers(key, annotations, documents)
    expected = np.where(number < annotations, scores(number), np.float32(-1))
    return int((score != expected).sum()) + abs(len(key) - documents) + len(key) - len(np.unique(key))


def measure(engine, folder, out, memory):
    start = time.perf_counter()
    words = [sys.executable, __file__, "--measured", engine, folder, out, memory]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True)
    wall = time.perf_counter() - start
    if done.returncode:
        return {"engine": engine, "failed": done.stderr.strip().splitlines()[-1:] or done.returncode}
    return {"engine": engine, "wall_s": round(wall, 1), **json.loads(done.stdout.splitlines()[-1])}


def one(engine, folder, out, memory):
    globals()[engine](Path(folder), Path(out), memory)
    used = resource.getrusage(resource.RUSAGE_SELF)
    # ru_maxrss of a child begins at that of its parent, which has made the files
    lines = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    print(json.dumps({"cpu_s": round(used.ru_utime + used.ru_stime, 1), "peak_mb": round(peak / 1024)}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", type=int, default=2_000_000)
    parser.add_argument("--documents", type=int, default=200_000)
    parser.add_argument("--memory", default="1.5GB", help="DuckDB's limit, for ours")
    parser.add_argument("--only", choices=ENGINES, action="append", help="engines to measure; default: all")
    parser.add_argument("--folder", type=Path, help="where the files are made, or are already")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary) / "input"
        if not folder.exists():
            generate(folder, args.annotations, args.documents)
        rows = {}
        for engine in args.only or ENGINES:
            out = Path(temporary) / engine
            rows[engine] = measure(engine, folder, out, args.memory)
            if "failed" not in rows[engine]:
                rows[engine]["wrong"] = wrong(folder, out, args.annotations, args.documents)
            print(json.dumps(rows[engine]), flush=True)
        for engine in rows.keys() - {"ours"} if "wall_s" in rows.get("ours", {}) else ():
            if "wall_s" in rows[engine]:
                ratios = {
                    what: round(rows[engine][what] / rows["ours"][what], 2) for what in ("wall_s", "cpu_s", "peak_mb")
                }
                print(json.dumps({"ratio": f"{engine} / ours", **ratios}))


if __name__ == "__main__":
    one(*sys.argv[2:]) if sys.argv[1:2] == ["--measured"] else main()
