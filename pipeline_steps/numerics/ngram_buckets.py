"""N-grams of texts as hash buckets, and sums over them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


Array = np.ndarray


@dataclass(frozen=True)
class Ngrams:
    """N-grams of N texts.

    Attributes:
        bucket: int32 [G], 0 to buckets - 1.
        text: int32 [G], the text each belongs to; does not decrease.
        tokens: int64 [N], tokens of each text.
    """

    bucket: Array
    text: Array
    tokens: Array


def sums(ngrams: Ngrams, weight_B: Array) -> Array:
    """Per text, the sum of its n-grams' weights: float64 [N]."""
    return np.bincount(ngrams.text, weight_B[ngrams.bucket], minlength=len(ngrams.tokens))
