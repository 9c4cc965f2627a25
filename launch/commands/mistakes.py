"""A mistake in a command line as one sentence, with the nearest command, flag or value."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from cyclopts import (
    CycloptsError,
    MissingArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
    ValidationError,
)

from pipeline_steps.terminal import one_line


def sentence(error: CycloptsError) -> str:
    """Return what to tell the user about a command line that cannot be understood."""
    error.verbose = False
    command = " ".join(("winnow", *(error.command_chain or ())))
    return f"{one_line(_said(error)).rstrip('.')} (see {command} --help)"


def _said(error: CycloptsError) -> str:
    command = (error.command_chain or ("winnow",))[-1]
    if isinstance(error, UnknownCommandError):
        wrong = (error.unused_tokens or [""])[0]
        known = [name for name in error.app or () if not name.startswith("-")]
        return f'there is no command "{wrong}". {_nearest(wrong, known) or "There are " + ", ".join(known)}'
    if isinstance(error, UnknownOptionError):
        return _unknown_flag(error, command)
    if isinstance(error, UnusedCliTokensError):
        return f"{command} takes no {' '.join(error.unused_tokens or ())}"
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        if error.keyword is not None:
            return f"{error.keyword} needs a value"
        given = [word for word in error.unused_tokens or () if word.startswith("-")]
        mistyped = difflib.get_close_matches(error.argument.name, given, n=1)
        instead = f". Did you mean {error.argument.name} instead of {mistyped[0]}?" if mistyped else ""
        return f"{command} needs {_name(error.argument.name)}{instead}"
    if isinstance(error, ValidationError):
        return (
            f"{_name(error.argument.name)}: {error.exception_message}" if error.argument else error.exception_message
        )
    return re.sub(r"\[([\w-]+)\](?= from )", r"\1", str(error))  # a key of a file: rate, not [rate]


def _unknown_flag(error: UnknownOptionError, command: str) -> str:
    of_file = error.token.source != "cli"
    wrong = (error.token.keyword or error.token.value).strip("[]")
    names = [name for one in error.argument_collection if one.parse for name in one.names if name.startswith("-")]
    known = [name.lstrip("-") for name in names] if of_file else names
    where = f"{error.token.source}: " if of_file else ""
    return f"{where}{command} has no {'key' if of_file else 'flag'} {wrong}. {_nearest(wrong, known)}".rstrip()


def _nearest(wrong: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(wrong, list(known), n=1)
    return f"Did you mean {found[0]}?" if found else ""


def _name(name: str) -> str:
    """Return a flag as it is, and a positional argument in capitals, as help shows both."""
    return name if name.startswith("-") else name.upper()
