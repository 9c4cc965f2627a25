"""Density (paper Sec. 3.2, App. A.2, Alg. 2): count the embeddings' hashes, and look every document up in the counts.

    Embedder -> DensitySketch (any tasks: count) -> DensityMerge (one task: add) -> DensityScorer (any tasks: look up)

Counts are whole numbers and hashes exact, so the sketch is the same for any number of tasks, and sketches can be
added and subtracted. Memory is the sketch's, 80 MB, some 40 MB of codes, and one source file's embeddings.

The score is the log of the kernel sum at the document: high where the corpus is dense, 0 for a document alone.
`IPSFilter` on it samples rare documents more often.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import cached_property
from math import sqrt
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.logging import logger

from pipeline_steps.credentials import NoCredentials
from pipeline_steps.embedding.embeddings import made_by, naming, sample_embeddings
from pipeline_steps.engines.models import own_threads, require
from pipeline_steps.errors import StoreDamaged, StoreIncomplete, StoreMismatch
from pipeline_steps.paper import SKETCH_BUCKETS, SKETCH_ROWS
from pipeline_steps.scorers.base import BaseScorer
from pipeline_steps.stores.documents import named
from pipeline_steps.stores.files import Tensors, load_tensors, read_json, save_tensors, write_json
from pipeline_steps.stores.partials import Partials
from pipeline_steps.stores.rows_by_document import RowsByDocument
from pipeline_steps.stores.source_store import SourceStore


if TYPE_CHECKING:
    from pipeline_steps.numerics.sketch import SketchHash

_SETTINGS = ("kernel", "concatenated", "width", "rows", "buckets", "seed")
_SAMPLE = 1024  # documents whose half a million pairwise distances set the bandwidth
_CONCATENATED = 8  # of a p-stable hash: on 30,000 web texts 4 and 16 ranked documents less well
_FEW = 100  # documents whose spread says nothing about the bandwidth


class DensitySketch(NoCredentials, PipelineStep):
    """Counts the embeddings of this task's source files into a partial sketch. Takes and gives no documents.

    Args:
        embeddings: folder of a finished embedding store.
        sketch: folder the sketch is made in, any fsspec path.
        kernel: "angular", (1 - angle / pi)^m, or "p-stable", of the Euclidean distance; see `numerics.sketch`.
        concatenated: m, hashes put together in each row; None takes it from a sample of the corpus for the angular
            kernel (`numerics.sketch.suggest_hash` has the rule), and 8 for the other.
        width: w of the p-stable hash, in units of distance; None takes it from a sample of the corpus.
        rows: R, the number of hash functions: error falls as 1 / sqrt(R).
        buckets: B, counters per row.
        seed: of the hash functions.
        like: folder of a finished sketch whose hash functions are used, so that `combine_sketches` can add this one
            to it; the settings from `kernel` on are then its own.
    """

    type = "🧮 - SKETCH"
    name = "🧮 Density sketch"

    def __init__(
        self,
        embeddings: str,
        sketch: str,
        kernel: Literal["angular", "p-stable"] = "angular",
        concatenated: int | None = None,
        width: float | None = None,
        rows: int = SKETCH_ROWS,
        buckets: int = SKETCH_BUCKETS,
        seed: int = 0,
        like: str | None = None,
    ) -> None:
        super().__init__()
        if kernel not in ("angular", "p-stable"):
            raise ValueError(f"kernel must be 'angular' or 'p-stable', not {kernel!r}")
        if kernel == "angular" and width is not None:
            raise ValueError("the angular kernel has no width: its bandwidth is `concatenated`")
        for name, value in {"concatenated": concatenated, "width": width, "rows": rows, "buckets": buckets}.items():
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be above 0, not {value}")
        self.embeddings, self.sketch, self.like = str(embeddings), str(sketch).rstrip("/"), like
        self.kernel, self.concatenated, self.width = kernel, concatenated, width
        self.rows, self.buckets, self.seed = rows, buckets, seed

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Write this task's part of `partials/`."""
        require("numba", "density")
        from pipeline_steps.numerics.sketch import SketchHash, add, empty_counts

        if data:
            yield from data
        store = SourceStore(self.embeddings)
        asked = {name: getattr(self, name) for name in _SETTINGS} | {"embedded": made_by(store)}
        asked["like"] = None if self.like is None else load_sketch(self.like).header["hash"]
        partials = Partials(f"{self.sketch}/partials")
        partials.begin("partial density sketches", asked, {"embeddings": store.fingerprint})
        hash = SketchHash(**self._hash(store))
        counts, documents = empty_counts(hash), 0
        sources = list(store.sources)[rank::world_size]
        for source in sources:
            embeddings = store.read(source, ["embedding"])["embedding"]
            with self.track_time("source"), naming(source, self.embeddings):
                add(counts, hash, embeddings, own_threads())
            documents += len(embeddings)
            self.stat_update("counted", value=len(embeddings), unit="source")
        header = {"hash": asdict(hash), "documents": documents, "embedded": made_by(store)}
        header["sources"] = {source: store.manifest[source]["keys"] for source in sources}
        partials.write(rank, world_size, {"counts": counts}, header)

    def _hash(self, store: SourceStore) -> dict[str, Any]:
        """Return the hash functions, of `like` or suggested by a sample; the first task publishes them for all."""
        like = None if self.like is None else load_sketch(self.like).header["hash"]
        asked = {name: getattr(self, name) for name in _SETTINGS} | {"embeddings": store.fingerprint, "like": like}
        with suppress(FileNotFoundError, StoreDamaged):
            known = read_json(f"{self.sketch}/hash.json")
            if known["asked"] == asked:
                return known["hash"]
        found = like or self._new_hash(store)
        write_json(f"{self.sketch}/hash.json", {"asked": asked, "hash": found})
        return found

    def _new_hash(self, store: SourceStore) -> dict[str, Any]:
        from pipeline_steps.numerics.sketch import SketchHash, suggest_hash

        sample = sample_embeddings(store, _SAMPLE, self.seed)
        width, concatenated = self.width, self.concatenated
        if self.kernel == "p-stable":
            width, concatenated = width or 1.0, concatenated or _CONCATENATED
        hash = SketchHash(sample.shape[1], concatenated or 1, width, self.rows, self.buckets, self.seed)
        if (self.width if self.kernel == "p-stable" else self.concatenated) is None:
            with naming("a sample", self.embeddings):
                hash = suggest_hash(hash, sample, store.documents)
            alone = 1 + store.documents * hash.collision(sqrt(2))
            logger.info(f"{hash}: a document at right angles to all others gets a density of {alone:.1f}")
        return asdict(hash)


