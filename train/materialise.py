"""A selection as real token files, for trainers that read such: datatrove's .ds format, one file per source.

A run of this package needs none: it replays the selection from the store. A copy per selection costs the tokens
again; a selection costs one bit a document.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline_steps.errors import StoreMismatch
from pipeline_steps.stores.selection import Selection
from train.folders import whole_folder
from train.token_store import TokenStore


def materialise(store: TokenStore, selection: Selection | None, output: Path) -> tuple[int, int]:
    """Write the selected documents' tokens into the folder `output`, which appears whole.

    Per source: <source>.ds, token ids as they are in the store, one document after the other;
    <source>.ds.index, uint64, where each document ends; <source>.ds.metadata, tokenizer and number of tokens.
    Returns how many documents and tokens were written.

    Raises:
        StoreMismatch: `output` exists already, or the selection was made for another corpus.
    """
    if output.exists():
        raise StoreMismatch(f"{output} exists already: give another folder, or remove it")
    if selection is not None:
        selection.check_corpus(store.corpus_digest, str(store.path))
    documents = written = begin = 0
    with whole_folder(output) as folder:
        for name, tokens, offsets in store.by_source():
            count = len(offsets) - 1
            kept = np.ones(count, dtype=bool) if selection is None else selection.mask[begin : begin + count]
            begin += count
            if kept.any():
                lengths = np.diff(offsets)
                _write(folder / f"{name}.ds", tokens[np.repeat(kept, lengths)], lengths[kept], store.tokenizer_name)
                documents, written = documents + int(kept.sum()), written + int(lengths[kept].sum())
    return documents, written


def _write(path: Path, tokens: np.ndarray, lengths: np.ndarray, tokenizer: str) -> None:
    tokens.tofile(path)
    np.cumsum(lengths).astype("<u8").tofile(f"{path}.index")
    Path(f"{path}.metadata").write_text(f"{tokenizer}|{tokens.itemsize}\n{tokens.size}\n{tokens.size / 1e9:.2f} GT")
