"""How much of a perplexity ranking is the luck of the mask: Kendall's tau between two draws of masks.

    python tests/benchmarks/bench_perplexity_masks.py MODEL [--documents 160]

MODEL is a folder of a trained T5, such as the last checkpoint of a `winnow quickstart`. Documents are those of the
installed Python packages. Masks are a function of the document's key, so another id is another draw. Prints one JSON
line an objective.
"""

import argparse
import json

import numpy as np
from datatrove.data import Document
from datatrove.utils.logging import logger
from scipy.stats import kendalltau

from pipeline_steps import InstalledDocsReader, PerplexityScorer


def main():
    logger.remove()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--documents", type=int, default=160)
    args = parser.parse_args()
    texts = [doc.text for doc in InstalledDocsReader().run() if len(doc.text) > 800][:: 1 + 2000 // args.documents]
    texts = texts[: args.documents]
    for objective in ("single_mask", "span_corruption"):
        scorer = PerplexityScorer("unused", args.model, objective=objective)
        draws = [
            np.asarray(scorer.score_batch([Document(text, f"{draw}-{i}") for i, text in enumerate(texts)])["score"])
            for draw in range(2)
        ]
        line = {"objective": objective, "documents": len(texts)}
        line["kendall_tau_between_draws"] = round(float(kendalltau(*draws).statistic), 3)
        line["rms_difference_nats"] = round(float(np.sqrt(np.mean((draws[0] - draws[1]) ** 2))), 3)
        line["sd_between_documents_nats"] = round(float(draws[0].std()), 3)
        print(json.dumps(line))


if __name__ == "__main__":
    main()
