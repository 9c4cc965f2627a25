"""A Selection: how often to train on each document of a corpus, in corpus order, and what that covers.

It is one safetensors file (a bitmap, or a bit plane for each bit of the counts, and as metadata how it was made), so
that a hundred selections of a corpus cost a hundred bits per document instead of a hundred copies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import xxhash

from pipeline_steps.engines.models import require
from pipeline_steps.errors import InvalidCut, StoreMismatch
from pipeline_steps.numerics.keys import keys_digest, mix
from pipeline_steps.numerics.statistics import attainable_entropy, discrepancy, entropy
from pipeline_steps.stores.files import load_tensors, save_tensors
from pipeline_steps.stores.score_store import ScoreStore
from pipeline_steps.stores.source_store import SourceStore


_SAMPLE = 20_000  # documents of the selection, and of the corpus, that are compared: 40 MB of codes


@dataclass(frozen=True, eq=False)
class Selection:
    """Documents kept, in corpus order (source files sorted by name, documents as they stand in them).

    Attributes:
        counts: uint8 [N], how often each document is kept; bool [N] is taken too.
        corpus_digest: `keys_digest` of all N document keys in corpus order.
        cut: how it was made, as JSON types.

    Raises:
        InvalidCut: a count is not from 0 to 255.
    """

    counts: np.ndarray
    corpus_digest: str
    cut: dict[str, Any]

    def __post_init__(self) -> None:
        counts = self.counts.view(np.uint8) if self.counts.dtype == bool else self.counts.astype(np.uint8, copy=False)
        if counts.dtype != self.counts.dtype != bool and not np.array_equal(counts, self.counts):
            raise InvalidCut("a selection keeps a document from 0 to 255 times: some counts are not such numbers")
        object.__setattr__(self, "counts", counts)

    @cached_property
    def most(self) -> int:
        """How often the document that is kept most often is kept."""
        return int(self.counts.max(initial=0))

    @property
    def mask(self) -> np.ndarray:
        """Return which documents are kept, bool [N]; not to be written to."""
        return self.counts.view(bool) if self.most <= 1 else self.counts > 0

    @cached_property
    def documents(self) -> int:
        """How many documents are kept, each counted once."""
        return int(np.count_nonzero(self.counts))

    @cached_property
    def copies(self) -> int:
        """How many documents are kept, each counted as often as it is."""
        return int(self.counts.sum(dtype=np.int64))

    def planes(self) -> dict[str, np.ndarray]:
        """Return the bits of the counts as packed bitmaps by name: "bitmap" if none is above 1, else bit0, bit1 …"""
        if self.most <= 1:
            return {"bitmap": np.packbits(self.counts)}
        packed = {f"bit{bit}": np.packbits(self.counts & np.uint8(1 << bit)) for bit in range(8)}
        return {name: plane for name, plane in packed.items() if plane.any()}

    @property
    def counts_digest(self) -> str:
        """Return the digest of the counts."""
        planes = self.planes()
        names = [] if "bitmap" in planes else [" ".join(planes).encode()]
        return xxhash.xxh3_128_hexdigest(b"".join([*names, *(plane.tobytes() for plane in planes.values())]))

    def save(self, path: str) -> None:
        """Write to `path` (any fsspec path) in one atomic step."""
        header = {"corpus_digest": self.corpus_digest, "corpus_documents": self.counts.size, "cut": self.cut}
        save_tensors(path, self.planes(), header)

    @classmethod
    def load(cls, path: str) -> Selection:
        """Read a file written by `save`. Raises StoreIncomplete, StoreDamaged or StoreMismatch if it is not that."""
        missing = f"there is no {path}: write it with select(store, cut).save({path!r})"
        tensors, header, _ = load_tensors(path, missing)
        bits = {"bitmap": 0} | {f"bit{bit}": bit for bit in range(8)}
        if not tensors or not tensors.keys() <= bits.keys():
            raise StoreMismatch(f"{path} is not a selection: it holds {', '.join(tensors)}")
        counts: Any = 0
        for name, plane in tensors.items():
            unpacked = np.unpackbits(plane, count=header["corpus_documents"])
            unpacked <<= np.uint8(bits[name])
            unpacked |= counts
            counts = unpacked
        return cls(counts, header["corpus_digest"], header["cut"])

    def in_order(self, corpus_digest: str, keys: Callable[[], np.ndarray], corpus: str) -> Selection:
        """Return the same selection in the order of a corpus.

        Scores of documents whose files were unknown are in order of keys, and so are selections made of them.

        Args:
            corpus_digest: `keys_digest` of the corpus.
            keys: returns its keys, uint64 [N].
            corpus: what errors call it.

        Raises:
            StoreMismatch: the selection was made for another corpus.
        """
        if corpus_digest == self.corpus_digest:
            return self
        key_N = keys()
        order = np.argsort(key_N, kind="stable")
        if keys_digest(key_N[order]) != self.corpus_digest:
            self.check_corpus(corpus_digest, corpus)
        counts = np.empty_like(self.counts)
        counts[order] = self.counts
        return Selection(counts, corpus_digest, self.cut)

    def check_corpus(self, corpus_digest: str, corpus: str) -> None:
        """Raise StoreMismatch unless the selection was made for the corpus with this digest."""
        if corpus_digest != self.corpus_digest:
            raise StoreMismatch(
                f"the selection was made for a corpus with digest {self.corpus_digest}, but {corpus} has "
                f"{corpus_digest}: select again from scores of this corpus"
            )


@dataclass(frozen=True)
class Coverage:
    """What one selection covers, and how good it is: the two axes of the paper's trade-off (Fig. 2)."""

    documents: int  # how many it keeps, each counted once
    clusters: int  # how many clusters it keeps any of
    entropy: float  # of its documents over the clusters, in nats; here and below, copies count
    attainable: float  # the largest entropy of so many documents of this corpus, each as often as the most frequent
    to_corpus: float  # kernel discrepancy to the corpus; low = a fair sample
    to_uniform: float  # kernel discrepancy to the corpus weighted by 1 / density; low = even over what there is
    quality: float | None = None  # mean score of the documents kept; None without quality scores
    corpus_quality: float | None = None  # mean score of all documents
    copies: int = 0  # how many it keeps, each counted as often as it is kept


