"""PerplexityScorer: how surprising a document is to a language model (paper Sec. 4.1, App. B.5)."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from datatrove.data import Document

from pipeline_steps.engines.likelihoods import (
    CAUSAL_WINDOW,
    MASKS,
    T5_WINDOW,
    InputAndTarget,
    Objective,
    load_likelihood,
)
from pipeline_steps.engines.models import library_versions, model_identity, pick_device, pick_dtype
from pipeline_steps.errors import ModelError
from pipeline_steps.scorers.base import BaseScorer
from pipeline_steps.stores.documents import key_of
from pipeline_steps.stores.source_store import Columns


_MASK_RULES = {  # how masks follow from a document; renamed when they would differ
    "span_corruption": f"partition by {MASKS}, document key, v1",
    "single_mask": f"first of a partition by {MASKS}, document key, v1",
}


class PerplexityScorer(BaseScorer):
    """Scores every document with its mean negative log-likelihood per predicted token, in nats: high = surprising.

    Perplexity is exp(score). The paper keeps the least surprising documents (App. B.5): `TopKFilter(scores, rate=0.2,
    order="bottom")`; `order="top"` keeps the most surprising ones, and two filters on one store the middle, e.g.
    rate=0.75 from the bottom and, with partial=True since it sees but those, rate=0.75 from the top.

    A document is read in windows of equal length, at most 512 tokens for a T5, 4,096 or what it was made for for a
    decoder-only model. All windows' and masks' log-likelihoods are added up and divided once by the number of
    predicted tokens, so no window weighs more than its tokens. Of a T5 those include sentinels and EOS: the score is
    its training loss. Masks are drawn from the document's key. A document without a token to predict, e.g. an empty
    one, gets log(vocabulary), the score of knowing nothing. Softmax and sums are in float32 and float64. On the CPU
    in float32 a score is the same to the last bit for the same window, and to 1e-5 in any other company.

    Args:
        model: Hub id or folder: a T5, checkpoints of `train` included, or a decoder-only model.
        revision: Hub revision; the resolved commit is recorded in the store.
        objective: of a T5, "span_corruption" (seven masks that hide every token exactly once), "single_mask" (one of
            them, at a seventh of the cost; ranks mostly by the mask's luck) or "prefix_lm" (second half of each window
            given the first, for checkpoints adapted to that); of a decoder-only model, "causal" (the first token
            given BOS; where the tokenizer has none, given and not predicted).
        max_tokens: tokens of a document that are read; None reads it to its end.
        dtype: "auto" (bfloat16 on CUDA, float32 on the CPU), "float32" or "bfloat16".
        scores, metadata_key, window_size: as in BaseScorer.

    Raises:
        ModelError: the model cannot be loaded, does not fit the objective, or has no sentinels.
    """

    name = "🤔 Perplexity"
    lower_is_better = True

    def __init__(
        self,
        scores: str,
        model: str,
        revision: str | None = None,
        objective: Objective = "span_corruption",
        max_tokens: int | None = 512,
        dtype: Literal["auto", "float32", "bfloat16"] = "auto",
        metadata_key: str = "perplexity",
        window_size: int = 4096,
    ) -> None:
        super().__init__(scores, metadata_key, window_size)
        if objective not in get_args(Objective):
            raise ModelError(f"no objective {objective!r}: choose one of {', '.join(get_args(Objective))}")
        if max_tokens is not None and max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, not {max_tokens}; None reads documents to their end")
        self.model = str(model)
        self.revision = revision
        self.objective = objective
        self.max_tokens = max_tokens
        self.dtype = dtype

    def fingerprint(self) -> dict[str, Any]:
        """Return what decides the scores."""
        return {
            "scorer": "PerplexityScorer",
            "unit": "mean negative log-likelihood, nats a token",
            "model": model_identity(self.model, self.revision),
            "objective": self.objective,
            "masks": _MASK_RULES.get(self.objective),
            "max_tokens": self.max_tokens,
            "longest_window": CAUSAL_WINDOW if self.objective == "causal" else T5_WINDOW,
            "dtype": str(pick_dtype(self.dtype, pick_device())),
            "versions": library_versions("torch", "transformers", "tokenizers"),
        }

    def prepare(self, docs: list[Document]) -> tuple[list[list[InputAndTarget]], np.ndarray]:
        """Tokenise and mask one window: the examples of each document, and its tokens (uint32)."""
        likelihood = self._likelihood()
        encoded = likelihood.encoder.encode_batch([doc.text for doc in docs])
        examples = [
            likelihood.examples(ids[: self.max_tokens], self.objective, key_of(doc))
            for doc, ids in zip(docs, encoded, strict=True)
        ]
        return examples, np.array([len(ids) for ids in encoded], dtype=np.uint32)

    def score(self, docs: list[Document], prepared: tuple[list[list[InputAndTarget]], np.ndarray]) -> Columns:
        """Return the scores and token counts of a window that has been tokenised and masked."""
        likelihood, (examples, tokens) = self._likelihood(), prepared
        flat = [example for own in examples for example in own]
        owner = np.repeat(np.arange(len(docs)), [len(own) for own in examples])
        nll = np.bincount(owner, likelihood.nll(flat), minlength=len(docs))
        predicted = np.bincount(owner, [len(targets) for _, targets in flat], minlength=len(docs))
        nothing = np.log(likelihood.vocabulary)
        return {"score": np.where(predicted > 0, nll / np.maximum(predicted, 1), nothing), "tokens": tokens}

    def _likelihood(self) -> Any:
        return load_likelihood(self.model, self.revision, self.dtype, self.objective == "causal")
