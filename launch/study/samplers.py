"""The paper's 22 samplers: what scores, by which proxy, and how the score is cut (Sec. 4.1, App. B)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline_steps.numerics.priority import Mode
from pipeline_steps.paper import MILESTONES


SCORERS = ("ask-llm", "perplexity", "density", "semdedup", "prototypes", "dsir", "quality-classifier")
MODELS = {"ask-llm", "perplexity"}  # scorers that ask a model
EMBEDDED = "embedded"  # names the Ask-LLM proxy that ships with this package, and its tokenizer: wherever that lies
# Further arguments of a scorer that a study may give, and their types
OF_ALL: dict[str, Any] = {"window_size": int}
_OF_MODELS = OF_ALL | {"revision": str, "max_tokens": int, "dtype": Literal["auto", "float32", "bfloat16"]}
OPTIONS = {
    "ask-llm": _OF_MODELS | {"dtype": Literal["auto", "float32", "bfloat16", "float8"], "vllm": dict},
    "perplexity": _OF_MODELS | {"objective": Literal["span_corruption", "single_mask", "prefix_lm", "causal"]},
}
_SIZES = ("small", "base", "large", "xl", "xxl")


@dataclass(frozen=True)
class Sampler:
    """How documents are chosen.

    Attributes:
        name: unique in a study.
        scorer: one of `SCORERS`; "" for chance.
        mode: how its score is cut, as for `pipeline_steps.Cut`.
        model: of a scorer that asks one: Hub id, folder, "embedded", one of the study's proxies, or a checkpoint of a
            run on everything, "<model of the study>@<step>".
        options: further arguments of the scorer, e.g. {"max_tokens": 256}.
    """

    name: str
    scorer: str
    mode: Mode
    model: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def scored_by(self) -> tuple[Any, ...]:
        """What decides its scores: samplers of the same share a store."""
        return self.scorer, self.model, dict(self.options)


def _paper() -> list[Sampler]:
    coverage = [
        Sampler("random", "", "random"),
        Sampler("density", "density", "ips"),
        Sampler("semdedup", "semdedup", "bottom"),
        Sampler("prototypes", "prototypes", "top"),
        Sampler("dsir", "dsir", "direct"),
        Sampler("quality-classifier", "quality-classifier", "top"),
    ]
    perplexity = [Sampler(f"perplexity-{size}", "perplexity", "bottom", f"google/t5-v1_1-{size}") for size in _SIZES]
    trained = [
        Sampler(f"perplexity-large-{step // 1000}k", "perplexity", "bottom", f"t5-large@{step}") for step in MILESTONES
    ]
    asked = [Sampler(f"ask-llm-{size}", "ask-llm", "top", f"google/flan-t5-{size}") for size in _SIZES]
    gemma = Sampler("ask-llm-gemma-7b", "ask-llm", "top", "google/gemma-7b-it")
    return [*coverage, *perplexity, *trained, *asked, gemma]


PAPER_SAMPLERS: dict[str, Sampler] = {sampler.name: sampler for sampler in _paper()}
