"""What all command lines share: a mistake is reported in one line, and paths are checked before they are opened."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NoReturn

from pipeline_steps.errors import WinnowError
from pipeline_steps.readers.special_files import refuse_special_files, refuse_unusable_name
from pipeline_steps.terminal import one_line


class Parser(argparse.ArgumentParser):
    """A parser that reports a mistake in one line and names --help, instead of printing the usage page."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2."""
        self.exit(2, f"{self.prog}: {one_line(message)} (see {self.prog} --help)\n")


class UnusableArgument(argparse.ArgumentTypeError, ValueError):
    """An argument that cannot be used, in words that argparse and cyclopts both pass on."""


def place(text: str) -> str:
    """Return a path that may be opened. Raises UnusableArgument, a ValueError, for a pipe or a device."""
    return _checked(text, refuse_special_files)


def new_place(text: str) -> str:
    """Return a path that may be written to. Raises UnusableArgument, a ValueError, if its name cannot be used."""
    return _checked(text, refuse_unusable_name)


def named_place(text: str, what: str = "PATH") -> tuple[str, str]:
    """Return the name and the path of NAME=PATH. Raises UnusableArgument, a ValueError, for anything else."""
    name, separator, path = text.partition("=")
    if not (name and separator and path):
        raise UnusableArgument(f"{text!r} is not NAME={what}")
    return name, place(path)


def _checked(text: str, refuse: Callable[[str], None]) -> str:
    if not text:
        raise UnusableArgument("the path is empty")
    try:
        refuse(text)
    except WinnowError as error:
        raise UnusableArgument(str(error)) from error
    return text
