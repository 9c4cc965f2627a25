"""Held-out documents by domain: a corpus is a domain, or has a column that names the domain of each document."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import xxhash
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.logging import logger
from tqdm import tqdm

from evaluate_suite.results import MACRO
from pipeline_steps.errors import CorpusError, InvalidCut
from pipeline_steps.readers.reading import USUAL, Reading
from pipeline_steps.terminal import is_quiet, one_line


Source = str | Sequence[PipelineStep]
"""A path as `pipeline_steps.readers.corpus.open_corpus` takes it, or several with commas between them; or steps that
read documents."""
_LONGEST = 200  # characters of a domain's name, which is printed in tables


@dataclass(frozen=True, eq=False)
class Domain:
    """The documents of a domain that are measured.

    Attributes:
        name: what results call it, "NAME" or, of a corpus with a column of domains, "NAME/VALUE".
        texts: documents of a corpus of unknown length, evenly spaced; none is empty.
        available: how many documents the corpus has of the domain.
    """

    name: str
    texts: tuple[str, ...]
    available: int

    @cached_property
    def digest(self) -> str:
        """Return a digest of the texts, in their order."""
        digest = xxhash.xxh3_128()
        for text in self.texts:
            blob = text.encode("utf-8", "surrogatepass")
            digest.update(len(blob).to_bytes(8, "little") + blob)
        return digest.hexdigest()


@dataclass(frozen=True)
class DomainReading:
    """The settings by which a corpus is read as domains.

    Attributes:
        by: column that names the domain of a document; without one, the corpus is a domain.
        max_documents: documents of each domain at most, evenly spaced; 0 for all.
        reading: how rows are read, if the source is a path.

    Raises:
        InvalidCut: the number of documents is below 0.
    """

    by: str | None = None
    max_documents: int = 1000
    reading: Reading = USUAL

    def __post_init__(self) -> None:
        if self.max_documents < 0:
            raise InvalidCut(f"{self.max_documents} documents cannot be measured: give 0, for all, or more")


def read_domains(name: str, source: Source, how: DomainReading) -> list[Domain]:
    """Read a corpus whole, and return its domains by name.

    Args:
        name: name of the corpus.
        source: where its text is.
        how: how it is read.

    Raises:
        CorpusError: the corpus cannot be read or holds no documents; a document has no such column, or its value
            cannot be a name.
    """
    if name == MACRO or "/" in name or not _is_name(name):
        raise CorpusError(f"{one_line(name)[:_LONGEST]!r} cannot be the name of a domain: choose another")
    found = dict[str, _EvenlySpaced]()
    documents = _read(source, how.reading)
    for document in tqdm(documents, desc=name, unit=" documents", leave=False, disable=not is_watched()):
        domain = name if how.by is None else f"{name}/{_value(document, how.by)}"
        found.setdefault(domain, _EvenlySpaced(how.max_documents)).add(document.text)
    if not found:
        raise CorpusError(f"{name} holds no documents: give files with text")
    return [Domain(domain, tuple(kept.texts), kept.seen) for domain, kept in sorted(found.items())]


def _read(source: Source, reading: Reading) -> Iterator[Document]:
    """Yield the documents of a corpus; at its end, say how many rows were left out."""
    if not isinstance(source, str):
        yield from _run(source)
        return
    from pipeline_steps.readers.corpus import open_corpus

    for path in source.split(","):
        with tempfile.TemporaryDirectory() as folder:
            steps = open_corpus(path, str(Path(folder, "files.txt")), reading=reading)
            yield from _run(steps)
        if left_out := int(steps[0].stats.stats["bad_rows"].total):
            logger.warning(f"{path}: {left_out:,} bad rows were left out")


def _run(steps: Sequence[PipelineStep]) -> Iterator[Document]:
    data: Any = None
    for step in steps:
        data = step.run(data, 0, 1)
    logger.disable("datatrove")  # readers name every file they open
    try:
        yield from data
    finally:
        logger.enable("datatrove")


def is_watched() -> bool:
    """Return whether somebody watches progress."""
    return sys.stderr.isatty() and not is_quiet()


def _value(document: Document, by: str) -> str:
    where = f"{document.metadata.get('file_path')}: document {one_line(document.id)[:60]}"
    if (value := document.metadata.get(by)) is None:
        columns = ", ".join(map(str, list(document.metadata)[:20]))
        raise CorpusError(f"{where} has no column {by!r}; its columns are {columns}: give another --by")
    if not isinstance(value, str | int) or not _is_name(str(value)):
        raise CorpusError(f"{where}: {one_line(repr(value))[:60]} in the column {by!r} cannot name a domain")
    return str(value)


def _is_name(value: str) -> bool:
    return 0 < len(value) <= _LONGEST and one_line(value) == value


@dataclass
class _EvenlySpaced:
    """Evenly spaced documents of a stream of unknown length: less than twice as many as are wanted are held."""

    most: int
    seen: int = 0
    _stride: int = 1
    _kept: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        if self.seen % self._stride == 0:
            self._kept.append(text)
            if self.most and len(self._kept) == 2 * self.most:
                self._kept = self._kept[::2]
                self._stride *= 2
        self.seen += 1

    @property
    def texts(self) -> list[str]:
        """The documents, as many as are wanted if there are so many."""
        kept, count = self._kept, min(len(self._kept), self.most or len(self._kept))
        return [kept[number * len(kept) // count] for number in range(count)]
