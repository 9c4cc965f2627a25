"""Small file operations that every artefact relies on: whole or absent, and verified when they are read.

Every JSON file and every file of tensors carries the xxh3-128 digest of its own bytes, so a flipped bit or a cut end
is an error that names the file, never another number.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import numpy as np
import xxhash
from fsspec.implementations.local import LocalFileSystem
from safetensors.numpy import load, save

from pipeline_steps.errors import StoreDamaged, StoreIncomplete, StoreMismatch


_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "hf"}  # fsspec's protocols
# Object stores whose fsspec client sends a conditional put: If-None-Match (s3fs), ifGenerationMatch (gcsfs)
_CONDITIONAL = {"s3", "s3a", "gs", "gcs"}
_ABANDONED = 24 * 3600.0  # seconds after which the temporary file of a writer that is still at work cannot be met
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}  # as of gcsfuse, exFAT, SMB
_RACES = 5  # conditional puts at one time, which AWS answers with 409 Conflict, before a failure is one
# datatrove passes over what it has noted as done, damaged or not
AGAIN = "make it again with the same command, or in a pipeline with skip_completed=False"
DELETE = f"delete it and {AGAIN}"  # of files that nobody may write over
_UNSEALED = "0" * 32  # stands where the digest of a file of tensors goes, while that digest is computed


def digest(*blobs: bytes | bytearray | memoryview) -> str:
    """Return the xxh3-128 of some bytes, one after the other, as 32 hex digits."""
    state = xxhash.xxh3_128()
    for blob in blobs:
        state.update(blob)
    return state.hexdigest()


def canonical(value: Any) -> bytes:
    """Return the bytes that stand for a JSON value in digests: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def open_folder(path: str) -> tuple[Any, str]:
    """Return the filesystem of an fsspec path and the path on it.

    Listings are not cached: a remembered listing hides what other tasks have written since.
    """
    fs, root = fsspec.core.url_to_fs(path, use_listings_cache=False)
    return fs, root.rstrip("/")


def write_atomically(path: str, blob: bytes | bytearray) -> None:
    """Put `blob` at an fsspec path so that a reader sees all of it or nothing, whatever is killed when.

    Local files are written beside the target, synced and renamed; object stores publish a put as a whole.
    """
    fs, target = open_folder(path)
    make_parent(fs, target)
    if not isinstance(fs, LocalFileSystem):
        fs.pipe_file(target, bytes(blob))
        return
    with _written_beside(target, blob) as temporary:
        os.replace(temporary, target)


def create(path: str, blob: bytes) -> bool:
    """Put `blob` at an fsspec path if nothing is there; return whether it was put.

    Of several that create one path at a time, exactly one succeeds, and no reader sees a part of a file. Local files
    are linked into place, S3 and GCS are asked for a conditional put. Where there is neither, each writer leaves its
    name first and looks for others' (list, put, list), so of two at one time both may be refused.

    Raises:
        StoreMismatch: on a filesystem without exclusive creation, another writer is at work or was killed there.
    """
    fs, target = open_folder(path)
    make_parent(fs, target)
    if isinstance(fs, LocalFileSystem):
        try:
            with _written_beside(target, blob) as temporary:
                os.link(temporary, target)
            return True
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
    elif not _CONDITIONAL.isdisjoint(_protocols(fs)):
        return _put_if_absent(fs, target, blob)
    return _create_by_claims(fs, path, target, blob)


def _put_if_absent(fs: Any, target: str, blob: bytes) -> bool:
    for race in range(_RACES):
        try:
            fs.pipe_file(target, blob, mode="create")
            return True
        except FileExistsError:
            return False
        except OSError as error:
            if race == _RACES - 1 or "ConditionalRequestConflict" not in str(error):
                raise
            time.sleep(0.1 * 2**race)
    return False