def coverage(
    selection: Selection, clusters: str, embeddings: str, density: str, quality: str | None = None, seed: int = 0
) -> Coverage:
    """Measure a selection. Discrepancies are of samples of up to 20,000 documents, the rest is exact.

    Args:
        selection: of the corpus that all stores are of.
        clusters: folder KMeansAssign wrote to.
        embeddings: folder of the embedding store.
        density: folder of a store of DensityScorer, whose kernel is used.
        quality: folder of a score store, e.g. of AskLLMScorer.
        seed: of the samples.

    Raises:
        StoreMismatch: the selection or a store is of other documents, or `density` is not of DensityScorer.
        StoreIncomplete: a store is not finished.
    """
    require("numba", "density")
    from pipeline_steps.numerics.sketch import SketchHash

    assignments, densities = SourceStore(f"{clusters}/assignments"), ScoreStore.open(density)
    vectors, good = SourceStore(embeddings), None if quality is None else ScoreStore.open(quality)
    selection.check_corpus(assignments.corpus_digest, clusters)
    for other in filter(None, (densities, vectors, good)):
        assignments.check_same_corpus(other)
    if densities.made.get("scorer") != "DensityScorer":
        raise StoreMismatch(f"{density} was made by {densities.made.get('scorer')}, not by DensityScorer")
    counts, cluster = selection.counts, assignments.column("cluster").astype(np.int64)
    size_K = np.bincount(cluster)
    kept_K = np.bincount(cluster, counts, minlength=size_K.size).astype(np.int64)
    kept, every = (_sample(rows, seed) for rows in (np.flatnonzero(counts), np.arange(counts.size)))
    rows = np.union1d(kept, every)
    code_RN = SketchHash(**densities.made["hash"]).codes(_read_rows(vectors, rows))
    among_kept, among_all = np.isin(rows, kept) * counts[rows].astype(float), np.isin(rows, every).astype(float)
    even = among_all * np.exp(-densities.scores[rows].astype(float))
    scores = None if good is None else good.scores
    return Coverage(
        documents=selection.documents,
        clusters=int((kept_K > 0).sum()),
        entropy=entropy(kept_K),
        attainable=attainable_entropy(size_K * max(selection.most, 1), selection.copies),
        to_corpus=discrepancy(code_RN, among_kept, among_all),
        to_uniform=discrepancy(code_RN, among_kept, even),
        quality=None if scores is None else float(np.repeat(scores, counts).mean(dtype=float)),
        corpus_quality=None if scores is None else float(scores.mean(dtype=float)),
        copies=selection.copies,
    )


def _sample(rows: np.ndarray, seed: int) -> np.ndarray:
    return np.sort(rows[np.argsort(mix(rows.astype(np.uint64), seed))[:_SAMPLE]])


def _read_rows(store: SourceStore, rows: np.ndarray) -> np.ndarray:
    """Return the embeddings of some rows, in corpus order."""
    parts, start = [], 0
    for source, size in store.sources.items():
        own = rows[slice(*np.searchsorted(rows, [start, start + size]))]
        if own.size:
            parts.append(store.read(source, ["embedding"])["embedding"][own - start])
        start += size
    return np.concatenate(parts)
