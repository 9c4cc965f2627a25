"""What a model is asked about a text, as token ids in and out: windows of a causal model, masked windows of a T5.

Shapes: n tokens of a document.
"""

from __future__ import annotations

import numpy as np
import xxhash

from pipeline_steps.engines.likelihoods import InputAndTarget, mask_out
from train.objectives import SpanCorruption, span_lengths


_CONTEXT = -100  # a target that is not counted, of `CausalLikelihood`


def rolling_windows(ids: np.ndarray, first: int, window: int, new: int) -> list[InputAndTarget]:
    """Cut a document so that every token is a target once, as `get_rolling_token_windows` of lm-eval 0.4.13 does.

    Args:
        ids: int64 [n].
        first: the id before the first token.
        window: tokens of an input.
        new: targets of each window after the first, at most; `window` for windows that share one token of context.
            The last window reaches back as far as it can.
    """
    before, found, done = np.concatenate([[first], ids]), list[InputAndTarget](), 0
    while done < len(ids):
        end = min(done + (new if done else window), len(ids))
        start = max(end - window, 0)
        targets = ids[start:end].copy()
        targets[: done - start] = _CONTEXT
        found.append((before[start:end].tolist(), targets.tolist()))
        done = end
    return found


def masked_windows(ids: np.ndarray, corruption: SpanCorruption, seed: int) -> tuple[list[InputAndTarget], np.ndarray]:
    """Cut a document into as few windows as can be, of equal lengths, and mask each as `SpanCorruption` would.

    A mask is a function of the window's tokens and the seed. A window of one token is masked whole.

    Args:
        ids: int64 [n].
        corruption: the training's, which says how long a window may be.
        seed: seed of the masks.

    Returns:
        inputs and targets, and which tokens are masked, bool [n].
    """
    parts = np.array_split(ids, max(-(-len(ids) // corruption.raw_length), 1))
    masks = [_dropped(part, seed) for part in parts]
    asked = [
        mask_out(part, mask, corruption.first_sentinel, corruption.eos)
        for part, mask in zip(parts, masks, strict=True)
        if part.size
    ]
    return asked, np.concatenate(masks)


def _dropped(ids: np.ndarray, seed: int) -> np.ndarray:
    """Return which tokens of a window span corruption drops, bool [n]."""
    if ids.size < 2:
        return np.ones(ids.size, dtype=bool)
    sample = np.array([xxhash.xxh3_64_intdigest(ids.astype("<i8").tobytes())], dtype=np.uint64)
    lengths = np.stack(span_lengths(ids.size, sample, seed), axis=-1).ravel()  # kept, dropped, kept ...
    return np.repeat(np.arange(lengths.size) % 2 == 1, lengths)
