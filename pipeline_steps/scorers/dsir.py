"""Data selection with importance resampling (Xie et al. 2023): documents whose n-grams are those of a target.

    NgramCounts (target) ─┐
    NgramCounts (raw) ────┴─> DSIRFit (one task) ─> DSIRScorer (any tasks) ─> IPSFilter(method="direct")

The importance weight of a document is its probability under the target's bag of hashed n-grams over that under the
raw corpus's; its log is a sum over n-grams, so it grows with the document's length.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.batching import batched

from pipeline_steps.credentials import NoCredentials
from pipeline_steps.engines.models import require
from pipeline_steps.errors import StoreIncomplete, StoreMismatch
from pipeline_steps.scorers.base import BaseScorer
from pipeline_steps.stores.corpus_listing import CorpusListing
from pipeline_steps.stores.files import Tensors, load_tensors, save_tensors
from pipeline_steps.stores.partials import Partials
from pipeline_steps.stores.source_store import Columns


if TYPE_CHECKING:
    from pipeline_steps.numerics.dsir_ngrams import DSIRNgrams

_AT_ONCE = 1024  # documents featurised together: speed only
_MOST_BUCKETS = 1 << 18  # as DSIRNgrams takes them
_FLOOR = 1e-8  # added to probabilities before the log, as the data-selection package does


class NgramCounts(NoCredentials, PipelineStep):
    """Counts the hashed unigrams and bigrams of this task's documents; documents pass through unchanged.

    Tokens, n-grams and buckets are those of the data-selection package 1.0.3.

    Args:
        counts: folder the counts are kept in, any fsspec path; one for the target, one for the raw corpus.
        buckets: B, hash buckets, at most 2**18 (10,000 in the DSIR paper, Sec. 3).

    Attributes:
        corpus: the reader of the documents, or a name of the corpus; see DocumentColumns.

    Raises:
        StoreMismatch: the folder holds counts of another number of buckets.
        ValueError: the buckets are none, or too many.
    """

    type = "🧮 - COUNTS"
    name = "🧮 N-gram counts"

    def __init__(self, counts: str, buckets: int = 10_000) -> None:
        super().__init__()
        if not 1 <= buckets <= _MOST_BUCKETS:
            raise ValueError(f"{buckets} buckets: choose 1 to {_MOST_BUCKETS}")
        self.counts, self.buckets = str(counts).rstrip("/"), buckets
        self.corpus: PipelineStep | str | None = None

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Write this task's counts at the end; a killed task counts again."""
        featurise, partials = _featuriser(self.buckets), Partials(self.counts)
        features = {"ngrams": "unigrams and bigrams", "hash": "SHA-256", "buckets": self.buckets}
        corpus = CorpusListing(data, self.corpus)
        partials.begin("n-gram counts", features, corpus.inputs(type(self).__name__, world_size))
        count, documents = np.zeros(self.buckets, dtype=np.int64), 0
        for docs in batched(data, _AT_ONCE):
            with self.track_time("batch"):
                bucket = featurise([doc.text for doc in docs]).bucket
                count += np.bincount(bucket, minlength=self.buckets)
            documents += len(docs)
            self.stat_update("counted", value=len(docs), unit="batch")
            yield from docs
        corpus.check_unchanged()
        partials.write(rank, world_size, {"counts": count}, {"documents": documents})


class DSIRFit(NoCredentials, PipelineStep):
    """Fits the importance weights of n-grams from the counts of both corpora (one task). Passes documents through.

    Args:
        target: folder NgramCounts wrote to over the corpus that is wanted.
        raw: folder NgramCounts wrote to over the corpus to choose from.
        model: folder the fitted model is written to, any fsspec path.

    Raises:
        StoreIncomplete: a task of NgramCounts has not finished, or a corpus had no n-grams.
        StoreMismatch: the corpora were counted with other numbers of buckets.
    """

    type = "🧮 - COUNTS"
    name = "🎯 DSIR fit"

    def __init__(self, target: str, raw: str, model: str) -> None:
        super().__init__()
        self.target, self.raw, self.model = (str(path).rstrip("/") for path in (target, raw, model))

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Write `dsir.safetensors`."""
        if rank == 0:
            features, other = Partials(self.target).made, Partials(self.raw).made
            if features != other:
                raise StoreMismatch(
                    f"{self.target} was counted with {features}, {self.raw} with {other}: count one of them again"
                )
            (target, target_documents), (raw, raw_documents) = map(_total, (self.target, self.raw))
            for folder, counts in ((self.target, target), (self.raw, raw)):
                if not counts.sum():
                    raise StoreIncomplete(f"{folder} holds no n-grams: its corpus had no text")
            log_ratio = np.log(target / target.sum() + _FLOOR) - np.log(raw / raw.sum() + _FLOOR)
            header = {"features": features, "target_documents": target_documents, "raw_documents": raw_documents}
            save_tensors(f"{self.model}/dsir.safetensors", {"log_ratio": log_ratio}, header)
        if data:
            yield from data


class DSIRScorer(BaseScorer):
    """Log importance weight of every document: high = more like the target, and longer.

    Resample with `IPSFilter(scores, method="direct")`, as DSIR does, or keep the top. The DSIR paper leaves out
    documents of fewer than 100 tokens beforehand; a scorer drops nothing, so filter them ahead of it. `tokens` are
    WordPunct's.

    Args:
        model: folder DSIRFit wrote to.
        scores, metadata_key, window_size: as in BaseScorer.

    Raises:
        StoreIncomplete: there is no fitted model.
    """

    name = "🎯 DSIR"

    def __init__(self, scores: str, model: str, metadata_key: str = "dsir", window_size: int = 4096) -> None:
        super().__init__(scores, metadata_key, window_size)
        self.model = str(model).rstrip("/")

    def fingerprint(self) -> dict[str, Any]:
        """Return what decides the scores."""
        model, _ = self._fitted
        unit = "log importance weight, nats"
        return {"scorer": "DSIRScorer", "unit": unit, **model.header, "model": model.digest}

    def score(self, docs: list[Document]) -> Columns:
        """Return the log weights and tokens of one window."""
        model, featurise = self._fitted
        ngrams = featurise([doc.text for doc in docs])
        return {"score": ngrams.sums(model.tensors["log_ratio"]), "tokens": ngrams.tokens}

    @cached_property
    def _fitted(self) -> tuple[Tensors, DSIRNgrams]:
        missing = f"{self.model} holds no DSIR model: run DSIRFit first"
        model = load_tensors(f"{self.model}/dsir.safetensors", missing)
        return model, _featuriser(model.header["features"]["buckets"])


def _total(folder: str) -> tuple[np.ndarray, int]:
    """Return the counts of n-grams, int64 [B], and the number of documents, over all parts."""
    parts = [part for _, part in Partials(folder).read()]
    counts = np.sum([part.tensors["counts"] for part in parts], axis=0)
    return counts, sum(part.header["documents"] for part in parts)


def _featuriser(buckets: int) -> DSIRNgrams:
    require("numba", "ngrams")
    from pipeline_steps.numerics.dsir_ngrams import DSIRNgrams

    return DSIRNgrams(buckets)
