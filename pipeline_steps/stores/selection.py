"""A Selection: which documents of a corpus to train on, one bit per document in corpus order.

It is one safetensors file (a packed bitmap, and as metadata how it was made), so that a hundred selections
of a corpus cost a hundred bits per document instead of a hundred copies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline_steps.errors import StoreIncomplete, StoreMismatch
from pipeline_steps.stores.files import load_tensors, save_tensors


@dataclass(frozen=True, eq=False)
class Selection:
    """Documents kept, in corpus order (source files sorted by name, documents as they stand in them).

    Attributes:
        mask: bool [N]; True where the document is kept.
        corpus_digest: `keys_digest` of all N document keys in corpus order.
        cut: how it was made, as JSON types.
    """

    mask: np.ndarray
    corpus_digest: str
    cut: dict[str, Any]

    @property
    def documents(self) -> int:
        """How many documents are kept."""
        return int(self.mask.sum())

    def save(self, path: str) -> None:
        """Write to `path` (any fsspec path) in one atomic step."""
        header = {"corpus_digest": self.corpus_digest, "corpus_documents": self.mask.size, "cut": self.cut}
        save_tensors(path, {"bitmap": np.packbits(self.mask)}, header)

    @classmethod
    def load(cls, path: str) -> Selection:
        """Read a file written by `save`.

        Raises:
            StoreIncomplete: there is no such file.
            StoreDamaged: the file is not what was written.
            StoreMismatch: the file holds something else.
        """
        try:
            tensors, header, _ = load_tensors(path)
        except FileNotFoundError:
            raise StoreIncomplete(f"there is no {path}: write it with select(store, cut).save({path!r})") from None
        if "bitmap" not in tensors:
            raise StoreMismatch(f"{path} is not a selection: it holds {', '.join(tensors)}")
        mask = np.unpackbits(tensors["bitmap"], count=header["corpus_documents"]).astype(bool)
        return cls(mask, header["corpus_digest"], header["cut"])

    def check_corpus(self, corpus_digest: str, corpus: str) -> None:
        """Raise StoreMismatch unless the selection was made for the corpus with this digest."""
        if corpus_digest != self.corpus_digest:
            raise StoreMismatch(
                f"the selection was made for a corpus with digest {self.corpus_digest}, but {corpus} has "
                f"{corpus_digest}: select again from scores of this corpus"
            )
