"""Unigrams and bigrams of many texts as hash buckets, and a linear model over them, trained in NumPy.

A token is a run of word characters or a run of other printing characters (WordPunct). Texts are laid end to end as
UTF-8, and one compiled pass finds and hashes the tokens, so none is ever a Python object. The model's features are
the n-grams' counts over the square root of how many there are: a long text has more to go by, but not in proportion.

Shapes: N texts, T tokens, G n-grams of all of them, B buckets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import regex  # Python's own `re` splits combining marks off words
from numba import njit

from pipeline_steps.numerics.keys import mix


Array = np.ndarray
_SPACE, _WORD, _OTHER = 0, 1, 2
_FNV_OFFSET, _FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)  # FNV-1a, 64 bits
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio: Knuth's multiplicative hashing
_BLOCK = 1 << 17  # characters of texts whose arrays stay in the second-level cache
MARGIN = 64  # bytes that may be read beyond the last token
Loss = Literal["logistic", "squared"]
_STEP = 0.01  # Adagrad's learning rate: of 0.003 to 0.3 the best held-out agreement with Ask-LLM on 4,115 mixed texts
_SHUFFLE = 0x5F  # any constant: the order of the texts


@dataclass(frozen=True)
class Ngrams:
    """N-grams of N texts."""

    bucket: Array  # int32 [G], 0 to buckets - 1
    text: Array  # int32 [G], the text each belongs to; does not decrease
    tokens: Array  # int64 [N], tokens of each text

    def sums(self, weight_B: Array) -> Array:
        """Return the sum of the weights of each text's n-grams: float64 [N]."""
        return np.bincount(self.text, weight_B[self.bucket], minlength=len(self.tokens))


@dataclass(frozen=True)
class Tokens:
    """Tokens of some texts, and their n-grams."""

    words: Array  # uint8, the tokens' bytes with one space after each, and MARGIN more
    edges: Array  # int32 [T, 2], where each token starts and ends in `words`
    text: Array  # int32 [T], the text each is of
    key: Array  # uint64 [G], hashes of the n-grams
    ngram: Array  # int32 [G], what each is: twice its last token, less 1 if that is the second of two


def hashed_ngrams(texts: Sequence[str], buckets: int) -> Ngrams:
    """Return unigrams and bigrams of lower-cased texts. A text's n-grams do not depend on the other texts."""

    def bucket_of(tokens: Tokens) -> Array:
        # The high half times the number of buckets, as Lemire's multiply-shift: no slow division
        return ((tokens.key >> np.uint64(32)) * np.uint64(buckets) >> np.uint64(32)).astype(np.int32)

    return ngrams_of(texts, bucket_of)


def ngrams_of(texts: Sequence[str], bucket_of: Callable[[Tokens], Array]) -> Ngrams:
    """Return unigrams and bigrams of lower-cased texts, in buckets that a function gives for those of some texts."""
    ends = np.cumsum([0, *map(len, texts)])
    none = np.empty(0, dtype=np.int32)
    bucket, owner, count = [none], [none], [none.astype(np.int64)]
    first = 0
    while first < len(texts):
        last = max(int(np.searchsorted(ends, ends[first] + _BLOCK, side="right")) - 1, first + 1)
        tokens = tokenise(texts[first:last])
        bucket.append(bucket_of(tokens))
        owner.append(tokens.text[(tokens.ngram + 1) >> 1] + np.int32(first))
        count.append(np.bincount(tokens.text, minlength=last - first))
        first = last
    return Ngrams(np.concatenate(bucket), np.concatenate(owner), np.concatenate(count))


def tokenise(texts: Sequence[str]) -> Tokens:
    """Return the tokens and n-grams of lower-cased texts."""
    encoded = [text.lower().encode("utf-8", "surrogatepass") for text in texts]
    ends = np.cumsum([len(text) + 1 for text in encoded])
    data = np.frombuffer(b" ".join([*encoded, b""]), dtype=np.uint8)
    words, edges, hashes, text = _scan(data, ends, _kinds())
    return Tokens(words, edges, text, *_hash_ngrams(hashes, text))


@cache
def _kinds() -> Array:
    """Return the kind of every code point, uint8: space, word character, other."""
    kinds = np.full(0x110000, _OTHER, dtype=np.uint8)
    characters = "".join(map(chr, range(kinds.size)))
    for pattern, kind in ((r"\w+", _WORD), (r"\s+", _SPACE)):
        for run in regex.finditer(pattern, characters):
            kinds[run.start() : run.end()] = kind
    return kinds


