"""Encoders of texts: token ids of plain text, many times as fast as the tokenizer, and vectors of token ids.

sentence-transformers loads a model and runs what comes after its encoder (pooling, dense layers); a T5 encoder, such
as sentence-t5's (paper App. B.2), runs unpadded in `PackedT5Encoder`, others padded in batches of like length.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache, lru_cache
from itertools import chain, repeat
from typing import Any

import numpy as np

from pipeline_steps.engines.models import (
    TokenIds,
    batches_by_length,
    load_sentence_transformer,
    model_identity,
    padded,
    pick_device,
    pick_dtype,
    require,
)
from pipeline_steps.errors import ModelError


_REMEMBERED = 1 << 22  # characters of words whose ids are kept: some 500,000 words, 70 MB
_GROUP = 64  # new words to one call of the tokenizer
_NEW = b"new"  # in place of ids, which take 4 bytes each
_PROBES = (
    "The quick brown fox, aged 3.5 years, can't jump!",
    "  two  spaces\tand\r\nlines\n\n(at both ends) ",
    "“Curly – quotes” at 5°C… naïve café №1 ½",
    "non\u00a0breaking ideographic\u3000space 日本語 текст",
)
_NO_LIMIT, _UNSTATED = 100_000, 512  # tokens
_BATCH_TOKENS = {"cpu": 16_384, "cuda": 131_072}  # padding included


def plain_backend(tokenizer: Any) -> Any:
    """Return the `tokenizers.Tokenizer` of a fast tokenizer, to which all text is text, never cut or padded."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True  # "</s>" in a web page is text, not the end of the input
    return backend


class PlainEncoder:
    """Token ids of texts without special tokens.

    A tokenizer that splits at white space first and marks where words start, as T5's do, gives a text the ids of its
    words, one after another. Nearly all words of a text have been met before, so their ids are looked up. A text with
    characters that could act across a space (combining marks, controls) goes through the tokenizer whole, as do all
    texts of a tokenizer that does not split there.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.backend = plain_backend(tokenizer)
        vocabulary = self.backend.get_vocab(with_added_tokens=True)
        self._starts_word = np.zeros(max(vocabulary.values()) + 1, dtype=bool)
        self._starts_word[[id for piece, id in vocabulary.items() if piece.startswith("▁")]] = True
        self._known: dict[str, bytes] = {}  # ids of words, as int32 bytes
        self._characters = 0  # of these words
        self._by_word = self._splits_at_space()

    def encode(self, text: str) -> list[int]:
        """Return the ids of one text."""
        return list(self.backend.encode(text, add_special_tokens=False).ids)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the ids of each text, int32."""
        if not self._by_word:
            return self._whole(texts)
        whole = [row for row, text in enumerate(texts) if _acts_across_spaces().search(text)]
        words = [text.split() for text in texts]
        for row in whole:
            words[row] = []
        encoded = self._look_up(words)
        for row, ids in zip(whole, self._whole([texts[row] for row in whole]), strict=True):
            encoded[row] = ids
        return encoded

    def _whole(self, texts: Sequence[str]) -> list[np.ndarray]:
        encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]

    def _look_up(self, words: list[list[str]]) -> list[np.ndarray]:
        """Return the ids of texts, given their words, and learn new words. Several threads may be here at once."""
        if self._characters > _REMEMBERED:
            self._known, self._characters = {}, 0
        known, end, encoded = self._known, 0, []
        flat = list(chain.from_iterable(words))
        ids = list(map(known.get, flat, repeat(_NEW)))
        places = list(_places(ids))
        new = list(dict.fromkeys(flat[place] for place in places))
        known.update((word, array.tobytes()) for word, array in zip(new, self._each(new), strict=True))
        self._characters += sum(map(len, new))
        for place in places:
            ids[place] = known[flat[place]]
        for text in words:
            encoded.append(np.frombuffer(b"".join(ids[end : (end := end + len(text))]), dtype=np.int32))
        return encoded

    def _each(self, words: Sequence[str]) -> list[np.ndarray]:
        """Return the ids of each word. Several go to a call, which would otherwise take longer than their ids."""
        groups = [words[start : start + _GROUP] for start in range(0, len(words), _GROUP)]
        found = []
        for group, ids in zip(groups, self._whole([" ".join(group) for group in groups]), strict=True):
            starts = np.flatnonzero(self._starts_word[ids])
            # An unknown first character hides the mark of a start
            found += np.split(ids, starts[1:]) if len(starts) == len(group) else self._whole(group)
        return found

    def _splits_at_space(self) -> bool:
        splitter = self.backend.pre_tokenizer
        if splitter is None or len(splitter.pre_tokenize_str("a b")) != 2 or not self._starts_word.any():
            return False
        by_word = [np.concatenate(self._whole(text.split())) for text in _PROBES]
        return all(map(np.array_equal, by_word, self._whole(_PROBES)))


