"""Density sampling (paper Sec. 3.2, App. A.2, Alg. 2): two linear passes over embeddings.

    Embedder -> DensitySketch (any tasks: count) -> DensityMerge (one task: add) -> DensityScorer (any tasks: look up)

The score is the log of the kernel sum at the document: high where the corpus is dense, 0 for a document alone.
`IPSFilter` on it samples rare documents more often.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import fsspec
import numpy as np
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from pipeline_steps.errors import MissingScore, StoreIncomplete, StoreMismatch
from pipeline_steps.files import load_tensors, save_tensors
from pipeline_steps.numerics.keys import document_key, mix
from pipeline_steps.numerics.sketch import SketchHash, add, density, empty_counts, suggest_width
from pipeline_steps.paper import SKETCH_BUCKETS, SKETCH_ROWS
from pipeline_steps.partials import complete_partials, write_partial
from pipeline_steps.scorer import BaseScorer
from pipeline_steps.source_store import SourceStore


_SAMPLE = 1024  # documents whose half a million pairwise distances set the width


class DensitySketch(PipelineStep):
    """Counts the embeddings of this task's source files into a partial sketch. Takes and gives no documents.

    Args:
        embeddings: folder of a finished embedding store.
        sketch: folder the sketch is made in, any fsspec path.
        width: of the p-stable hash, in units of distance; None takes it from a sample of the corpus, such that
            a corpus at the median distance would weigh as much as the document itself.
        rows: R, the number of hash functions: error falls as 1 / sqrt(R).
        buckets: B, counters per row.
        seed: of the hash functions.
    """

    type = "🧮 - SKETCH"
    name = "🧮 Density sketch"

    def __init__(
        self,
        embeddings: str,
        sketch: str,
        width: float | None = None,
        rows: int = SKETCH_ROWS,
        buckets: int = SKETCH_BUCKETS,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.embeddings, self.sketch = str(embeddings), str(sketch).rstrip("/")
        self.width, self.rows, self.buckets, self.seed = width, rows, buckets, seed

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Write `partials/<world_size>/<rank>.safetensors`."""
        if data:
            yield from data
        store = SourceStore(self.embeddings)
        store.check_complete()
        hash = self._hash(store)
        counts, documents = empty_counts(hash), 0
        sources = list(store.sources)[rank::world_size]
        for source in sources:
            embeddings = store.read(source)["embedding"]
            with self.track_time("source"):
                add(counts, hash, embeddings)
            documents += len(embeddings)
            self.stat_update("counted", value=len(embeddings), unit="source")
        header = {"hash": asdict(hash), "documents": documents, "sources": sources, "embeddings": store.config}
        write_partial(self.sketch, rank, world_size, {"counts": counts}, header)

    def _hash(self, store: SourceStore) -> SketchHash:
        keys = store.column("key")
        if not keys.size:
            raise StoreIncomplete(f"{self.embeddings} holds no embeddings: embed the corpus first")
        chosen = np.zeros(keys.size, dtype=bool)
        chosen[np.argsort(mix(keys, self.seed), kind="stable")[:_SAMPLE]] = True
        sample, start = [], 0
        for source in store.sources:
            embeddings = store.read(source)["embedding"]
            sample.append(embeddings[chosen[start : start + len(embeddings)]])
            start += len(embeddings)
        vectors = np.concatenate(sample)
        hash = SketchHash(vectors.shape[1], self.width or 1.0, rows=self.rows, buckets=self.buckets, seed=self.seed)
        if self.width is None:
            hash = SketchHash(**{**asdict(hash), "width": suggest_width(vectors, keys.size, hash)})
        return hash


