"""The paper's tables and figures, and what each needs: the list that `winnow plan` compares a study with.

Sachdeva et al., arXiv 2402.09668 (v1); the two tables of the extended version (ICLR 2026) last. `drawn` names the
figures of `evaluate_suite.report.gallery` that show an exhibit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from evaluate_suite.registry import SUITES
from pipeline_steps.samplers import FAMILIES


SMALLER, LARGER = "smaller", "larger"
"""The models that are trained on selections, by size: T5-Small and T5-Large in the paper."""

_COVERAGE = ("random", "density", "prototypes", "semdedup")  # Fig. 10
_ASKED, _SURPRISED, _TRAINED = (
    tuple(name for name in FAMILIES[family] if not name.endswith("gemma-7b"))  # of the extended version
    for family in ("Ask-LLM, by proxy", "Perplexity, by proxy", "Perplexity, by training of the proxy")
)
_COMPARED = (*_COVERAGE, "ask-llm-small", "ask-llm-xl", "perplexity-small", "perplexity-xl")  # Fig. 4
_SCORED = (*_ASKED, *_SURPRISED, *_TRAINED, "density", "prototypes", "semdedup")  # Fig. 7 and 9
_CURVES = ("c4_perplexity", "hq_perplexity", "glue", "superglue")  # Fig. 24 - 30, rows of panels
_FAMILIES = {  # of App. D.2 - D.4: the samplers, their family in the report's figures, and the models trained on them
    "coverage": (_COVERAGE, "coverage-and-baselines", (SMALLER, LARGER)),
    "Ask-LLM": (_ASKED, "ask-llm-by-proxy", (SMALLER, LARGER)),
    "perplexity": (_SURPRISED, "perplexity-by-proxy", (SMALLER, LARGER)),
    "perplexity, by training": (_TRAINED, "perplexity-by-training-of-the-proxy", (LARGER,)),
}


@dataclass(frozen=True)
class Exhibit:
    """A table or a figure of the paper, and what must be there before it can be drawn.

    Attributes:
        name: its number.
        about: what it shows.
        models: the models whose runs it shows, `SMALLER` and `LARGER`; those on everything too.
        samplers: the samplers whose runs it shows.
        rates: how many shares of the documents each sampler must be trained at, at least.
        measures: keys of `SUITES` that must be measured at the last checkpoint.
        along: keys of `SUITES` that must be measured at several checkpoints.
        over_scaled: whether the next-larger model must be trained on everything, and measured in the same suites.
        sizes: how many models must be trained on everything, at least, for effective model sizes.
        scores: samplers whose score stores it shows.
        kept: samplers whose selections it shows.
        clustered: whether documents must be in clusters.
        drawn: names of the gallery's figures, with {model}, {measure}, {smaller} and {larger} in them.
    """

    name: str
    about: str
    models: tuple[str, ...] = ()
    samplers: tuple[str, ...] = ()
    rates: int = 1
    measures: tuple[str, ...] = ()
    along: tuple[str, ...] = ()
    over_scaled: bool = False
    sizes: int = 0
    scores: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    clustered: bool = False
    drawn: tuple[str, ...] = ()


def _exhibits() -> Iterator[Exhibit]:
    """Yield the exhibits of v1 in order, and those of the extended version."""
    both, every = (SMALLER, LARGER), tuple(SUITES)
    efficiency = tuple(f"efficiency-{{model}}-{one}-by-proxy-{{measure}}" for one in ("ask-llm", "perplexity"))
    extended = (*_COVERAGE, "dsir", "quality-classifier", "perplexity-small", "ask-llm-gemma-7b")
    yield Exhibit(
        "Fig. 1",
        "training efficiency of Ask-LLM (XL)",
        models=(LARGER,),
        samplers=("random", "ask-llm-xl"),
        along=_CURVES[1:],
        drawn=("each-rate-{model}-ask-llm-by-proxy-{measure}",),
    )
    yield Exhibit(
        "Fig. 2",
        "samplers between coverage and quality",
        kept=_COMPARED,
        scores=("ask-llm-xl",),
        clustered=True,
        drawn=("coverage-and-quality",),
    )
    yield Exhibit("Fig. 3", "the prompt, which these stores were asked", scores=_ASKED)
    of_all: dict[str, Any] = {"models": both, "samplers": _COMPARED, "measures": every, "over_scaled": True}
    quality = tuple(f"quality-{{model}}-coverage-and-baselines-{one}" for one in ("over-scaling", "hq-perplexity"))
    yield Exhibit("Fig. 4", "quantity and quality", **of_all, rates=2, drawn=quality)
    yield Exhibit("Table 1", "samplers at one rate", **of_all)
    proxies: dict[str, Any] = {"models": both, "samplers": (*_ASKED, *_SURPRISED)}
    yield Exhibit("Fig. 5", "efficiency by proxy", **proxies, rates=2, along=_CURVES[1:], drawn=efficiency)
    yield Exhibit("Fig. 6", "ranks of proxies", **proxies, measures=every, drawn=("ranks-{smaller}-{larger}",))
    yield Exhibit("Fig. 7", "Kendall's tau of scorers", scores=_SCORED, drawn=("kendall-tau",))
    yield Exhibit("Fig. 8", "epochs at each rate", both, ("random",), rates=2, drawn=("epochs-{model}",))
    yield Exhibit("Fig. 9", "distributions of scores", scores=_SCORED, drawn=("scores",))
    yield from _of_families(10, "rates", "quality-{model}-FAMILY", measures=every, over_scaled=True)
    yield from _of_families(17, "repetitions", "repetitions-{model}-FAMILY-{measure}", along=_CURVES[1:])
    yield from _of_families(24, "tokens", "each-rate-{model}-FAMILY-{measure}", along=_CURVES)
    yield Exhibit("App. E", "documents, by winnow inspect", scores=(*_ASKED, *_SURPRISED))
    yield Exhibit("Ext. Table 1", "effective model sizes", (LARGER,), extended, measures=every, sizes=3)
    yield Exhibit("Ext. Table 2", "time of scoring and training", both, scores=_ASKED, drawn=("cost",))


def _of_families(first: int, against: str, drawn: str, **needs: Any) -> Iterator[Exhibit]:
    """Yield the seven figures of App. D.2, D.3 or D.4: one for each family of samplers and each model."""
    figures = [(family, model) for family, (*_, models) in _FAMILIES.items() for model in models]
    for number, (family, model) in enumerate(figures, first):
        samplers, slug, _ = _FAMILIES[family]
        figure = drawn.replace("FAMILY", slug)
        yield Exhibit(f"Fig. {number}", f"{family}, by {against}", (model,), samplers, 2, drawn=(figure,), **needs)


EXHIBITS = tuple(_exhibits())
"""All of them, in the order of the paper."""
