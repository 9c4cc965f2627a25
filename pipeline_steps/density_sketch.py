"""The density sketch (paper Sec. 3.2, App. A.2, Alg. 2): count the embeddings' hashes, in any number of tasks.

    Embedder -> DensitySketch (any tasks: count) -> DensityMerge (one task: add) -> DensityScorer (any tasks: look up)

Counts are whole numbers and hashes exact, so the sketch is the same for any number of tasks, and sketches can be
added and subtracted. Memory is the sketch's, 80 MB, some 40 MB of codes, and one source file's embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from math import sqrt
from typing import Any

import fsspec
import numpy as np
from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.logging import logger

from pipeline_steps.embeddings import made_by, naming, sample_embeddings
from pipeline_steps.errors import StoreIncomplete, StoreMismatch
from pipeline_steps.files import load_tensors, read_json, save_tensors, write_json
from pipeline_steps.models import require
from pipeline_steps.paper import SKETCH_BUCKETS, SKETCH_ROWS
from pipeline_steps.partials import complete_partials, write_partial
from pipeline_steps.source_store import SourceStore
from pipeline_steps.threads import own_threads


_SAMPLE = 1024  # documents whose half a million pairwise distances set the bandwidth
_CONCATENATED = 8  # of a p-stable hash: on 30,000 web texts 4 and 16 ranked documents less well


class DensitySketch(PipelineStep):
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
        kernel: str = "angular",
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
        """Write `partials/<world_size>/<rank>.safetensors`."""
        require("numba", "density")
        from pipeline_steps.numerics.sketch import SketchHash, add, empty_counts

        if data:
            yield from data
        store = SourceStore(self.embeddings)
        store.check_complete()
        hash = SketchHash(**self._hash(store))
        counts, documents = empty_counts(hash), 0
        sources = list(store.sources)[rank::world_size]
        for source in sources:
            embeddings = store.read(source, ["embedding"])["embedding"]
            with self.track_time("source"), naming(source, store):
                add(counts, hash, embeddings, own_threads())
            documents += len(embeddings)
            self.stat_update("counted", value=len(embeddings), unit="source")
        header = {"hash": asdict(hash), "documents": documents, "embedded": made_by(store)}
        header["sources"] = {source: store.manifest[source]["keys"] for source in sources}
        write_partial(self.sketch, rank, world_size, {"counts": counts}, header)

    def _hash(self, store: SourceStore) -> dict[str, Any]:
        """What the task that came first has published, if it is of these embeddings and settings."""
        if self.like is not None:
            _, header = load_sketch(self.like)
            return header["hash"]
        asked = {name: getattr(self, name) for name in ("kernel", "concatenated", "width", "rows", "buckets", "seed")}
        asked["embeddings"] = store.fingerprint
        try:
            known = read_json(f"{self.sketch}/hash.json")
        except FileNotFoundError:
            known = {}
        if known.get("asked") != asked:
            known = {"asked": asked, "hash": self._new_hash(store)}
            write_json(f"{self.sketch}/hash.json", known)
        return known["hash"]

    def _new_hash(self, store: SourceStore) -> dict[str, Any]:
        from pipeline_steps.numerics.sketch import SketchHash, suggest_hash

        sample = sample_embeddings(store, _SAMPLE, self.seed)
        width, concatenated = self.width, self.concatenated
        if self.kernel == "p-stable":
            width, concatenated = width or 1.0, concatenated or _CONCATENATED
        hash = SketchHash(sample.shape[1], concatenated or 1, width, self.rows, self.buckets, self.seed)
        if (self.width if self.kernel == "p-stable" else self.concatenated) is None:
            with naming("a sample", store):
                hash = suggest_hash(hash, sample, store.documents)
            alone = 1 + store.documents * hash.collision(sqrt(2))
            logger.info(f"{hash}: a document at right angles to all others gets a density of {alone:.1f}")
        return asdict(hash)


class DensityMerge(PipelineStep):
    """Adds the partial sketches up (one task). Takes and gives no documents.

    Args:
        embeddings: folder of the embedding store the sketch is of.
        sketch: folder DensitySketch wrote to.

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
        store = SourceStore(self.embeddings)
        expected = {source: entry["keys"] for source, entry in store.manifest.items()}
        try:
            runs = complete_partials(self.sketch)
        except StoreIncomplete:
            if self._is_merged(expected):
                return
            raise
        merged = [_merge(names) for names in runs]
        fitting = [(counts, header) for counts, header in merged if header["sources"] == expected]
        if not fitting:
            found = merged[0][1]["sources"]
            differing = min(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
            raise StoreMismatch(
                f"the partial sketches in {self.sketch} and {self.embeddings} are not of the same documents: "
                f"{differing} is only in one of them, or has changed; sketch again"
            )
        (counts, header), *others = fitting
        for _, other in others:
            _check_alike(other, header, *(f"a run in {self.sketch}/partials" for _ in range(2)))
        save_tensors(f"{self.sketch}/sketch.safetensors", {"counts": counts}, header)
        fs, root = fsspec.core.url_to_fs(f"{self.sketch}/partials")
        fs.rm(root, recursive=True)
        self.stat_update("documents", value=header["documents"], unit="sketch")

    def _is_merged(self, expected: dict[str, str]) -> bool:
        """Whether an earlier run, killed after it had written the sketch, has done all the work."""
        try:
            _, header = load_sketch(self.sketch)
        except StoreIncomplete:
            return False
        return header["sources"] == expected


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
    names = [f"{folder.rstrip('/')}/sketch.safetensors" for folder in add]
    _ = [load_sketch(folder) for folder in [*add, *subtract]]  # says which is missing before any work
    counts, header = _merge(names)
    for folder in subtract:
        other, less = load_sketch(folder)
        _check_alike(less, header, folder, target)
        for source, keys in less["sources"].items():
            if header["sources"].pop(source, None) != keys:
                raise StoreMismatch(f"{folder} holds {source}, which is not in the sum, or with other documents")
        counts -= other
        header["documents"] -= less["documents"]
    save_tensors(f"{target.rstrip('/')}/sketch.safetensors", {"counts": counts}, header)


def load_sketch(folder: str) -> tuple[np.ndarray, dict[str, Any]]:
    """Counts int32 [R, B] and header of a merged sketch. Raises StoreIncomplete if there is none."""
    fs, root = fsspec.core.url_to_fs(folder.rstrip("/"), use_listings_cache=False)
    if not fs.exists(f"{root}/sketch.safetensors"):
        raise StoreIncomplete(f"{folder} holds no sketch: run DensitySketch and DensityMerge first")
    tensors, header = load_tensors(f"{folder.rstrip('/')}/sketch.safetensors")
    return tensors["counts"], header


def _merge(names: Sequence[str]) -> tuple[np.ndarray, dict[str, Any]]:
    """The sum of sketches of different sources, and its header."""
    tensors, merged = load_tensors(names[0])
    total = tensors["counts"]
    for name in names[1:]:
        tensors, header = load_tensors(name)
        _check_alike(header, merged, name, names[0])
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
