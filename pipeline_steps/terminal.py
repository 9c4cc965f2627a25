"""The one way to a terminal: texts of documents, ids, file names and settings are shown there, never obeyed by it."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable
from typing import IO, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment


# C0 and C1 but for tabs and newlines, DEL, line separators, marks that turn the direction of text, lone surrogates
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: object) -> str:
    r"""Return a text with every character that a terminal would obey written out, an escape character as `\x1b`."""
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


QUIET = "WINNOW_QUIET"  # in the environment, so that what a command starts is quiet, too


class Terminal(Console):
    """A console of rich that prints what it is given as it stands: no markup, and no control characters but its own.

    Args:
        stderr: write there instead of to stdout.
        file: write there instead.
        width: columns; by default those of the terminal, or 80.
    """

    def __init__(self, *, stderr: bool = False, file: IO[str] | None = None, width: int | None = None) -> None:
        super().__init__(stderr=stderr, file=file, width=width, markup=False, emoji=False)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render an object; everything that is printed, a table's cells included, comes through here."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


def is_quiet() -> bool:
    """Return whether no progress is to be shown, as `winnow --quiet` asks."""
    return bool(os.environ.get(QUIET))


def one_line(text: object) -> str:
    """Return a text without line breaks, printable."""
    return printable(" ".join(str(text).split()))


def complain(error: object, prefix: str = "error: ") -> None:
    """Write an error as one line on stderr."""
    sys.stderr.write(one_line(f"{prefix}{error}") + "\n")


def print_json(found: Any) -> None:
    """Write JSON types to stdout, as ASCII, which no terminal obeys; rich takes seconds for a large plan."""
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


def wide(**options: Any) -> Terminal:
    """Return a terminal that is 160 columns wide if stdout is a file or a pipe, so that tables are not squeezed."""
    return Terminal(width=None if sys.stdout.isatty() else 160, **options)
