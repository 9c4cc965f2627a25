"""A document's identity, and the file it comes from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby

from datatrove.data import Document, DocumentsPipeline

from pipeline_steps.numerics.keys import document_key
from pipeline_steps.stores.corpus_listing import CorpusListing


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
