"""Read a user's corpus without losing a row: JSONL, Parquet and WARC, local or behind any fsspec protocol."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import orjson
import pyarrow.parquet as pq
import xxhash
from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.extractors import Trafilatura
from datatrove.pipeline.extractors.base import ExtractorSandbox
from datatrove.pipeline.readers import JsonlReader, ParquetReader, WarcReader
from datatrove.utils.logging import logger
from datatrove.utils.typeshelper import StatHints
from fsspec.core import has_magic
from fsspec.implementations.local import LocalFileSystem

from pipeline_steps.engines.models import require
from pipeline_steps.errors import CorpusError, StoreMismatch
from pipeline_steps.readers.special_files import refuse_unusable_name, special_kind
from pipeline_steps.stores.files import write_atomically
from pipeline_steps.terminal import one_line


_COMPRESSIONS = (".gz", ".zst", ".bz2", ".xz")
_FORMATS = {
    ".jsonl": "jsonl",
    ".json": "jsonl",  # one object a line, as C4 on the Hub
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".warc": "warc",
    ".wet": "warc",
}
ROW = "\0row"  # key of the metadata, which no row has
_LOGIN = {
    "s3": ": give AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE, and AWS_ENDPOINT_URL if it is not AWS",
    "hf": ": check the name; if it is private or gated, log in with `hf auth login` or give HF_TOKEN",
    "gs": ": log in with `gcloud auth application-default login`",
}
# What datasets and this project write beside data; not rows
_NO_DATA = {"winnow.json", "dataset_info.json", "dataset_infos.json", "state.json"}
# What tells a file from an earlier one of its name, by filesystem; see pipeline_steps.stores.corpus_listing
_VERSIONS = ("ETag", "etag", "blob_id", "mtime", "LastModified", "last_modified")
_EXTRACTION = 60.0  # seconds that a page may take: thousands of times what one does


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


class StrictJsonlReader(JsonlReader):
    """JsonlReader that raises CorpusError, naming file and row, where datatrove warns and goes on."""

    def read_file(self, filepath: str) -> DocumentsPipeline:
        """Yield one document per line; blank lines at the end of the file are not rows."""
        path = self.data_folder.resolve_paths(filepath)
        with _named(path), self.data_folder.open(filepath, "rb", compression=self.compression) as file:
            for row, line in enumerate(file):
                if not line.strip():
                    continue
                try:
                    values = orjson.loads(line)
                except orjson.JSONDecodeError as error:
                    raise CorpusError(f"{path}, row {row + 1}, is not JSON: {error}") from error
                if not isinstance(values, dict):
                    raise CorpusError(f"{path}, row {row + 1}, is not a JSON object but {type(values).__name__}")
                yield self.get_document_from_dict(values, filepath, row)


class StrictParquetReader(ParquetReader):
    """ParquetReader that raises CorpusError, naming the file."""

    def read_file(self, filepath: str) -> DocumentsPipeline:
        """Yield one document per row."""
        path = self.data_folder.resolve_paths(filepath)
        with _named(path):
            with self.data_folder.open(filepath, "rb") as file:
                names = pq.read_schema(file).names
            if twice := {name for name in names if names.count(name) > 1}:
                raise CorpusError(f"{path} has two columns {min(twice)!r}: rename one")
            yield from super().read_file(filepath)


class StrictWarcReader(WarcReader):
    """WarcReader that raises CorpusError, naming the file."""

    def read_file(self, filepath: str) -> DocumentsPipeline:
        """Yield one document per page."""
        with _named(self.data_folder.resolve_paths(filepath)):
            yield from super().read_file(filepath)


class PageText(Trafilatura):
    """Trafilatura's text of each page, by the page alone: datatrove's own step forgets pages on a busy machine, and
    takes paragraphs out that the same process has met before.

    Raises:
        CorpusError: a page takes a minute, or ends the process that extracts.
    """

    def __init__(self) -> None:
        super().__init__(timeout=_EXTRACTION, deduplicate=False)

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Yield the pages that have text."""
        import trafilatura  # noqa: F401  here, so that the process that extracts has it already

        logger.disable("datatrove.pipeline.extractors")  # what its sandbox says at its end hides what went wrong
        with ExtractorSandbox(self.timeout) as sandbox:
            for document in data:
                self.stat_update(StatHints.total)
                try:
                    with self.track_time():
                        document.text = sandbox.process_document(document.text, self._extract)
                except (TimeoutError, EOFError) as error:
                    raise CorpusError(
                        f"{document.metadata['file_path']}, page {document.id}: its text cannot be extracted "
                        f"({error}): leave that page out"
                    ) from error
                self.stat_update(StatHints.forwarded if document.text else StatHints.dropped)
                if document.text:
                    self.update_doc_stats(document)
                    yield document

    def _extract(self, text: str) -> str | None:
        try:
            return self.extract(text)
        except MemoryError:  # of the machine, not of the page: ends this process, and is told with the page's name
            raise
        except Exception:  # whatever broken HTML does to lxml: such a page has no text
            return None


