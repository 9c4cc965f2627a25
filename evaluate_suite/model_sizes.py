"""How large a model is, by its name in the results, and which models are of one family."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from pipeline_steps.errors import ModelError


_T5_VOCABULARY = 32_100  # ids of every published T5: t5/data/utils.py
_SAME_TOKENS = 1.02  # a budget is met to the last batch
_SAME_RATIO = 1.25  # DataDecide's "100 tokens a parameter" are 85 to 110: its sizes are nominal from 150M on


@cache
def parameters(model: str) -> int | None:
    """Count the parameters of a preset of `train.model` with T5's vocabulary, without making weights.

    Of a decoder-only model, the input embedding does not count: it takes no operations, and in small models it is
    most of the weights (DataDecide, arXiv 2504.11393, counts alike). None for the name of another model.
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
    total = sum(weight.numel() for weight in built.parameters())
    embedding = built.get_input_embeddings().weight
    own = is_decoder(model) and embedding is not built.get_output_embeddings().weight
    return total - embedding.numel() if own else total


def is_decoder(model: str) -> bool:
    """Return whether a preset is decoder-only. Raises ModelError: no such preset."""
    from train.model import model_config

    return not model_config(model, _T5_VOCABULARY).is_encoder_decoder


def family(model: str) -> str:
    """Return what the models of one kind have in common: their name without the size. T5 v1.0 is not v1.1."""
    return model.rpartition("-")[0]


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
