"""The tokens of a selection as files that other trainers read; runs of this package need no such copy.

    ds        <source>.ds, .ds.index, .ds.metadata   datatrove, nanotron
    megatron  text_document.bin, text_document.idx   Megatron-LM, NeMo: --data-path FOLDER/text_document
    mds       shard.00000.mds ..., index.json        MosaicML Streaming: StreamingDataset(local=FOLDER)

A document comes as often as it is selected. Each writer takes them from `chosen_documents`, the one place that knows
which are chosen, a few thousand at a time, so the memory does not grow with the corpus.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from itertools import chain, groupby, pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from pipeline_steps.errors import InvalidCut, StoreMismatch
from pipeline_steps.stores.selection import Selection
from train.folders import whole_folder
from train.token_store import TokenStore


Format = Literal["ds", "megatron", "mds"]
MEGATRON_PREFIX = "text_document"
_BLOCK = 8192  # documents handled at a time: some 4M tokens
_LONGEST = 1 << 28  # tokens of a document: its bytes fit into MDS's offsets, and its length into Megatron's int32
_MEGATRON_INT32 = 65_500  # ids from which Megatron takes int32: megatron.core.datasets.indexed_dataset.DType
_MEGATRON_CODES = {"uint16": 8, "int32": 4}  # the same
_SHARD = 1 << 26  # bytes of a shard at most, unless one document is larger: the default of streaming.MDSWriter


class Block(NamedTuple):
    """Some documents of one source, one after the other."""

    source: str  # the name of its folder in the store
    tokens: np.ndarray  # uint16 or uint32 [T], as in the store
    lengths: np.ndarray  # int64 [n], which add up to T


def materialise(
    store: TokenStore,
    selection: Selection | None,
    output: Path,
    format: Format = "ds",
    append_eos: bool | None = None,
) -> tuple[int, int]:
    """Write the selected documents' tokens into the folder `output`, which appears whole or not at all.

    Args:
        store: the tokenised corpus.
        selection: which documents; None for all.
        output: a new folder.
        format: for whom; see this module.
        append_eos: end each document in EOS, unless the store's end in it already. None: for `megatron` and `mds`,
            whose trainers put documents side by side; `ds` files hold what the store holds.

    Returns:
        How many documents and tokens were written, all copies counted.

    Raises:
        StoreMismatch: `output` exists already, or the selection was made for another corpus.
        InvalidCut: nothing is selected, or a document is too long or empty for the format; names it.
    """
    if format not in get_args(Format):
        raise ValueError(f"format={format!r} is none of {', '.join(get_args(Format))}")
    if output.exists():
        raise StoreMismatch(f"{output} exists already: give another folder, or remove it")
    if selection is not None:
        selection = selection.in_order(store.corpus_digest, lambda: store.keys(), str(store.path))
    ends = (format != "ds" if append_eos is None else append_eos) and not store.append_eos
    counted = [0, 0]

    def documents() -> Iterator[Block]:
        for some in chosen_documents(store, selection, store.eos if ends else None):
            counted[0] += len(some.lengths)
            counted[1] += len(some.tokens)
            yield some

    with whole_folder(output) as folder:
        _WRITERS[format](documents(), folder, store)
        if not counted[0]:
            raise InvalidCut(f"the selection has no documents of {store.path}: there is nothing to write")
    return counted[0], counted[1]


def chosen_documents(store: TokenStore, selection: Selection | None, eos: int | None) -> Iterator[Block]:
    """Yield the chosen documents, each with `eos` at its end if that is not None.

    Sources come in corpus order. Of each, all chosen documents come first, then once more all that are selected twice
    or more, and so on.
    """
    begin = 0
    for name, tokens, offsets in store.by_source():
        count = len(offsets) - 1
        counts = np.ones(count, np.uint8) if selection is None else selection.counts[begin : begin + count]
        begin += count
        layers = range(1, int(counts.max(initial=0)) + 1)
        for layer, start in ((layer, start) for layer in layers for start in range(0, count, _BLOCK)):
            own, edges = counts[start : start + _BLOCK] >= layer, offsets[start : start + _BLOCK + 1]
            lengths = np.diff(edges)
            if (longest := int(lengths[own].max(initial=0))) > _LONGEST:
                raise InvalidCut(f"a document of {store.path}/parts/{name} has {longest:,} tokens: leave it out")
            chosen, lengths = tokens[edges[0] : edges[-1]][np.repeat(own, lengths)], lengths[own]
            if eos is not None:
                chosen, lengths = np.insert(chosen, np.cumsum(lengths), eos), lengths + 1
            if len(lengths):
                yield Block(name, chosen, lengths)


def _write_ds(documents: Iterator[Block], folder: Path, store: TokenStore) -> None:
    """Write for each source its ids, uint64 ends of its documents, and the tokenizer with the number of tokens."""
    for source, blocks in groupby(documents, key=lambda some: some.source):
        path, size, width = folder / f"{source}.ds", 0, 0
        with path.open("wb") as ids, Path(f"{path}.index").open("wb") as ends:
            for some in blocks:
                some.tokens.tofile(ids)
                (size + np.cumsum(some.lengths)).astype("<u8").tofile(ends)
                size, width = size + len(some.tokens), some.tokens.itemsize
        Path(f"{path}.metadata").write_text(f"{store.tokenizer_name}|{width}\n{size}\n{size / 1e9:.2f} GT")


def _write_megatron(documents: Iterator[Block], folder: Path, store: TokenStore) -> None:
    """Write one pair of files: all ids, and the length and place of each document, a sequence of its own."""
    dtype = np.dtype("<u2" if store.vocab_size < _MEGATRON_INT32 else "<i4")
    lengths = [np.empty(0, dtype="<i4")]
    with (folder / f"{MEGATRON_PREFIX}.bin").open("wb") as ids:
        for some in documents:
            some.tokens.astype(dtype).tofile(ids)
            lengths.append(some.lengths.astype("<i4"))
    length_N = np.concatenate(lengths)
    count = len(length_N)
    with (folder / f"{MEGATRON_PREFIX}.idx").open("wb") as index:
        index.write(b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, _MEGATRON_CODES[dtype.name], count, count + 1))
        length_N.tofile(index)
        end_N = np.cumsum(length_N, dtype="<i8")
        ((end_N - length_N) * dtype.itemsize).astype("<i8").tofile(index)
        np.arange(count + 1, dtype="<i8").tofile(index)  # where each document's sequences begin


def _write_mds(documents: Iterator[Block], folder: Path, store: TokenStore) -> None:
    """Write shards of one column, `tokens`, an array for each document; uncompressed, as MDSWriter's default is."""
    shards: list[dict[str, Any]] = []
    samples: list[bytes] = []
    config: dict[str, Any] = {}

    def flush() -> None:
        name, blob = f"shard.{len(shards):05d}.mds", _mds_shard(samples, config)
        (folder / name).write_bytes(blob)
        raw = {"basename": name, "bytes": len(blob), "hashes": {}}
        shards.append(config | {"samples": len(samples), "raw_data": raw, "zip_data": None})
        samples.clear()

    size = 0
    for some in documents:
        config = config or _mds_config(some.tokens.dtype.name)
        for sample in _mds_samples(some, store):
            if samples and size + len(sample) + 4 > _SHARD:
                flush()
            size = (size if samples else len(_mds_shard([], config))) + len(sample) + 4
            samples.append(sample)
    if samples:
        flush()
    (folder / "index.json").write_text(json.dumps({"version": 2, "shards": shards}, sort_keys=True))


