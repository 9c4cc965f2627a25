"""Read a user's corpus without losing a row, local or behind any fsspec protocol."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import xxhash
from datatrove.data import Document, DocumentsPipeline
from datatrove.io import get_datafolder
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.readers.base import BaseDiskReader

from pipeline_steps.engines.models import require
from pipeline_steps.errors import CorpusError, StoreMismatch
from pipeline_steps.readers.bad_rows import BadRow, FileOfBadRows, bad_text, no_key
from pipeline_steps.readers.formats import KINDS, ROWS, kind_of
from pipeline_steps.readers.places import Entries, check_file, list_files, version_of
from pipeline_steps.readers.reading import USUAL, Reading
from pipeline_steps.stores.files import write_atomically
from pipeline_steps.terminal import one_line


ROW = "\0row"  # key of the metadata, which no row has
_PACKED = (".zstd", ".lz4", ".br", ".snappy", ".zip", ".7z", ".rar")  # what data is compressed to elsewhere
# What datasets and this project write beside data; not rows
_NO_DATA = {"winnow.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}


@contextmanager
def _named(path: str) -> Iterator[None]:
    try:
        yield
    except CorpusError:
        raise
    except MemoryError:
        raise
    except Exception as error:  # damaged files bring out every error that the libraries which read them have
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
        raise CorpusError(f"{path} cannot be read: {one_line(reason)[:200]}") from error


class CorpusReader(BaseDiskReader):
    """Reads the files of a corpus, of any format: a row is a document, an error that names it, or counted.

    Args:
        files: the files.
        paths_file: the file that lists them.
        reading: how rows are read.
        limit: at most this many documents of each task; -1 for all.
        rows: put each row, as it is in the file, into its document's metadata under `ROW`; pages of WARC have none.
        bad_rows: folder for the records of bad rows; None for none.
    """

    name = "📚 Corpus"

    def __init__(
        self,
        files: CorpusFiles,
        paths_file: str,
        reading: Reading = USUAL,
        limit: int = -1,
        rows: bool = False,
        bad_rows: str | None = None,
    ) -> None:
        super().__init__(files.folder, paths_file, limit, text_key=reading.text_key, id_key=reading.id_key)
        self.kind, self.on_bad_row = files.kind, reading.on_bad_row
        self._rows, self._bad_rows = rows and files.kind != "warc", bad_rows
        self._apart = {reading.text_key, reading.id_key, "metadata", "media"}

    def read_files_shard(self, shard: list[str]) -> DocumentsPipeline:
        """Yield the documents of some files."""
        left = self.limit if self.limit >= 0 else sys.maxsize
        for name in shard:
            if not left:
                return
            self.stat_update("input_files")
            before = left
            for document in self.read_file(name, left):
                yield document
                left -= 1
            self.stat_update("documents", value=before - left, unit="input_file")

    def read_file(self, filepath: str, most: int = sys.maxsize) -> DocumentsPipeline:
        """Yield the documents of a file, `most` of them at most.

        Raises:
            CorpusError: the file is damaged, or a row of it is bad, or too many are.
        """
        path, seen = self.data_folder.resolve_paths(filepath), 0
        bad_rows = FileOfBadRows(path, self._bad_rows) if self.on_bad_row == "skip" else None
        with _named(path):
            for row, values in ROWS[self.kind](self.data_folder, filepath):
                seen += 1
                document = self._document(values, filepath, path, row)
                if isinstance(document, Document):
                    yield document
                    most -= 1
                    if not most:
                        break
                elif bad_rows is None:
                    raise document.error(path, row)
                else:
                    self.stat_update("bad_rows")
                    bad_rows.add(row, seen, document)
        if bad_rows is not None:
            bad_rows.finish(seen, is_whole=most > 0)

    def _document(self, values: Any, name: str, path: str, row: int) -> Document | BadRow:
        """Return the document of a row, as datatrove's readers make them; or what is wrong with the row."""
        if isinstance(values, BadRow):
            return values
        if not isinstance(values, dict):
            return BadRow("not a JSON object", f"the line is not a JSON object but {type(values).__name__}")
        text = values.get(self.text_key)
        if not isinstance(text, str) or not text or text.isspace():
            return bad_text(values, self.text_key)
        if self.id_key not in values and self.id_key != USUAL.id_key:
            return no_key(values, self.id_key, "--id-key")
        metadata = {key: value for key, value in values.items() if key not in self._apart}
        if "metadata" in values:
            metadata = as_mapping(values["metadata"]) | metadata
        if not isinstance(count := metadata.get("token_count"), int | float | None):  # which readers add up
            detail = f"token_count is {one_line(repr(count))[:60]}, which is not a number"
            return BadRow("token_count is no number", detail)
        if self._rows:
            metadata[ROW] = values
        # A row may have a file_path and media of its own, as FineWeb's do
        metadata["file_path"] = path
        id = values.get(self.id_key)
        return Document(text=text, id=f"{name}/{row}" if id is None else str(id), media=[], metadata=metadata)


