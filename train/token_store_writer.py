"""Fill a token store: a datatrove step that tokenises every document once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.batching import batched

from pipeline_steps.artefact import part_name
from pipeline_steps.document_columns import by_source
from pipeline_steps.errors import StoreMismatch
from pipeline_steps.files import read_json, write_json
from pipeline_steps.numerics.keys import document_key
from train.folders import checksum, whole_folder
from train.token_store import SOURCE_FILES
from train.tokenizers import TextEncoder


_BATCH = 1024  # documents encoded at a time: keeps the tokenizer's threads busy with a few MB of text
Encode = Callable[[list[str]], list[np.ndarray]]


class TokenStoreWriter(PipelineStep):
    """Tokenizes every document into a TokenStore; passes documents through unchanged, in order.

    Any number of tasks. A source that is already sealed is compared by its keys instead of written again.

    Args:
        output_dir: folder of the store, local.
        tokenizer: Hub id or local folder of a T5's tokenizer, or for causal models of any with an EOS.
        append_eos: end every document in EOS, for causal models; a T5 is trained on documents with nothing between.

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

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Yield every document of `data`; a source is in the store once its last document has been taken."""
        root, encoder = Path(self.output_dir), TextEncoder(self.tokenizer)
        encode = partial(_encode, encoder, [encoder.eos] if self.append_eos else [])
        _claim(root, encoder, self.append_eos)
        rows: dict[str, int] = {}
        for source, docs in by_source(data, type(self).__name__):
            rows[source] = 0
            folder = root / "sources" / part_name(source)
            step = _compare if folder.exists() else _seal
            for batch in step(folder, source, docs, encode):
                rows[source] += len(batch)
                self.stat_update("documents", value=len(batch), unit="batch")
                yield from batch
        write_json(f"{root}/tasks/{world_size}/{rank:05d}.json", rows)


def _claim(root: Path, encoder: TextEncoder, append_eos: bool) -> None:
    """Put the tokenizer and config.json into the store, or check that the store was made with this tokenizer."""
    with whole_folder(root / "tokenizer") as folder:
        encoder.save(folder)
        digest = hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()
    stored = hashlib.sha256((root / "tokenizer" / "tokenizer.json").read_bytes()).hexdigest()
    if stored != digest:
        raise StoreMismatch(
            f"{root} was made with another tokenizer (sha256 {stored[:12]}) than {encoder.name} ({digest[:12]}): "
            "use another folder, or that tokenizer"
        )
    config = {
        "tokenizer": encoder.name,
        "tokenizer_sha256": digest,
        "vocab_size": encoder.vocab_size,
        "sentinels": encoder.sentinels,
        "eos": encoder.eos,
        "append_eos": append_eos,
        "dtype": "uint16" if encoder.vocab_size <= 1 << 16 else "uint32",
    }
    if not (root / "config.json").exists():
        write_json(f"{root}/config.json", config)
    if read_json(f"{root}/config.json")["append_eos"] != append_eos:
        raise StoreMismatch(
            f"{root} was made with append_eos={not append_eos}: use another folder, or the same setting"
        )


def _encode(encoder: TextEncoder, ending: list[int], texts: list[str]) -> list[np.ndarray]:
    return [np.append(ids, ending) for ids in encoder.encode(texts)] if ending else encoder.encode(texts)


def _seal(folder: Path, source: str, docs: Iterator[Document], encode: Encode) -> Iterator[list[Document]]:
    """Write a source and yield its documents in batches; the folder appears after the last."""
    dtype = np.dtype(read_json(f"{folder.parent.parent}/config.json")["dtype"])
    keys: list[int] = []
    lengths: list[int] = []
    with whole_folder(folder) as temporary:
        with open(temporary / "tokens.npy", "wb") as file:
            _write_header(file, dtype, 0)
            for batch in batched(docs, _BATCH):
                ids = encode([doc.text for doc in batch])
                keys += [document_key(doc.id, doc.text) for doc in batch]
                lengths += [len(one) for one in ids]
                file.write(np.concatenate(ids).astype(dtype).tobytes())
                yield batch
            _write_header(file, dtype, sum(lengths))
        np.save(temporary / "offsets.npy", np.cumsum([0, *lengths], dtype=np.int64))
        np.save(temporary / "keys.npy", np.array(keys, dtype=np.uint64))
        meta = {
            "source": source,
            "documents": len(keys),
            "tokens": sum(lengths),
            "xxh3": {name: checksum(temporary / name) for name in SOURCE_FILES},
        }
        write_json(f"{temporary}/meta.json", meta)


def _compare(folder: Path, source: str, docs: Iterator[Document], _: Encode) -> Iterator[list[Document]]:
    """Yield the documents of a sealed source in batches, after checking that they are those in the store."""
    stored, position = np.load(folder / "keys.npy", allow_pickle=False), 0
    for batch in batched(docs, _BATCH):
        for doc in batch:
            if position >= len(stored) or stored[position] != document_key(doc.id, doc.text):
                raise StoreMismatch(
                    f"{folder} was made from another {source}: document {doc.id} is not number {position} there; "
                    "use another store, or restore the file"
                )
            position += 1
        yield batch
    if position != len(stored):
        raise StoreMismatch(
            f"{source} has {position:,} documents, but {folder} holds {len(stored):,}: the file has changed or was "
            "read with a limit; use another store"
        )


def _write_header(file: BinaryIO, dtype: np.dtype[Any], length: int) -> None:
    """Write the .npy header at the beginning; NumPy pads it so that any length fits into the same bytes."""
    file.seek(0)
    header = {"descr": dtype.str, "fortran_order": False, "shape": (length,)}
    np.lib.format.write_array_header_1_0(file, header)
