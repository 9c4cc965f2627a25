"""Classifiers that others have trained: transformers' classification and regression heads, and fastText's."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

import numpy as np
import xxhash
from datatrove.data import Document

from pipeline_steps.engines.models import (
    batches_by_length,
    library_versions,
    load_tokenizer,
    load_weights,
    model_identity,
    padded,
    pick_device,
    pick_dtype,
    require,
)
from pipeline_steps.errors import ModelError
from pipeline_steps.scorers.base import BaseScorer
from pipeline_steps.stores.source_store import Columns


_BATCH_TOKENS = {"cpu": 2_048, "cuda": 65_536}  # padded, in one forward pass
_LABEL = "__label__"  # fastText's own prefix


class ClassifierHeadScorer(BaseScorer):
    """Scores documents with a transformers sequence classifier: a regression's value, or a label's log-odds.

    Args:
        model: Hub id or folder, e.g. "HuggingFaceFW/fineweb-edu-classifier".
        label: the wanted class, as in the model's `id2label`; None for a model with one output (a regression).
        revision: Hub revision; the resolved commit is recorded.
        max_tokens: special tokens included; longer documents are cut.
        dtype: "auto" (bfloat16 on CUDA, float32 on the CPU), "float32" or "bfloat16".
        scores, metadata_key, window_size: as in BaseScorer.

    Raises:
        ModelError: the model cannot be loaded, or has no such label.
    """

    name = "🏷️ Classifier head"

    def __init__(
        self,
        scores: str,
        model: str,
        label: str | None = None,
        revision: str | None = None,
        max_tokens: int = 512,
        dtype: str = "auto",
        metadata_key: str = "classifier",
        window_size: int = 4096,
    ) -> None:
        super().__init__(scores, metadata_key, window_size)
        self.model, self.label, self.revision = str(model), label, revision
        self.max_tokens, self.dtype = max_tokens, dtype

    def fingerprint(self) -> dict[str, Any]:
        """Return what decides the scores."""
        return {
            "scorer": "ClassifierHeadScorer",
            "unit": "the regression's" if self.label is None else f"log-odds of {self.label}, nats",
            "model": model_identity(self.model, self.revision),
            "max_tokens": self.max_tokens,
            "dtype": str(pick_dtype(self.dtype, pick_device())),
            "versions": library_versions("torch", "transformers", "tokenizers"),
        }

    def prepare(self, docs: list[Document]) -> tuple[list[list[int]], np.ndarray]:
        """Tokenise one window: inputs, and tokens before truncation (uint32)."""
        _, tokenizer = load_head(self.model, self.revision, self.dtype)
        encoder = tokenizer.backend_tokenizer
        encodings = encoder.encode_batch([doc.text for doc in docs], add_special_tokens=False)
        tokens = np.array([len(encoding) for encoding in encodings], dtype=np.uint32)
        for encoding in encodings:
            encoding.truncate(self.max_tokens - encoder.num_special_tokens_to_add(False))
        return [encoder.post_process(encoding).ids for encoding in encodings], tokens

    def score(self, docs: list[Document], prepared: tuple[list[list[int]], np.ndarray]) -> Columns:
        """Return the scores and token counts of a window that has been tokenised."""
        import torch

        model, _ = load_head(self.model, self.revision, self.dtype)
        column = self._column(model.config)
        inputs, tokens = prepared
        score = np.empty(len(docs), dtype=np.float32)
        for rows in batches_by_length([len(ids) for ids in inputs], _BATCH_TOKENS[model.device.type]):
            ids = padded([inputs[row] for row in rows], model.config.pad_token_id or 0).to(model.device)
            length = torch.tensor([len(inputs[row]) for row in rows], device=model.device)
            mask = torch.arange(ids.shape[1], device=model.device) < length[:, None]
            with torch.inference_mode():
                logits = model(input_ids=ids, attention_mask=mask.long()).logits.float()
            if column is not None:
                log_p = torch.log_softmax(logits, dim=-1)
                others = [other for other in range(logits.shape[1]) if other != column]
                logits = (log_p[:, column] - torch.logsumexp(log_p[:, others], dim=-1))[:, None]
            score[rows] = logits[:, 0].cpu().numpy()
        return {"score": score, "tokens": tokens}

    def _column(self, config: Any) -> int | None:
        labels = list(config.id2label.values())
        if self.label is None and len(labels) == 1:
            return None
        if self.label not in labels or len(labels) == 1:
            raise ModelError(f"{self.model} has the labels {', '.join(labels)}: pass one as label, not {self.label!r}")
        return labels.index(self.label)


@lru_cache(maxsize=2)
def load_head(model: str, revision: str | None = None, dtype: str = "auto") -> tuple[Any, Any]:
    """Load model and tokenizer on this process's device, once per process. Raises ModelError if that fails."""
    require("torch", "score")
    require("transformers", "score")
    model_identity(model, revision)  # a clear error before a long one
    from transformers import AutoModelForSequenceClassification

    tokenizer = load_tokenizer(model, revision)
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    device = pick_device()
    loaded = load_weights(AutoModelForSequenceClassification, model, revision, dtype=pick_dtype(dtype, device))
    return loaded.to(device).eval(), tokenizer