def as_mapping(metadata: Any) -> dict[str, Any]:
    """Return a column of metadata as a mapping; one that is JSON is read, as datatrove does."""
    if isinstance(metadata, str):
        with suppress(ValueError, RecursionError):
            metadata = json.loads(metadata)
    return metadata if isinstance(metadata, dict) else {"metadata": metadata}


@dataclass(frozen=True)
class CorpusFiles:
    """What a path leads to.

    Attributes:
        folder: with its protocol.
        kind: "jsonl", "csv", "parquet", "arrow" or "warc".
        sizes: bytes of each file by its path in the folder, in the order they are read; 0 where nobody says.
        versions: what tells each file from an earlier one of its name, e.g. the time it was written; "" where nobody
            says.
    """

    folder: str
    kind: str
    sizes: dict[str, int]
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def listing(self) -> str:
        """Return the number of files, and a digest of their names, sizes and versions."""
        lines = "".join(f"{name}\n{size}\n{self.versions.get(name, '')}\n" for name, size in self.sizes.items())
        return f"{len(self.sizes)} files {xxhash.xxh3_64_hexdigest(lines.encode())}"

    def rows(self) -> Iterator[tuple[str, int, dict[str, Any]]]:
        """Yield the path of a file, the number of a row from 0, and its values, which need no text in them.

        Raises:
            CorpusError: a file is damaged, or a row cannot be read.
        """
        folder = get_datafolder(self.folder)
        for name in self.sizes:
            path = folder.resolve_paths(name)
            with _named(path):
                for row, values in ROWS[self.kind](folder, name):
                    if not isinstance(values, dict):
                        kind = type(values).__name__
                        bad = values if isinstance(values, BadRow) else BadRow("", f"the line is {kind}, no object")
                        raise bad._replace(help="correct the row, or delete it").error(path, row)
                    yield path, row, values

    def reader(
        self,
        paths_file: str,
        limit: int = -1,
        rows: bool = False,
        reading: Reading = USUAL,
        bad_rows: str | None = None,
    ) -> list[PipelineStep]:
        """Return the steps that read the files: a `CorpusReader`, and for WARC the text extraction.

        Args:
            paths_file: where to write the list of files.
            limit: at most this many documents of each task; -1 for all.
            rows: as `CorpusReader` takes it.
            reading: how rows are read.
            bad_rows: as `CorpusReader` takes it.

        Raises:
            CorpusError: a key is asked for, and web pages have none.
        """
        listing = "".join(f"{name}\n" for name in self.sizes).encode()
        if not os.path.exists(paths_file) or Path(paths_file).read_bytes() != listing:  # others may be reading it
            write_atomically(paths_file, listing)
        reader = CorpusReader(self, paths_file, reading, limit, rows, bad_rows)
        if self.kind != "warc":
            return [reader]
        from pipeline_steps.readers.page_text import PageText

        if keys := reading.changed.keys() & {"text_key", "id_key"}:
            flag = f"--{min(keys).replace('_', '-')}"
            raise CorpusError(f"{self.folder} holds web pages, which have no keys: leave {flag} out")
        require("trafilatura", "warc")
        return [reader, PageText()]


def open_corpus(path: str, paths_file: str, limit: int = -1, reading: Reading = USUAL) -> list[PipelineStep]:
    """Return the steps that read a corpus: a `CorpusReader`, and for WARC the text extraction.

    Args:
        path: a file, a folder or a glob of .jsonl/.json/.ndjson, .csv, .parquet, .arrow or .warc/.wet files,
            compressed or not, or a folder of `save_to_disk`; any fsspec path, e.g. s3://bucket/crawl or
            hf://datasets/allenai/c4/en/c4-train.00000-of-01024.json.gz; or a data set of the Hub, as in
            hf://datasets/allenai/c4?config=en&split=train.
        paths_file: where to write the list of files, in the order they are read.
        limit: at most this many documents; -1 for all.
        reading: how rows are read.

    Raises:
        CorpusError: nothing is there, or files of no or of more than one known format.
    """
    return list_corpus(path, reading.glob).reader(paths_file, limit, reading=reading)