def _mds_config(dtype: str) -> dict[str, Any]:
    return {
        "version": 2,
        "format": "mds",
        "compression": None,
        "hashes": [],
        "size_limit": _SHARD,
        "column_names": ["tokens"],
        "column_encodings": [f"ndarray:{dtype}"],
        "column_sizes": [None],
    }


def _mds_samples(some: Block, store: TokenStore) -> Iterator[bytes]:
    """Yield documents as samples: uint32 bytes of the column, then a byte of 1 axis and the width, length and ids."""
    for begin, end in pairwise(chain([0], np.cumsum(some.lengths).tolist())):
        length = end - begin
        if not length:
            raise InvalidCut(
                f"a document of {store.path}/parts/{some.source} has no tokens, which MDS cannot hold: append EOS, or "
                "leave it out"
            )
        code, width = next((code, "<BHI"[code + 1]) for code in range(3) if length < 1 << (8 << code))
        body = struct.pack(f"<B{width}", 1 << 2 | code, length) + some.tokens[begin:end].tobytes()
        yield struct.pack("<I", len(body)) + body


def _mds_shard(samples: list[bytes], config: dict[str, Any]) -> bytes:
    """Return a shard: uint32 number of samples, uint32 offsets of their beginnings and end, settings, samples."""
    said = json.dumps(config, sort_keys=True).encode()
    first = 4 + 4 * (len(samples) + 1) + len(said)
    offsets = first + np.cumsum([0, *map(len, samples)])
    return struct.pack("<I", len(samples)) + offsets.astype("<u4").tobytes() + said + b"".join(samples)


_WRITERS: dict[Format, Callable[[Iterator[Block], Path, TokenStore], None]] = {
    "ds": _write_ds,
    "megatron": _write_megatron,
    "mds": _write_mds,
}
