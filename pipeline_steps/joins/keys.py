"""JoinKeys: what a corpus's documents are matched by, written once so that a join need not read their texts."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.batching import batched
from fsspec.implementations.local import LocalFileSystem

from pipeline_steps.credentials import NoCredentials
from pipeline_steps.errors import StoreDamaged, StoreIncomplete, StoreMismatch
from pipeline_steps.stores.artefact import Artefact
from pipeline_steps.stores.corpus_listing import CorpusListing
from pipeline_steps.stores.documents import by_file, id_of, key_of, tokens_of
from pipeline_steps.stores.files import AGAIN, file_digest, sync_folder


On = Literal["id", "text"]
KIND = "join keys"
SCHEMA = pa.schema([("match", pa.binary()), ("key", pa.uint64()), ("id", pa.string()), ("tokens", pa.uint32())])
_WINDOW, _WINDOWS = 4096, 8  # documents held at a time, and how many such make a row group


def text_hash(text: str) -> bytes:
    """Return the 16 bytes by which texts are matched: xxh3-128 of their UTF-8."""
    return xxhash.xxh3_128_digest(text.encode("utf-8", "surrogatepass"))


def open_keys(path: str) -> Artefact:
    """Return the artefact of JoinKeys, begun or not. Raises StoreMismatch unless it is on a local disk."""
    artefact = Artefact(path, ".parquet", disposable=True)
    if not isinstance(artefact.fs, LocalFileSystem):
        raise StoreMismatch(f"{path} is not on a local disk, where a join reads it: give a local folder")
    return artefact


def verify_keys(keys: Artefact) -> None:
    """Read every byte.

    Raises:
        StoreMismatch: the folder holds something else.
        StoreIncomplete: the keys are not finished, or there are none.
        StoreDamaged: a file is not what was written; names it.
    """
    if keys.kind != KIND:
        raise StoreMismatch(f"{keys.path} holds {keys.kind}, not {KIND}: give the folder of JoinKeys")
    if not keys.manifest:
        raise StoreIncomplete(f"{keys.path} is empty: no documents were read")
    for source, entry in keys.manifest.items():
        if file_digest(keys.part(source)) != entry["xxh3"]:
            raise StoreDamaged(f"{keys.part(source)} is not what was written: delete it and {AGAIN}")


class JoinKeys(NoCredentials, PipelineStep):
    """Writes what JoinScores matches documents by; documents pass through unchanged, in order.

    Any number of tasks. Per source file one Parquet file, written a few thousand rows at a time, with columns `match`
    (binary: the id, or `text_hash`), `key` (uint64), `id` and `tokens` (uint32: the metadata's `token_count`, else 0).
    A task that was killed reads its files again, and writes the same.

    Args:
        keys: a local folder.
        on: "id" to match ids, "text" to match texts by a hash of 128 bits.

    Attributes:
        corpus: the reader of the documents, or a name of the corpus; see DocumentColumns.

    Raises:
        CorpusError: a document does not say which file it is from, or a file's documents do not come together.
        InvalidScore: a `token_count` is no number of tokens; names the document.
        StoreMismatch: the folder holds keys of the other kind, or is not on a local disk.
    """

    type = "🔗 - JOIN"
    name = "🔗 Join keys"

    def __init__(self, keys: str, on: On = "id") -> None:
        super().__init__()
        if on not in get_args(On):
            raise ValueError(f"on={on!r} is neither 'id' nor 'text'")
        self.keys, self.on = str(keys), on
        self.corpus: PipelineStep | str | None = None

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Yield every document, and write its source's file after its last one."""
        corpus, artefact = CorpusListing(data, self.corpus), open_keys(self.keys)
        artefact.begin(KIND, {"on": self.on}, corpus.inputs(type(self).__name__, world_size))
        artefact.announce()
        entries = {}
        for source, docs in by_file(data, "JoinKeys needs a reader of files; `winnow join` reads any corpus"):
            path, documents, tables = artefact.part(source), 0, list[pa.Table]()
            with _published(path) as temporary, pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer:
                for batch in batched(docs, _WINDOW):
                    with self.track_time("window"):
                        tables.append(self._table(batch))
                        if len(tables) == _WINDOWS:
                            writer.write_table(pa.concat_tables(tables))
                            tables.clear()
                    documents += len(batch)
                    yield from batch
                if tables:
                    writer.write_table(pa.concat_tables(tables))
            entries[source] = {"documents": documents, "xxh3": file_digest(path)}
        corpus.check_unchanged()
        artefact.finish(rank, world_size, entries)

    def _table(self, docs: list[Document]) -> pa.Table:
        by_text = self.on == "text"
        match = [text_hash(doc.text) if by_text else str(doc.id).encode("utf-8", "surrogatepass") for doc in docs]
        keys = np.array([key_of(doc) for doc in docs], dtype=np.uint64)
        tokens = np.array([tokens_of(doc, 0) for doc in docs], dtype=np.uint32)
        ids = pa.array(map(id_of, docs), pa.string())
        return pa.table([pa.array(match, pa.binary()), keys, ids, tokens], schema=SCHEMA)


@contextmanager
def _published(path: str) -> Iterator[str]:
    """Yield the name of a file to write, which stands at `path` once it is whole and synced."""
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    temporary = f"{folder}/.{name[-40:]}.tmp-{uuid.uuid4().hex}"
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
    sync_folder(folder)
