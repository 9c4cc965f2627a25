"""Runs of words as 64-bit hashes, and which of those hashes a sorted list holds. Shapes: W words, n of a run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xxhash


Array = np.ndarray


def word_ngrams(words: Sequence[str], n: int) -> Array:
    """Return the xxh3_64 of every n words that follow each other, with one space between: uint64 [max(W - n + 1, 0)].

    A word must hold no white space. Of two different runs, one in 2**64 pairs has the same hash.
    """
    if len(words) < n:
        return np.empty(0, dtype=np.uint64)
    encoded = [word.encode("utf-8", "surrogatepass") for word in words]
    text = b" ".join(encoded)
    start = np.cumsum([0, *(len(word) + 1 for word in encoded)])  # of each word, and of one after the last
    runs = zip(start[:-n].tolist(), (start[n:] - 1).tolist(), strict=True)
    digest = xxhash.xxh3_64_intdigest
    return np.fromiter((digest(text[first:end]) for first, end in runs), dtype=np.uint64, count=len(words) - n + 1)


def found_in(sorted_S: Array, value_N: Array) -> Array:
    """Return whether each value is in a sorted array: bool [N]."""
    place_N = np.searchsorted(sorted_S, value_N)
    found: Array = place_N < sorted_S.size
    found[found] = sorted_S[place_N[found]] == value_N[found]
    return found
