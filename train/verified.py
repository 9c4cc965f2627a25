"""Large files are verified once per machine: a matching digest is remembered until the file or the machine changes.

<cache>/winnow/verified/<note>       what was verified in one folder: a line of 32 hex digits for each file
<cache>/winnow/verified/.forgotten   an empty file: when notes that do not hold any more were removed last

The cache is `$XDG_CACHE_HOME`, or `~/.cache`. A line is the digest of a file's device, inode, size, times of change,
of the boot of the machine, and of the file's expected digest. A note holds for 30 days from the first verification
that it speaks of: disks decay. Where notes cannot be written, every process verifies the files once.
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
from pipeline_steps.stores.files import canonical, digest, file_digest, write_atomically


_THREADS = 8  # more than the cores that digests need: network file systems answer many requests at once
_SILENT = 2.0  # seconds before progress is shown
_KEPT = 30 * 24 * 3600.0  # seconds that a note holds
_DAY = 24 * 3600.0
# A change within the same tick of a file system's clock, of FAT two seconds, would not show in a file's times
_TICK = 2.0
_verified: dict[str, float] = {}  # lines of notes that this process has read or verified, and when that was verified


def verify_files(expected: Mapping[Path, str], remedy: str, again: bool = False) -> None:
    """Compare every byte of some files with their digests, unless this machine has done so since they were written.

    Files that are given together share one note. Of several processes that ask for the same files at once, one reads
    them, and the others wait for its note.

    Args:
        expected: xxh3-128 of each file.
        remedy: what to do about a damaged file, the end of a sentence.
        again: whether to read files that have been verified, too.

    Raises:
        StoreDamaged: a file is missing or not what was written; names the first.
        OSError: a file cannot be read; names it.
    """
    if not expected:
        return
    note = _Note(expected)
    if not again and not note.missing():
        note.write(unless_there=True)  # the files were verified by this process where they stood before, perhaps
        return
    with note.alone():
        try:
            _read_all(list(expected.items() if again else note.missing()), remedy)
        finally:
            note.write()
    _forget()


def _read_all(files: list[tuple[Path, str]], remedy: str) -> None:
    total = sum(path.stat().st_size for path, _ in files if path.exists())
    shown = {"unit": "B", "unit_scale": True, "desc": "verifying", "delay": _SILENT}
    with tqdm(total=total, disable=not sys.stderr.isatty(), **shown) as bar, ThreadPoolExecutor(_THREADS) as pool:
        try:
            for (path, _), why in zip(files, pool.map(partial(_damage, bar.update), files), strict=True):
                if why:
                    raise StoreDamaged(f"{path} {why}: {remedy}")
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # of files that nobody has begun to read


class _Note:
    """The memory of files that were verified together, on disk; the process's own memory comes first.

    A note is named by the folder that the files have in common, so a store that has grown is read only where it has.
    """

    def __init__(self, expected: Mapping[Path, str]) -> None:
        self._expected = expected
        self._name = digest(os.fsencode(os.path.commonpath([os.path.abspath(path) for path in expected])))
        self._path = os.path.join(_folder(), self._name)

    def missing(self) -> list[tuple[Path, str]]:
        """Return the files that are not known to be intact as they are now."""
        lines = dict(zip(self._expected.items(), self._lines(), strict=True))
        if not all(map(_holds, lines.values())):
            self._read()
        return [one for one, line in lines.items() if not _holds(line)]

    def write(self, unless_there: bool = False) -> None:
        """Remember on disk which of the files are known to be intact."""
        if unless_there and os.path.exists(self._path):
            return
        known = sorted({line for line in self._lines() if line and _holds(line)})
        if not known:
            return
        since = min(_verified[line] for line in known)
        with suppress(OSError):
            write_atomically(self._path, "\n".join(known).encode())
            os.utime(self._path, (since, since))

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until no other process of this user verifies these files; do not, where there is no cache to lock."""
        with ExitStack() as stack:
            with suppress(OSError):
                os.makedirs(_folder(), exist_ok=True)
                stack.enter_context(FileLock(f"{_folder()}/.{self._name}.lock"))
            yield

    def _read(self) -> None:
        with suppress(OSError), open(self._path, encoding="ascii", errors="replace") as file:
            since = os.fstat(file.fileno()).st_mtime
            for line in file.read().split("\n"):
                _verified[line] = max(since, _verified.get(line, since))

    def _lines(self) -> Iterator[str | None]:
        """Yield the line of each file, as the file is now; None if it cannot be looked at."""
        for path, found in self._expected.items():
            try:
                yield _line(path, found)[0]
            except OSError:
                yield None


def _damage(progress: Callable[[int], object], one: tuple[Path, str]) -> str | None:
    """Read a file and remember that it is intact; or say what is wrong with it."""
    path, expected = one
    try:
        line, changed = _line(path, expected)
        if file_digest(path, progress) != expected:
            return "is damaged (its bytes are not those that were written)"
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    now = time.time()
    if now - changed > _TICK:
        _verified[line] = now
    return None


def _holds(line: str | None) -> bool:
    return line is not None and time.time() - _verified.get(line, 0.0) < _KEPT


def _line(path: Path, expected: str) -> tuple[str, float]:
    """Return the line of a file, as the file is now, and the time at which the file was changed last."""
    stat = os.stat(path)
    # The time of change too, not of modification alone: cp -p and touch set that
    identity = [stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
    return digest(canonical([*identity, _boot(), expected])), stat.st_ctime


def _forget() -> None:
    """Remove notes that do not hold any more, once a day: the folder may be large and far away."""
    marker = os.path.join(_folder(), ".forgotten")
    with suppress(OSError):
        if os.path.exists(marker) and time.time() - os.stat(marker).st_mtime < _DAY:
            return
        Path(marker).touch()
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
