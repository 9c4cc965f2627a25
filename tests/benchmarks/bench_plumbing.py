"""What a scorer and a filter add to datatrove's own work, in microseconds per document.

    python tests/benchmarks/bench_plumbing.py

The scorer returns a constant: what is left is keys, windows, digests, the store and the metadata. Against datatrove's
JsonlReader, and its LambdaFilter as the least a filter can do, in turns in one process. Prints one JSON line (minimum
over rounds; process CPU).
"""

import json
import tempfile
import time
from pathlib import Path

from datatrove.pipeline.filters import LambdaFilter
from datatrove.pipeline.readers import JsonlReader
from datatrove.utils.logging import logger

from pipeline_steps import BaseScorer, TopKFilter


DOCUMENTS, FILES, WORDS, ROUNDS = 50_000, 5, 250, 5


class Constant(BaseScorer):
    """Scores without work."""

    name = "constant"

    def __init__(self, scores):
        super().__init__(scores, "constant")

    def fingerprint(self):
        return {"scorer": "Constant"}

    def score(self, docs):
        return [1.0] * len(docs)


def per_document(corpus, *steps):
    """CPU microseconds per document of a reader and some steps."""
    start = time.process_time()
    docs = JsonlReader(corpus).run()
    for step in steps:
        docs = step.run(docs)
    for _ in docs:
        pass
    return (time.process_time() - start) / DOCUMENTS * 1e6


def main():
    logger.remove()
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for file in range(FILES):
            rows = ({"id": f"{file}-{i}", "text": f"word{i} " * WORDS} for i in range(DOCUMENTS // FILES))
            (corpus / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        jobs = {"reader": [], "scorer": [], "scorer, stored": [], "filter": [], "lambda filter": []}
        for number in range(ROUNDS):
            scores = f"{folder}/scores-{number}"
            jobs["reader"].append(per_document(str(corpus)))
            jobs["scorer"].append(per_document(str(corpus), Constant(scores)))
            jobs["scorer, stored"].append(per_document(str(corpus), Constant(scores)))
            jobs["filter"].append(per_document(str(corpus), TopKFilter(scores, rate=0.5)))
            jobs["lambda filter"].append(per_document(str(corpus), LambdaFilter(lambda doc: True)))
    reader = min(jobs.pop("reader"))
    added = {f"{name} adds": round(min(times) - reader, 2) for name, times in jobs.items()}
    print(json.dumps({"unit": "us/document", "reader": round(reader, 2), **added}))


if __name__ == "__main__":
    main()
