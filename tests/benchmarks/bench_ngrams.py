"""Hashed n-grams against the official DSIR package, and the linear classifier, on one core.

    python tests/benchmarks/bench_ngrams.py [--texts FILE.jsonl.gz ...]

Without --texts, 2,000 made-up texts of 304 words. The package (pip install --no-deps data-selection==1.0.3, with nltk)
is measured where it is installed, and the weights of --texts for a target are compared with its own. In turns in one
process, process CPU, the best of three rounds. DSIR's n-grams are measured from a fresh start, and when a quarter of a
million of them are remembered, as they are for all but the first seconds of a corpus. Prints JSON lines.
"""

import argparse
import gzip
import json
import time
from collections import Counter
from pathlib import Path

import numpy as np
from datatrove.utils.logging import logger

from pipeline_steps.numerics.dsir_ngrams import DSIRNgrams
from pipeline_steps.numerics.ngrams import LinearModel, hashed_ngrams


BUCKETS, ROUNDS = 10_000, 3


def made_up(count):
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghijklmnop"), size=size)) for size in rng.integers(2, 10, 20_000)]
    popularity = 1 / np.arange(1, 20_001)
    popularity /= popularity.sum()
    return [" ".join(rng.choice(words, size=304, p=popularity)) + "." for _ in range(count)]


def read(paths):
    texts = []
    for path in paths:
        with gzip.open(path, "rt") if Path(path).suffix == ".gz" else open(path) as lines:
            texts += [json.loads(line)["text"] for line in lines]
    return texts


def log_ratio(target, raw):
    """DSIR's weights of buckets, and the raw texts' weights."""
    featurise, probabilities = DSIRNgrams(BUCKETS), []
    for texts in (target, raw):
        counts = np.bincount(featurise(texts).bucket, minlength=BUCKETS)
        probabilities.append(counts / counts.sum())
    ratio = np.log(probabilities[0] + 1e-8) - np.log(probabilities[1] + 1e-8)
    return featurise(raw).sums(ratio)


def official_weights(ngram_counts, target, raw):
    """The same by the package's own featuriser."""
    counts = [np.array([ngram_counts(text, num_buckets=BUCKETS) for text in texts]) for texts in (target, raw)]
    target_p, raw_p = (count.sum(axis=0) / count.sum() for count in counts)
    return counts[1] @ (np.log(target_p + 1e-8) - np.log(raw_p + 1e-8))


def main():
    logger.remove()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", nargs="*", default=[])
    parser.add_argument("--target", nargs="*", default=[])
    args = parser.parse_args()
    texts = read(args.texts) or made_up(2_000)
    dsir = DSIRNgrams(BUCKETS)
    classifier = LinearModel(np.random.default_rng(0).normal(size=1 << 20).astype(np.float32), 0.0)
    jobs = {
        "DSIR, started": lambda: dsir(texts),
        "DSIR, fresh": lambda: DSIRNgrams(BUCKETS)(texts),
        "classifier's n-grams": lambda: hashed_ngrams(texts, 1 << 20),
        "classifier": lambda: classifier.predict(hashed_ngrams(texts, 1 << 20)),
    }
    try:
        from data_selection.hashed_ngram_dsir import get_ngram_counts

        jobs["official"] = lambda: [get_ngram_counts(text, num_buckets=BUCKETS) for text in texts]
    except ImportError:
        print(json.dumps({"official": "not installed"}))
    rates = Counter()
    for _ in range(ROUNDS):
        for name, job in jobs.items():
            start = time.process_time()
            job()
            rates[name] = max(rates[name], round(len(texts) / (time.process_time() - start)))
    print(
        json.dumps(
            {"documents_per_s": dict(rates), "words_per_document": round(np.mean([len(t.split()) for t in texts]))}
        )
    )
    target, raw = (read(args.target), texts) if args.target else (texts[::2], texts[1::2])
    if "official" in jobs:
        print(json.dumps({f"{name} / official": round(rates[name] / rates["official"], 1) for name in rates}))
        worst = np.abs(log_ratio(target, raw) - official_weights(get_ngram_counts, target, raw)).max()
        print(json.dumps({"largest difference of log weights": float(worst)}))


if __name__ == "__main__":
    main()
