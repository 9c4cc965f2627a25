"""A linear quality classifier over hashed n-grams: trained on examples, or on another scorer's scores.

Reference text against web text is how GPT-3 and PaLM 2 filtered their crawls (the paper's Q-classifier); trained on
the Ask-LLM scores of a sample, the same model scores a whole crawl at a thousandth of the cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from importlib import import_module
from itertools import islice
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.batching import batched
from datatrove.utils.logging import logger

from pipeline_steps.credentials import NoCredentials
from pipeline_steps.engines.models import require
from pipeline_steps.errors import CorpusError
from pipeline_steps.numerics.keys import mix
from pipeline_steps.numerics.statistics import auc, spearman
from pipeline_steps.scorers.base import BaseScorer
from pipeline_steps.stores.documents import key_of
from pipeline_steps.stores.files import load_tensors, save_tensors
from pipeline_steps.stores.rows_by_document import RowsByDocument
from pipeline_steps.stores.score_store import ScoreStore
from pipeline_steps.stores.source_store import Columns


if TYPE_CHECKING:
    from pipeline_steps.numerics.ngrams import LinearModel, Loss, Ngrams


_BUCKETS = 1 << 20
_BATCH = 256  # documents a training step
_FEWEST = 20  # documents of a kind: two of them measure the model
_EPOCHS = 5  # more do not agree better with held-out scores
_STEPS = 200  # of training, at least: of a small sample, more epochs
_HELD_OUT, _SPLIT = 10, 0x4E1D  # one document in ten measures the model; any constant


class QualityClassifierFit(NoCredentials, PipelineStep):
    """Trains a classifier to tell reference documents from others (one task). Passes documents through.

    Args:
        model: folder the classifier is written to, any fsspec path.
        reference: reader of documents that are wanted, e.g. books, Wikipedia, curated web text.
        other: reader of the crawl.
        documents: read at most this many of each.

    Raises:
        CorpusError: a reader gives fewer than 20 documents.
        ValueError: fewer than 20 are to be read.
    """

    type = "🧠 - FIT"
    name = "🏅 Quality classifier fit"

    def __init__(self, model: str, reference: PipelineStep, other: PipelineStep, documents: int = 50_000) -> None:
        super().__init__()
        if documents < _FEWEST:
            raise ValueError(f"documents must be at least {_FEWEST}, not {documents}")
        self.model, self.reference, self.other, self.documents = str(model).rstrip("/"), reference, other, documents

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Write `classifier.safetensors`; its header holds the AUC on held-out documents."""
        if rank == 0:
            docs, targets = [], []
            for wanted, reader in enumerate((self.other, self.reference)):
                own = list(islice(reader.run(None, 0, 1), self.documents))
                if len(own) < _FEWEST:
                    raise CorpusError(
                        f"{reader} gives {len(own)} documents: a classifier needs at least {_FEWEST} of a kind"
                    )
                docs += own
                targets += [float(wanted)] * len(own)
            with self.track_time("fit"):
                model, held_out, predicted, truth = _fit(docs, np.array(targets), "logistic")
            measured = {"held_out_auc": round(auc(predicted, truth), 4), "held_out_documents": held_out}
            logger.info(f"quality classifier {self.model}: {measured}")
            _save(self.model, model, {"trained_on": "examples", "unit": "log-odds, nats", **measured})
        if data:
            yield from data


