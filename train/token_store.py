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

from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from pipeline_steps.errors import StoreIncomplete, StoreMismatch
from pipeline_steps.files import read_json
from train.folders import checksum


SOURCE_FILES = ("tokens.npy", "offsets.npy", "keys.npy")


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
    """

    def __init__(self, path: Path, config: dict[str, Any], sources: dict[str, tuple[Path, dict[str, Any]]]) -> None:
        self.path = path
        self.sources = tuple(sorted(sources))
        self.tokenizer = path / "tokenizer"
        self.tokenizer_name: str = config["tokenizer"]
        self.tokenizer_sha256: str = config["tokenizer_sha256"]
        self.vocab_size: int = config["vocab_size"]
        self.sentinels: int = config["sentinels"]
        self.eos: int = config["eos"]
        self.append_eos: bool = config["append_eos"]
        self._folders = [sources[name][0] for name in self.sources]
        tokens = [int(sources[name][1]["tokens"]) for name in self.sources]
        self.documents = sum(int(sources[name][1]["documents"]) for name in self.sources)
        self.tokens = sum(tokens)
        self._ends = list(accumulate(tokens))
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
        digest = xxhash.xxh3_128()  # as `keys_digest` of them all, a source at a time
        for folder in self._folders:
            digest.update(np.load(folder / "keys.npy", allow_pickle=False).astype("<u8", copy=False).tobytes())
        return digest.hexdigest()

    def by_source(self) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """Of each source: the name of its folder, its tokens, and int64 [n + 1], where each document begins."""
        for folder, tokens in zip(self._folders, self._maps, strict=True):
            yield folder.name, tokens, np.load(folder / "offsets.npy", allow_pickle=False)

    def lengths_by_source(self) -> Iterator[np.ndarray]:
        """int64 [n] for each source: tokens of each of its documents."""
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

    def verify(self) -> None:
        """Read every byte; raise StoreMismatch naming the first file whose checksum is not the stored one."""
        for folder in self._folders:
            stored = read_json(str(folder / "meta.json"))["xxh3"]
            for name in SOURCE_FILES:
                if checksum(folder / name) != stored[name]:
                    raise StoreMismatch(
                        f"{folder / name} is damaged: its checksum is not the one in meta.json; "
                        f"delete {folder} and tokenize again"
                    )


def _map(path: Path, tokens: int) -> np.ndarray:
    try:
        mapped = np.load(path, mmap_mode="r" if tokens else None, allow_pickle=False)  # an empty file cannot be mapped
    except (OSError, ValueError) as error:
        raise StoreMismatch(f"{path} is damaged ({error}): delete its folder and tokenize again") from error
    if len(mapped) != tokens:
        raise StoreMismatch(
            f"{path} holds {len(mapped):,} tokens, its meta.json says {tokens:,}: delete its folder, tokenize again"
        )
    return np.asarray(mapped)  # slicing a plain array is faster than slicing a memmap


def _check_complete(root: Path) -> None:
    """Raise StoreIncomplete unless all tasks of some run have finished."""
    done: dict[str, set[int]] = {}
    for file in sorted(root.glob("tasks/*/*.json")):
        done.setdefault(file.parent.name, set()).add(int(file.stem))
    if not any(ranks == set(range(int(size))) for size, ranks in done.items()):
        state = "; ".join(f"{len(ranks)} of {size} tasks" for size, ranks in sorted(done.items())) or "no task"
        raise StoreIncomplete(f"{root} is incomplete ({state} finished): run TokenStoreWriter to the end")