class FastTextScorer(BaseScorer):
    """Scores documents with a fastText classifier: a label's log-odds. `tokens` are words between white space.

    A document is one line to the model: newlines become spaces. Text is not lower-cased; do so ahead of this step for
    a model that was trained on lower case.

    Args:
        model: the .bin or .ftz file: a path, or any address fsspec knows (hf://..., https://...), kept once fetched.
        label: the wanted label, with or without "__label__".
        scores, metadata_key, window_size: as in BaseScorer.

    Raises:
        ModelError: fastText is not installed, the file is not to be had or no classifier, or has no such label.
    """

    name = "🏷️ fastText"

    def __init__(
        self, scores: str, model: str, label: str, metadata_key: str = "fasttext", window_size: int = 4096
    ) -> None:
        super().__init__(scores, metadata_key, window_size)
        self.model, self.label = str(model), _LABEL + label.removeprefix(_LABEL)

    def fingerprint(self) -> dict[str, Any]:
        """Return what decides the scores."""
        _, digest = load_fasttext(self.model)
        return {
            "scorer": "FastTextScorer",
            "unit": f"log-odds of {self.label.removeprefix(_LABEL)}, nats",
            "model": {"model": os.path.basename(self.model), "digest": digest},
        }

    def score(self, docs: list[Document]) -> Columns:
        """Return the log-odds and words of one window."""
        model, _ = load_fasttext(self.model)
        if self.label not in model.get_labels():
            found = ", ".join(label.removeprefix(_LABEL) for label in model.get_labels())
            raise ModelError(f"{self.model} has the labels {found}: pass one as label")
        score = [self._log_odds(model, doc.text) for doc in docs]
        tokens = [len(doc.text.split()) for doc in docs]
        return {"score": np.array(score, dtype=np.float32), "tokens": np.array(tokens, dtype=np.uint32)}

    def _log_odds(self, model: Any, text: str) -> float:
        line = text.replace("\n", " ").encode("utf-8", "replace").decode()
        # The binding under `predict`, whose wrapper breaks on NumPy 2 in the original package
        chance = {label: p for p, label in model.f.predict(line + "\n", -1, 0.0, "strict")}
        wanted = chance.pop(self.label, 0.0)
        # None is below 1e-5, which fastText adds to each; without any known word it gives none at all
        return float(np.log(max(wanted, 1e-5) / max(sum(chance.values()), 1e-5)))


@lru_cache(maxsize=2)
def load_fasttext(model: str) -> tuple[Any, str]:
    """Return the model and the digest of its file, loaded once per process."""
    require("fasttext", "fasttext")
    import fasttext
    from datatrove.io import cached_asset_path_or_download

    try:
        path = model if os.path.isfile(model) else cached_asset_path_or_download(model, subfolder="fasttext")
        with open(path, "rb") as file:
            digest = xxhash.xxh3_64()
            while chunk := file.read(1 << 24):
                digest.update(chunk)
        loaded = fasttext.load_model(path)
    except (OSError, ValueError) as error:
        raise ModelError(f"{model} is no fastText model that can be had: {error}") from error
    return loaded, digest.hexdigest()
