"""Unigrams and bigrams of many texts at once, as hash buckets: the features of DSIR and of the linear classifier.

A token is a run of word characters or a run of other printing characters (WordPunct). Texts are laid end to end as
UTF-8 and tokens are hashed all together, eight bytes at a time, so no token is ever a Python object. Bytes beyond
ASCII count as word characters. Shapes: N texts, G n-grams of all of them, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline_steps.numerics.keys import mix


Array = np.ndarray

_SPACE, _WORD, _OTHER = 0, 1, 2
_CLASS = np.full(256, _OTHER, dtype=np.uint8)
_CLASS[[*range(9, 14), 32]] = _SPACE
_CLASS[[*b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_", *range(128, 256)]] = _WORD
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio: Knuth's multiplicative hashing
_FIRST_BYTES = np.array([2 ** (8 * count) - 1 for count in range(9)], dtype=np.uint64)
_BLOCK = 1 << 17  # characters of texts whose arrays stay in the second-level cache
_UNIGRAM, _BIGRAM = 0x1, 0x2  # seeds: a token and a pair of tokens fall into unrelated buckets


@dataclass(frozen=True)
class Ngrams:
    """N-grams of N texts.

    Attributes:
        bucket: int32 [G], 0 to buckets - 1; in no particular order.
        text: int32 [G], the text each belongs to.
        tokens: int64 [N], tokens of each text.
    """

    bucket: Array
    text: Array
    tokens: Array


def hashed_ngrams(texts: Sequence[str], buckets: int) -> Ngrams:
    """Unigrams and bigrams of lower-cased texts. A text's n-grams do not depend on the other texts."""
    ends = np.cumsum([0, *map(len, texts)])
    blocks = [0]
    while blocks[-1] < len(texts):
        within = int(np.searchsorted(ends, ends[blocks[-1]] + _BLOCK, side="right")) - 1
        blocks.append(max(within, blocks[-1] + 1))
    parts = [_block(texts[first:last], buckets) for first, last in zip(blocks, blocks[1:], strict=False)]
    shifted = [part.text + np.int32(first) for first, part in zip(blocks, parts, strict=False)]
    none = np.empty(0, dtype=np.int32)
    return Ngrams(
        np.concatenate([none, *(part.bucket for part in parts)]),
        np.concatenate([none, *shifted]),
        np.concatenate([none, *(part.tokens for part in parts)]),
    )


def _block(texts: Sequence[str], buckets: int) -> Ngrams:
    encoded = [text.lower().encode("utf-8", "surrogatepass") for text in texts]
    sizes = np.array([len(text) + 1 for text in encoded], dtype=np.int64)
    data = np.frombuffer(b" ".join(encoded) + b" " * 8, dtype=np.uint8)
    kind = _CLASS[data]
    changed = np.flatnonzero(kind[1:] != kind[:-1]) + 1
    edges = np.concatenate([[0], changed, [data.size]])
    is_token = kind[edges[:-1]] != _SPACE
    start, end = edges[:-1][is_token], edges[1:][is_token]
    text = np.repeat(np.arange(len(texts), dtype=np.int32), sizes)[start]
    hash_T = _token_hashes(data, start, end)
    follows = np.flatnonzero(text[1:] == text[:-1])
    with np.errstate(over="ignore"):
        pair = hash_T[follows] * _FACTOR + mix(hash_T[follows + 1], _BIGRAM)
    hashes = np.concatenate([mix(hash_T, _UNIGRAM), mix(pair, _BIGRAM)])
    # The high half times the number of buckets, as Lemire's multiply-shift: no slow division
    bucket = ((hashes >> np.uint64(32)) * np.uint64(buckets) >> np.uint64(32)).astype(np.int32)
    tokens = np.bincount(text, minlength=len(texts))
    return Ngrams(bucket, np.concatenate([text, text[follows]]), tokens)


def _token_hashes(data: Array, start: Array, end: Array) -> Array:
    """uint64 hashes of the bytes from `start` to `end`, eight at a time; all tokens of that length at once."""
    eights = np.ndarray((data.size - 7,), dtype="<u8", buffer=data.data, strides=(1,))  # at every byte, unaligned
    left = end - start
    hash_T = left.astype(np.uint64)
    index: Array | slice = slice(None)
    while left.size:
        with np.errstate(over="ignore"):
            mixed = (hash_T[index] ^ (eights[start] & _FIRST_BYTES[np.minimum(left, 8)])) * _FACTOR
        hash_T[index] = mixed ^ (mixed >> np.uint64(32))
        longer = np.flatnonzero(left > 8)
        index = longer if isinstance(index, slice) else index[longer]
        start, left = start[longer] + 8, left[longer] - 8
    return hash_T


def sums(ngrams: Ngrams, weight_B: Array) -> Array:
    """Per text, the sum of its n-grams' weights: float64 [N]."""
    return np.bincount(ngrams.text, weight_B[ngrams.bucket], minlength=len(ngrams.tokens))
