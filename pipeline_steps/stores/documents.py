"""A document's identity, and the file it comes from."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterator
from itertools import groupby

import numpy as np
from datatrove.data import Document, DocumentsPipeline

from pipeline_steps.errors import CorpusError, InvalidScore
from pipeline_steps.numerics.keys import document_key
from pipeline_steps.stores.corpus_listing import CorpusListing


_MOST_TOKENS = np.iinfo(np.uint32).max
_OF_A_TASK = re.compile(r"/\d{5}/\d+$")  # at the end of an id


def id_of(doc: Document) -> str:
    """Return a document's id; "" where it says nothing about the document.

    HuggingFaceDatasetReader makes ids of a task's number and a count where a dataset has none, so they change with
    the number of tasks.
    """
    name = str(doc.id)
    return "" if "dataset" in doc.metadata and _OF_A_TASK.search(name) else name


def key_of(doc: Document) -> int:
    """Return the 64-bit identity of a document: `document_key` of what `id_of` returns and its text."""
    return document_key(id_of(doc), doc.text)


def named(doc: Document) -> str:
    """Return what errors call a document: its id, and its file where it says one."""
    file = doc.metadata.get("file_path")
    return f"document {doc.id}" if file is None else f"document {doc.id} of {file}"


def by_source(
    data: DocumentsPipeline, corpus: CorpusListing | None, by_key: bool = False
) -> Iterator[tuple[str | None, Iterator[Document]]]:
    """Group documents by the file they were read from, in order.

    Args:
        data: the documents.
        corpus: what is read; a `file_path` that is none of its reader's files is a column of the data, as FineWeb's.
            Without it, every `file_path` is believed.
        by_key: whether no file is to be believed.

    Yields:
        a file and its documents; None in place of the file where nobody knows it, or where it was there before.
    """
    seen: set[str] = set()

    def source_of(doc: Document) -> str | None:
        said = doc.metadata.get("file_path")
        is_known = said is not None and not by_key and (corpus is None or corpus.reads(str(said)))
        return str(said) if is_known else None

    for source, docs in groupby(data, key=source_of):
        yield None if source in seen else source, docs
        if source is not None:
            seen.add(source)


def by_file(data: DocumentsPipeline, remedy: str) -> Iterator[tuple[str, Iterator[Document]]]:
    """Group documents by the file that they say they come from, in order.

    Raises:
        CorpusError: a document says no file, or a file's documents do not come together; ends with the remedy.
    """
    for source, docs in by_source(data, None):
        if source is None:
            raise CorpusError(
                f"{named(next(docs))} says no file that it comes from, or one that other documents have come from "
                f"before: {remedy}"
            )
        yield source, docs


def tokens_of(doc: Document, counted: int) -> int:
    """Return the number of tokens that a document's metadata states, or else what a scorer has counted.

    Raises:
        InvalidScore: the metadata state something else; names the document.
    """
    said = doc.metadata.get("token_count")
    if said is None:
        return counted
    if isinstance(said, bool) or not isinstance(said, int | np.integer) or not 0 <= said <= _MOST_TOKENS:
        raise InvalidScore(
            f"{named(doc)} has token_count={reprlib.repr(said)} in its metadata, which is not a whole number from "
            f"0 to {_MOST_TOKENS:,}: correct it, or leave that column out"
        )
    return int(said)
