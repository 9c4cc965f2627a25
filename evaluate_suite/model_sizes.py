"""How large a model is, by its name in the results, and which models are of one family."""

from __future__ import annotations

from functools import cache

from pipeline_steps.errors import ModelError


_T5_VOCABULARY = 32_100  # ids of every published T5: t5/data/utils.py


@cache
def parameters(model: str) -> int | None:
    """Count the parameters of a preset of `train.model` with T5's vocabulary, without making weights.

    None for the name of another model.
    """
    import torch

    from train.model import model_config, model_of, untie

    try:
        config = model_config(model, _T5_VOCABULARY)
    except ModelError:
        return None
    with torch.device("meta"):
        built = model_of(config)
        if model.startswith("t5-v1_1"):
            untie(built)
    return sum(weight.numel() for weight in built.parameters())


def family(model: str) -> str:
    """Return what the models of one kind have in common: their name without the size. T5 v1.0 is not v1.1."""
    return model.rpartition("-")[0]