class DensityMerge(PipelineStep):
    """Adds the partial sketches up (one task). Takes and gives no documents.

    Args:
        embeddings: folder of the embedding store the sketch is of.
        sketch: folder DensitySketch wrote to.

    Raises:
        StoreIncomplete: a source of the store is in no partial sketch.
        StoreMismatch: partial sketches were made differently, or a source is in two of them.
    """

    type = "🧮 - SKETCH"
    name = "🧮 Density merge"

    def __init__(self, embeddings: str, sketch: str) -> None:
        super().__init__()
        self.embeddings, self.sketch = str(embeddings), str(sketch).rstrip("/")

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Write `sketch.safetensors` and drop the partial sketches."""
        if data:
            yield from data
        if rank != 0:
            return
        try:
            names, *_ = complete_partials(self.sketch)
        except StoreIncomplete:
            if self._is_merged():
                return
            raise
        counts, header = self._merge(names)
        save_tensors(f"{self.sketch}/sketch.safetensors", {"counts": counts}, header)
        fs, root = fsspec.core.url_to_fs(f"{self.sketch}/partials")
        fs.rm(root, recursive=True)
        self.stat_update("documents", value=header["documents"], unit="sketch")

    def _is_merged(self) -> bool:
        """Whether an earlier run, killed after it had written the sketch, has done all the work."""
        try:
            _, header = load_tensors(f"{self.sketch}/sketch.safetensors")
        except FileNotFoundError:
            return False
        return header["sources"] == list(SourceStore(self.embeddings).sources)

    def _merge(self, names: list[str]) -> tuple[np.ndarray, dict[str, Any]]:
        tensors, merged = load_tensors(names[0])
        total = tensors["counts"]
        for name in names[1:]:
            tensors, header = load_tensors(name)
            if header["hash"] != merged["hash"] or header["embeddings"] != merged["embeddings"]:
                raise StoreMismatch(f"{name} and {names[0]} were made with other hashes or embeddings: sketch again")
            total += tensors["counts"]
            merged["documents"] += header["documents"]
            merged["sources"] += header["sources"]
        merged["sources"].sort()
        sources = list(SourceStore(self.embeddings).sources)
        if merged["sources"] != sources:
            raise StoreMismatch(
                f"the partial sketches in {self.sketch} cover {len(merged['sources'])} source files, "
                f"{self.embeddings} holds {len(sources)}: sketch again"
            )
        return total, merged


class DensityScorer(BaseScorer):
    """Log kernel density of every document among the sketched ones: high = many documents like it.

    Args:
        scores: folder of the score store.
        embeddings: folder of the embedding store.
        sketch: folder of the merged sketch.
        metadata_key: metadata key the score is written to.
        window_size: documents scored and committed together.

    Raises:
        MissingScore: a document has no embedding, or its text has changed since.
    """

    name = "🌐 Density"

    def __init__(
        self, scores: str, embeddings: str, sketch: str, metadata_key: str = "density", window_size: int = 4096
    ) -> None:
        super().__init__(scores, metadata_key, window_size)
        self.embeddings, self.sketch = str(embeddings), str(sketch).rstrip("/")
        self._loaded: tuple[np.ndarray, dict[str, Any]] | None = None
        self._rows: tuple[str, dict[int, int], np.ndarray] = ("", {}, np.empty(0))

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Yield every document with its density."""
        self._loaded = None  # Slurm reuses a step for many ranks
        yield from super().run(data, rank, world_size)
        self._loaded = None

    def fingerprint(self) -> dict[str, Any]:
        """What decides the scores."""
        _, header = self._sketch()
        return {
            "scorer": "DensityScorer",
            "unit": "log kernel sum",
            **{name: header[name] for name in ("hash", "documents", "embeddings")},
        }

    def score_batch(self, docs: list[Document]) -> Sequence[float]:
        """Log densities of one window, which is of one source."""
        counts, header = self._sketch()
        vectors = self._vectors(docs)
        return np.log(density(counts, header["documents"], SketchHash(**header["hash"]), vectors)).tolist()

    def _sketch(self) -> tuple[np.ndarray, dict[str, Any]]:
        if self._loaded is None:
            fs, root = fsspec.core.url_to_fs(self.sketch)
            if not fs.exists(f"{root}/sketch.safetensors"):
                raise StoreIncomplete(f"{self.sketch} holds no sketch: run DensitySketch and DensityMerge first")
            tensors, header = load_tensors(f"{self.sketch}/sketch.safetensors")
            self._loaded = tensors["counts"], header
        return self._loaded

    def _vectors(self, docs: list[Document]) -> np.ndarray:
        source = docs[0].metadata["file_path"]
        if self._rows[0] != source:
            stored = SourceStore(self.embeddings).read(source)
            self._rows = (source, {key: row for row, key in enumerate(stored["key"].tolist())}, stored["embedding"])
        _, rows, vectors = self._rows
        try:
            return vectors[[rows[document_key(doc.id, doc.text)] for doc in docs]]
        except KeyError:
            lost = next(doc.id for doc in docs if document_key(doc.id, doc.text) not in rows)
            raise MissingScore(
                f"document {lost} of {source} has no embedding in {self.embeddings}, or its text has changed: "
                "embed this corpus first"
            ) from None