def _with_text(reader: Any, data: dict[str, Any], path: str, id_in_file: int | str) -> dict[str, Any]:
    """Reader adapter: datatrove's own, but a row without text is an error instead of a skipped row."""
    row, keys = int(id_in_file) + 1, sorted(data)
    document = reader._default_adapter(data, path, id_in_file)
    if not isinstance(document["text"], str) or not document["text"].strip():
        raise CorpusError(
            f"{reader.data_folder.resolve_paths(path)}, row {row}, has no text under {reader.text_key!r} "
            f"(its keys: {', '.join(keys)})"
        )
    if not isinstance(count := document["metadata"].get("token_count"), int | float | None):  # which readers add up
        raise CorpusError(
            f"{reader.data_folder.resolve_paths(path)}, row {row}, has token_count={one_line(repr(count))[:60]}, "
            "which is not a number: mend it, or leave that column out"
        )
    # A row may have a file_path and media of its own, as FineWeb's do
    document["metadata"]["file_path"] = reader.data_folder.resolve_paths(path)
    return document | {"id": str(document["id"]), "media": []}


def _with_row(reader: Any, data: dict[str, Any], path: str, id_in_file: int | str) -> dict[str, Any]:
    """The same, with the row as it was in the metadata, under ROW."""
    row = dict(data)
    document = _with_text(reader, data, path, id_in_file)
    document["metadata"][ROW] = row
    return document


@dataclass(frozen=True)
class CorpusFiles:
    """What a path leads to.

    Attributes:
        folder: with its protocol.
        kind: "jsonl", "parquet" or "warc".
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

    def reader(self, paths_file: str, limit: int = -1, rows: bool = False) -> list[PipelineStep]:
        """The steps that read it: a reader, and for WARC the text extraction.

        Args:
            paths_file: where to write the list of files.
            limit: at most this many documents of each task; -1 for all.
            rows: put each row, as it is in the file, into its document's metadata under `ROW`; WARC has none.
        """
        listing = "".join(f"{name}\n" for name in self.sizes).encode()
        if not os.path.exists(paths_file) or Path(paths_file).read_bytes() != listing:  # others may be reading it
            write_atomically(paths_file, listing)
        if self.kind == "warc":
            require("trafilatura", "warc")
            return [StrictWarcReader(self.folder, paths_file=paths_file, limit=limit), PageText()]
        reader = StrictJsonlReader if self.kind == "jsonl" else StrictParquetReader
        adapter = _with_row if rows else _with_text
        return [reader(self.folder, paths_file=paths_file, adapter=adapter, limit=limit)]


def open_corpus(path: str, paths_file: str, limit: int = -1) -> list[PipelineStep]:
    """The steps that read a corpus: a reader, and for WARC the text extraction.

    Args:
        path: a file, a folder or a glob of .jsonl/.json, .parquet or .warc/.wet files, compressed or not; any
            fsspec path, e.g. s3://bucket/crawl or hf://datasets/allenai/c4/en/c4-train.00000-of-01024.json.gz.
        paths_file: where to write the list of files, in the order they are read.
        limit: at most this many documents; -1 for all.

    Raises:
        CorpusError: nothing is there, or files of no or of more than one known format.
    """
    return list_corpus(path).reader(paths_file, limit)


def list_corpus(path: str) -> CorpusFiles:
    """The files of a corpus, which `open_corpus` reads; raises as it does."""
    folder, entries = _list(path)
    by_format: dict[str, list[str]] = {}
    for name in entries:
        hidden = any(part.startswith(".") for part in name.split("/"))
        if not hidden and name.rpartition("/")[2] not in _NO_DATA and (kind := _format(name)):
            by_format.setdefault(kind, []).append(name)
    if len(by_format) != 1:
        found = f"{len(entries)} files, {' and '.join(sorted(by_format)) or 'none of a known format'}"
        raise CorpusError(f"{path} is not one corpus ({found}): give .jsonl, .parquet or .warc files of one kind")
    ((kind, names),) = by_format.items()
    for name in names:
        _check_file(folder, name)
    sizes = {name: int(entries[name].get("size") or 0) for name in names}
    return CorpusFiles(folder, kind, sizes, {name: _version(folder, name, entries[name]) for name in names})


def refuse_changed_files(found: Mapping[str, Any], made: Mapping[str, Any], where: str) -> None:
    """Raise StoreMismatch if a corpus's listing, under `files`, is not what it was when `where` was made of it."""
    there, now = found.get("files"), made["files"]
    if found.get("corpus") == made["corpus"] and there != now:
        raise StoreMismatch(
            f"{made['corpus']} has changed since {where} was made of it ({there} then, {now} now; a file counts as "
            "changed if its name, its size or the time it was written differs, as it may in a copy): give another "
            f"--output, or delete {where}"
        )


