"""`winnow select` over a corpus of many small .zst files, against datatrove's reader and writer alone.

    python tests/benchmarks/bench_small_files.py --files 500 --documents 200

The baseline reads every document and writes it as Parquet, in one process. winnow scores the corpus (a draw by
chance), cuts it, writes the kept rows and publishes them, with one worker. CPU seconds are those of all processes; a
second select, of ten documents, says what starting them takes. Prints one JSON line; ratios are winnow by datatrove.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import zstandard


WORDS = [f"word{number}" for number in range(5000)]

BASELINE = """
import sys
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import ParquetWriter
corpus, output = sys.argv[1:]
pipeline = [JsonlReader(corpus), ParquetWriter(output, compression="zstd")]
LocalPipelineExecutor(pipeline, logging_dir=f"{output}-logs").run()
"""


def write_corpus(folder, files, documents, words):
    folder.mkdir()
    draw, pack = random.Random(0), zstandard.ZstdCompressor().compress
    for file in range(files):
        rows = (
            {"id": f"{file}-{number}", "text": " ".join(draw.choices(WORDS, k=words)), "url": f"https://h/{number}"}
            for number in range(documents)
        )
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{file:06}.jsonl.zst").write_bytes(pack(lines.encode()))


def measured(*command):
    """Wall and CPU seconds of a command and of all that it starts."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": round(time.perf_counter() - start, 2), "cpu": round(cpu, 2)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--documents", type=int, default=200, help="of each file")
    parser.add_argument("--words", type=int, default=250, help="of each document")
    parser.add_argument("--rate", type=float, default=0.5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_corpus(folder / "corpus", args.files, args.documents, args.words)
        write_corpus(folder / "tiny", 2, 5, args.words)
        select = [sys.executable, "-m", "launch", "select", "--sampler", "random", "--workers", "1"]
        select += ["--rate", str(args.rate)]
        found = {
            "files": args.files,
            "documents": args.files * args.documents,
            "datatrove": measured(sys.executable, "-c", BASELINE, str(folder / "corpus"), str(folder / "copy")),
            "winnow": measured(*select, "--corpus", str(folder / "corpus"), "--output", str(folder / "kept")),
            "winnow, ten documents": measured(
                *select, "--corpus", str(folder / "tiny"), "--output", str(folder / "ten")
            ),
        }
    for kind in ("wall", "cpu"):
        found[f"ratio, {kind}"] = round(found["winnow"][kind] / found["datatrove"][kind], 2)
        above = found["winnow"][kind] - found["winnow, ten documents"][kind]
        found[f"ratio without the start, {kind}"] = round(above / found["datatrove"][kind], 2)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
