"""fastText classifiers that others have trained: quality filters (DCLM's), language identification."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

import numpy as np
import xxhash
from datatrove.data import Document

from pipeline_steps.engines.models import require
from pipeline_steps.errors import ModelError
from pipeline_steps.scorers.base import BaseScorer
from pipeline_steps.stores.source_store import Columns


_LABEL = "__label__"  # fastText's own prefix


class FastTextScorer(BaseScorer):
    """Scores documents with a fastText classifier: a label's log-odds. `tokens` are words between white space.

    A document is one line to the model: newlines become spaces. Text is not lower-cased; do so ahead of this step for
    a model that was trained on lower case.

    Args:
        scores: folder of the score store, any fsspec path.
        model: the .bin or .ftz file: a path, or any address fsspec knows (hf://..., https://...), kept once fetched.
        label: the wanted label, with or without "__label__".
        metadata_key: metadata key the score is written to.
        window_size: documents scored and committed together.

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
        """What decides the scores."""
        _, digest = load_fasttext(self.model)
        return {
            "scorer": "FastTextScorer",
            "unit": f"log-odds of {self.label.removeprefix(_LABEL)}, nats",
            "model": {"model": os.path.basename(self.model), "digest": digest},
        }

    def score_batch(self, docs: list[Document]) -> Columns:
        """Log-odds and words of one window."""
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
    """The model, and the digest of its file; loaded once per process."""
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
