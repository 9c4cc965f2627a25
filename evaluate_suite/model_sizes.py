"""How large models are, and which of them are of one family."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

from evaluate_suite.checkpoint import PARAMETERS
from evaluate_suite.results import ResultRow
from pipeline_steps.errors import ModelError


# The words for a size in the names of models; "large" and "60m", not the m of "mlp-mixer"
_SIZE = re.compile(
    r"(?<![a-z0-9])(nano|micro|tiny|mini|small|base|medium|large|x+l|\d+(\.\d+)?[mb])(?![a-z0-9])", re.I
)


def sizes(rows: Iterable[ResultRow]) -> dict[str, int]:
    """Return the parameters of each model in the results, where they are known: from its checkpoints or its preset."""
    found = dict[str, int | None]()
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

    None for the name of another model.
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
    """Return what the models of one kind have in common: their name without the size.

    T5 v1.0 is not v1.1, and a study's olmo-20m-1xC and olmo-60m-1xC, of tokens in proportion to their sizes, are
    another family than its olmo-20m and olmo-60m of as many tokens each.
    """
    return _SIZE.sub("*", model)
