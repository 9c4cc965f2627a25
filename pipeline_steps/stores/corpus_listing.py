"""What a pipeline's reader reads, as it is now: the input by which a run over a corpus is named."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from pipeline_steps.errors import CorpusError
from pipeline_steps.numerics.keys import document_key
from pipeline_steps.stores.files import canonical, digest


# What tells a file from an earlier one of its name, by filesystem: S3, HTTP, Hub, local disk, others
_VERSIONS = ("ETag", "etag", "blob_id", "mtime", "LastModified", "last_modified")
# Of a reader's attributes, those that decide what it reads
_LIMITS = ("limit", "skip", "text_key", "id_key")


class CorpusListing:
    """The corpus that a step reads, listed now and, to see whether it has changed meanwhile, again.

    Args:
        data: what the step was given: documents, or the generators of the steps before it, none of which has started.
        corpus: the reader, or a name of the corpus, if the user has given one.

    Attributes:
        steps: kinds and settings of the steps before this one, as far as JSON can hold them.
    """

    def __init__(self, data: DocumentsPipeline, corpus: PipelineStep | str | None = None) -> None:
        from datatrove.pipeline.readers.base import BaseDiskReader, BaseReader  # a third of a second to import
        from datatrove.pipeline.readers.huggingface import HuggingFaceDatasetReader

        before, first = list(_steps(data)), _first(data)
        self._is_list = isinstance(first, Sequence)
        self.steps = [_settings(step) for step in before]
        self._named = corpus if isinstance(corpus, str) else None
        readers = [step for step in before if isinstance(step, BaseReader)]
        if isinstance(corpus, PipelineStep):
            readers = [corpus]
        self._files = [reader for reader in readers if isinstance(reader, BaseDiskReader)]
        # Looked at once: readers count while they read, and later steps change documents where they are
        self._fixed: list[Any] = [_settings(reader) for reader in readers if reader not in self._files]
        if isinstance(first, Sequence):
            self._fixed.append([document_key(str(doc.id), doc.text) for doc in first])
        self._says_files = not any(isinstance(reader, HuggingFaceDatasetReader) for reader in readers)
        self._paths: frozenset[str] | None = None
        self.known = self._now()

    def reads(self, path: str) -> bool:
        """Return whether the reader reads the file of this path; true if nothing is known of what it reads."""
        if self._paths is None:
            paths = [reader.data_folder.resolve_paths(name) for reader in self._files for name in _names_of(reader)]
            self._paths = frozenset(paths)
        return path in self._paths if self._files else self._says_files

    def inputs(self, step: str, tasks: int) -> dict[str, Any] | None:
        """Return the input of a run, as `Artefact.begin` takes it; None if nothing says what is read.

        Args:
            step: name of the step, for the error.
            tasks: number of tasks in the run.

        Raises:
            CorpusError: nothing says what is read, so several tasks cannot know whether they are reading the same
                corpus; a single task reads everything there is, and may do without. Or what is read is a list, of
                which every task would read all.
        """
        self.refuse_shared_list(step, tasks)
        if self.known is None and tasks > 1:
            raise CorpusError(
                f"{step} cannot see which reader its documents come from, so its {tasks} tasks cannot know whether "
                "they read the same corpus: set the step's attribute `corpus` to the reader, or run it with one task"
            )
        return self.known

    def refuse_shared_list(self, step: str, tasks: int) -> None:
        """Raise CorpusError if several tasks read a list: datatrove gives all of it to each."""
        if self._is_list and tasks > 1:
            raise CorpusError(
                f"{step} is given a list of documents, of which each of {tasks} tasks would read all: put "
                "pipeline_steps.Documents(list) in its place, which shares them out, or run with one task"
            )

    def check_unchanged(self) -> None:
        """Raise CorpusError if files were added, removed or changed since: this task may have read some of either."""
        if self._now() != self.known:
            raise CorpusError(
                "the corpus has changed while it was read: run this step again over what is there now; what did not "
                "change is not computed again"
            )

    def _now(self) -> dict[str, Any] | None:
        if self._named is not None:
            return {"corpus": self._named}
        listings = [_listing(reader) for reader in self._files]
        if not listings and not self._fixed:
            return None
        files = sum(len(listing["files"]) for listing in listings)
        return {"files": files, "listing": digest(canonical([*listings, *self._fixed]))}


def _steps(data: Any) -> Iterator[PipelineStep]:
    """Yield the steps ahead of one, nearest first: datatrove's are generators that hold their step and their input."""
    while (frame := getattr(data, "gi_frame", None)) is not None:
        step, data = frame.f_locals.get("self"), frame.f_locals.get("data")
        if isinstance(step, PipelineStep):
            yield step


def _first(data: Any) -> Any:
    """Return what the first of the steps ahead was given."""
    while (frame := getattr(data, "gi_frame", None)) is not None and "data" in frame.f_locals:
        data = frame.f_locals["data"]
    return data


def _settings(step: PipelineStep) -> dict[str, Any]:
    said = {name: value for name, value in vars(step).items() if not name.startswith("_") and _is_json(value)}
    return {"step": type(step).__name__, **said}


def _names_of(reader: Any) -> list[str]:
    from datatrove.io import open_file

    if reader.paths_file:
        with open_file(reader.paths_file, "rt") as lines:
            return [name for line in lines if (name := line.strip())]
    return list(reader.data_folder.list_files(recursive=reader.recursive, glob_pattern=reader.glob_pattern))


def _listing(reader: Any) -> dict[str, Any]:
    folder = reader.data_folder
    folder.fs.invalidate_cache()  # what was listed before may have changed since
    names = _names_of(reader)
    if len(set(names)) < len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise CorpusError(f"{reader.paths_file} lists {twice} twice, so its documents would count twice: list it once")
    # Folder by folder: what stands beside a corpus may be a whole home directory
    found: dict[str, dict[str, Any]] = {}
    for parent in sorted({name.rpartition("/")[0] for name in names}):
        found |= {entry["name"].lstrip("/"): entry for entry in folder.ls(parent, detail=True)}
    files = [[name, *_version(folder, name, found.get(name, {}))] for name in sorted(names)]
    return {"files": files} | {name: getattr(reader, name) for name in _LIMITS}


def _version(folder: Any, name: str, entry: dict[str, Any]) -> list[Any]:
    if entry.get("islink"):  # its own size and times say nothing of the file it leads to
        found = os.stat(folder.resolve_paths(name))
        return [found.st_size, str(found.st_mtime)]
    version = next((str(entry[key]) for key in _VERSIONS if entry.get(key) is not None), None)
    return [entry.get("size"), version]


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
