"""The two ways to turn texts into hashed n-grams: fast, and as the official DSIR package does."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np

from pipeline_steps.errors import ModelError
from pipeline_steps.models import require
from pipeline_steps.numerics.hashed_ngrams import Ngrams, hashed_ngrams


Hashing = Literal["fast", "compatible"]
Featurise = Callable[[Sequence[str], int], Ngrams]
_REMEMBERED = 1 << 21  # n-grams whose bucket is kept: some 300 MB


def featuriser(hashing: str) -> Featurise:
    """Texts and a number of buckets to n-grams.

    "fast": `hashed_ngrams`. "compatible": the tokens, n-grams and buckets of the data-selection package 1.0.3 (Xie et
    al. 2023), which needs the `regex` package.

    Raises:
        ModelError: there is no such featuriser, or `regex` is not installed.
    """
    if hashing == "fast":
        return hashed_ngrams
    if hashing == "compatible":
        return CompatibleNgrams()
    raise ModelError(f"no hashing {hashing!r}: choose one of {', '.join(get_args(Hashing))}")


class CompatibleNgrams:
    """SHA-256 buckets of WordPunct tokens and pairs of them, remembered from text to text."""

    def __init__(self) -> None:
        require("regex", "compatible")
        import regex  # Python's own `re` splits combining marks off, which the package's tokeniser does not

        self._tokens: Callable[[str], list[str]] = regex.compile(r"\w+|[^\w\s]+").findall
        self._buckets: dict[str, int] = {}
        self._of = 0

    def __call__(self, texts: Sequence[str], buckets: int) -> Ngrams:
        """N-grams of texts, lower-cased."""
        if self._of != buckets or len(self._buckets) > _REMEMBERED:
            self._buckets, self._of = {}, buckets
        known, found, sizes, tokens = self._buckets, [], [], []
        for text in texts:
            words = self._tokens(text.lower())
            grams = words + [f"{first} {second}" for first, second in zip(words, words[1:], strict=False)]
            for gram in grams:
                bucket = known.get(gram)
                if bucket is None:
                    digest = hashlib.sha256(gram.encode("utf-8", "surrogatepass")).hexdigest()
                    bucket = known[gram] = int(digest, 16) % buckets
                found.append(bucket)
            sizes.append(len(grams))
            tokens.append(len(words))
        owner = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
        return Ngrams(np.array(found, dtype=np.int32), owner, np.array(tokens, dtype=np.int64))


def describe(hashing: str, buckets: int) -> dict[str, Any]:
    """For fingerprints."""
    return {"hashing": hashing, "buckets": buckets, "ngrams": "unigrams and bigrams"}
