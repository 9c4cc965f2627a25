"""A malformed case: what to write into an empty folder, and the command line to give there."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


Make = Callable[[Path, random.Random], Sequence[str]]
"""Write a case's files into a folder, which is the working directory, and return the words after `winnow`."""


@dataclass(frozen=True)
class Case:
    """One case.

    Attributes:
        kind: what it is counted with.
        name: what is wrong with it.
        make: its input and its command.
    """

    kind: str
    name: str
    make: Make


WORDS = "the crawl holds pages of every kind and we keep those worth reading again for training models".split()


def good_row(number: int) -> dict[str, object]:
    """A row that nothing is wrong with."""
    text = " ".join(WORDS[(number * 5 + step * (1 + number % 3)) % len(WORDS)] for step in range(12))
    return {"id": f"doc-{number}", "text": f"{text} {number}.", "n": number, "about": {"host": f"h{number % 3}"}}


def good_lines(count: int) -> list[bytes]:
    """JSON lines of good rows."""
    return [json.dumps(good_row(number)).encode() + b"\n" for number in range(count)]


def write(path: Path, *parts: bytes) -> Path:
    """Write a file, and its folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(parts))
    return path


def reading_command(rng: random.Random, corpus: str, tokenizer: str) -> list[str]:
    """One of the commands that read a corpus, all of it."""
    workers = ["--workers", str(rng.choice((1, 2))), *rng.choice(([], [], ["--on-bad-row", "skip"]))]
    select = ["select", "--corpus", corpus, "--sampler", "random", "--rate", "0.999", "--output", "out", *workers]
    return rng.choice(
        [
            ["score", "--corpus", corpus, "--sampler", "random", "--output", "out", *workers],
            [*select, "--format", "parquet"],
            [*select, "--format", "jsonl"],
            [*select, "--format", "parquet", "--limit", "1000"],
            ["tokenize", "--corpus", corpus, "--tokenizer", tokenizer, "--output", "out", *workers],
        ]
    )
