"""A dataclass of arguments from defaults, a YAML file and flags, each overruling the one before."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import yaml

from pipeline_steps.command_line import Parser
from pipeline_steps.credentials import refuse_credentials, refuse_credentials_in_command
from pipeline_steps.readers.special_files import refuse_special_files


T = TypeVar("T")
_LONGEST = 1 << 16  # bytes of a file of arguments: the longest shipped has 600


def parse(kind: type[T], argv: list[str] | None, prog: str, description: str, unless: Sequence[str] = ()) -> T:
    """An instance of a dataclass whose fields have `help` in their metadata; exits with code 2 on a mistake.

    A YAML value goes through the same conversion as a flag: YAML 1.1 reads `1e-3` as a string. A file that is not
    there may be one of those that come with this package. `unless` are flags that all others overrule.

    Raises:
        WinnowError: an argument holds a credential.
    """
    from transformers import HfArgumentParser  # half a second

    class TypedParser(HfArgumentParser):
        error = Parser.error

    finder = Parser(prog=prog, add_help=False, allow_abbrev=False)
    finder.add_argument("--config", metavar="FILE")
    refuse_credentials_in_command(sys.argv[1:] if argv is None else argv)  # a run notes its command
    config, flags = finder.parse_known_args(argv)
    parser = TypedParser(
        kind,
        prog=prog,
        description=description,
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        epilog=f"configurations that come with this package: {', '.join(shipped())}",
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file with these names as keys; flags overrule it")
    if config.config is not None:
        flags = _as_flags(parser, config.config, [field.name for field in dataclasses.fields(kind)]) + flags  # type: ignore[arg-type]
    words = [*unless, *flags]
    _refuse_unknown_flags(parser, words)
    made, *_, unknown = parser.parse_args_into_dataclasses(
        words, return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return made


def _refuse_unknown_flags(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Exit with the nearest flag for one that is unknown, which argparse tells only if nothing else is wrong."""
    known = [flag for action in parser._actions for flag in action.option_strings]
    for flag in (word.partition("=")[0] for word in words if word.startswith("--")):
        if flag not in known:
            near = difflib.get_close_matches(flag, known, n=1)
            parser.error(f"unrecognized arguments: {flag}{f'. Did you mean {near[0]}?' if near else ''}")


def shipped() -> list[str]:
    """Names of the configurations that come with this package."""
    return sorted(entry.name for entry in files("train").joinpath("configs").iterdir() if entry.name.endswith(".yaml"))


def _read(path: str) -> Any:
    """Return the values of a YAML file. Raises ValueError if it is too large or no ordinary file."""
    file: Any = Path(path)
    if not file.exists() and path in shipped():
        file = files("train").joinpath("configs", path)
    else:
        refuse_special_files(path)
    with file.open("rb") as opened:
        text = opened.read(_LONGEST + 1)
    if len(text) > _LONGEST:
        raise ValueError(f"it has more than {_LONGEST:,} bytes, which is more than all arguments take")
    return yaml.safe_load(text)


def _as_flags(parser: argparse.ArgumentParser, path: str, known: list[str]) -> list[str]:
    try:
        values = _read(path)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        parser.error(f"{path} cannot be read as YAML: {error}")
    refuse_credentials(values, path)
    if not isinstance(values, dict):
        parser.error(f"{path} must hold keys and values, not {type(values).__name__}")
    flags = []
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name not in known:
            parser.error(f"{path}: no argument {key!r}; there are {', '.join(known)}")
        if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(one, dict | list) for one in value)):
            parser.error(f"{path}: {key} must be a value or a list of values")
        if isinstance(value, list):
            flags += [f"--{name}", *map(str, value)] if value else []
        elif value is not None:
            flags.append(f"--{name}={value}")
    return flags
