"""Clusters of a corpus (paper App. B.2: SemDeDup and Prototypes): spherical k-means over embeddings.

    Embedder -> KMeansFit (one task) -> KMeansAssign (any tasks) -> SemDeDupSimilarities, PrototypesScorer

KMeansFit needs the memory of its sample, 256 embeddings a cluster, in float16 and float32: 12 GB for 10,000 clusters
of 768 dimensions. The rest needs that of one source file's embeddings.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.logging import logger

from pipeline_steps.credentials import NoCredentials
from pipeline_steps.embedding.embeddings import made_by, sample_embeddings
from pipeline_steps.engines.models import own_threads, require
from pipeline_steps.errors import StoreDamaged, StoreIncomplete, StoreMismatch
from pipeline_steps.numerics.vectors import nearest_centroids
from pipeline_steps.stores.artefact import part_name, refuse_differences
from pipeline_steps.stores.files import Tensors, load_tensors, save_tensors
from pipeline_steps.stores.source_store import SourceStore


_MOST_CLUSTERS = 10_000  # 15 MFLOP to assign a document of 768 dimensions
_PER_CENTROID = 256  # faiss's own default
_BUCKET = 40  # clusters whose members are read together


class KMeansFit(NoCredentials, PipelineStep):
    """Finds centroids on a seeded sample of the embeddings (one task). Takes and gives no documents.

    faiss's spherical k-means, on a GPU if faiss has one.

    Args:
        embeddings: folder of a finished embedding store.
        clusters: folder of the clusters, any fsspec path.
        n_clusters: K; None takes the root of the number of documents, at most 10,000.
        iterations: of Lloyd's algorithm.
        seed: of the sample and the first centroids.

    Raises:
        StoreMismatch: the folder holds centroids that were made otherwise.
        StoreIncomplete: there are fewer documents than clusters.
        ValueError: `n_clusters` or `iterations` is below 1.
    """

    type = "🫧 - CLUSTERS"
    name = "🫧 k-means fit"

    def __init__(
        self, embeddings: str, clusters: str, n_clusters: int | None = None, iterations: int = 20, seed: int = 0
    ) -> None:
        super().__init__()
        for name, value in {"n_clusters": n_clusters, "iterations": iterations}.items():
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        self.embeddings, self.clusters = str(embeddings), str(clusters).rstrip("/")
        self.n_clusters, self.iterations, self.seed = n_clusters, iterations, seed

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Write `centroids.safetensors`: float16 [K, D], unit vectors."""
        require("faiss", "cluster")
        if data:
            yield from data
        if rank != 0:
            return
        store = SourceStore(self.embeddings)
        clusters = self.n_clusters or min(round(store.documents**0.5), _MOST_CLUSTERS)
        asked = {"clusters": clusters, "iterations": self.iterations, "seed": self.seed}
        asked |= {"embedded": made_by(store), "embeddings": store.fingerprint}
        try:
            found = load_centroids(self.clusters).header
            refuse_differences({name: found[name] for name in asked}, asked, f"{self.clusters}/centroids.safetensors")
            return
        except StoreIncomplete:
            pass
        except StoreDamaged as error:
            logger.warning(f"{error} (done now)")
        with self.track_time("fit"):
            centroids, objective = self._fit(sample_embeddings(store, _PER_CENTROID * clusters, self.seed), clusters)
        logger.info(f"{clusters} clusters, mean cosine to the centroid {objective:.4f}")
        header = asked | {"mean_cosine_of_sample": objective}
        save_tensors(f"{self.clusters}/centroids.safetensors", {"centroids": centroids}, header)

    def _fit(self, sample: np.ndarray, clusters: int) -> tuple[np.ndarray, float]:
        import faiss

        if len(sample) < clusters:
            raise StoreIncomplete(f"{self.embeddings} has {len(sample)} documents: too few for {clusters} clusters")
        faiss.omp_set_num_threads(own_threads())
        kmeans = faiss.Kmeans(
            sample.shape[1],
            clusters,
            niter=self.iterations,
            spherical=True,
            seed=self.seed,
            gpu=faiss.get_num_gpus() > 0,
            min_points_per_centroid=1,
            max_points_per_centroid=_PER_CENTROID,
        )
        kmeans.train(sample.astype(np.float32))
        used = min(len(sample), _PER_CENTROID * clusters)
        return np.asarray(kmeans.centroids, dtype=np.float16), float(np.asarray(kmeans.obj)[-1] / used)


