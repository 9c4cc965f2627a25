"""Deal a corpus into training and held-out documents, by content alone.

in_distribution  5 % of the documents: what the training text looks like.
high_quality     of another 10 %, those that `is_written_prose`: a rule over words, punctuation and layout that knows
                 nothing of any scorer, so no sampler is graded by its own judge. The rest of the 10 % trains.
train            everything else.

The draw is by a hash of a document's opening words, so copies and near-copies that open alike fall on the same side.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import xxhash
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from pipeline_steps.numerics.keys import uniform


SPLITS = ("train", "in_distribution", "high_quality")
_IN_DISTRIBUTION = 0.05
_HIGH_QUALITY = 0.10
_OPENING_WORDS = 20
_SPLIT_SEED = 0  # fixed: held-out documents must not move between runs that differ in seed

_STOP_WORDS = frozenset(["the", "be", "to", "of", "and", "that", "have", "with"])  # Gopher (Rae et al. 2021), Table A1
_SENTENCE = re.compile(r"[.!?][\"')\]]?(?:\s|$)")


def opening(text: str) -> str:
    """The first words, without case and punctuation: what near-copies share."""
    return " ".join(re.findall(r"\w+", text[:2000].lower())[:_OPENING_WORDS])


def is_written_prose(text: str) -> bool:
    """Whether a text reads as edited prose: Gopher's word rules, and most lines belonging to sentences.

    At least 60 words, of a mean length from 3 to 10 letters, nine in ten of them with a letter in them (Gopher: 80 %),
    at least four of Gopher's eight stop words (Gopher: two), and a sentence for every 8 to 40 words; under one line in
    four a bullet, a prompt, a table row or an indented block. One in ten of the embedded corpus's documents passes,
    three in four of C4's.
    """
    words = text.split()
    if len(words) < 60:
        return False
    mean_length = sum(map(len, words)) / len(words)
    alphabetic = sum(any(map(str.isalpha, word)) for word in words) / len(words)
    stop_words = len(_STOP_WORDS.intersection(word.lower() for word in words))
    words_per_sentence = len(words) / max(len(_SENTENCE.findall(text)), 1)
    lines = [line for line in text.splitlines() if line.strip()]
    odd = sum(line[0].isspace() or line[0] in "-*•+>|=#.:~`@" for line in lines) / len(lines)
    return (
        3 <= mean_length <= 10
        and alphabetic >= 0.9
        and stop_words >= 4
        and 8 <= words_per_sentence <= 40
        and odd < 0.25
    )


def split_of(text: str) -> str:
    """The split a document belongs to."""
    hash = np.array([xxhash.xxh3_64_intdigest(opening(text).encode())], dtype=np.uint64)
    draw = float(uniform(hash, _SPLIT_SEED)[0])
    if draw < _IN_DISTRIBUTION:
        return "in_distribution"
    if draw < _IN_DISTRIBUTION + _HIGH_QUALITY and is_written_prose(text):
        return "high_quality"
    return "train"


class DealDocuments(PipelineStep):
    """Puts `split` and `shard` into the metadata, for a writer with `${split}/${shard}` in its file name.

    With several tasks the shard is the rank; with one task documents go round the shards, so that later steps can
    work on them side by side.

    Args:
        shards: number of shards.
    """

    type = "🃏 - SPLITTER"
    name = "🃏 Deal documents"

    def __init__(self, shards: int) -> None:
        super().__init__()
        self.shards = shards

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Yield every document, labelled."""
        for number, doc in enumerate(data):
            split = split_of(doc.text)
            shard = rank if world_size > 1 else number % self.shards
            doc.metadata |= {"split": split, "shard": f"{shard:02d}"}
            self.stat_update(split)
            yield doc


def as_row(writer: Any, doc: Document) -> dict[str, Any]:
    """Writer adapter: id, text and where it came from; the copy gets a `file_path` of its own when it is read."""
    source = doc.metadata.get("source", doc.metadata.get("file_path", ""))
    return {"id": str(doc.id), "text": doc.text, "metadata": {"source": source}}
