"""How much of a perplexity ranking is the luck of the mask: Kendall's tau between two draws of masks.

    python tests/benchmarks/bench_perplexity_masks.py [MODEL] [--corpus FOLDER] [--documents 160] [--tokens 4194304]

MODEL is a folder of a trained T5. Without one, the smallest preset is trained first, for `--tokens` encoder
positions: ten minutes of one core. The corpus is a folder of .jsonl files or, by default, the documentation of the
installed Python packages; every tenth of its longer documents is held out from training and scored. Masks are a
function of the document's key, so another id is another draw. Prints one JSON line for the training and one an
objective.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.readers import JsonlReader
from datatrove.utils.logging import logger
from scipy.stats import kendalltau

from pipeline_steps import EMBEDDED_PROXY, InstalledDocsReader, PerplexityScorer


CHARACTERS = 800  # shortest document that is scored
INPUT_LENGTH, BATCH_SIZE, WARMUP_STEPS = 512, 8, 100


def split(corpus, count):
    """Documents to train on, and the texts of `count` others to score, evenly spaced over the long ones."""
    docs = list((JsonlReader(corpus) if corpus else InstalledDocsReader()).run())
    every = [row for row, doc in enumerate(docs) if len(doc.text) >= CHARACTERS]
    held_out = set(every[:: max(len(every) // count, 1)][:count])
    texts = {docs[row].text for row in held_out}
    return [doc for doc in docs if doc.text not in texts], [docs[row].text for row in sorted(held_out)]


def train(docs, folder, tokens):
    """Folder of the last checkpoint."""
    from train.token_store_writer import TokenStoreWriter

    for _ in TokenStoreWriter(f"{folder}/tokens", EMBEDDED_PROXY).run(iter(docs)):
        pass
    settings = {
        "tokens": f"{folder}/tokens",
        "run-dir": f"{folder}/run",
        "total-tokens": tokens - tokens % (BATCH_SIZE * INPUT_LENGTH),
        "batch-size": BATCH_SIZE,
        "input-length": INPUT_LENGTH,
        "warmup-steps": WARMUP_STEPS,
        "checkpoints": 1,
        "report-to": "none",
    }
    start = time.perf_counter()
    words = [f"--{name}={value}" for name, value in settings.items()]
    subprocess.run([sys.executable, "-m", "train.pretrain", *words], check=True)
    with open(f"{folder}/run/metrics.jsonl") as metrics:
        last = json.loads(metrics.readlines()[-1])
    print(json.dumps({"trained_s": round(time.perf_counter() - start), "documents": len(docs), "last": last}))
    return f"{folder}/run/checkpoints/step-{settings['total-tokens'] // (BATCH_SIZE * INPUT_LENGTH):08d}"


def measure(model, texts, objective):
    """What two draws of masks have in common."""
    scorer = PerplexityScorer("unused", model, objective=objective)
    start = time.perf_counter()
    draws = []
    for draw in range(2):
        docs = [Document(text, f"{draw}-{i}") for i, text in enumerate(texts)]
        draws.append(np.asarray(scorer.compute(docs, scorer.prepare(docs))["score"]))
    lowest = [set(np.argsort(draw)[: len(texts) // 5]) for draw in draws]
    return {
        "objective": objective,
        "documents": len(texts),
        "kendall_tau_between_draws": round(float(kendalltau(*draws).statistic), 3),
        "lowest_fifth_in_common": round(len(lowest[0] & lowest[1]) / len(lowest[0]), 3),
        "rms_difference_nats": round(float(np.sqrt(np.mean((draws[0] - draws[1]) ** 2))), 3),
        "sd_between_documents_nats": round(float(draws[0].std()), 3),
        "mean_nats": round(float(draws[0].mean()), 3),
        "documents_per_second": round(2 * len(texts) / (time.perf_counter() - start), 1),
    }


def main():
    logger.remove()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--corpus", help="folder of .jsonl files (default: documentation of installed packages)")
    parser.add_argument("--documents", type=int, default=160)
    parser.add_argument("--tokens", type=int, default=2**22, help="encoder positions to train on")
    args = parser.parse_args()
    docs, texts = split(args.corpus, args.documents)
    with tempfile.TemporaryDirectory() as folder:
        model = args.model or train(docs, folder, args.tokens)
        for objective in ("single_mask", "span_corruption"):
            print(json.dumps(measure(model, texts, objective)))


if __name__ == "__main__":
    main()
