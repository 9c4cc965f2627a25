"""Large files are verified once per machine: a matching digest is remembered until the file or the machine changes.

<cache>/winnow/verified/<note>   an empty file, named by a digest of the file's identity and of its expected digest

The cache is `$XDG_CACHE_HOME`, or `~/.cache`. A note is of one device, inode, size, time of change and boot of the
machine, and holds for 30 days: disks decay. Where notes cannot be written, files are verified every time.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import cache, partial
from pathlib import Path

from filelock import FileLock
from tqdm import tqdm

from pipeline_steps.errors import StoreDamaged
from pipeline_steps.files import canonical, digest, file_digest


_THREADS = 8  # more than the cores that digests need: network file systems answer many requests at once
_SILENT = 2.0  # seconds before progress is shown
_KEPT = 30 * 24 * 3600.0  # seconds that a note holds
# A change within the same tick of a file system's clock, of FAT two seconds, would not show in a file's times
_TICK = 2.0


def verify_files(expected: Mapping[Path, str], remedy: str, again: bool = False) -> None:
    """Compare every byte of some files with their digests, unless this machine has done so since they were written.

    Of several processes that ask for the same files at once, one reads them, and the others wait for its notes.

    Args:
        expected: xxh3-128 of each file.
        remedy: what to do about a damaged file, the end of a sentence.
        again: whether to read files that have been verified, too.

    Raises:
        StoreDamaged: a file is missing or not what was written; names the first.
        OSError: a file cannot be read; names it.
    """
    if not again and all(map(_is_noted, expected.items())):
        return
    with _alone(expected):
        unknown = [one for one in expected.items() if again or not _is_noted(one)]
        total = sum(path.stat().st_size for path, _ in unknown if path.exists())
        shown = {"unit": "B", "unit_scale": True, "desc": "verifying", "delay": _SILENT}
        with tqdm(total=total, disable=not sys.stderr.isatty(), **shown) as bar, ThreadPoolExecutor(_THREADS) as pool:
            try:
                for (path, _), why in zip(unknown, pool.map(partial(_damage, bar.update), unknown), strict=True):
                    if why:
                        raise StoreDamaged(f"{path} {why}: {remedy}")
            finally:
                pool.shutdown(wait=False, cancel_futures=True)  # of files that nobody has begun to read
    _forget()


def _damage(progress: Callable[[int], object], one: tuple[Path, str]) -> str | None:
    """Read a file and note that it is intact; or say what is wrong with it."""
    path, expected = one
    try:
        note, changed = _note(path, expected)
        if file_digest(path, progress) != expected:
            return "is damaged (its bytes are not those that were written)"
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    with suppress(OSError):
        if time.time() - changed > _TICK:
            Path(note).touch()
    return None


def _is_noted(one: tuple[Path, str]) -> bool:
    try:
        return time.time() - os.stat(_note(*one)[0]).st_mtime < _KEPT
    except OSError:
        return False


def _note(path: Path, expected: str) -> tuple[str, float]:
    """The path of a file's note, as the file is now, and the time at which the file was changed last."""
    stat = os.stat(path)
    # The time of change too, not of modification alone: cp -p and touch set that
    identity = [stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
    return os.path.join(_folder(), digest(canonical([*identity, _boot(), expected]))), stat.st_ctime


@contextmanager
def _alone(expected: Mapping[Path, str]) -> Iterator[None]:
    """Wait until no other process of this user verifies the same files; do not, where there is no cache to lock."""
    with ExitStack() as stack:
        with suppress(OSError):
            os.makedirs(_folder(), exist_ok=True)
            name = digest(canonical(sorted((str(path), found) for path, found in expected.items())))
            stack.enter_context(FileLock(f"{_folder()}/.{name}.lock"))
        yield


def _forget() -> None:
    """Remove notes that do not hold any more."""
    with suppress(OSError):
        for entry in os.scandir(_folder()):
            with suppress(FileNotFoundError):  # another process forgets, too
                if time.time() - entry.stat().st_mtime > _KEPT:
                    os.unlink(entry)


def _folder() -> str:
    """Return the folder of the notes, whether or not it can be written."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(home if os.path.isabs(home) else os.devnull, "winnow", "verified")  # some users have no home


@cache
def _boot() -> str:
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""