def _create_by_claims(fs: Any, path: str, target: str, blob: bytes) -> bool:
    """Create a file after a look that no other writer has a claim; a claim goes only after its target is there."""
    claims, own = f"{target}.claims", uuid.uuid4().hex

    def refuse_others() -> None:
        if names_in(fs, claims) not in ([], [own]) and not fs.exists(target):
            raise StoreMismatch(
                f"another writer is creating {path}, or was killed while it did: wait for it, then delete "
                f"{path}.claims and run again"
            )

    if fs.exists(target):
        return False
    refuse_others()
    fs.makedirs(claims, exist_ok=True)
    fs.pipe_file(f"{claims}/{own}", own.encode())
    try:
        refuse_others()
        if fs.exists(target):
            return False
        write_atomically(path, blob)
        return True
    finally:
        with suppress(OSError):
            fs.rm_file(f"{claims}/{own}")
        with suppress(OSError):  # others' claims are there
            fs.rmdir(claims)


def names_in(fs: Any, folder: str) -> list[str]:
    """Return the names of what is in a folder, sorted; none if there is no folder."""
    try:
        return sorted(name.rstrip("/").rsplit("/", 1)[-1] for name in fs.ls(folder, detail=False))
    except FileNotFoundError:
        return []


@contextmanager
def _written_beside(target: str, blob: bytes | bytearray) -> Iterator[str]:
    """Write and sync a temporary file in the target's folder; remove it in the end and sync the folder."""
    folder, name = os.path.split(target)
    # A dot in front: readers of a folder pass over what a kill leaves. Names may have 255 bytes
    temporary = f"{folder}/.{name[-40:]}.tmp-{uuid.uuid4().hex}"
    try:
        with open(temporary, "wb") as file:
            file.write(blob)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    except OSError as error:
        error.filename = error.filename or target  # "No space left on device" alone does not say where
        raise
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
    sync_folder(folder)


