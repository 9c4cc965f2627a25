"""Token ids of plain text under a T5 tokenizer: no EOS, no special ids, whatever the text spells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline_steps.errors import ModelError
from pipeline_steps.plain_encoder import PlainEncoder


PAD, EOS, UNKNOWN = 0, 1, 2  # T5's conventions, Raffel et al. 2020, and the layout of every t5 vocabulary


class TextEncoder:
    """A T5 tokenizer that only ever sees text.

    Web text spells `</s>` or `<extra_id_7>`; a Hugging Face tokenizer would make control tokens of them. Here they
    are text; where the vocabulary itself holds them as pieces, they become `<unk>`.

    Args:
        name: Hub id or local folder of a fast tokenizer with T5's conventions.

    Attributes:
        vocab_size: number of ids, sentinels included.
        first_sentinel: id of `<extra_id_0>`, the highest; the others follow downwards.
        sentinels: how many there are.

    Raises:
        ModelError: the tokenizer has other conventions than T5's.
    """

    def __init__(self, name: str) -> None:
        from transformers import AutoTokenizer  # seconds to import: only who tokenises pays

        self._tokenizer: Any = AutoTokenizer.from_pretrained(name)
        self._encoder = PlainEncoder(self._tokenizer)
        vocabulary: dict[str, int] = self._tokenizer.get_vocab()
        self.name = Path(name).name if Path(name).is_dir() else name
        self.vocab_size = max(vocabulary.values()) + 1
        self.sentinels = sum(token.startswith("<extra_id_") for token in vocabulary)
        self.first_sentinel = self.vocab_size - 1
        wanted = {"<pad>": PAD, "</s>": EOS, "<unk>": UNKNOWN}
        wanted |= {f"<extra_id_{i}>": self.first_sentinel - i for i in range(max(1, self.sentinels))}
        wrong = [
            f"{token} is {vocabulary.get(token)}, not {id}"
            for token, id in wanted.items()
            if vocabulary.get(token) != id
        ]
        if wrong:
            raise ModelError(f"the tokenizer {name} does not follow T5's conventions ({wrong[0]}): use a T5 tokenizer")

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """int64 ids of each text, below the sentinels, without EOS."""
        return [self._as_text(np.array(ids, dtype=np.int64)) for ids in self._encoder.encode_batch(texts)]

    def _as_text(self, ids: np.ndarray) -> np.ndarray:
        control = (ids == PAD) | (ids == EOS) | (ids > self.first_sentinel - self.sentinels)
        ids[control] = UNKNOWN
        return ids

    def save(self, folder: Path) -> None:
        """Write the tokenizer so that `AutoTokenizer.from_pretrained(folder)` loads it."""
        self._tokenizer.save_pretrained(folder)
