"""What a pipeline's reader reads, as it is now: the input by which a run over a corpus is named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from datatrove.data import DocumentsPipeline
from datatrove.io import open_file
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.readers.base import BaseDiskReader, BaseReader

from pipeline_steps.errors import CorpusError
from pipeline_steps.files import canonical, digest
from pipeline_steps.numerics.keys import document_key


# What tells a file from an earlier one of its name, by filesystem: S3, HTTP, Hub, local disk, others
_VERSIONS = ("ETag", "etag", "blob_id", "mtime", "LastModified", "last_modified")
# Of a reader's attributes, those that decide what it reads
_LIMITS = ("limit", "skip", "text_key", "id_key")


def inputs_of(data: DocumentsPipeline, corpus: PipelineStep | None, step: str, tasks: int) -> dict[str, Any] | None:
    """Return the input of a step that several tasks may run, as `Artefact.begin` takes it: see `listed`.

    Args:
        data: what the step was given.
        corpus: the reader, if the user has named it.
        step: name of the step, for the error.
        tasks: number of tasks in the run.

    Raises:
        CorpusError: nothing says what is read, so several tasks cannot know whether they are reading the same
            corpus. A single task reads everything there is, and may do without.
    """
    found = listed(data, corpus)
    if found is None and tasks > 1:
        raise CorpusError(
            f"{step} cannot see which reader its documents come from, so its {tasks} tasks cannot know whether they "
            "read the same corpus: set the step's attribute `corpus` to the reader, or run it with one task"
        )
    return found


def listed(data: DocumentsPipeline, corpus: PipelineStep | None = None) -> dict[str, Any] | None:
    """Return a digest of the listing of what is read, and the number of files; None if nothing says what is read.

    Args:
        data: documents, or the generators of the steps before this one, none of which has started.
        corpus: the reader, if the user has named it.
    """
    readers = [corpus] if corpus is not None else list(_readers(data))
    if readers:
        listings = [_listing(reader) for reader in readers]
        files = sum(len(listing.get("files", ())) for listing in listings)
        return {"files": files, "listing": digest(canonical(listings))}
    if isinstance(data, list):
        keys = [document_key(doc.id, doc.text) for doc in data]
        return {"documents": len(keys), "listing": digest(canonical(keys))}
    return None


def _readers(data: Any) -> Iterator[PipelineStep]:
    """The readers ahead of a step: datatrove's steps are generators that hold their step and their own input."""
    while (frame := getattr(data, "gi_frame", None)) is not None:
        step, data = frame.f_locals.get("self"), frame.f_locals.get("data")
        if isinstance(step, BaseReader):
            yield step


def _listing(reader: PipelineStep) -> dict[str, Any]:
    if not isinstance(reader, BaseDiskReader):
        said = {name: value for name, value in vars(reader).items() if not name.startswith("_") and _is_json(value)}
        return {"reader": type(reader).__name__, **said}
    folder = reader.data_folder
    folder.invalidate_cache("")  # what was listed before may have changed since
    if reader.paths_file:
        with open_file(reader.paths_file, "rt") as lines:
            names = [name for line in lines if (name := line.strip())]
    else:
        names = folder.list_files(recursive=reader.recursive, glob_pattern=reader.glob_pattern)
    # Folder by folder: what stands beside a corpus may be a whole home directory
    found: dict[str, dict[str, Any]] = {}
    for parent in sorted({name.rpartition("/")[0] for name in names}):
        found |= {entry["name"].lstrip("/"): entry for entry in folder.ls(parent, detail=True)}
    files = [[name, *_version(found.get(name, {}))] for name in sorted(names)]
    return {"files": files} | {name: getattr(reader, name) for name in _LIMITS}


def _version(entry: dict[str, Any]) -> list[Any]:
    version = next((str(entry[name]) for name in _VERSIONS if entry.get(name) is not None), None)
    return [entry.get("size"), version]


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
