"""Token ids of plain text: no special ids, whatever the text spells."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from pipeline_steps.engines.encoders import PlainEncoder
from pipeline_steps.engines.models import load_tokenizer
from pipeline_steps.errors import ModelError


_SPACE = "▁"  # of the pieces of SentencePiece
PAD, EOS, UNKNOWN = 0, 1, 2  # T5's conventions, Raffel et al. 2020, and the layout of every t5 vocabulary


class TextTokenizer:
    """A tokenizer that only ever sees text.

    Web text spells `</s>` or `<extra_id_7>`; a Hugging Face tokenizer would make control tokens of them. Here they
    are text; where the vocabulary itself holds them as pieces, they become `<unk>`.

    Args:
        name: Hub id or local folder of a fast tokenizer: a T5's, or for causal models any other with an EOS.
        revision: revision of a Hub id.

    Attributes:
        vocab_size: number of ids, sentinels included.
        sentinels: how many there are; `<extra_id_0>` has the highest id and the others follow downwards. 0 if the
            tokenizer is not a T5's.
        eos: id of the end of a text.
        bos: id of the beginning of a text; None if the tokenizer has none.
        unknown: id of what the vocabulary lacks; None if it lacks nothing.

    Raises:
        ModelError: the tokenizer cannot be loaded, is a T5's but does not follow T5's conventions, or has no EOS.
    """

    def __init__(self, name: str, revision: str | None = None) -> None:
        self._tokenizer: Any = load_tokenizer(name, revision)
        self._encoder = PlainEncoder(self._tokenizer)
        vocabulary: dict[str, int] = self._tokenizer.get_vocab()
        self.name = Path(name).name if Path(name).is_dir() else name
        self.vocab_size = max(vocabulary.values()) + 1
        self.sentinels = sum(token.startswith("<extra_id_") for token in vocabulary)
        if self.sentinels:
            self._check_conventions(vocabulary)
        elif self._tokenizer.eos_token_id is None:
            raise ModelError(f"the tokenizer {name} has no EOS token, with which every input begins: choose another")
        self.eos = int(self._tokenizer.eos_token_id) if not self.sentinels else EOS
        self.bos: int | None = self._tokenizer.bos_token_id
        self.unknown: int | None = UNKNOWN if self.sentinels else self._tokenizer.unk_token_id
        self._is_control = np.zeros(self.vocab_size, dtype=bool)
        self._is_control[[id for id in self._tokenizer.all_special_ids if id != self.unknown]] = True
        self._is_control[self.vocab_size - self.sentinels :] = True

    def _check_conventions(self, vocabulary: dict[str, int]) -> None:
        wanted = {"<pad>": PAD, "</s>": EOS, "<unk>": UNKNOWN}
        wanted |= {f"<extra_id_{i}>": self.vocab_size - 1 - i for i in range(self.sentinels)}
        wrong = [
            f"{token} is {vocabulary.get(token)}, not {id}"
            for token, id in wanted.items()
            if vocabulary.get(token) != id
        ]
        if wrong:
            raise ModelError(
                f"the tokenizer {self.name} does not follow T5's conventions ({wrong[0]}): use a T5 tokenizer"
            )

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return int64 ids of each text, none of them a control token, without EOS."""
        return [self._as_text(np.array(ids, dtype=np.int64)) for ids in self._encoder.encode_batch(texts)]

    def _as_text(self, ids: np.ndarray) -> np.ndarray:
        if self.unknown is not None:
            ids[self._is_control[ids]] = self.unknown
        return ids

    def decode(self, ids: np.ndarray) -> str:
        """Return the text of ids that `encode` returned, without what became unknown."""
        text: str = self._encoder.backend.decode(ids[ids != self.unknown].tolist(), skip_special_tokens=False)
        return text

    def bytes_by_token(self, ids: np.ndarray) -> np.ndarray:
        """Return the UTF-8 bytes of `decode(ids)` that each token stands for, int64 [n]; an unknown one's are none.

        A space belongs to the token after it.

        Raises:
            ModelError: the tokenizer puts texts together in another way than T5's and byte-level ones do.
        """
        bytes_N = self._piece_bytes[ids]
        known = np.flatnonzero(ids != self.unknown)
        if known.size and self._piece(ids[known[0]]).startswith(_SPACE):
            bytes_N[known[0]] -= 1  # texts do not begin with the space of their first word
        if bytes_N.sum() != len(self.decode(ids).encode()):
            raise ModelError(
                f"the pieces of the tokenizer {self.name} do not add up to its texts, so that the bytes of a masked "
                "span are not known: use a T5 tokenizer"
            )
        return bytes_N

    @cached_property
    def _piece_bytes(self) -> np.ndarray:
        """The bytes of each id's piece, int64 [V]: byte-level pieces have a character for each byte."""
        by_character = type(self._encoder.backend.decoder).__name__ == "ByteLevel"
        pieces = [self._piece(id) for id in range(self.vocab_size)]
        counts = [len(piece) if by_character else len(piece.replace(_SPACE, " ").encode()) for piece in pieces]
        bytes_V = np.array(counts, dtype=np.int64)
        if self.unknown is not None:
            bytes_V[self.unknown] = 0
        return bytes_V

    def _piece(self, id: int) -> str:
        return self._encoder.backend.id_to_token(int(id)) or ""

    def save(self, folder: Path) -> None:
        """Write the tokenizer so that `AutoTokenizer.from_pretrained(folder)` loads it."""
        self._tokenizer.save_pretrained(folder)


def add_no_special_tokens(folder: Path) -> None:
    """Change a saved tokenizer so that it adds nothing to a text; its ids stay as they are.

    A T5's ends every text in EOS. A decoder's prompt would end in it too, and lm-eval's `hf`, which cuts a prompt and
    its answer apart by the prompt's number of tokens, would give all answers of one token the score of that EOS.
    """
    file, settings_file = folder / "tokenizer.json", folder / "tokenizer_config.json"
    if Tokenizer.from_file(str(file)).num_special_tokens_to_add(is_pair=False) == 0:
        return
    said = json.loads(file.read_bytes()) | {"post_processor": None}
    file.write_text(json.dumps(said, ensure_ascii=False), encoding="utf-8")
    settings = json.loads(settings_file.read_bytes())
    settings = {name: value for name, value in settings.items() if name not in ("add_bos_token", "add_eos_token")}
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"  # a T5Tokenizer would add its EOS whatever the file says
    settings_file.write_text(json.dumps(settings, indent=2, ensure_ascii=False), encoding="utf-8")