@njit(cache=True)
def _scan(data: Array, ends: Array, kinds: Array) -> tuple[Array, Array, Array, Array]:
    """Return `Tokens.words`, `edges`, a hash of every token, uint64 [T], and `text`.

    Branches only at characters beyond ASCII: where the next word ends cannot be foretold.
    """
    words = np.empty(2 * data.size + MARGIN, dtype=np.uint8)
    edges, hashes = np.empty((data.size + 1, 2), dtype=np.int32), np.empty(data.size + 1, dtype=np.uint64)
    owner = np.empty(data.size + 1, dtype=np.int32)
    hashed, kind = _FNV_OFFSET, _SPACE
    count = text = start = to = 0
    for at in range(data.size):
        byte, before = data[at], kind
        if byte < 0x80:
            kind = kinds[byte]
        elif byte >= 0xC0:  # the bytes after the first are of its kind
            kind = kinds[_code_point(data, at)]
        changed = kind != before
        edges[count, 0], edges[count, 1], hashes[count], owner[count] = start, to, hashed, text
        words[to] = 32  # a space
        ended = changed & (before != _SPACE)
        count += ended
        to += ended
        text += at >= ends[text]
        start = to if changed else start
        hashed = _FNV_OFFSET if changed else hashed
        words[to] = byte
        to += kind != _SPACE
        hashed = (hashed ^ np.uint64(byte)) * _FNV_PRIME
    return words, edges[:count].copy(), hashes[:count].copy(), owner[:count].copy()


@njit(cache=True)
def _code_point(data: Array, at: int) -> int:
    first = int(data[at])
    size = 2 if first < 0xE0 else 3 if first < 0xF0 else 4
    code = first & (0x7F >> size)
    for place in range(at + 1, at + size):
        code = code << 6 | (data[place] & 0x3F)
    return code


@njit(cache=True)
def _hash_ngrams(hashes: Array, text: Array) -> tuple[Array, Array]:
    """Return `Tokens.key` and `ngram`."""
    key, ngram = np.empty(2 * text.size, dtype=np.uint64), np.empty(2 * text.size, dtype=np.int32)
    count = 0
    for token in range(text.size):
        if token and text[token] == text[token - 1]:
            key[count], ngram[count] = _scrambled(hashes[token] + hashes[token - 1] * _FACTOR), 2 * token - 1
            count += 1
        key[count], ngram[count] = _scrambled(hashes[token]), 2 * token
        count += 1
    return key[:count].copy(), ngram[:count].copy()


@njit(cache=True)
def _scrambled(value: np.uint64) -> np.uint64:
    """Apply a bijection that brings the high bits down and the low bits up."""
    value = (value ^ (value >> np.uint64(32))) * _FACTOR
    return value ^ (value >> np.uint64(29))


@dataclass(frozen=True)
class LinearModel:
    """Weights of a trained model."""

    weight: Array  # float32 [B]
    bias: float  # log-odds, or the score, of a text without n-grams

    def predict(self, ngrams: Ngrams) -> Array:
        """Return log-odds, or scores: float64 [N]."""
        return self.bias + ngrams.sums(self.weight) * _scale(ngrams)


def train(batches: Sequence[Ngrams], targets: Sequence[Array], buckets: int, loss: Loss, epochs: int) -> LinearModel:
    """Fit a model to minibatches of texts and their targets (0 or 1, or scores of mean 0 and deviation 1)."""
    weight, squares = np.zeros(buckets), np.full(buckets, 1e-8)
    bias, bias_squares = 0.0, 1e-8
    for epoch in range(epochs):
        for number in np.argsort(mix(np.arange(len(batches), dtype=np.uint64), _SHUFFLE + epoch)):
            ngrams, target = batches[number], targets[number]
            scale = _scale(ngrams)
            predicted = bias + ngrams.sums(weight) * scale
            if loss == "logistic":
                predicted = 1 / (1 + np.exp(-np.clip(predicted, -30, 30)))
            error = (predicted - target) / len(target)
            gradient = np.bincount(ngrams.bucket, (error * scale)[ngrams.text], minlength=buckets)
            squares += gradient**2
            weight -= _STEP * gradient / np.sqrt(squares)
            bias_squares += error.sum() ** 2
            bias -= _STEP * error.sum() / np.sqrt(bias_squares)
    return LinearModel(weight.astype(np.float32), float(bias))


def _scale(ngrams: Ngrams) -> Array:
    count = np.bincount(ngrams.text, minlength=len(ngrams.tokens))
    return 1 / np.sqrt(np.maximum(count, 1))
