"""How many times faster than a collator that works row by row, as most T5 pre-training scripts do.

    python tests/benchmarks/bench_span_corruption.py

Prints one JSON line: milliseconds per batch of 128 windows of 568 tokens (minimum over rounds, both in turns) and
their ratio; one thread.
"""

import json
import time

import numpy as np

from train.span_corruption import SpanCorruption


BATCH, ROUNDS = 128, 60


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


def with_sentinels(raw, mask, first_sentinel):
    """`raw` with every masked span replaced by one sentinel, and EOS."""
    starts = mask & ~np.concatenate([[False], mask[:-1]])
    sentinels = np.where(starts, first_sentinel + 1 - np.cumsum(starts), 0)
    return np.append(np.where(starts, sentinels, raw)[~mask | starts], 1)


def by_row(corruption, raw, rng):
    """A batch, one row after the other."""
    inputs, targets = [], []
    for row in raw:
        mask = row_mask(corruption, rng)
        inputs.append(with_sentinels(row, mask, corruption.first_sentinel))
        targets.append(with_sentinels(row, ~mask, corruption.first_sentinel))
    return np.stack(inputs), np.stack(targets)


def main():
    corruption = SpanCorruption(512, first_sentinel=32_099)
    rng = np.random.default_rng(0)
    raw = rng.integers(2, 32_000, (BATCH, corruption.raw_length), dtype=np.int32)
    seconds = {"by_row": [], "ours": []}
    for number in range(ROUNDS):
        start = time.perf_counter()
        slow = by_row(corruption, raw, rng)
        middle = time.perf_counter()
        fast = corruption.rows(raw, np.arange(BATCH) + number * BATCH, 0)
        seconds["by_row"].append(middle - start)
        seconds["ours"].append(time.perf_counter() - middle)
        assert [part.shape for part in slow] == [part.shape for part in fast]
    slow_ms, fast_ms = (round(1e3 * min(seconds[name]), 3) for name in ("by_row", "ours"))
    print(json.dumps({"by_row_ms": slow_ms, "ours_ms": fast_ms, "ratio": round(slow_ms / fast_ms, 1)}))


if __name__ == "__main__":
    main()
