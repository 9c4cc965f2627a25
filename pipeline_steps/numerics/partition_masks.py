"""Masks that hide every token of a document exactly once: what one random mask measures is mostly the mask.

A document is cut into spans of mean length 3, uniformly over all ways, and its spans are dealt to K masks, each mask
getting one of any K spans that follow each other. So every mask hides about 1 / K of the tokens, in spans that do not
touch each other, as T5's span corruption does (Raffel et al. 2020, Sec. 3.1.4). Everything is a function of the
document's key. Shapes: n tokens, K masks.
"""

from __future__ import annotations

import math

import numpy as np

from pipeline_steps.numerics.keys import mix


Array = np.ndarray
Example = tuple[list[int], list[int]]
"""Token ids of the encoder's input and of the decoder's target."""

NOISE_DENSITY = 0.15  # Raffel et al. 2020, Sec. 3.3.3
MEAN_SPAN_LENGTH = 3.0  # Raffel et al. 2020, Sec. 3.3.4
MASKS = math.ceil(1 / NOISE_DENSITY)  # 7
_CUTS, _DEALS = 0xC075, 0xDEA1  # any constants: two kinds of draws from one key


def partition_masks(tokens: int, key: int) -> Array:
    """int64 [n]: the mask, 0 to K - 1, that hides each token. Spans of one mask are at least a token apart.

    Documents of less than 20 tokens have fewer spans than K, and fewer masks. No mask hides a whole document, except
    of one token: nothing would be given.
    """
    if tokens == 0:
        return np.empty(0, dtype=np.int64)
    spans = _spans(tokens)
    draws = _draws(tokens - 1, key, _CUTS)
    starts = np.zeros(tokens, dtype=bool)
    starts[0] = True
    starts[1 + np.argsort(draws, kind="stable")[: spans - 1]] = True
    return _deal(spans, key)[np.cumsum(starts) - 1]


def most_spans(tokens: int) -> int:
    """The most spans that one mask of a document of n tokens can have: sentinels that the tokenizer must have."""
    return -(-_spans(tokens) // MASKS)


def _spans(tokens: int) -> int:
    return max(round(tokens / MEAN_SPAN_LENGTH), min(tokens, 2))


def _deal(spans: int, key: int) -> Array:
    """The mask of each span: rounds of all K masks in random order, no mask twice in a row."""
    rounds = -(-spans // MASKS)
    order = np.argsort(_draws(rounds * MASKS, key, _DEALS).reshape(rounds, MASKS), axis=1, kind="stable")
    for this in range(1, rounds):
        if order[this, 0] == order[this - 1, -1]:
            order[this, [0, 1]] = order[this, [1, 0]]
    return order.ravel()[:spans]


def _draws(count: int, key: int, kind: int) -> Array:
    """uint64 [count]; keys that follow each other, such as a document's windows have, share nothing."""
    base = mix(np.array([key % 2**64], dtype=np.uint64), kind)
    with np.errstate(over="ignore"):
        return mix(base + np.arange(count, dtype=np.uint64), kind)


def mask_out(ids: Array, hidden: Array, first_sentinel: int, eos: int) -> Example:
    """One T5 example: hidden spans become sentinels, counted downwards; the target is each sentinel and its span.

    Args:
        ids: int [n], token ids of a document.
        hidden: bool [n], the tokens to predict.
        first_sentinel: id of `<extra_id_0>`.
        eos: id that ends both.
    """
    starts = hidden & ~np.concatenate([[False], hidden[:-1]])
    sentinels = first_sentinel + 1 - np.cumsum(starts)
    inputs = np.where(starts, sentinels, ids)[starts | ~hidden]
    places = np.flatnonzero(hidden)
    first = np.flatnonzero(starts[places])
    targets = np.insert(ids[places], first, sentinels[places[first]])
    return [*inputs.tolist(), eos], [*targets.tolist(), eos]
