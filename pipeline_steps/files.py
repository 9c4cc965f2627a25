"""Small file operations that every artefact relies on: whole or absent, never half written."""

from __future__ import annotations

import json
import os
import uuid
from typing import Any

import fsspec
import numpy as np
from safetensors.numpy import load, save

from pipeline_steps.errors import StoreDamaged


_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "hf"}  # fsspec's protocols


def write_atomically(path: str, blob: bytes) -> None:
    """Put `blob` at an fsspec path so that a reader sees all of it or nothing, whatever is killed when.

    Local files are written beside the target, synced and renamed; object stores publish a put as a whole.
    """
    fs, target = fsspec.core.url_to_fs(path)
    make_parent(fs, target)
    if not isinstance(fs, fsspec.implementations.local.LocalFileSystem):
        fs.pipe_file(target, blob)
        return
    folder, name = os.path.split(target)
    temporary = f"{folder}/.{name}.tmp-{uuid.uuid4().hex}"  # a dot: readers of a folder pass over what a kill leaves
    try:
        with open(temporary, "wb") as file:
            file.write(blob)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise


def is_object_store(fs: Any) -> bool:
    """Whether a file system has buckets and keys instead of folders."""
    return not _OBJECT_STORES.isdisjoint([fs.protocol] if isinstance(fs.protocol, str) else fs.protocol)


def make_parent(fs: Any, path: str) -> None:
    """Make the folder of a file, where there are folders: s3fs would make the bucket of a mistyped name."""
    if not is_object_store(fs):
        fs.makedirs(fs._parent(path), exist_ok=True)


def write_json(path: str, value: Any) -> None:
    """Write JSON atomically, keys sorted, ending in a newline."""
    write_atomically(path, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode())


def read_json(path: str) -> Any:
    """Read JSON from an fsspec path. Raises StoreDamaged, naming the file, if it is not JSON."""
    fs, name = fsspec.core.url_to_fs(path, use_listings_cache=False)  # a remembered listing hides what is new
    blob = fs.cat_file(name)
    try:
        return json.loads(blob)
    except ValueError as error:
        raise StoreDamaged(f"{path} is damaged ({error}): delete it and run the step that wrote it again") from error


def save_tensors(path: str, tensors: dict[str, np.ndarray], header: dict[str, Any]) -> None:
    """Write arrays and a JSON header as one safetensors file, atomically."""
    write_atomically(path, save(tensors, metadata={"header": json.dumps(header, sort_keys=True)}))


def load_tensors(path: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read a file written by `save_tensors`. Raises ValueError if it is another kind of file."""
    with fsspec.open(path, "rb") as file:
        blob = file.read()
    try:
        size = int.from_bytes(blob[:8], "little")
        header = json.loads(json.loads(blob[8 : 8 + size])["__metadata__"]["header"])
    except (KeyError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a file of tensors with a header") from error
    return load(blob), header