class DensityMerge(NoCredentials, PipelineStep):
    """Adds the partial sketches up (one task). Takes and gives no documents.

    Args:
        embeddings, sketch: as in DensitySketch.

    Raises:
        StoreIncomplete: a task of DensitySketch has not finished.
        StoreMismatch: partial sketches were made differently, or do not cover every source exactly once.
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
        store, partials = SourceStore(self.embeddings), Partials(f"{self.sketch}/partials")
        try:
            partials.check_inputs({"embeddings": store.fingerprint}, "DensitySketch")
            counts, header = _merge(partials.read())
        except (StoreIncomplete, StoreMismatch, FileNotFoundError):
            if self._is_merged(store):
                return  # by an earlier run that was killed before it had dropped all partial sketches, or just now
            raise
        save_tensors(f"{self.sketch}/sketch.safetensors", {"counts": counts}, header)
        with suppress(FileNotFoundError):
            partials.fs.rm(partials.root, recursive=True)
        self.stat_update("documents", value=header["documents"], unit="sketch")

    def _is_merged(self, store: SourceStore) -> bool:
        """Return whether there is a sketch of these embeddings, with the hash functions that were asked for last."""
        try:
            found, hash = load_sketch(self.sketch).header, read_json(f"{self.sketch}/hash.json")["hash"]
        except (StoreIncomplete, StoreDamaged, FileNotFoundError):
            return False
        made = found["sources"], found["embedded"], found["hash"]
        return made == (_keys(store), made_by(store), hash)


def combine_sketches(target: str, add: Sequence[str], subtract: Sequence[str] = ()) -> None:
    """Write the sketch of a corpus that has grown or shrunk: the sum of some sketches less that of others.

    The sketches are made with the same hash functions (`DensitySketch(like=)`) from embeddings of one model.

    Args:
        target: folder of the new sketch, any fsspec path.
        add: folders of sketches of different source files.
        subtract: folders of sketches of source files that are in the sum.

    Raises:
        StoreMismatch: hash functions or models differ, a source is added twice, or subtracted without being in it.
        StoreIncomplete: a folder holds no sketch.
    """
    added = [(folder, load_sketch(folder)) for folder in add]
    subtracted = [(folder, load_sketch(folder)) for folder in subtract]
    counts, header = _merge(added)
    for folder, other in subtracted:
        _check_alike(other.header, header, folder, target)
        for source, keys in other.header["sources"].items():
            if header["sources"].pop(source, None) != keys:
                raise StoreMismatch(f"{folder} holds {source}, which is not in the sum, or with other documents")
        counts -= other.tensors["counts"]
        header["documents"] -= other.header["documents"]
    save_tensors(f"{target.rstrip('/')}/sketch.safetensors", {"counts": counts}, header)


def load_sketch(folder: str) -> Tensors:
    """Return a merged sketch: `counts`, int32 [R, B], and its header. Raises StoreIncomplete if there is none."""
    missing = f"{folder} holds no sketch: run DensitySketch and DensityMerge first"
    return load_tensors(f"{folder.rstrip('/')}/sketch.safetensors", missing)


def _keys(store: SourceStore) -> dict[str, str]:
    return {source: entry["keys"] for source, entry in store.manifest.items()}


def _merge(sketches: Iterable[tuple[str, Tensors]]) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the sum of named sketches of different sources, and its header."""
    total, merged, first = np.empty(0, dtype=np.int32), dict[str, Any](), ""
    for name, (tensors, header, _) in sketches:
        if not merged:
            total, merged, first = tensors["counts"].copy(), header, name
            continue
        _check_alike(header, merged, name, first)
        if twice := sorted(header["sources"].keys() & merged["sources"].keys()):
            raise StoreMismatch(f"{name} and an earlier sketch both hold {twice[0]}: sketch again")
        total += tensors["counts"]
        merged["documents"] += header["documents"]
        merged["sources"] |= header["sources"]
    merged["sources"] = dict(sorted(merged["sources"].items()))
    return total, merged