def _places(ids: list[bytes]) -> Iterator[int]:
    """Yield the places of `_NEW`."""
    place = -1
    with suppress(ValueError):
        while True:
            place = ids.index(_NEW, place + 1)
            yield place


@cache
def _acts_across_spaces() -> re.Pattern[str]:
    """Return the pattern of characters that normalisation might join to, or part from, what is beyond a space.

    Harmless are letters, numbers, punctuation and symbols whose compatibility form (NFKC) holds neither space nor
    leading mark, and white space. U+2581 stands for a space in T5's pieces.
    """
    harmless = [ord(c) for c in map(chr, range(sys.maxunicode + 1)) if _harmless(c)]
    ranges: list[list[int]] = []
    for point in harmless:
        if ranges and ranges[-1][1] == point - 1:
            ranges[-1][1] = point
        else:
            ranges.append([point, point])
    return re.compile("[^" + "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in ranges) + "]")


def _harmless(character: str) -> bool:
    if character in " \t\n\r\u00a0\u3000":
        return True
    category = unicodedata.category(character)[0]
    if category not in "LNPS" or character == "▁":
        return False
    if character.isascii():
        return True
    plain = unicodedata.normalize("NFKC", character)
    return not plain.isspace() and " " not in plain and unicodedata.category(plain[0])[0] in "LNPS"


class SentenceEncoder:
    """A sentence-transformers model: texts to at most `max_tokens` token ids, token ids to vectors."""

    def __init__(self, model: Any, max_tokens: int) -> None:
        self._first, *self._rest = list(model)
        self._tokenizer, self._max_tokens, self._device = model.tokenizer, max_tokens, model.device
        transformer = self._first.auto_model
        self._t5 = None
        if transformer.config.model_type == "t5":
            from pipeline_steps.engines.t5 import PackedT5Encoder

            self._t5, self._plain = PackedT5Encoder(transformer), PlainEncoder(self._tokenizer)

    def tokenize(self, texts: Sequence[str]) -> list[TokenIds]:
        """Return the ids of each text, cut, with the special tokens of the model."""
        if self._t5 is None:
            return self._tokenizer(list(texts), truncation=True, max_length=self._max_tokens)["input_ids"]
        eos, room = [self._tokenizer.eos_token_id], self._max_tokens - 1
        return [np.concatenate([ids[:room], eos], dtype=np.int32) for ids in self._plain.encode_batch(texts)]

    def encode(self, inputs: Sequence[TokenIds]) -> np.ndarray:
        """Return a vector of each input, float32 [N, D]."""
        import torch

        parts, order = [], []
        with torch.inference_mode():
            for rows in batches_by_length([len(ids) for ids in inputs], _BATCH_TOKENS[self._device.type]):
                features = self._features([inputs[row] for row in rows])
                for module in self._rest:
                    features = module(features)
                parts.append(features["sentence_embedding"].float().cpu().numpy())
                order += rows
        found = np.concatenate(parts)
        found[order] = found.copy()
        return found

    def _features(self, inputs: Sequence[TokenIds]) -> dict[str, Any]:
        """Return the outputs of the transformer, as tensors by name, for texts by falling length."""
        import torch

        if self._t5 is not None:
            encoded, mask = self._t5.encode(inputs)
            return {"token_embeddings": encoded.float(), "attention_mask": mask.long()}
        ids = padded([list(ids) for ids in inputs], self._tokenizer.pad_token_id or 0)
        length = torch.tensor([len(ids) for ids in inputs])
        mask = (torch.arange(ids.shape[1]) < length[:, None]).long()
        features = self._first({"input_ids": ids.to(self._device), "attention_mask": mask.to(self._device)})
        return features | {"token_embeddings": features["token_embeddings"].float()}


@lru_cache(maxsize=2)
def load_sentence_encoder(model: str, revision: str | None, dtype: str, max_tokens: int | None) -> SentenceEncoder:
    """Load the model on this process's device, once per process.

    Raises ModelError if sentence-transformers is not installed, or the model cannot be had, has no fast tokenizer, or
    was not made for as many tokens.
    """
    require("sentence_transformers", "embed")
    import torch

    model_identity(model, revision)  # a clear error before a long one
    device = pick_device()
    loaded = load_sentence_transformer(
        model, revision, device=str(device), model_kwargs={"dtype": torch.float32}
    ).eval()
    loaded[0].auto_model.to(pick_dtype(dtype, device))  # what follows, pooling and dense layers, stays in float32
    if not getattr(loaded.tokenizer, "is_fast", False):
        raise ModelError(f"{model} has no fast tokenizer (tokenizer.json): convert it with transformers first")
    longest = loaded.max_seq_length or _NO_LIMIT
    longest = longest if longest < _NO_LIMIT else _UNSTATED  # what transformers calls "very large" is no statement
    if max_tokens is not None and max_tokens > longest and loaded[0].auto_model.config.model_type != "t5":
        raise ModelError(f"{model} takes texts of up to {longest} tokens, not {max_tokens}")
    return SentenceEncoder(loaded, max_tokens or longest)
