"""AskLLMScorer: how sure an instruction-tuned model is that a document is worth training on (paper Sec. 3.1)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from datatrove.data import Document
from datatrove.utils.logging import logger

from pipeline_steps.engines.models import library_versions, model_identity, pick_device, pick_dtype, vllm_version
from pipeline_steps.engines.proxies import (
    ASK_LLM,
    FLOAT8,
    Prompt,
    Proxy,
    Questions,
    load_proxy,
    serve_proxy,
)
from pipeline_steps.scorers.base import BaseScorer
from pipeline_steps.stores.source_store import Columns
from pipeline_steps.terminal import printable


_HEALTHY_MASS = 0.5  # a proxy that puts less than half its probability on yes and no answers another question


class AskLLMScorer(BaseScorer):
    """Scores every document with log P("yes") to the paper's question, in nats: higher = more worth training on.

    One forward pass per document, no generation, the full vocabulary's softmax in float32. On the CPU in float32 a
    score is the same to the last bit for the same window, and to 1e-5 for any other company in the batch.

    The store gets an extra column `log_no` (float32, log P("no")); `tokens` are the proxy's, before truncation.

    Args:
        model: Hub id or folder of a T5, e.g. "google/flan-t5-xl" (paper Sec. 4.1), or of a decoder-only model, e.g.
            "google/gemma-7b-it", which is asked in its chat template and may answer "yes" or "Yes".
        revision: Hub revision; the resolved commit is recorded in the store.
        prompt: what is asked (Fig. 3); of several, e.g. RUBRIC, the log-probabilities are averaged.
        max_tokens: of prompt and document together, special tokens included; the document is cut, never the question.
        dtype: "auto" (bfloat16 on CUDA, float32 on the CPU; of a vLLM, the checkpoint's), "float32", "bfloat16", or
            "float8": a T5's encoder in e4m3, for CUDA devices that have it (Hopper and later). Rounds more
            coarsely than bfloat16 (Spearman with float32 on an earlier embedded proxy 0.992 against 0.995).
        vllm: flags of `vllm serve` without their dashes, e.g. {"tensor-parallel-size": 2}, or {}: decoder-only models
            are then asked through a server that each worker starts, on 127.0.0.1 with a key of its own; needs an
            environment with vLLM. By default the model runs in this process.
        scores, metadata_key, window_size: as in BaseScorer.

    Raises:
        ModelError: the model cannot be loaded or cannot answer with one token.
    """

    name = "🙋 Ask-LLM"
    extra_fields = (pa.field("log_no", pa.float32()),)

    def __init__(
        self,
        scores: str,
        model: str,
        revision: str | None = None,
        prompt: Prompt | Sequence[Prompt] = ASK_LLM,
        max_tokens: int = 512,
        dtype: Literal["auto", "float32", "bfloat16", "float8"] = "auto",
        vllm: dict[str, Any] | None = None,
        metadata_key: str = "ask_llm",
        window_size: int = 4096,
    ) -> None:
        super().__init__(scores, metadata_key, window_size)
        self.model = str(model)
        self.revision = revision
        self.prompts = [prompt] if isinstance(prompt, Prompt) else list(prompt)
        self.max_tokens = max_tokens
        self.dtype = dtype
        self.vllm = vllm

    def fingerprint(self) -> dict[str, Any]:
        """Return what decides the scores."""
        return {
            "scorer": "AskLLMScorer",
            "unit": "log P(yes), nats",
            "proxy": model_identity(self.model, self.revision),
            "prompts": [asdict(prompt) for prompt in self.prompts],
            "max_tokens": self.max_tokens,
            **self._engine_fingerprint(),
        }

    def _engine_fingerprint(self) -> dict[str, Any]:
        if self.vllm is not None:
            versions = {"vllm": vllm_version()} | library_versions("tokenizers")
            return {"dtype": self.dtype, "vllm": self.vllm, "versions": versions}
        return {
            "dtype": FLOAT8 if self.dtype == FLOAT8 else str(pick_dtype(self.dtype, pick_device())),
            "versions": library_versions("torch", "transformers", "tokenizers"),
        }

    def _proxy(self) -> Proxy:
        if self.vllm is not None:
            return serve_proxy(self.model, self.revision, self.dtype, self.max_tokens, json.dumps(self.vllm))
        return load_proxy(self.model, self.revision, self.dtype)

    def prepare(self, docs: list[Document]) -> list[Questions]:
        """Tokenise one window, for every prompt."""
        proxy = self._proxy()
        return [proxy.ask([doc.text for doc in docs], prompt, self.max_tokens) for prompt in self.prompts]

    def score(self, docs: list[Document], prepared: list[Questions]) -> Columns:
        """Return the scores and token counts of a window that has been tokenised."""
        proxy = self._proxy()
        log_yes, log_no = np.zeros(len(docs)), np.zeros(len(docs))
        for prompt, questions in zip(self.prompts, prepared, strict=True):
            answers = proxy.answer(questions)
            self._check_health(docs, prompt, np.exp(answers.log_yes) + np.exp(answers.log_no), proxy.name)
            log_yes += answers.log_yes
            log_no += answers.log_no
        return {
            "score": log_yes / len(self.prompts),
            "log_no": log_no / len(self.prompts),
            "tokens": prepared[0].tokens,
        }

    def _check_health(self, docs: list[Document], prompt: Prompt, mass: np.ndarray, name: str) -> None:
        self.stat_update("yes_no_mass", value=float(mass.mean()), unit="window")
        if mass.mean() >= _HEALTHY_MASS:
            return
        worst = ", ".join(f"{printable(docs[row].id)} ({mass[row]:.3f})" for row in np.argsort(mass)[:3])
        logger.warning(
            f"{name} does not answer the question {prompt.name!r}: P({prompt.yes}) + P({prompt.no}) is "
            f"{mass.mean():.3f} on average over {len(docs)} documents, lowest for {worst}. Its scores mean little; "
            "use an instruction-tuned model or another prompt"
        )