def _check_alike(one: dict[str, Any], other: dict[str, Any], name: str, other_name: str) -> None:
    for what in ("hash", "embedded"):
        if one[what] != other[what]:
            raise StoreMismatch(
                f"{name} and {other_name} were made with other {'hashes' if what == 'hash' else 'embeddings'} "
                f"({one[what]} there, {other[what]} here): sketch again, with like= if they are to be combined"
            )


class DensityScorer(BaseScorer):
    """Log kernel density of every document among the sketched ones: high = many documents like it.

    Warns if the densities of a window differ by less than their standard error: the bandwidth then says nothing.

    Args:
        embeddings: folder of the embedding store.
        sketch: folder of the merged sketch.
        scores, metadata_key, window_size: as in BaseScorer.

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
        self._warned = False

    def fingerprint(self) -> dict[str, Any]:
        """Return what decides the scores."""
        sketch, _ = self._sketch
        header = sketch.header
        if (found := made_by(SourceStore(self.embeddings))) != header["embedded"]:
            raise StoreMismatch(f"{self.sketch} is of {header['embedded']}, {self.embeddings} of {found}")
        about = {name: header[name] for name in ("hash", "documents", "embedded")}
        return {"scorer": "DensityScorer", "unit": "log kernel sum", "sketch": sketch.digest, **about}

    def score(self, docs: list[Document]) -> Sequence[float]:
        """Return the log densities of one window."""
        from pipeline_steps.numerics.sketch import density

        sketch, hash = self._sketch
        vectors = self._rows.of(docs)["embedding"]
        with naming(named(docs[0]), self.embeddings):
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

    @cached_property
    def _rows(self) -> RowsByDocument:
        return RowsByDocument(SourceStore(self.embeddings), ["embedding"])

    @cached_property
    def _sketch(self) -> tuple[Tensors, SketchHash]:
        """The sketch and its hash functions."""
        require("numba", "density")
        from pipeline_steps.numerics.sketch import SketchHash

        sketch = load_sketch(self.sketch)
        return sketch, SketchHash(**sketch.header["hash"])
