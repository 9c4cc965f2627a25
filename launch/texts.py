"""The first lines of some documents of a corpus, for people to see what scores speak of."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.utils.logging import logger

from pipeline_steps.readers.corpus import open_corpus
from pipeline_steps.readers.reading import USUAL, Reading
from pipeline_steps.stores.documents import key_of


_LINES, _WIDTH = 3, 110  # of a text that is shown


def documents_of(corpus: str, reading: Reading = USUAL) -> Iterator[Document]:
    """Yield the documents of a corpus. Raises CorpusError as `open_corpus` does."""
    logger.disable("datatrove")  # readers name every file they open
    try:
        with tempfile.TemporaryDirectory() as folder:
            data: Any = None
            for step in open_corpus(corpus, str(Path(folder, "files.txt")), reading=reading):
                data = step.run(data, 0, 1)
            yield from data
    finally:
        logger.enable("datatrove")


def openings(corpus: str, reading: Reading, keys: Collection[int]) -> dict[int, str]:
    """Return the first lines of documents by their key; keys that the corpus does not hold are left out."""
    left, found = set(keys), dict[int, str]()
    for document in documents_of(corpus, reading):
        if not left:
            break
        if (key := key_of(document)) in left:
            left.remove(key)
            found[key] = opening(document.text)
    return found


def opening(text: str) -> str:
    """Return the first lines of a text, each cut to a line of a terminal."""
    lines = [line.strip() for line in text.splitlines() if line.strip()][:_LINES]
    return "\n".join(line if len(line) <= _WIDTH else f"{line[: _WIDTH - 1]}…" for line in lines)