def load_centroids(folder: str) -> Tensors:
    """Return `centroids`, float16 [K, D], and their header. Raises StoreIncomplete if there are none."""
    missing = f"{folder} holds no centroids: run KMeansFit first"
    return load_tensors(f"{folder.rstrip('/')}/centroids.safetensors", missing)


class KMeansAssign(NoCredentials, PipelineStep):
    """Assigns every embedding to the centroid of largest cosine. Takes and gives no documents.

    Assignments are exact: they do not depend on tasks, batches or threads. They are a store `assignments` (columns
    `cluster`, uint32, and `cosine`, float32, to the centroid) in KMeansFit's folder, beside it under `members` the
    embeddings by cluster, once more as large as the embedding store, for SemDeDupSimilarities.
    """

    type = "🫧 - CLUSTERS"
    name = "🫧 k-means assign"

    def __init__(self, embeddings: str, clusters: str) -> None:
        super().__init__()
        self.embeddings, self.clusters = str(embeddings), str(clusters).rstrip("/")

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Write the assignments and members of this task's source files."""
        if data:
            yield from data
        store, fitted = SourceStore(self.embeddings), load_centroids(self.clusters)
        centroids, embedded = fitted.tensors["centroids"], fitted.header["embedded"]
        if embedded != made_by(store):
            raise StoreMismatch(
                f"the centroids in {self.clusters} are of {embedded}, {self.embeddings} of {made_by(store)}"
            )
        schema = pa.schema([("key", pa.uint64()), ("cluster", pa.uint32()), ("cosine", pa.float32())])
        target = SourceStore(f"{self.clusters}/assignments", schema)
        made = {"centroids": fitted.digest, "clusters": len(centroids), "embedded": embedded}
        target.begin("assignments", made, {"embeddings": store.fingerprint})
        sources = list(store.sources)[rank::world_size]
        for source in sources:
            of = {"source": source, "keys": store.manifest[source]["keys"], "centroids": fitted.digest}
            stored, found = store.read(source), target.read_to_continue(source)
            is_found = found is not None and np.array_equal(found["key"], stored["key"])
            if not is_found or not self._has_members(of, len(centroids)):
                with self.track_time("source"):
                    cluster, cosine = nearest_centroids(stored["embedding"], centroids)
                self._write_members(of, stored, cluster, cosine, len(centroids))
                target.seal(source, {"key": stored["key"], "cluster": cluster.astype(np.uint32), "cosine": cosine})
            self.stat_update("assigned", value=len(stored["key"]), unit="source")
        target.finish_task(rank, world_size, sources)

    def _has_members(self, of: dict[str, Any], clusters: int) -> bool:
        try:
            for bucket in range(buckets(clusters)):
                load_members(self.clusters, bucket, of)
        except (StoreIncomplete, StoreMismatch, StoreDamaged) as error:
            logger.warning(f"{error} (done now)")
            return False
        return True

    def _write_members(
        self, of: dict[str, Any], stored: dict[str, np.ndarray], cluster: np.ndarray, cosine: np.ndarray, clusters: int
    ) -> None:
        order = np.argsort(cluster, kind="stable")
        edges = np.searchsorted(cluster[order], np.arange(0, clusters + _BUCKET, _BUCKET))
        for bucket in range(buckets(clusters)):
            rows = order[edges[bucket] : edges[bucket + 1]]
            columns = {"row": rows.astype(np.int64), "cluster": cluster[rows], "cosine": cosine[rows]}
            columns |= {name: stored[name][rows] for name in ("key", "embedding")}
            save_tensors(_members_file(self.clusters, bucket, of["source"]), columns, of)


def buckets(clusters: int) -> int:
    """Return the number of buckets that the members are in."""
    return -(-clusters // _BUCKET)


def load_members(clusters: str, bucket: int, of: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return `row` in the source (int64), `cluster`, `cosine`, `key` and `embedding` of some clusters' members.

    They are the members in bucket 0 to `buckets` - 1 that come from one source file. `of` says what they must have
    been made from: `source`, the digest of its `keys`, the digest of the `centroids`.

    Raises:
        StoreIncomplete: they are lost.
        StoreMismatch: they are of other documents or centroids.
    """
    name = _members_file(clusters, bucket, of["source"])
    found = load_tensors(name, f"{name} is lost: run KMeansAssign again")
    if found.header != of:
        raise StoreMismatch(f"{name} is of {found.header}, not of {of}: run KMeansAssign again")
    return found.tensors


def _members_file(clusters: str, bucket: int, source: str) -> str:
    return f"{clusters}/members/{bucket:05d}/{part_name(source)}.safetensors"
