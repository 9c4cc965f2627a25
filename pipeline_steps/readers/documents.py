"""Documents in memory as a corpus that several tasks share out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice

import numpy as np
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.readers.base import BaseReader

from pipeline_steps.errors import WinnowError
from pipeline_steps.numerics.keys import document_key, keys_digest


class Documents(BaseReader):
    """Yields documents of a list, or of what a function returns: task r of n takes the documents r, r + n, ...

    A corpus that has grown under the same function is given another name in the step's attribute `corpus`.

    Args:
        documents: a list; or a function of a module that returns an iterable, the same one in every task.
        limit: at most this many documents of each task; -1 for all.
    """

    name = "📚 Documents"

    def __init__(self, documents: Sequence[Document] | Callable[[], Iterable[Document]], limit: int = -1) -> None:
        super().__init__(limit=limit)
        self._documents = documents
        # What tells this corpus from another: see CorpusListing
        if callable(documents):
            name = getattr(documents, "__qualname__", "<")
            if "<" in name:
                raise WinnowError("Documents needs a list, or a function of a module, whose name tells its documents")
            self.contents = f"{documents.__module__}.{name}"
        else:
            keys = [document_key(str(doc.id), doc.text) for doc in documents]
            self.contents = keys_digest(np.array(keys, dtype=np.uint64))

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Yield this task's documents."""
        if data:
            yield from data
        documents = self._documents() if callable(self._documents) else self._documents
        last = None if self.limit < 0 else rank + self.limit * world_size
        for doc in islice(documents, rank, last, world_size):
            self.update_doc_stats(doc)
            yield doc
