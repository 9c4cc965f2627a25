"""A corpus as token ids, written once and memory-mapped by every run.

An Artefact on a local disk whose parts are folders, one for each source, and beside its files:

    <path>/tokenizer/                   the tokenizer, as `AutoTokenizer.from_pretrained` loads it, and meta.json
    <path>/parts/<source>/tokens.npy    uint16 (uint32 above 65,536 ids): all documents, nothing between them
    <path>/parts/<source>/offsets.npy   int64 [n + 1]: where each document begins
    <path>/parts/<source>/keys.npy      uint64 [n]: `document_key` of each document
    <path>/parts/<source>/meta.json     counts, digests of the settings and the other files; its own is in the manifest

A *source* is the file a document was read from. Its folder appears whole or not at all, so a task can be killed at
any time, and the content does not depend on the number of tasks.
"""

from __future__ import annotations

import os
import shutil
import sys
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from filelock import FileLock
from fsspec.implementations.local import LocalFileSystem
from tqdm import tqdm

from pipeline_steps.errors import StoreDamaged, StoreIncomplete, StoreMismatch
from pipeline_steps.stores.artefact import Artefact
from pipeline_steps.stores.files import AGAIN
from train.folders import READ_BY_NOBODY, READ_BY_TRANSFORMERS, SealedFolder, whole_folder
from train.verified import verify_files


KIND, META = "tokens", "meta.json"
REMEDY = f"{AGAIN}; only what is damaged is written"


def open_artefact(path: str) -> Artefact:
    """Return the artefact of a token store, begun or not. Raises StoreMismatch unless it is on a local disk."""
    artefact = Artefact(path, "")
    if not isinstance(artefact.fs, LocalFileSystem):
        raise StoreMismatch(f"{path} is not on a local disk, where it can be memory-mapped: copy it to one")
    return artefact


def entry_of(part: SealedFolder) -> dict[str, Any]:
    """Return what a manifest says of a source: `documents`, `tokens`, `keys` (digest of the keys), `meta`."""
    return {name: part.facts[name] for name in ("documents", "tokens", "keys")} | {"meta": part.digest}


