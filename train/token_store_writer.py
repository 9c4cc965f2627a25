"""Fill a token store: a datatrove step that tokenises every document once."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

import numpy as np
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.batching import batched
from datatrove.utils.logging import logger

from pipeline_steps.credentials import NoCredentials
from pipeline_steps.errors import StoreDamaged, StoreMismatch
from pipeline_steps.numerics.keys import keys_digest
from pipeline_steps.stores.artefact import Artefact
from pipeline_steps.stores.corpus_listing import CorpusListing
from pipeline_steps.stores.documents import by_file, key_of
from train.folders import READ_BY_NOBODY, READ_BY_TRANSFORMERS, SealedFolder, whole_folder
from train.token_store import KIND, META, entry_of, open_artefact
from train.tokenizers import TextTokenizer
from train.verified import verify_files


_BATCH = 1024  # documents encoded at a time: keeps the tokenizer's threads busy with a few MB of text


class TokenStoreWriter(NoCredentials, PipelineStep):
    """Tokenizes every document into a TokenStore; passes documents through unchanged, in order.

    Any number of tasks. A source that is already there is compared by its keys instead of written again, unless it is
    damaged.

    Args:
        output_dir: folder of the store, local.
        tokenizer: Hub id or local folder of a T5's tokenizer, or for causal models of any with an EOS.
        append_eos: end every document in EOS, for causal models; a T5 is trained on documents with nothing between.

    Attributes:
        corpus: the reader of the documents, or a name of the corpus; see DocumentColumns.

    Raises:
        CorpusError: a document does not say which file it is from, or a source comes in more than one run.
        ModelError: the tokenizer does not follow its family's conventions.
        StoreMismatch: the store was made with another tokenizer or from other documents.
    """

    type = "🔢 - TOKENIZER"
    name = "📼 Token store"

    def __init__(self, output_dir: str, tokenizer: str, append_eos: bool = False) -> None:
        super().__init__()
        self.output_dir = str(output_dir)
        self.tokenizer = str(tokenizer)
        self.append_eos = append_eos
        self.corpus: PipelineStep | str | None = None

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Yield every document of `data`; a source is in the store once its last document has been taken."""
        encoder = TextTokenizer(self.tokenizer)
        corpus = CorpusListing(data, self.corpus)
        store = self._begin(encoder, corpus.inputs(type(self).__name__, world_size))
        entries = {}
        for source, docs in by_file(data, "tokens are stored by file; `winnow tokenize` reads any corpus"):
            folder = Path(store.part(source))
            part = _intact(folder, source, store.made_digest)
            if part is None:
                store.announce()
                part = yield from self._write(store, source, docs, encoder)
            else:
                yield from _compare(folder, source, docs)
            self.stat_update("documents", value=part.facts["documents"], unit="source")
            entries[source] = entry_of(part)
        corpus.check_unchanged()
        store.finish(rank, world_size, entries)

    def _begin(self, encoder: TextTokenizer, inputs: dict[str, Any] | None) -> Artefact:
        """Claim the store and put the tokenizer into it, or check that it was made with this one."""
        store, folder = open_artefact(self.output_dir), Path(self.output_dir) / "tokenizer"
        with TemporaryDirectory() as temporary:
            encoder.save(Path(temporary))
            sha256 = hashlib.sha256(Path(temporary, "tokenizer.json").read_bytes()).hexdigest()
        made = {
            "tokenizer_sha256": sha256,
            "vocab_size": encoder.vocab_size,
            "sentinels": encoder.sentinels,
            "eos": encoder.eos,
            "append_eos": self.append_eos,
        }
        store.begin(KIND, made, inputs)
        there = _intact(folder)
        if there is None or there.facts["sha256"] != sha256:
            with whole_folder(folder, replace=folder.exists()) as new:
                encoder.save(new)
                SealedFolder.seal(new, META, {"name": encoder.name, "sha256": sha256})
        return store

    def _write(
        self, store: Artefact, source: str, docs: Iterator[Document], encoder: TextTokenizer
    ) -> Generator[Document, None, SealedFolder]:
        """Write a source, of which the folder appears after the last document, and yield its documents."""
        folder = Path(store.part(source))
        dtype = np.dtype(np.uint16 if encoder.vocab_size <= 1 << 16 else np.uint32)
        ending = np.array([encoder.eos] if self.append_eos else [], dtype=np.int64)
        keys: list[int] = []
        lengths: list[int] = []
        with whole_folder(folder, replace=folder.exists()) as temporary:
            with open(temporary / "tokens.npy", "wb") as file:
                _write_header(file, dtype, 0)
                for batch in batched(docs, _BATCH):
                    ids = [np.append(one, ending) for one in encoder.encode([doc.text for doc in batch])]
                    keys += [key_of(doc) for doc in batch]
                    lengths += [len(one) for one in ids]
                    file.write(np.concatenate(ids).astype(dtype).tobytes())
                    yield from batch
                _write_header(file, dtype, sum(lengths))
            np.save(temporary / "offsets.npy", np.cumsum([0, *lengths], dtype=np.int64))
            np.save(temporary / "keys.npy", key_N := np.array(keys, dtype=np.uint64))
            counts = {"documents": len(keys), "tokens": sum(lengths)}
            about = {"source": source, "made": store.made_digest, "keys": keys_digest(key_N)}
            return SealedFolder.seal(temporary, META, counts | about)


def _intact(folder: Path, source: str | None = None, made: str | None = None) -> SealedFolder | None:
    """Return a folder of the store, every byte verified; None if it is absent, or (with a warning) damaged."""
    remedy, read_too = "it is written again now", READ_BY_NOBODY if source else READ_BY_TRANSFORMERS
    try:
        found = SealedFolder.read(folder, META, remedy, read_too) if folder.exists() else None
        if found and found.facts.get("source") != source:
            raise StoreDamaged(f"{folder} is of another source than {source}: {remedy}")
        if found and found.facts.get("made") != made:
            raise StoreDamaged(f"{folder} was made with other settings: {remedy}")
        verify_files(found.files if found else {}, remedy)
    except StoreDamaged as error:
        logger.warning(str(error))
        return None
    return found


def _compare(folder: Path, source: str, docs: Iterator[Document]) -> Iterator[Document]:
    """Yield the documents of a source, after checking that they are those in the store."""
    stored, position = np.load(folder / "keys.npy", allow_pickle=False), -1
    for position, doc in enumerate(docs):
        if position >= len(stored) or stored[position] != key_of(doc):
            raise StoreMismatch(
                f"{folder} was made from another {source}: document {doc.id} is not number {position} there; use "
                "another store, or restore the file"
            )
        yield doc
    if position + 1 != len(stored):
        raise StoreMismatch(
            f"{source} has {position + 1:,} documents, but {folder} holds {len(stored):,}: the file has changed or "
            "was read with a limit; use another store"
        )


def _write_header(file: BinaryIO, dtype: np.dtype[Any], length: int) -> None:
    """Write the .npy header at the beginning; NumPy pads it so that any length fits into the same bytes."""
    file.seek(0)
    header = {"descr": dtype.str, "fortran_order": False, "shape": (length,)}
    np.lib.format.write_array_header_1_0(file, header)
