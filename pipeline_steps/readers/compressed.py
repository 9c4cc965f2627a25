"""Files as bytes, whatever they are compressed with; one that was cut short raises an error at its end."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from shutil import copyfileobj
from typing import Any


_CHUNK = 1 << 14  # of a zstd file: all that it holds is in memory, some five times as much of text
_BUFFER = 1 << 16
_LONGEST_WINDOW = 1 << 31  # of zstd --long=31; by default, half of that and less is refused


class ZstdFile(io.RawIOBase):
    """The content of a zstd file of any number of frames, with windows of any length.

    Args:
        raw: the file, opened in binary.

    Raises:
        EOFError: the last frame has no end. The stream_reader of zstandard ends there without a word.
    """

    def __init__(self, raw: Any) -> None:
        import zstandard

        self._raw, self._rest = raw, memoryview(b"")
        self._frames = zstandard.ZstdDecompressor(max_window_size=_LONGEST_WINDOW).decompressobj(
            read_across_frames=True
        )
        self._sentinel = zstandard.ZstdCompressor().compress(b"\0")

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer, and return how many bytes were there for it."""
        while not self._rest:
            chunk = self._raw.read(_CHUNK)
            if not chunk:
                self._check_end()
                return 0
            self._rest = memoryview(self._frames.decompress(chunk))
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count

    def _check_end(self) -> None:
        """Raise EOFError inside a frame: only at the end of one does another frame decompress to what it holds."""
        import zstandard

        try:
            # In two parts: zstd takes a whole frame for one, even behind a header that is not whole
            parts = map(self._frames.decompress, (self._sentinel[:1], self._sentinel[1:]))
            is_whole = b"".join(parts) == b"\0"
        except zstandard.ZstdError:
            is_whole = False
        if not is_whole:
            raise EOFError("the file ends before its last zstd frame does")


class StreamsFile(io.RawIOBase):
    """The content of a file of any number of streams, one after the other, as pbzip2 and `cat a.xz b.xz` write them.

    Python's own classes take whatever follows the first stream for rubbish if it is damaged, and end without an error.

    Args:
        raw: the file, opened in binary.
        decompressor: returns what decompresses one stream, as `bz2.BZ2Decompressor` does.
        padding: what may stand between streams.

    Raises:
        EOFError: the last stream has no end.
        OSError, LZMAError: a stream is damaged, or something else follows one.
    """

    def __init__(self, raw: Any, decompressor: Callable[[], Any], padding: bytes = b"") -> None:
        self._raw, self._decompressor, self._padding = raw, decompressor, padding
        self._stream: Any = None  # None between two streams
        self._packed, self._rest = b"", memoryview(b"")

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer, and return how many bytes were there for it."""
        while not self._rest:
            if not self._packed and (self._stream is None or self._stream.needs_input):
                self._packed = self._raw.read(_CHUNK)
                if not self._packed:
                    if self._stream is not None:
                        raise EOFError("the file ends before its last stream does")
                    return 0
            if self._stream is None:
                self._packed = self._packed.lstrip(self._padding) if self._padding else self._packed
                self._stream = self._decompressor() if self._packed else None
                continue
            self._rest = memoryview(self._stream.decompress(self._packed, _BUFFER))
            self._packed = b""
            if self._stream.eof:
                self._packed, self._stream = self._stream.unused_data, None
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count


_DECOMPRESSORS: dict[str, Callable[[Any], Any]] = {
    ".gz": lambda raw: gzip.GzipFile(fileobj=raw),
    ".zst": ZstdFile,
    ".bz2": lambda raw: StreamsFile(raw, bz2.BZ2Decompressor),
    ".xz": lambda raw: StreamsFile(raw, lzma.LZMADecompressor, padding=b"\0"),
}


def without_compression(name: str) -> str:
    """Return the name of a file without the suffix of its compression."""
    return next((name[: -len(suffix)] for suffix in _DECOMPRESSORS if name.lower().endswith(suffix)), name)


@contextmanager
def opened(folder: Any, name: str) -> Iterator[io.BufferedReader]:
    """Open a file of a DataFolder by its name, to be read from its beginning to its end, decompressed."""
    with folder.open(name, "rb") as raw:
        decompressor = next((one for suffix, one in _DECOMPRESSORS.items() if name.lower().endswith(suffix)), None)
        if decompressor is not None:
            if not raw.read(1):
                raise EOFError("the file is empty, which no compressed file is")
            raw.seek(0)
        # The buffer hands out lines without a call of Python's for each
        with closing(io.BufferedReader(raw if decompressor is None else decompressor(raw), _BUFFER)) as file:
            yield file


@contextmanager
def opened_anywhere(folder: Any, name: str) -> Iterator[Any]:
    """Open a file of a DataFolder by its name, to be read in any order; a compressed one is unpacked for that."""
    if without_compression(name) == name:
        with folder.open(name, "rb") as file:
            yield file
        return
    with opened(folder, name) as packed, tempfile.TemporaryFile() as file:
        copyfileobj(packed, file)
        file.seek(0)
        yield file