class ScoreDistillation(NoCredentials, PipelineStep):
    """Trains a regression on the scores of a sample (one task). Passes documents through.

    Args:
        model: folder the regression is written to, any fsspec path.
        corpus: reader of the documents.
        scores: folder of the teacher's finished score store; documents it does not hold are left out.
        documents: use at most this many.

    Raises:
        CorpusError: the store holds fewer than 20 of the reader's documents.
        StoreIncomplete: the store is half written.
    """

    type = "🧠 - FIT"
    name = "🎓 Score distillation"

    def __init__(self, model: str, corpus: PipelineStep, scores: str, documents: int = 100_000) -> None:
        super().__init__()
        self.model, self.corpus, self.documents = str(model).rstrip("/"), corpus, documents
        self.scores = str(scores)

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Write `classifier.safetensors`; its header holds the rank agreement with the teacher."""
        if rank == 0:
            teacher = ScoreStore.open(self.scores)
            scored = list(islice(_with_scores(self.corpus.run(None, 0, 1), teacher), self.documents))
            if len(scored) < 20:
                raise CorpusError(f"{self.scores} holds {len(scored)} of the corpus's documents: score at least 20")
            docs, targets = [doc for doc, _ in scored], np.array([score for _, score in scored])
            mean, deviation = targets.mean(), targets.std() or 1.0
            with self.track_time("fit"):
                model, held_out, predicted, truth = _fit(docs, (targets - mean) / deviation, "squared")
            measured = {"held_out_spearman": round(spearman(predicted, truth), 4), "held_out_documents": held_out}
            logger.info(f"distilled {self.scores} into {self.model}: {measured}")
            bias = float(model.bias * deviation + mean)
            student = replace(model, weight=model.weight * np.float32(deviation), bias=bias)
            header = {
                "trained_on": teacher.made,
                "scores": teacher.fingerprint,
                "unit": teacher.made.get("unit", "the teacher's"),
                "lower_is_better": teacher.lower_is_better,
                **measured,
            }
            _save(self.model, student, header)
        if data:
            yield from data


class QualityClassifierScorer(BaseScorer):
    """Scores documents with a fitted classifier (log-odds of being reference text) or distilled score.

    A distilled score has its teacher's direction: that of a perplexity is better low.

    Args:
        model: folder that QualityClassifierFit or ScoreDistillation wrote to.
        scores, metadata_key, window_size: as in BaseScorer.

    Raises:
        StoreIncomplete: there is no fitted model.
    """

    name = "🏅 Quality classifier"

    def __init__(self, scores: str, model: str, metadata_key: str = "quality", window_size: int = 4096) -> None:
        super().__init__(scores, metadata_key, window_size)
        self.model = str(model).rstrip("/")

    def fingerprint(self) -> dict[str, Any]:
        """Return what decides the scores."""
        _, about = self._fitted
        return {"scorer": "QualityClassifierScorer", **about}

    def made(self) -> dict[str, Any]:
        """Return the configuration that the store records; a distilled score has its teacher's direction."""
        _, about = self._fitted
        return super().made() | {"lower_is_better": about.get("lower_is_better", False)}

    def score(self, docs: list[Document]) -> Columns:
        """Return the scores and WordPunct tokens of one window."""
        model, _ = self._fitted
        ngrams = _features(docs)
        return {"score": model.predict(ngrams), "tokens": ngrams.tokens}

    @cached_property
    def _fitted(self) -> tuple[LinearModel, dict[str, Any]]:
        missing = f"{self.model} holds no classifier: run QualityClassifierFit or ScoreDistillation first"
        tensors, header, digest = load_tensors(f"{self.model}/classifier.safetensors", missing)
        model = _ngrams().LinearModel(tensors["weight"], float(tensors["bias"][0]))
        return model, header | {"model": digest}


def _fit(
    docs: Sequence[Document], target_N: np.ndarray, loss: Loss
) -> tuple[LinearModel, int, np.ndarray, np.ndarray]:
    """Train on nine tenths; return the model, and how many were held out, their predictions and targets.

    Which documents are held out, and their order, are functions of their keys.
    """
    keys = np.array([key_of(doc) for doc in docs], dtype=np.uint64)
    order = np.argsort(mix(keys, _SPLIT), kind="stable")
    held_out = order[: max(len(docs) // _HELD_OUT, 1)]
    training = order[held_out.size :]
    batches = [training[start : start + _BATCH] for start in range(0, training.size, _BATCH)]
    ngrams = [_features([docs[row] for row in batch]) for batch in batches]
    epochs = max(_EPOCHS, -(-_STEPS // len(batches)))
    model = _ngrams().train(ngrams, [target_N[batch] for batch in batches], _BUCKETS, loss, epochs)
    predicted = model.predict(_features([docs[row] for row in held_out]))
    return model, held_out.size, predicted, target_N[held_out]


def _features(docs: Sequence[Document]) -> Ngrams:
    return _ngrams().hashed_ngrams([doc.text for doc in docs], _BUCKETS)


def _ngrams() -> ModuleType:
    """Return the module `numerics.ngrams`, which needs numba."""
    require("numba", "ngrams")
    return import_module("pipeline_steps.numerics.ngrams")


def _with_scores(docs: Iterable[Document], store: ScoreStore) -> Iterator[tuple[Document, float]]:
    rows = RowsByDocument(store, ["score"])
    for batch in batched(docs, _BATCH):
        for doc, score in zip(batch, rows.known(batch), strict=True):
            if score is not None:
                yield doc, float(score)


def _save(folder: str, model: LinearModel, header: dict[str, Any]) -> None:
    tensors = {"weight": model.weight, "bias": np.array([model.bias])}
    save_tensors(f"{folder}/classifier.safetensors", tensors, {"buckets": _BUCKETS, **header})
