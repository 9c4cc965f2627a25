"""Types of flags that several commands have."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from cyclopts import Parameter, Token

from pipeline_steps.command_line import named_place, new_place, place
from pipeline_steps.readers.reading import Reading


CORES = os.cpu_count() or 1


def _each(check: Callable[[str], object]) -> Callable[[Any, Any], None]:
    """Return a validator that checks a text, or each text of a list."""

    def validate(kind: Any, value: Any) -> None:
        for one in value if isinstance(value, list | tuple) else (value,):
            if one is not None:
                check(one)

    return validate


def _named(kind: Any, words: Sequence[Token]) -> list[tuple[str, str]]:
    pairs = [named_place(word.value) for word in words]
    names = [name for name, _ in pairs]
    if twice := [name for at, name in enumerate(names) if name in names[:at]]:
        raise ValueError(f"{twice[0]!r} is there twice: give each name once")
    return pairs


def _valued(kind: Any, words: Sequence[Token]) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for word in words:
        name, _, value = word.value.rpartition("=")
        if not name or not value or name in dict(pairs):
            raise ValueError(f"{word.value!r} must be NAME=VALUE, each name once")
        pairs.append((name, value))
    return pairs


def _label_scores(kind: Any, words: Sequence[Token]) -> dict[str, float]:
    """Return the scores of LABEL=SCORE,..."""
    found: dict[str, float] = {}
    for part in words[0].value.split(","):
        label, separator, score = part.rpartition("=")
        try:
            if not separator or label in found or not math.isfinite(float(score)):
                raise ValueError
            found[label] = float(score)
        except ValueError:
            raise ValueError(
                f"{part!r} is not LABEL=SCORE with a finite score, or its label is there twice; give good=1,bad=0"
            ) from None
    return found


PLACE = Parameter(validator=_each(place), metavar="PATH")
"""A file or folder that is opened."""
MODEL = Parameter(validator=_each(place), metavar="MODEL")
"""A Hub id, or the folder of a model."""
CORPUS = Parameter(metavar="PATH")
"""A file, folder or glob of documents, whose reader looks at the files themselves."""
NAME = Parameter(metavar="NAME")
"""A name, such as that of a sampler."""
NEW_PLACE = Parameter(validator=_each(new_place), metavar="PATH")
"""A file or folder that is made or continued."""
SEVERAL = Parameter(consume_multiple=(1, None))
"""A flag that is followed by one or more values."""
NamedPlaces = Annotated[list[tuple[str, str]], SEVERAL, Parameter(converter=_named, n_tokens=1)]
"""Files or folders with names, as in `--scores a=DIR b=DIR`."""
Rows = Annotated[Reading, Parameter(name="*")]
"""Flags that say how the rows of a corpus are read."""
NamedValues = Annotated[list[tuple[str, str]], SEVERAL, Parameter(converter=_valued, n_tokens=1, metavar="NAME=VALUE")]
"""Values with names, as in `--mixture web=0.6 wiki=0.4`."""
LABEL_SCORES = Parameter(converter=_label_scores, n_tokens=1, metavar="LABEL=SCORE,...")
"""The score of each of some words, as in `--labels good=1,bad=0`."""
Forwarded = Annotated[str, Parameter(allow_leading_hyphen=True, show=False)]
"""Words that are handed on as they are."""
