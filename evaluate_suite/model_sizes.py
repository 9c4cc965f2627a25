"""How large a model is, by its name in the results, and which models are of one family."""

from __future__ import annotations

from functools import cache

from pipeline_steps.errors import ModelError


@cache
def parameters(model: str) -> int | None:
    """Count the parameters of a preset of `train.model` with its published vocabulary, without making weights.

    None for the name of another model.
    """
    import torch

    from train.model import build_model, count_parameters
    from train.presets import vocabulary_of

    try:
        with torch.device("meta"):
            return count_parameters(build_model(model, vocabulary_of(model), 0))["total"]
    except ModelError:
        return None


def family(model: str) -> str:
    """Return what the models of one kind have in common: their name without the size. T5 v1.0 is not v1.1."""
    return model.rpartition("-")[0]
