"""ContaminationScorer against datatrove's NGramsDecontFilter: documents a second on one core, and who is found.

    python tests/benchmarks/bench_contamination.py [--corpus FILE.jsonl.gz ...] [--tasks NAME ... --data-root DIR]

Without arguments, 500 made-up documents of 300 words, of which one in ten holds one of 2,000 made-up questions. Both
look for the same runs of words. datatrove's filter has a hash of SHA-1, as that of its default fails on xxhash 4, and
numbers as they stand; it is measured on the first --peer documents of each corpus, in turns with the scorer, process
CPU, the best of --rounds. Documents on which the two differ are those whose words spaCy splits further than white
space does. Prints JSON lines.
"""

import argparse
import gzip
import json
import tempfile
import time
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.decont import NGramsDecontFilter
from datatrove.pipeline.decont.n_grams import NGramsDecontConfig
from datatrove.utils.hashing import HashConfig, create_hash_func
from datatrove.utils.logging import logger
from datatrove.utils.text import TextNormConfig, ngrams

from pipeline_steps import ContaminationScorer, EvaluationIndex
from pipeline_steps.scorers.contamination import USUAL_WORDS, load_index, normalised_words


CONFIG = NGramsDecontConfig(norm_config=TextNormConfig(norm_numbers=False), hash_config=HashConfig(hash_fc="sha1"))


def made_up():
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghijklmnop"), size=size)) for size in rng.integers(2, 10, 20_000)]
    questions = [" ".join(rng.choice(words, 20)) + "?" for _ in range(2_000)]
    texts = [" ".join(rng.choice(words, 280)) + "." for _ in range(500)]
    texts[::10] = [f"{text} {question}" for text, question in zip(texts[::10], questions, strict=False)]
    return texts, [Document(question, str(n)) for n, question in enumerate(questions)]


def read(path):
    with gzip.open(path, "rt") if path.endswith(".gz") else open(path) as lines:
        return [json.loads(line)["text"] for line in lines]


def their_index(folder, items):
    """An index in datatrove's format of the same runs of words."""
    hashed, hashes = create_hash_func(CONFIG.hash_config), set()
    for item in items:
        question, answer = normalised_words(item.text), normalised_words(item.metadata.get("answer", ""))
        runs = islice(ngrams([*question, *answer], USUAL_WORDS), len(question))
        hashes |= set(map(hashed, map(" ".join, runs)))
    np.array(sorted(hashes), dtype=np.uint64).tofile(f"{folder}/items.index.hashes")


def timed(function, *given):
    begun = time.process_time()
    found = function(*given)
    return found, time.process_time() - begun


def measure(name, texts, scorer, peer, arguments):
    docs = [Document(text, str(number)) for number, text in enumerate(texts)]
    some = docs[: arguments.peer]
    ours, theirs = [], []
    for _ in range(arguments.rounds):
        columns, seconds = timed(scorer.score, some)
        ours.append(seconds)
        dropped, seconds = timed(lambda: [peer.filter(doc) is not True for doc in some])
        theirs.append(seconds)
    differ = int((np.array(dropped) != (columns["score"] > 0)).sum())
    columns, seconds = timed(scorer.score, docs)
    found = columns["score"] > 0
    sets = Counter(name for names in columns["evaluations"] for name in names.split())
    return {
        "corpus": name,
        "documents": len(docs),
        "words": int(columns["tokens"].sum()),
        "contaminated": int(found.sum()),
        "by 2 runs of words or more": int((columns["score"] > 1).sum()),
        "by set": dict(sets.most_common(12)),
        "documents_per_second": round(len(docs) / seconds),
        "words_per_second": round(int(columns["tokens"].sum()) / seconds),
        "times as fast as NGramsDecontFilter": round(min(theirs) / min(ours), 1),
        "of which compared": len(some),
        "differ": differ,
        "dropped by NGramsDecontFilter": int(sum(dropped)),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", nargs="+", default=[])
    parser.add_argument("--tasks", nargs="+", default=[])
    parser.add_argument("--data-root")
    parser.add_argument("--peer", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    logger.remove()
    texts, items = made_up()
    if arguments.tasks:
        from evaluate_suite.items import EvaluationItems

        items = list(EvaluationItems(arguments.tasks, arguments.data_root).run())
    corpora = {Path(path).parent.name: read(path) for path in arguments.corpus} or {"made up": texts}
    with tempfile.TemporaryDirectory() as folder:
        _, seconds = timed(lambda: list(EvaluationIndex(folder).run(iter(items))))
        header = load_index(folder).header["evaluations"]
        counted = [sum(one) for one in zip(*header.values(), strict=True)]
        print(json.dumps({"items": counted[0], "of which long enough": counted[1], "seconds": round(seconds, 1)}))
        their_index(folder, items)
        scorer, peer = ContaminationScorer(f"{folder}/unused", folder), NGramsDecontFilter(folder, CONFIG)
        scorer.score([Document("warm", "w")]), peer.filter(Document("warm", "w"))
        for name, some in corpora.items():
            print(json.dumps(measure(name, some, scorer, peer, arguments)))


if __name__ == "__main__":
    main()
