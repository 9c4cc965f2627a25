"""How large models are, and which of them are of one family."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache

from evaluate_suite.checkpoint import PARAMETERS
from evaluate_suite.results import ResultRow
from pipeline_steps.errors import ModelError


# The words for a size in the names of models: "large" and "60m", not the m of "mlp-mixer"
_WORDS = "nano|micro|tiny|mini|small|base|medium|large|x+l"
_SIZE = re.compile(rf"(?<![a-z0-9])({_WORDS}|\d+(\.\d+)?[mb])(?![a-z0-9])", re.IGNORECASE)
_SAME_TOKENS = 1.02  # a budget is met to the last batch
_SAME_RATIO = 1.25  # DataDecide's "100 tokens a parameter" are 85 to 110: its sizes are nominal from 150M on


def sizes(rows: Iterable[ResultRow], models: Iterable[str] = ()) -> dict[str, int]:
    """Return the parameters of each model, in results or named, whose size its checkpoints or its preset tell."""
    found: dict[str, int | None] = dict.fromkeys(models)
    for row in rows:
        if row.metric == PARAMETERS:
            found[row.model] = int(row.value)
        else:
            found.setdefault(row.model, None)
    known = {model: count or parameters(model) for model, count in found.items()}
    return {model: count for model, count in known.items() if count}


@cache
def parameters(model: str) -> int | None:
    """Count the parameters of a preset of `train.model` with its published vocabulary, without making weights.

    Of a decoder-only model, the input embedding does not count (`train.model.size_of`). None for the name of another
    model.
    """
    import torch

    from train.model import build_model, size_of
    from train.presets import vocabulary_of

    try:
        with torch.device("meta"):
            return size_of(build_model(model, vocabulary_of(model), 0))
    except ModelError:
        return None


def family(model: str) -> str:
    """Return what the models of one kind have in common: their name up to the size. T5 v1.0 is not v1.1."""
    found = _SIZE.search(model)
    return model[: found.start()].rstrip("-_") if found else model


def one_token_rule(model: str, sizes: Mapping[str, tuple[float, int]]) -> set[str]:
    """Return the models that were trained by the token rule of one of them: as many tokens, or as many a parameter.

    Models of both rules do not make one curve of size: where both fit some, the rule that fits more is taken, and the
    fixed number of tokens where both fit as many.

    Args:
        model: one of `sizes`.
        sizes: parameters and tokens of models of one family.
    """
    size, tokens = sizes[model]
    fixed = {name for name, (_, other) in sizes.items() if _alike(other, tokens, _SAME_TOKENS)}
    per_parameter = {name for name, (n, other) in sizes.items() if _alike(other / n, tokens / size, _SAME_RATIO)}
    return max(fixed, per_parameter, key=len)


def _alike(one: float, other: float, factor: float) -> bool:
    return one == other or (min(one, other) > 0 and max(one, other) / min(one, other) <= factor)
