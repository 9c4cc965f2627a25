"""Rows a second: span corruption alone and the whole path from a sample's index, beside nanoT5's collator.

    git clone https://github.com/PiotrNawrot/nanoT5
    python tests/benchmarks/bench_replay.py --nanot5 nanoT5 [--documents 200000] [--sources 64]

Batches of 128 windows of 568 tokens, inputs of 512, one thread, minimum over turns of 20 batches each. The peer is
given windows that are already in memory, as lists (what a dataset's rows are) and as arrays; ours also finds the
windows in the token store of a random tenth of a corpus. Without --nanot5, a collator of our own that works row by
row stands in. Prints JSON lines.
"""

import argparse
import ast
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import BatchEncoding

from pipeline_steps.numerics.keys import keys_digest
from pipeline_steps.stores.artefact import Artefact
from pipeline_steps.stores.selection import Selection
from train.folders import SealedFolder
from train.objectives import SpanCorruption
from train.replay import Replay
from train.token_store import TokenStore, entry_of


BATCH, ROUNDS, TURNS = 128, 20, 5
VOCABULARY, FIRST_SENTINEL = 32_000, 32_099


def random_parts(total, parts, rng):
    """Lengths of `parts` spans of `total` tokens: shuffled cut marks, as in T5."""
    marks = np.arange(total - 1) < parts - 1
    rng.shuffle(marks)
    starts = np.concatenate([[0], marks.astype(np.int64)])
    return np.bincount(np.cumsum(starts), minlength=parts)


def row_mask(corruption, rng):
    """Bool mask of one window, True where tokens are dropped."""
    dropped = random_parts(corruption.noise_tokens, corruption.spans, rng)
    kept = random_parts(corruption.raw_length - corruption.noise_tokens, corruption.spans, rng)
    lengths = np.stack([kept, dropped], axis=1).ravel()
    edges = np.zeros(corruption.raw_length, dtype=np.int8)
    edges[np.cumsum(lengths)[:-1]] = 1
    return np.cumsum(edges) % 2 == 1


def with_sentinels(raw, mask):
    """`raw` with every masked span replaced by one sentinel, and EOS."""
    starts = mask & ~np.concatenate([[False], mask[:-1]])
    sentinels = np.where(starts, FIRST_SENTINEL + 1 - np.cumsum(starts), 0)
    return np.append(np.where(starts, sentinels, raw)[~mask | starts], 1)


def by_row(corruption, raw, rng):
    """A batch, one row after the other."""
    rows = [
        (with_sentinels(row, mask), with_sentinels(row, ~mask)) for row in raw for mask in [row_mask(corruption, rng)]
    ]
    return [np.stack(part) for part in zip(*rows, strict=True)]


def nanot5_collator(folder):
    """nanoT5's collator, from a clone of its repository; the file around it cannot be imported as it stands."""
    source = (Path(folder) / "nanoT5" / "utils" / "copied_utils.py").read_text()
    (node,) = [node for node in ast.parse(source).body if getattr(node, "name", "") == "DataCollatorForT5MLM"]
    names = {"AutoTokenizer": object, "BatchEncoding": BatchEncoding, "dataclass": dataclass, "np": np, "torch": torch}
    names |= {"Dict": dict, "List": list}
    exec(compile(ast.Module([node], []), folder, "exec"), names)
    return names["DataCollatorForT5MLM"](Tokenizer(), 0.15, 3.0, 512, 114, 0)


class Tokenizer:
    """What the collator asks of one."""

    eos_token_id = 1

    def __len__(self):
        return FIRST_SENTINEL + 1


