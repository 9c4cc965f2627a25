"""SemDeDup (Abbas et al. 2023; paper App. B.2): near-duplicates by meaning, within clusters.

    KMeansAssign -> SemDeDupSimilarities (any tasks) -> SemDeDupScorer (any tasks) -> TopKFilter(order="bottom")

The score is the largest cosine to a document of the same cluster that would be kept before this one. It does not
depend on SemDeDup's threshold: one run serves every rate, exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.logging import logger

from pipeline_steps.credentials import NoCredentials
from pipeline_steps.embedding.kmeans import buckets, load_members
from pipeline_steps.errors import StoreDamaged, StoreMismatch
from pipeline_steps.numerics.vectors import similarity_to_preferred
from pipeline_steps.scorers.base import BaseScorer
from pipeline_steps.stores.artefact import part_name
from pipeline_steps.stores.files import load_tensors, save_tensors
from pipeline_steps.stores.rows_by_document import RowsByDocument
from pipeline_steps.stores.source_store import SourceStore


class SemDeDupSimilarities(NoCredentials, PipelineStep):
    """Compares the members of each cluster with each other. Takes and gives no documents.

    A task takes 40 clusters at a time, so there is work for a fortieth as many tasks as there are clusters, and
    memory for the embeddings of 40 clusters.

    Args:
        clusters: folder KMeansAssign wrote to.
        keep: which of two near-duplicates is preferred: "hard", that of smaller cosine to the centroid (Abbas et
            al., Sec. 3), or "easy", that of larger; of equals, that of smaller key.
    """

    type = "🫧 - CLUSTERS"
    name = "🫧 SemDeDup similarities"

    def __init__(self, clusters: str, keep: str = "hard") -> None:
        super().__init__()
        if keep not in ("hard", "easy"):
            raise ValueError(f"keep must be 'hard' or 'easy', not {keep!r}")
        self.clusters, self.keep = str(clusters).rstrip("/"), keep

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Write the similarities of this task's clusters, a file for each source they are of."""
        if data:
            yield from data
        store = SourceStore(f"{self.clusters}/assignments")
        fingerprint, sources = store.fingerprint, list(store.sources)
        for bucket in range(rank, buckets(store.made["clusters"]), world_size):
            names = [_similarities_file(self.clusters, self.keep, source, bucket) for source in sources]
            made_of = [_made_of(fingerprint, self.keep, source, bucket) for source in sources]
            if all(_is_made(name, of) for name, of in zip(names, made_of, strict=True)):
                continue
            members = {"centroids": store.made["centroids"]}
            parts = [
                load_members(self.clusters, bucket, members | {"source": source, "keys": entry["keys"]})
                for source, entry in store.manifest.items()
            ]
            with self.track_time("bucket"):
                similarity = self._similarities(parts)
            edges = np.cumsum([len(part["row"]) for part in parts])[:-1]
            for name, of, part, own in zip(names, made_of, parts, np.split(similarity, edges), strict=True):
                save_tensors(name, {"row": part["row"], "similarity": own}, of)
            self.stat_update("compared", value=len(similarity), unit="bucket")

    def _similarities(self, parts: list[dict[str, np.ndarray]]) -> np.ndarray:
        """Return the similarities in the order of the parts: float32 [members]."""
        member = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        preference = member["cosine"] if self.keep == "hard" else -member["cosine"]
        order = np.lexsort((member["key"], preference, member["cluster"]))
        similarity = np.empty(len(order), dtype=np.float32)
        starts = np.flatnonzero(np.diff(member["cluster"][order])) + 1
        for rows in np.split(order, starts):
            similarity[rows] = similarity_to_preferred(member["embedding"][rows])
        return similarity


def _similarities_file(clusters: str, keep: str, source: str, bucket: int) -> str:
    return f"{clusters}/similarities/{keep}/{part_name(source)}/{bucket:05d}.safetensors"


def _made_of(assignments: str, keep: str, source: str, bucket: int) -> dict[str, Any]:
    return {"assignments": assignments, "keep": keep, "source": source, "bucket": bucket}


def _is_made(name: str, of: dict[str, Any]) -> bool:
    try:
        return load_tensors(name).header == of
    except FileNotFoundError:
        return False
    except StoreDamaged as error:
        logger.warning(f"{error} (done now)")
        return False


class SemDeDupScorer(BaseScorer):
    """Largest cosine to a preferred document of the same cluster: high = a near-duplicate of one that is kept.

    -1 for the most preferred document of a cluster. Keep with `TopKFilter(order="bottom")`.

    Args:
        clusters: folder SemDeDupSimilarities wrote to.
        keep: as in SemDeDupSimilarities.
        scores, metadata_key, window_size: as in BaseScorer.

    Raises:
        MissingScore: a document is in no cluster, or its text has changed since.
        StoreIncomplete: some clusters have not been compared.
    """

    name = "👯 SemDeDup"
    lower_is_better = True

    def __init__(
        self,
        scores: str,
        clusters: str,
        keep: Literal["hard", "easy"] = "hard",
        metadata_key: str = "semdedup",
        window_size: int = 4096,
    ) -> None:
        super().__init__(scores, metadata_key, window_size)
        self.clusters, self.keep = str(clusters).rstrip("/"), keep

    def fingerprint(self) -> dict[str, Any]:
        """Return what decides the scores."""
        store = SourceStore(f"{self.clusters}/assignments")
        about = {"unit": "cosine", "keep": self.keep, "assignments": store.fingerprint}
        return {"scorer": "SemDeDupScorer", **about, "clusters": store.made}

    def score(self, docs: list[Document]) -> Sequence[float]:
        """Return the similarities of one window."""
        return self._rows.of(docs)["similarity"].tolist()

    @cached_property
    def _rows(self) -> RowsByDocument:
        return RowsByDocument(_Similarities(self.clusters, self.keep), ["similarity"])


class _Similarities:
    """Similarities by source file, put together from those of all clusters."""

    def __init__(self, clusters: str, keep: str) -> None:
        self.path, self._clusters, self._keep = f"{clusters}/similarities", clusters, keep
        self._assignments = SourceStore(f"{clusters}/assignments")

    @property
    def sources(self) -> dict[str, int]:
        return self._assignments.sources

    def read(self, source: str, columns: Sequence[str]) -> dict[str, np.ndarray]:
        key = self._assignments.read(source, ["key"])["key"]
        similarity = np.empty(len(key), dtype=np.float32)
        fingerprint = self._assignments.fingerprint
        for bucket in range(buckets(self._assignments.made["clusters"])):
            name = _similarities_file(self._clusters, self._keep, source, bucket)
            missing = f"{name} is not there: run SemDeDupSimilarities to the end"
            tensors, header, _ = load_tensors(name, missing)
            if header != _made_of(fingerprint, self._keep, source, bucket):
                raise StoreMismatch(f"{name} is of other assignments: run SemDeDupSimilarities again")
            similarity[tensors["row"]] = tensors["similarity"]
        return {"key": key, "similarity": similarity}