def list_corpus(path: str, glob: str = "") -> CorpusFiles:
    """Return the files of a corpus, which `open_corpus` reads; raises as it does.

    Args:
        path: as `open_corpus` takes it.
        glob: as `Reading` has it.
    """
    folder, entries = list_files(path)
    reading, by_format = Reading(glob=glob), dict[str, list[str]]()
    for name in _without_caches(folder, entries):
        hidden = any(part.startswith(".") for part in name.split("/"))
        if hidden or name.rpartition("/")[2] in _NO_DATA or not reading.takes(name):
            continue
        if kind := kind_of(name):
            by_format.setdefault(kind, []).append(name)
        elif name.endswith(_PACKED) and kind_of(name.rpartition(".")[0]):
            raise CorpusError(f"{folder}/{name} is compressed in a way that is not read: unpack it, or use --glob")
    if len(by_format) != 1:
        raise _not_one(path, glob, len(entries), by_format)
    ((kind, names),) = by_format.items()
    for name in names:
        check_file(folder, name)
    sizes = {name: int(entries[name].get("size") or 0) for name in names}
    return CorpusFiles(folder, kind, sizes, {name: version_of(folder, name, entries[name]) for name in names})


def _not_one(path: str, glob: str, files: int, by_format: Mapping[str, list[str]]) -> CorpusError:
    """Return the error of a path with files of no format, or of several."""
    kinds = " and ".join(sorted(by_format))
    if not by_format:
        called = f" is called {glob}" if glob else ""
        suffixes = ", ".join(list(KINDS)[:-1])
        return CorpusError(
            f"{path} is not one corpus ({files} files, none of a known format{called}): give files of one format "
            f"({suffixes}), compressed (.gz, .zst, .xz, .bz2) or not"
        )
    some = ", ".join(names[0] for _, names in sorted(by_format.items()))
    suffix = min(by_format)
    return CorpusError(
        f"{path} is not one corpus ({files} files, {kinds}, such as {some}): choose those of one format, e.g. by "
        f"--glob '*.{suffix}*'"
    )


def _without_caches(folder: str, entries: Entries) -> list[str]:
    """Return the names of files, without what `datasets` has cached in folders of `save_to_disk`; shards in order.

    Raises:
        CorpusError: the folder holds several splits.
    """
    if "dataset_dict.json" in entries:
        splits = ", ".join(_saved(folder, "dataset_dict.json", "splits"))
        raise CorpusError(f"{folder} holds a DatasetDict with the splits {splits}: give the folder of one of them")
    names = list(entries)
    for state in [name for name in entries if name.rpartition("/")[2] == "state.json"]:
        inside = state.removesuffix("state.json")
        arrows = {name for name in names if name.startswith(inside) and name.endswith(".arrow")}
        if arrows:
            shards = [f"{inside}{file['filename']}" for file in _saved(folder, state, "_data_files")]
            if lost := set(shards) - arrows:
                raise CorpusError(f"{folder} lacks {min(lost)}, which its state.json lists: copy it there")
            names = [name for name in names if name not in arrows] + shards
    return names


def _saved(folder: str, name: str, key: str) -> list[Any]:
    """Return what a file of JSON, which `datasets` has written, says under a key."""
    with _named(f"{folder}/{name}".removeprefix("file://")), fsspec.open(f"{folder}/{name}", "rb") as file:
        return list(json.load(file)[key])


def refuse_changed_files(found: Mapping[str, Any], made: Mapping[str, Any], where: str) -> None:
    """Raise StoreMismatch if a corpus's listing, under `files`, is not what it was when `where` was made of it."""
    there, now = found.get("files"), made["files"]
    is_same = all(found.get(name) == made.get(name) for name in ("corpus", "glob"))
    if is_same and there != now:
        raise StoreMismatch(
            f"{made['corpus']} has changed since {where} was made of it ({there} then, {now} now; a file counts as "
            "changed if its name, its size or the time it was written differs, as it may in a copy): give another "
            f"--output, or delete {where}"
        )