def write_store(path, documents, sources):
    """A token store of made-up documents of 490 tokens on average."""
    rng, artefact, entries = np.random.default_rng(0), Artefact(path, ""), {}
    settings = {"tokenizer_sha256": "none", "vocab_size": FIRST_SENTINEL + 1, "sentinels": 100}
    artefact.begin("tokens", settings | {"eos": 1, "append_eos": False}, {"documents": documents})
    tokenizer = Path(path) / "tokenizer"
    tokenizer.mkdir()
    SealedFolder.seal(tokenizer, "meta.json", {"name": "none", "sha256": "none"})
    for number, count in enumerate(np.bincount(np.arange(documents) % sources)):
        part = Path(artefact.part(f"{number:05d}"))
        part.mkdir(parents=True)
        lengths = rng.geometric(1 / 490, count)
        np.save(part / "offsets.npy", np.cumsum([0, *lengths]))
        np.save(part / "keys.npy", key_N := rng.integers(0, 2**64, count, dtype=np.uint64))
        np.save(part / "tokens.npy", rng.integers(3, VOCABULARY, lengths.sum(), dtype=np.uint16))
        facts = {"documents": int(count), "tokens": int(lengths.sum()), "keys": keys_digest(key_N)}
        facts |= {"source": f"{number:05d}", "made": artefact.made_digest}
        entries[f"{number:05d}"] = entry_of(SealedFolder.seal(part, "meta.json", facts))
    artefact.finish(0, 1, entries)
    start = time.perf_counter()
    store = TokenStore.open(path)
    print(json.dumps({"verifying MB": store.tokens * 2 // 10**6, "ms": round((time.perf_counter() - start) * 1e3)}))
    return store


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanot5", help="clone of nanoT5's repository")
    parser.add_argument("--documents", type=int, default=200_000)
    parser.add_argument("--sources", type=int, default=64)
    args = parser.parse_args()
    corruption, rng = SpanCorruption(512, FIRST_SENTINEL), np.random.default_rng(0)
    raw = rng.integers(3, VOCABULARY, (BATCH, corruption.raw_length), dtype=np.int32)
    if args.nanot5:
        collator = nanot5_collator(args.nanot5)
        as_lists, as_arrays = [{"input_ids": row.tolist()} for row in raw], [{"input_ids": row} for row in raw]
        peers = {"nanoT5, lists": lambda _: collator(as_lists), "nanoT5, arrays": lambda _: collator(as_arrays)}
    else:
        peers = {"row by row": lambda _: by_row(corruption, raw, rng)}
    with tempfile.TemporaryDirectory() as folder:
        store = write_store(folder, args.documents, args.sources)
        mask = rng.random(store.documents) < 0.1
        start = time.perf_counter()
        tenth = Replay(store, Selection(mask, store.corpus_digest, {}), corruption.raw_length, 0)
        opened = time.perf_counter() - start
        everything = Replay(store, None, corruption.raw_length, 0)
        paths = {
            "corruption": lambda sample: corruption.rows(raw, sample, 0),
            "index to rows, 100 %": lambda sample: corruption.rows(everything.batch(sample), sample, 0),
            "index to rows, 10 %": lambda sample: corruption.rows(tenth.batch(sample), sample, 0),
        }
        seconds = {name: [] for name in [*peers, *paths]}
        for turn in range(TURNS):
            for name, path in (peers | paths).items():
                for number in range(ROUNDS):
                    sample = np.arange(BATCH) + (turn * ROUNDS + number) * BATCH
                    start = time.perf_counter()
                    path(sample)
                    seconds[name].append(time.perf_counter() - start)
    best = {name: min(times[ROUNDS:]) for name, times in seconds.items()}
    for name, time_ in best.items():
        print(json.dumps({"path": name, "ms": round(time_ * 1e3, 3), "rows_per_second": round(BATCH / time_)}))
    for peer in peers:
        ratios = {name: round(best[peer] / best[name], 1) for name in paths}
        print(json.dumps({"times as fast as": peer} | ratios))
    print(json.dumps({"opening 10 % of documents": args.documents, "ms": round(opened * 1e3, 1)}))


if __name__ == "__main__":
    main()
