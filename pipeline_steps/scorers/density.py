"""Density scores (paper Sec. 3.2, App. A.2): look every document up in the sketch of the corpus.

The score is the log of the kernel sum at the document: high where the corpus is dense, 0 for a document alone.
`IPSFilter` on it samples rare documents more often.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from datatrove.data import Document, DocumentsPipeline
from datatrove.utils.logging import logger

from pipeline_steps.embedding.density_sketch import load_sketch
from pipeline_steps.embedding.embeddings import RowsByDocument, made_by, naming
from pipeline_steps.engines.models import require
from pipeline_steps.engines.threads import own_threads
from pipeline_steps.errors import StoreMismatch
from pipeline_steps.scorers.base import BaseScorer
from pipeline_steps.stores.files import Tensors
from pipeline_steps.stores.source_store import SourceStore


_FEW = 100  # documents whose spread says nothing about the bandwidth


class DensityScorer(BaseScorer):
    """Log kernel density of every document among the sketched ones: high = many documents like it.

    Warns if the densities of a window differ by less than their standard error: the bandwidth then says nothing.

    Args:
        scores: folder of the score store.
        embeddings: folder of the embedding store.
        sketch: folder of the merged sketch.
        metadata_key: metadata key the score is written to.
        window_size: documents scored and committed together.

    Raises:
        MissingScore: a document has no embedding, or its text has changed since.
        StoreMismatch: embeddings and sketch are not of one model.
    """

    name = "🌐 Density"
    lower_is_better = True

    def __init__(
        self, scores: str, embeddings: str, sketch: str, metadata_key: str = "density", window_size: int = 4096
    ) -> None:
        super().__init__(scores, metadata_key, window_size)
        self.embeddings, self.sketch = str(embeddings), str(sketch).rstrip("/")
        self._loaded: tuple[Tensors, Any] | None = None
        self._rows: RowsByDocument | None = None
        self._warned = False

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Yield every document with its density."""
        require("numba", "density")
        self._loaded = self._rows = None  # Slurm reuses a step for many ranks
        yield from super().run(data, rank, world_size)
        self._loaded = self._rows = None

    def fingerprint(self) -> dict[str, Any]:
        """What decides the scores."""
        sketch, _ = self._sketch()
        header = sketch.header
        if (found := made_by(SourceStore(self.embeddings))) != header["embedded"]:
            raise StoreMismatch(f"{self.sketch} is of {header['embedded']}, {self.embeddings} of {found}")
        about = {name: header[name] for name in ("hash", "documents", "embedded")}
        return {"scorer": "DensityScorer", "unit": "log kernel sum", "sketch": sketch.digest, **about}

    def score_batch(self, docs: list[Document]) -> Sequence[float]:
        """Log densities of one window, which is of one source."""
        from pipeline_steps.numerics.sketch import density

        sketch, hash = self._sketch()
        store = SourceStore(self.embeddings)
        self._rows = self._rows or RowsByDocument(store, ["embedding"])
        vectors = self._rows.of(docs)["embedding"]
        with naming(docs[0].metadata["file_path"], store):
            sums, errors = density(sketch.tensors["counts"], sketch.header["documents"], hash, vectors, own_threads())
        self._check_spread(sums, errors)
        return np.log(sums).tolist()

    def _check_spread(self, sums: np.ndarray, errors: np.ndarray) -> None:
        spread, noise = float(np.log(sums).std()), float(np.median(errors / sums))
        self.stat_update("relative_error", value=noise, unit="window")
        signal = max(spread**2 - noise**2, 0) ** 0.5
        if len(sums) < _FEW or signal > noise or self._warned:
            return
        self._warned = True
        alone = np.median(sums) < 1.5
        logger.warning(
            f"the densities of {len(sums)} documents differ by {signal:.3f} (standard deviation of the log), no more "
            f"than their error of {noise:.3f}: the kernel is too {'sharp' if alone else 'wide'}; sketch with "
            f"{'fewer' if alone else 'more'} concatenated hashes or {'a larger' if alone else 'a smaller'} width"
        )

    def _sketch(self) -> tuple[Tensors, Any]:
        """The sketch and its hash functions, read once per task."""
        if self._loaded is None:
            from pipeline_steps.numerics.sketch import SketchHash

            sketch = load_sketch(self.sketch)
            self._loaded = sketch, SketchHash(**sketch.header["hash"])
        return self._loaded