class TokenStore:
    """A finished store: N documents in corpus order (sources sorted by name, documents as they stand in them).

    Attributes:
        path: the folder.
        sources: names of the sources, sorted.
        documents: N.
        tokens: token ids in all.
        vocab_size: number of ids of the tokenizer, sentinels included; the highest is `<extra_id_0>`, if there is one.
        sentinels: how many sentinels there are; 0 if the tokenizer is not a T5's.
        eos: id of the end of a text.
        append_eos: whether every document ends in it.
        tokenizer: folder of the tokenizer, loadable by `AutoTokenizer.from_pretrained`.
        tokenizer_name: what it was called when the corpus was tokenised.
        tokenizer_sha256: of its tokenizer.json.

    Raises:
        StoreIncomplete: there is no token store, it is half written, or it holds no documents.
        StoreMismatch: it is not a token store, holds sources that its last run did not read, or somebody has added a
            file to its tokenizer that transformers would read.
        StoreDamaged: a file is not what was written, or a part was made with other settings; names it.
    """

    def __init__(self, path: str) -> None:
        artefact = open_artefact(path)
        if artefact.kind != KIND:
            raise StoreMismatch(f"{path} holds {artefact.kind}, not tokens: give a token store")
        made, entries = artefact.made, artefact.manifest
        if not entries:
            raise StoreIncomplete(f"{path} is empty: the corpus that was tokenized had no documents")
        self.path, self.sources = Path(path), tuple(entries)
        self.vocab_size: int = made["vocab_size"]
        self.sentinels: int = made["sentinels"]
        self.eos: int = made["eos"]
        self.append_eos: bool = made["append_eos"]
        self.tokenizer = self.path / "tokenizer"
        self.tokenizer_sha256: str = made["tokenizer_sha256"]
        self.documents, self.tokens = (sum(one[name] for one in entries.values()) for name in ("documents", "tokens"))
        self._ends = list(accumulate(entry["tokens"] for entry in entries.values()))
        self._folders = [Path(artefact.part(source)) for source in entries]
        tokenizer = SealedFolder.read(self.tokenizer, META, REMEDY, READ_BY_TRANSFORMERS)
        self.tokenizer_name: str = tokenizer.facts["name"]
        if tokenizer.facts["sha256"] != self.tokenizer_sha256:
            raise StoreDamaged(f"{self.tokenizer} is not the tokenizer of this store: delete it and {REMEDY}")
        self._digests = tokenizer.files
        for folder, entry in zip(self._folders, entries.values(), strict=True):
            part = SealedFolder.read(folder, META, REMEDY, READ_BY_NOBODY)
            if part.facts.get("made") != artefact.made_digest:
                raise StoreDamaged(f"{folder} was made with other settings than this store: {REMEDY}")
            if entry_of(part) != entry:
                raise StoreDamaged(f"{folder / META} is not the file that the manifest speaks of: {REMEDY}")
            self._digests |= part.files
        verify_files(self._digests, REMEDY)
        self._maps = [
            _map(folder, entry["tokens"]) for folder, entry in zip(self._folders, entries.values(), strict=True)
        ]

    @classmethod
    def open(cls, path: str) -> TokenStore:
        """Open a store that a run over all its tasks has finished; every byte is verified, once per machine."""
        return cls(path)

    def keys(self) -> np.ndarray:
        """Return uint64 [N]: `document_key` of each document."""
        return np.concatenate([np.load(folder / "keys.npy", allow_pickle=False) for folder in self._folders])

    @cached_property
    def corpus_digest(self) -> str:
        """Digest of all keys in corpus order: what a Selection of this corpus carries."""
        digest = xxhash.xxh3_128()  # as `keys_digest` of them all, a source at a time
        for folder in self._folders:
            digest.update(np.load(folder / "keys.npy", allow_pickle=False).astype("<u8", copy=False).tobytes())
        return digest.hexdigest()

    def by_source(self) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """Yield for each source the name of its folder, its tokens, and int64 [n + 1], where each document begins."""
        for folder, tokens in zip(self._folders, self._maps, strict=True):
            yield folder.name, tokens, np.load(folder / "offsets.npy", allow_pickle=False)

    def lengths_by_source(self) -> Iterator[np.ndarray]:
        """Yield for each source int64 [n]: tokens of each of its documents."""
        for _, _, offsets in self.by_source():
            yield np.diff(offsets)

    def copy(self, position: int, ids: np.ndarray) -> None:
        """Fill `ids` (int32) with the tokens from `position` on in the concatenation of all documents."""
        source, filled = bisect_right(self._ends, position), 0
        while filled < len(ids):
            tokens = self._maps[source]
            begin = position + filled - (self._ends[source] - len(tokens))
            part = tokens[begin : begin + len(ids) - filled]
            ids[filled : filled + len(part)] = part
            filled, source = filled + len(part), source + 1

    def check_borders(self) -> None:
        """Raise StoreMismatch unless every document ends in EOS, by which the documents of a row are told apart."""
        if not self.append_eos:
            raise StoreMismatch(
                f"the documents of {self.path} do not end in EOS, by which those in one row are told apart: tokenise "
                "the corpus with --append-eos, or train without --mask-documents"
            )

    def verify(self) -> None:
        """Read every byte, also of files that were verified before. Raises StoreDamaged, naming the first bad one."""
        verify_files(self._digests, REMEDY, again=True)


def _map(folder: Path, tokens: int) -> np.ndarray:
    mapped = np.load(folder / "tokens.npy", mmap_mode="r" if tokens else None, allow_pickle=False)
    return np.asarray(mapped)  # slicing a plain array is faster than slicing a memmap; an empty file cannot be mapped


def stage(tokens: str, to: str | None) -> TokenStore:
    """Open a token store: that in `tokens`, or its copy in the folder `to`, which is made if it is missing or damaged.

    Windows are read in random order: some two documents each, thousands a second. A page cache or a local disk does
    not notice; a network file system does. A copy appears whole, every byte verified, under the fingerprint of its
    original. All processes of a machine may call this at once.

    Raises:
        StoreDamaged: the original is damaged.
        OSError: the disk is full, among others; nothing is left behind.
    """
    if to is None:
        return TokenStore.open(tokens)
    target = Path(to) / open_artefact(tokens).fingerprint
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.parent / ".lock"):  # one process of a machine copies, the others wait
        with suppress(StoreIncomplete, StoreDamaged):
            return TokenStore.open(str(target))
        with whole_folder(target, replace=target.exists()) as folder:
            _copy(Path(tokens), folder)
            try:
                TokenStore.open(str(folder))
            except StoreDamaged:
                TokenStore.open(tokens)  # names the file of the original
                raise
        return TokenStore.open(str(target))


def _copy(source: Path, target: Path) -> None:
    size = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())

    def copy(one: str, other: str) -> None:
        shutil.copyfile(one, other)
        bar.update(os.path.getsize(one))

    hidden = shutil.ignore_patterns(".*")
    with tqdm(total=size, unit="B", unit_scale=True, desc="staging", disable=not sys.stderr.isatty()) as bar:
        shutil.copytree(source, target, ignore=hidden, copy_function=copy, dirs_exist_ok=True)