def sync_folder(folder: str | Path) -> None:
    """Make the names in a local folder survive a power cut, as their files already do."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sweep(folder: str, pattern: str = "**/.*.tmp-*") -> None:
    """Remove from a local folder the temporary files and folders of writers that were killed more than a day ago."""
    if not os.path.isdir(folder) or not (leftovers := list(Path(folder).glob(pattern))):
        return
    # Time is the file server's, read off a new file: clocks of nodes differ
    with _written_beside(f"{folder}/clock", b"") as clock:
        now = os.stat(clock).st_mtime
        for leftover in leftovers:
            with suppress(FileNotFoundError):  # another task sweeps, too
                if now - max(path.stat().st_mtime for path in [leftover, *leftover.rglob("*")]) > _ABANDONED:
                    shutil.rmtree(leftover, ignore_errors=True) if leftover.is_dir() else leftover.unlink()


def _protocols(fs: Any) -> list[str]:
    return [fs.protocol] if isinstance(fs.protocol, str) else list(fs.protocol)


def is_object_store(fs: Any) -> bool:
    """Return whether a filesystem has buckets and keys instead of folders."""
    return not _OBJECT_STORES.isdisjoint(_protocols(fs))


def make_parent(fs: Any, path: str) -> None:
    """Make the folder of a file, where there are folders: s3fs would make the bucket of a mistyped name."""
    if not is_object_store(fs):
        fs.makedirs(fs._parent(path), exist_ok=True)


def seal(value: dict[str, Any]) -> bytes:
    """Return a JSON object, which may have no key `xxh3`, as the bytes of a file that holds its own digest there."""
    if "xxh3" in value:
        raise ValueError("a sealed file keeps its own digest under 'xxh3': name the value otherwise")
    value = json.loads(canonical(value))  # keys as JSON has them
    return (json.dumps(value | {"xxh3": digest(canonical(value))}, indent=2, sort_keys=True) + "\n").encode()


def unseal(blob: bytes, path: str, remedy: str = AGAIN) -> dict[str, Any]:
    """Return what `seal` was given. Raises StoreDamaged, naming the file and `remedy`, if a bit of it has changed."""
    try:
        found = json.loads(blob)
        if found.pop("xxh3") == digest(canonical(found)):
            return dict(found)
        why = "its digest is not that of what it holds"
    except KeyError:
        why = "it has no digest: it is damaged, or was written by an earlier version"
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        why = str(error).splitlines()[0]
    raise StoreDamaged(f"{path} is damaged ({why}): {remedy}")


def write_json(path: str, value: dict[str, Any]) -> None:
    """Write a JSON object atomically, with its digest."""
    write_atomically(path, seal(value))


def read_json(path: str, remedy: str = AGAIN) -> dict[str, Any]:
    """Read what `write_json` wrote. Raises StoreDamaged, naming the file and `remedy`, if it is not that."""
    fs, name = open_folder(path)
    return unseal(fs.cat_file(name), path, remedy)


class Tensors(NamedTuple):
    """The content of a file written by `save_tensors`."""

    tensors: dict[str, np.ndarray]
    header: dict[str, Any]
    digest: str  # of the file's bytes: what identifies it as an input of another artefact


def save_tensors(path: str, tensors: dict[str, np.ndarray], header: dict[str, Any]) -> str:
    """Write arrays and a JSON header as one safetensors file with its own digest, atomically; return the digest.

    The same arrays and header make the same bytes on every machine.
    """
    # One key of metadata: safetensors writes several in random order
    sealed = json.dumps({"header": header, "xxh3": _UNSEALED}, sort_keys=True)
    blob = bytearray(save(tensors, metadata={"winnow": sealed}))
    start, found = _place_of_digest(blob), digest(blob)
    blob[start : start + len(_UNSEALED)] = found.encode()
    write_atomically(path, blob)
    return found


def load_tensors(path: str, missing: str = "") -> Tensors:
    """Read a file written by `save_tensors`.

    Raises:
        FileNotFoundError: there is none.
        StoreIncomplete: there is none, and `missing` says what to do.
        StoreDamaged: it is not what was written, or another kind of file; names it.
    """
    fs, name = open_folder(path)
    try:
        blob = fs.cat_file(name)
    except FileNotFoundError:
        if missing:
            raise StoreIncomplete(missing) from None
        raise
    try:
        start = _place_of_digest(blob)
        view, end = memoryview(blob), start + len(_UNSEALED)
        found = digest(view[:start], _UNSEALED.encode(), view[end:])
        if found.encode() != blob[start:end]:
            raise ValueError("its digest is not that of what it holds")
        size = int.from_bytes(blob[:8], "little")
        header = json.loads(json.loads(blob[8 : 8 + size])["__metadata__"]["winnow"])["header"]
    except (KeyError, ValueError, TypeError) as error:
        raise StoreDamaged(
            f"{path} is damaged, or not a file of tensors of this version ({str(error).splitlines()[0]}): {AGAIN}"
        ) from error
    return Tensors(load(blob), header, found)


def _place_of_digest(blob: bytes | bytearray) -> int:
    """Return where the digest stands: last in the metadata, which safetensors puts before all else."""
    size = int.from_bytes(blob[:8], "little")
    key = b'\\"xxh3\\": \\"'
    last = blob.rfind(key, 8, 8 + size)
    if last < 0:
        raise ValueError("it has no digest")
    return last + len(key)


def file_digest(path: str | Path, progress: Callable[[int], object] | None = None) -> str:
    """Return the xxh3-128 of a local file's bytes, as 32 hex digits; `progress` is told the bytes of each block."""
    state, block = xxhash.xxh3_128(), bytearray(1 << 20)  # one block that stays in the cache: twice as fast as read()
    with open(path, "rb", buffering=0) as file:
        while size := file.readinto(block):
            state.update(memoryview(block)[:size])
            if progress:
                progress(size)
    return state.hexdigest()
