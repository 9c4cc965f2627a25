"""A corpus as token ids, written once and memory-mapped by every run.

    <path>/config.json                     the tokenizer's identity; a store is never mixed
    <path>/tokenizer/                      the tokenizer itself, as `AutoTokenizer.from_pretrained` loads it
    <path>/sources/<source>/tokens.npy     uint16 (uint32 above 65,536 ids): all documents, nothing between them
    <path>/sources/<source>/offsets.npy    int64 [n + 1]: where each document begins
    <path>/sources/<source>/keys.npy       uint64 [n]: `document_key` of each document
    <path>/sources/<source>/meta.json      counts and checksums
    <path>/tasks/<world_size>/<rank>.json  what each task of a finished run covered

A *source* is the file a document was read from. Its folder appears whole or not at all, so a store can be killed
at any time, and its content does not depend on the number of tasks. Local folders only: they are memory-mapped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import xxhash
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.batching import batched

from pipeline_steps.document_columns import by_source
from pipeline_steps.errors import StoreIncomplete, StoreMismatch
from pipeline_steps.files import read_json, write_json
from pipeline_steps.numerics.keys import document_key, keys_digest
from pipeline_steps.source_store import shard_name
from train.folders import whole_folder
from train.tokenizers import TextEncoder


_FILES = ("tokens.npy", "offsets.npy", "keys.npy")
_BATCH = 1024  # documents encoded at a time: keeps the tokenizer's threads busy with a few MB of text
_CHUNK = 1 << 24  # bytes hashed at a time


class TokenStore:
    """A finished store: N documents in corpus order (sources sorted by name, documents as they stand in them).

    Attributes:
        path: the folder.
        sources: names of the sources, sorted.
        documents: N.
        tokens: token ids in all.
        vocab_size: number of ids of the tokenizer, sentinels included; the highest is `<extra_id_0>`.
        sentinels: how many sentinels there are.
        tokenizer: folder of the tokenizer, loadable by `AutoTokenizer.from_pretrained`.
        tokenizer_sha256: of its tokenizer.json.
    """

    def __init__(self, path: Path, config: dict[str, Any], sources: dict[str, tuple[Path, dict[str, Any]]]) -> None:
        self.path = path
        self.sources = tuple(sorted(sources))
        self.tokenizer = path / "tokenizer"
        self.tokenizer_sha256: str = config["tokenizer_sha256"]
        self.vocab_size: int = config["vocab_size"]
        self.sentinels: int = config["sentinels"]
        self._folders = [sources[name][0] for name in self.sources]
        tokens = [int(sources[name][1]["tokens"]) for name in self.sources]
        self.documents = sum(int(sources[name][1]["documents"]) for name in self.sources)
        self.tokens = sum(tokens)
        self._ends = np.cumsum(tokens, dtype=np.int64)
        self._maps = [_map(folder / "tokens.npy", size) for folder, size in zip(self._folders, tokens, strict=True)]

    @classmethod
    def open(cls, path: str) -> TokenStore:
        """Open a store that a run over all its tasks has finished.

        Raises:
            StoreIncomplete: it is not a token store, is half written, or holds no documents.
            StoreMismatch: a file does not hold what its meta.json says.
        """
        root = Path(path)
        if not (root / "config.json").exists():
            raise StoreIncomplete(f"{path} is not a token store: it has no config.json; tokenize a corpus into it")
        _check_complete(root)
        found = {}
        for file in sorted(root.glob("sources/[!.]*/meta.json")):
            meta = read_json(str(file))
            found[meta["source"]] = (file.parent, meta)
        if not found:
            raise StoreIncomplete(f"{path} is empty: the corpus that was tokenized had no documents")
        return cls(root, read_json(str(root / "config.json")), found)

    def keys(self) -> np.ndarray:
        """uint64 [N]: `document_key` of each document."""
        return np.concatenate([np.load(folder / "keys.npy", allow_pickle=False) for folder in self._folders])

    @cached_property
    def corpus_digest(self) -> str:
        """Digest of all keys in corpus order: what a Selection of this corpus carries."""
        return keys_digest(self.keys())

    @cached_property
    def lengths(self) -> np.ndarray:
        """int64 [N]: tokens of each document."""
        offsets = [np.load(folder / "offsets.npy", allow_pickle=False) for folder in self._folders]
        return np.concatenate([np.diff(offset) for offset in offsets])

    def take(self, position: np.ndarray) -> np.ndarray:
        """Token ids (int32, shape of `position`) at int64 positions in the concatenation of all documents."""
        if len(self._maps) == 1:
            return self._maps[0][position].astype(np.int32)
        ids = np.empty(position.shape, dtype=np.int32)
        source = np.searchsorted(self._ends, position, side="right")
        for number in np.unique(source):
            here = source == number
            tokens = self._maps[number]
            ids[here] = tokens[position[here] - (self._ends[number] - len(tokens))]
        return ids

    def verify(self) -> None:
        """Read every byte; raise StoreMismatch naming the first file whose checksum is not the stored one."""
        for folder in self._folders:
            stored = read_json(str(folder / "meta.json"))["xxh3"]
            for name in _FILES:
                if _checksum(folder / name) != stored[name]:
                    raise StoreMismatch(
                        f"{folder / name} is damaged: its checksum is not the one in meta.json; "
                        f"delete {folder} and tokenize again"
                    )


class TokenStoreWriter(PipelineStep):
    """Tokenizes every document into a TokenStore; passes documents through unchanged, in order.

    Any number of tasks. A source that is already sealed is compared by its keys instead of written again.

    Args:
        output_dir: folder of the store, local.
        tokenizer: Hub id or local folder of a tokenizer with T5's conventions.

    Raises:
        CorpusError: a document does not say which file it is from, or a source comes in more than one run.
        ModelError: the tokenizer has other conventions than T5's.
        StoreMismatch: the store was made with another tokenizer or from other documents.
    """

    type = "🔢 - TOKENIZER"
    name = "📼 Token store"

    def __init__(self, output_dir: str, tokenizer: str) -> None:
        super().__init__()
        self.output_dir = str(output_dir)
        self.tokenizer = str(tokenizer)

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Yield every document of `data`; a source is in the store once its last document has been taken."""
        root, encoder = Path(self.output_dir), TextEncoder(self.tokenizer)
        _claim(root, encoder)
        rows: dict[str, int] = {}
        for source, docs in by_source(data, type(self).__name__):
            rows[source] = 0
            folder = root / "sources" / shard_name(source)
            step = _compare if folder.exists() else _seal
            for batch in step(folder, source, docs, encoder):
                rows[source] += len(batch)
                self.stat_update("documents", value=len(batch), unit="batch")
                yield from batch
        write_json(f"{root}/tasks/{world_size}/{rank:05d}.json", rows)


