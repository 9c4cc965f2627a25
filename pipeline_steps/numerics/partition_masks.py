"""Masks that hide every token of a document exactly once: what one random mask measures is mostly the mask.

A document is cut into spans of mean length 3, uniformly over all ways, and its spans are dealt to K masks, each mask
getting one of any K spans that follow each other. So every mask hides about 1 / K of the tokens, in spans that do not
touch each other, as T5's span corruption does (Raffel et al. 2020, Sec. 3.1.4). Everything is a function of the
document's key. Shapes: n tokens, K masks.
"""

from __future__ import annotations

import numpy as np

from pipeline_steps.numerics.keys import mix


Array = np.ndarray
Example = tuple[list[int], list[int]]
"""Token ids of the encoder's input and of the decoder's target."""

MASKS = 7  # 1 / 0.15, T5's noise density, rounded
MEAN_SPAN_LENGTH = 3
_CUTS, _DEALS = 0xC075, 0xDEA1  # any constants: two kinds of draws from one key


def partition_masks(tokens: int, key: int) -> Array:
    """int64 [n]: the mask, 0 to K - 1, that hides each token. Spans of one mask are at least a token apart."""
    if tokens == 0:
        return np.empty(0, dtype=np.int64)
    spans = max(round(tokens / MEAN_SPAN_LENGTH), 1)
    draws = mix(np.arange(tokens - 1, dtype=np.uint64) + np.uint64(key % 2**63), _CUTS)
    starts = np.zeros(tokens, dtype=bool)
    starts[0] = True
    starts[1 + np.argsort(draws, kind="stable")[: spans - 1]] = True
    return _deal(spans, key)[np.cumsum(starts) - 1]


def _deal(spans: int, key: int) -> Array:
    """The mask of each span: rounds of all K masks in random order, no mask twice in a row."""
    rounds = -(-spans // MASKS)
    draws = mix(np.arange(rounds * MASKS, dtype=np.uint64) + np.uint64(key % 2**63), _DEALS)
    order = np.argsort(draws.reshape(rounds, MASKS), axis=1, kind="stable")
    for this in range(1, rounds):
        if order[this, 0] == order[this - 1, -1]:
            order[this, [0, 1]] = order[this, [1, 0]]
    return order.ravel()[:spans]


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
