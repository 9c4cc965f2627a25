"""Folders that appear whole or not at all, and know the digest of every file in them."""

from __future__ import annotations

import errno
import glob
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from datatrove.utils.logging import logger
from filelock import FileLock, Timeout

from pipeline_steps.errors import StoreDamaged, StoreMismatch
from pipeline_steps.stores.files import digest, file_digest, seal, sync_folder, unseal


READ_BY_TRANSFORMERS = re.compile(
    r"[^/]*\.(py|model|h5|msgpack|tiktoken|jinja)|[^/]*(_config|\.index)\.json"
    r"|(config|tokenizer|vocab|chat_template|model|pytorch_model|adapter_)[^/]*\.(json|safetensors|txt|bin)"
    r"|(merges\.txt|added_tokens\.json|special_tokens_map\.json|modules\.json|tekken\.json)"
    r"|(additional_chat_templates|custom_generate)/.*"
)
"""Names of files that transformers or peft reads where it finds them, beside those that a folder was written with."""

READ_BY_NOBODY = re.compile(r"(?!)")
"""No name: every file of the folder is opened by its own name."""


@contextmanager
def whole_folder(target: Path, replace: bool = False) -> Iterator[Path]:
    """Yield a new folder to fill; on leaving, it is synced and stands at `target`.

    If somebody else has put a folder there meanwhile, theirs stays and ours is dropped: writers of the same target
    write the same bytes. What killed writers of this target left behind is removed; a lock, which ends with its
    process, tells it from what a living one is still filling.

    Args:
        target: where it appears.
        replace: whether a folder that stands there gives way: it is damaged. It is moved aside before the new one
            comes, and its files are removed after, but for those of names that the new one does not have: somebody
            may have put them there, and a warning says where they are.

    Raises:
        OSError: the folder cannot be written; nothing stands at `target` but what stood there before.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for dead in target.parent.glob(f".{glob.escape(target.name)}.tmp-*.lock"):
        with suppress(Timeout), FileLock(dead, blocking=False):
            _remove(dead)
    alive = target.with_name(f".{target.name}.tmp-{uuid.uuid4().hex}.lock")
    with FileLock(alive, thread_local=False):  # a generator that fills the folder may go on in another thread
        try:
            temporary = alive.with_suffix("")
            temporary.mkdir()
            yield temporary
            for path in [*sorted(temporary.rglob("*")), temporary]:
                sync_folder(path)
            names = _names(temporary)
            _replace(temporary, target) if replace else _rename(temporary, target)
            sync_folder(target.parent)
            for old in target.parent.glob(f".{glob.escape(target.name)}.removed-*"):  # of killed writers, too
                _remove_old(old, names)
        finally:
            _remove(alive)


def _remove(lock: Path) -> None:
    shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
    lock.unlink(missing_ok=True)


def _rename(temporary: Path, target: Path) -> None:
    try:
        os.rename(temporary, target)
    except OSError:
        if not target.exists():  # otherwise somebody was faster
            raise


def _replace(temporary: Path, target: Path) -> None:
    """Rename a folder to `target`; what stands there is renamed before: it may hold files that cannot be removed."""
    while True:
        with suppress(FileNotFoundError):
            os.rename(target, target.with_name(f".{target.name}.removed-{uuid.uuid4().hex}"))
        try:
            return os.rename(temporary, target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # otherwise another writer came in between
                raise


def _remove_old(old: Path, names: set[str]) -> None:
    """Remove a folder that has been replaced, but for files that its writers do not write."""
    if strange := sorted(_names(old) - names):
        for name in names:
            with suppress(OSError):
                (old / name).unlink()
        logger.warning(f"{old / strange[0]} was in a folder that has been written again: move it elsewhere")
    else:
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Let only one process at a time into a folder; the lock goes with its process, however it ends.

    Raises:
        StoreMismatch: another one is there; calls it `what`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / ".lock").acquire(blocking=False)
    except Timeout:
        raise StoreMismatch(
            f"another {what} is running in {folder}: wait for it or end it, or give another folder"
        ) from None
    with lock:
        yield


class SealedFolder(NamedTuple):
    """A folder in which one file, sealed JSON, says what it is and has the digest of every other file.

    Attributes:
        path: the folder.
        facts: what the sealed file says, digests included, under `files`.
        digest: of the sealed file's bytes: what identifies the folder.
    """

    path: Path
    facts: dict[str, Any]
    digest: str

    @property
    def files(self) -> dict[Path, str]:
        """Digest of every other file, as `train.verified` takes them."""
        return {self.path / name: found for name, found in self.facts["files"].items()}

    @classmethod
    def seal(cls, path: Path, name: str, facts: dict[str, Any]) -> SealedFolder:
        """Write the sealed file of a folder that is complete but for it."""
        facts = facts | {"files": {other: file_digest(path / other) for other in sorted(_names(path))}}
        blob = seal(facts)
        (path / name).write_bytes(blob)
        return cls(path, facts, digest(blob))

    @classmethod
    def read(cls, path: Path, name: str, remedy: str, read_too: re.Pattern[str] | None = None) -> SealedFolder:
        """Read the sealed file, and compare the names of the others with what it says; their bytes are not read.

        Args:
            path: the folder.
            name: of the sealed file.
            remedy: what to do about damage, the end of a sentence.
            read_too: names that readers of the folder look for. An added file of such a name is refused, and any
                other is ignored. None if readers take every file of the folder: then an added file is damage.

        Raises:
            StoreDamaged: a file is missing, or the sealed one is not what was written; names it, and ends in
                `remedy`.
            StoreMismatch: somebody has added a file that would change what is read; names it.
        """
        try:
            blob = (path / name).read_bytes()
        except FileNotFoundError:
            raise StoreDamaged(f"{path / name} is missing: {remedy}") from None
        facts = unseal(blob, str(path / name), remedy)
        there = _names(path) - {name}
        if missing := sorted(facts["files"].keys() - there):
            raise StoreDamaged(f"{path / missing[0]} is missing: {remedy}")
        strange = sorted(there - facts["files"].keys())
        if read_too:
            for added in filter(read_too.fullmatch, strange):
                raise StoreMismatch(
                    f"{path / added} was not written with the files beside it and would be read with them: move it "
                    "elsewhere"
                )
        elif strange:
            raise StoreDamaged(f"{path / strange[0]} was not written with the files beside it: move it elsewhere")
        return cls(path, facts, digest(blob))


def _names(folder: Path) -> set[str]:
    """Return paths of the files in a folder and below, but for hidden ones."""
    found = glob.glob("**", root_dir=folder, recursive=True)
    return {name for name in found if os.path.isfile(os.path.join(folder, name))}
