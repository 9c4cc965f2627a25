"""A Selection: which documents of a corpus to train on, one bit per document in corpus order, and what it covers.

It is one safetensors file (a packed bitmap, and as metadata how it was made), so that a hundred selections of a corpus
cost a hundred bits per document instead of a hundred copies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline_steps.engines.models import require
from pipeline_steps.errors import StoreMismatch
from pipeline_steps.numerics.keys import mix
from pipeline_steps.numerics.statistics import attainable_entropy, discrepancy, entropy
from pipeline_steps.stores.files import load_tensors, save_tensors
from pipeline_steps.stores.score_store import ScoreStore
from pipeline_steps.stores.source_store import SourceStore


_SAMPLE = 20_000  # documents of the selection, and of the corpus, that are compared: 40 MB of codes


@dataclass(frozen=True, eq=False)
class Selection:
    """Documents kept, in corpus order (source files sorted by name, documents as they stand in them)."""

    mask: np.ndarray  # bool [N]; True where the document is kept
    corpus_digest: str  # `keys_digest` of all N document keys in corpus order
    cut: dict[str, Any]  # how it was made, as JSON types

    @property
    def documents(self) -> int:
        """Return how many documents are kept."""
        return int(self.mask.sum())

    def save(self, path: str) -> None:
        """Write to `path` (any fsspec path) in one atomic step."""
        header = {"corpus_digest": self.corpus_digest, "corpus_documents": self.mask.size, "cut": self.cut}
        save_tensors(path, {"bitmap": np.packbits(self.mask)}, header)

    @classmethod
    def load(cls, path: str) -> Selection:
        """Read a file written by `save`. Raises StoreIncomplete, StoreDamaged or StoreMismatch if it is not that."""
        missing = f"there is no {path}: write it with select(store, cut).save({path!r})"
        tensors, header, _ = load_tensors(path, missing)
        if "bitmap" not in tensors:
            raise StoreMismatch(f"{path} is not a selection: it holds {', '.join(tensors)}")
        mask = np.unpackbits(tensors["bitmap"], count=header["corpus_documents"]).astype(bool)
        return cls(mask, header["corpus_digest"], header["cut"])

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

    documents: int  # how many it keeps
    clusters: int  # how many clusters it keeps any of
    entropy: float  # of its documents over the clusters, in nats
    attainable: float  # the largest entropy of so many documents of this corpus
    to_corpus: float  # kernel discrepancy to the corpus; low = a fair sample
    to_uniform: float  # kernel discrepancy to the corpus weighted by 1 / density; low = even over what there is
    quality: float | None = None  # mean score of the documents kept; None without quality scores
    corpus_quality: float | None = None  # mean score of all documents


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
    mask, cluster = selection.mask, assignments.column("cluster").astype(np.int64)
    size_K = np.bincount(cluster)
    kept_K = np.bincount(cluster[mask], minlength=size_K.size)
    kept, every = (_sample(rows, seed) for rows in (np.flatnonzero(mask), np.arange(mask.size)))
    rows = np.union1d(kept, every)
    code_RN = SketchHash(**densities.made["hash"]).codes(_read_rows(vectors, rows))
    among_kept, among_all = np.isin(rows, kept).astype(float), np.isin(rows, every).astype(float)
    even = among_all * np.exp(-densities.scores[rows].astype(float))
    scores = None if good is None else good.scores
    return Coverage(
        documents=selection.documents,
        clusters=int((kept_K > 0).sum()),
        entropy=entropy(kept_K),
        attainable=attainable_entropy(size_K, selection.documents),
        to_corpus=discrepancy(code_RN, among_kept, among_all),
        to_uniform=discrepancy(code_RN, among_kept, even),
        quality=None if scores is None else float(scores[mask].mean(dtype=float)),
        corpus_quality=None if scores is None else float(scores.mean(dtype=float)),
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