def _claim(root: Path, encoder: TextEncoder) -> None:
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
    }
    if not (root / "config.json").exists():
        write_json(f"{root}/config.json", config)


def _seal(folder: Path, source: str, docs: Iterator[Document], encoder: TextEncoder) -> Iterator[list[Document]]:
    """Write a source and yield its documents in batches; the folder appears after the last."""
    dtype = np.dtype(np.uint16 if encoder.vocab_size <= 1 << 16 else np.uint32)
    keys: list[int] = []
    lengths: list[int] = []
    with whole_folder(folder) as temporary:
        with open(temporary / "tokens.npy", "wb") as file:
            _write_header(file, dtype, 0)
            for batch in batched(docs, _BATCH):
                ids = encoder.encode([doc.text for doc in batch])
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
            "xxh3": {name: _checksum(temporary / name) for name in _FILES},
        }
        write_json(f"{temporary}/meta.json", meta)


def _compare(folder: Path, source: str, docs: Iterator[Document], _: TextEncoder) -> Iterator[list[Document]]:
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


def _map(path: Path, tokens: int) -> np.ndarray:
    mapped = np.load(path, mmap_mode="r" if tokens else None, allow_pickle=False)  # an empty file cannot be mapped
    if len(mapped) != tokens:
        raise StoreMismatch(
            f"{path} holds {len(mapped):,} tokens, its meta.json says {tokens:,}: delete its folder, tokenize again"
        )
    return mapped


def _checksum(path: Path) -> str:
    state = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            state.update(chunk)
    return state.hexdigest()


def _check_complete(root: Path) -> None:
    """Raise StoreIncomplete unless all tasks of some run have finished."""
    done: dict[str, set[int]] = {}
    for file in sorted(root.glob("tasks/*/*.json")):
        done.setdefault(file.parent.name, set()).add(int(file.stem))
    if not any(ranks == set(range(int(size))) for size, ranks in done.items()):
        state = "; ".join(f"{len(ranks)} of {size} tasks" for size, ranks in sorted(done.items())) or "no task"
        raise StoreIncomplete(f"{root} is incomplete ({state} finished): run TokenStoreWriter to the end")
