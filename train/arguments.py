"""A frozen dataclass of arguments from defaults, a YAML file and flags, each overruling the one before."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml


T = TypeVar("T")


def parse(kind: type[T], argv: list[str] | None, prog: str, description: str) -> T:
    """An instance of a dataclass whose fields have `help` in their metadata; exits with code 2 on a mistake.

    A YAML value goes through the same conversion as a flag: YAML 1.1 reads `1e-3` as a string.
    """
    parser = argparse.ArgumentParser(prog, description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--config", metavar="FILE", help="YAML file with these names as keys; flags overrule it")
    types = get_type_hints(kind)
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    for field in fields:
        required = field.default is dataclasses.MISSING
        shown = "" if required or field.default is None else f" (default {field.default})"
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=_plain(types[field.name]),
            help=field.metadata["help"] + shown,
            default=argparse.SUPPRESS,
            metavar=_plain(types[field.name]).__name__.upper(),
        )
    given = vars(parser.parse_args(argv))
    path = given.pop("config", None)
    if path is not None:
        known = [field.name for field in fields]
        given = vars(parser.parse_args(_as_flags(parser, path, known))) | given
        given.pop("config", None)
    missing = [field.name for field in fields if field.default is dataclasses.MISSING and field.name not in given]
    if missing:
        parser.error(f"missing --{', --'.join(name.replace('_', '-') for name in missing)}")
    return kind(**given)


def _as_flags(parser: argparse.ArgumentParser, path: str, known: list[str]) -> list[str]:
    try:
        values: Any = yaml.safe_load(Path(path).read_text())
    except (OSError, yaml.YAMLError) as error:
        parser.error(f"{path} cannot be read as YAML: {error}")
    if not isinstance(values, dict):
        parser.error(f"{path} must hold keys and values, not {type(values).__name__}")
    flags = []
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name not in known:
            parser.error(f"{path}: no argument {key!r}; there are {', '.join(known)}")
        if isinstance(value, (dict, list)):
            parser.error(f"{path}: {key} must be one value, not a {type(value).__name__}")
        if value is not None:
            flags.append(f"--{name.replace('_', '-')}={value}")
    return flags


def _plain(annotation: Any) -> type:
    """The type of a field: of `str | None`, str."""
    return next((part for part in getattr(annotation, "__args__", ()) if part is not type(None)), annotation)