def _version(folder: str, name: str, entry: Mapping[str, Any]) -> str:
    if entry.get("islink"):  # fsspec tells when the link was made, not when the file it leads to was written
        with suppress(OSError):
            return str(os.stat(f"{folder}/{name}".removeprefix("file://")).st_mtime)
    return next((str(entry[key]) for key in _VERSIONS if entry.get(key) is not None), "")


def _list(path: str) -> tuple[str, dict[str, dict[str, Any]]]:
    """A folder, and what its file system says of each file in it, sorted by name."""
    refuse_unusable_name(path)
    try:
        fs, root = fsspec.core.url_to_fs(path)
        if has_magic(root) and not fs.exists(root):  # a name may hold such signs itself
            found, folder = fs.glob(root, detail=True), root[: root.rindex("/", 0, re.search(r"[*?\[]", root).start())]  # type: ignore[union-attr]
        elif fs.isdir(root):
            # Elsewhere, nothing is said of a folder that may not be listed, and its documents would be missing
            strict = {"on_error": "raise"} if isinstance(fs, LocalFileSystem) else {}
            found, folder = fs.find(root, detail=True, **strict), root
        elif fs.exists(root):
            found, folder = {root: fs.info(root)}, root.rsplit("/", 1)[0]
        else:
            raise CorpusError(f"{path} does not exist")
    except CorpusError:
        raise
    except Exception as error:  # whatever the file system behind the protocol raises
        raise CorpusError(f"{path} cannot be listed ({why_not(path, error)}") from error
    entries = {file[len(folder) :].lstrip("/"): entry for file, entry in found.items()}
    return fs.unstrip_protocol(folder), dict(sorted(entries.items()))


def _check_file(folder: str, name: str) -> None:
    """Raise CorpusError if a file cannot be read to its end, or if its name cannot stand in a list of files."""
    path = f"{folder}/{name}".removeprefix("file://")
    refuse_unusable_name(path)
    if name.splitlines() != [name] or name != name.strip():
        raise CorpusError(f"{one_line(repr(path))}: a line break or a space at an end of its name: rename it")
    if "://" in path:
        return
    if (kind := special_kind(path)) is not None:
        raise CorpusError(f"{path} is {kind}, which cannot be read to an end: write its content into a file")
    if not os.path.isfile(path):
        why = "a folder" if os.path.isdir(path) else "a link that leads nowhere"
        raise CorpusError(f"{path} is {why}, not a file: rename it, or leave it out")


def why_not(path: str, error: Exception) -> str:
    """What a file system says, closing a bracket, and what helps against a missing credential."""
    reason = f"{type(error).__name__}: {(str(error) or 'no reason given').splitlines()[0]}"
    return f"{reason}){_LOGIN.get(path.partition('://')[0], '')}"


def _format(name: str) -> str | None:
    for compression in _COMPRESSIONS:
        name = name.removesuffix(compression)
    return next((kind for suffix, kind in _FORMATS.items() if name.endswith(suffix)), None)
