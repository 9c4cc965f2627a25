"""The paper's 22 samplers by name and by family; any other name is shown as it is.

4 of coverage and chance, 5 + 5 perplexities by proxy and by its training, 6 of Ask-LLM, and the extended version's
DSIR and quality classifier.
"""

from __future__ import annotations

from collections.abc import Iterable


FULL = "full"  # no sampler: everything
FAMILIES: dict[str, tuple[str, ...]] = {
    "Coverage and baselines": ("random", "density", "semdedup", "prototypes", "dsir", "quality-classifier"),
    "Ask-LLM, by proxy": (
        "ask-llm-small",
        "ask-llm-base",
        "ask-llm-large",
        "ask-llm-xl",
        "ask-llm-xxl",
        "ask-llm-gemma-7b",
    ),
    "Perplexity, by proxy": (
        "perplexity-small",
        "perplexity-base",
        "perplexity-large",
        "perplexity-xl",
        "perplexity-xxl",
    ),
    "Perplexity, by training of the proxy": (
        "perplexity-large-20k",
        "perplexity-large-100k",
        "perplexity-large-300k",
        "perplexity-large-500k",
        "perplexity-large-700k",
    ),
}
_OTHERS = 6  # lines of a figure; more cannot be told apart
_WORDS = {
    "full": "Full data",
    "semdedup": "SemDeDup",
    "dsir": "DSIR",
    "quality-classifier": "Quality classifier",
    "ask-llm": "Ask-LLM",
    "ask-llm-gemma-7b": "Ask-LLM (Gemma 7B)",
}
_SIZES = {"small": "Small", "base": "Base", "large": "Large", "xl": "XL", "xxl": "XXL"}


def label(sampler: str) -> str:
    """As figures and tables write it: "ask-llm-xl" is "Ask-LLM (XL)"."""
    if sampler in _WORDS:
        return _WORDS[sampler]
    if not any(sampler in samplers for samplers in FAMILIES.values()):
        return sampler
    for stem, title in (("ask-llm-", "Ask-LLM"), ("perplexity-", "Perplexity")):
        if sampler.startswith(stem):
            parts = sampler.removeprefix(stem).split("-")
            return f"{title} ({', '.join(_SIZES.get(part, part) for part in parts)})"
    return sampler.capitalize()


def ordered(samplers: Iterable[str]) -> list[str]:
    """Without repetitions: everything first, then in the order of the families, then others by name."""
    order = [FULL, *(name for names in FAMILIES.values() for name in names)]
    return sorted(set(samplers), key=lambda name: (order.index(name) if name in order else len(order), name))


def families(samplers: Iterable[str]) -> dict[str, list[str]]:
    """Those of each family that are there; others in groups that a figure can show."""
    there = [name for name in ordered(samplers) if name != FULL]
    found = {title: [name for name in names if name in there] for title, names in FAMILIES.items()}
    others = [name for name in there if not any(name in names for names in FAMILIES.values())]
    for start in range(0, len(others), _OTHERS):
        found["Others" + (f", {start // _OTHERS + 1}" if start else "")] = others[start : start + _OTHERS]
    return {title: names for title, names in found.items() if names}
