"""A file of labels: what people, or a better judge, said of some documents."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import xxhash

from pipeline_steps.errors import CorpusError
from pipeline_steps.numerics.keys import document_key
from pipeline_steps.readers.corpus import as_mapping, list_corpus
from pipeline_steps.terminal import one_line


On = Literal["id", "key"]
CHARACTERS = "characters"
_MOST_KEY = 2**64 - 1
_SHOWN = 60  # characters of a value in a message


@dataclass(frozen=True, kw_only=True)
class LabelColumns:
    """How the rows of a label file are read.

    Attributes:
        column: the label, a number or a word; higher is better.
        grades: the number of each word; {} if labels are numbers.
        on: what rows and documents are matched by: "id", or "key", the `document_key` of score stores.
        id_key: the column of the id.
        text_key: the column of the text, for lengths, and for keys where there is no column `key`.
        stratum: the column of the stratum, such as source or domain; None for none.
        length: the column of the length; None, or that of the text, for the characters of texts.
    """

    column: str = "label"
    grades: Mapping[str, float] = field(default_factory=dict)
    on: On = "id"
    id_key: str = "id"
    text_key: str = "text"
    stratum: str | None = None
    length: str | None = None


@dataclass(frozen=True)
class Label:
    """A row of a label file.

    Attributes:
        value: the label.
        length: of the document; None if the row does not say.
        stratum: of the document; None if no column was asked for.
        where: file and row, for messages.
    """

    value: float
    length: float | None
    stratum: str | None
    where: str


@dataclass(frozen=True)
class Labels:
    """The labels of a file.

    Attributes:
        path: the file, as given.
        how: how its rows were read.
        by_name: by id or key, sorted.
        unlabelled: rows without a label.
        repeated: rows that say once more what another row says.
    """

    path: str
    how: LabelColumns
    by_name: Mapping[str | int, Label]
    unlabelled: int
    repeated: int

    @property
    def unit(self) -> str:
        """Return the unit of the rows' lengths."""
        return CHARACTERS if self.how.length in (None, self.how.text_key) else str(self.how.length)


def read_labels(path: str, how: LabelColumns) -> Labels:
    """Read the labels of a .jsonl, .csv, .parquet or .arrow file, a folder or a glob of them, local or remote.

    A row whose label is null, or empty in CSV, is no label and is counted. Equal rows of one document are one.

    Raises:
        CorpusError: a file cannot be read, a row lacks a column, a value is not what it should be, or two rows of one
            document differ; names file, row and value.
    """
    files = list_corpus(path)
    if files.kind == "warc":
        raise CorpusError(f"{path} holds web pages, and labels are rows: give .jsonl, .csv, .parquet or .arrow files")
    found: dict[str | int, Label] = {}
    unlabelled = repeated = 0
    for file, row, values in files.rows():
        if "metadata" in values:
            values = as_mapping(values["metadata"]) | values
        where = f"{file}, row {row + 1}"
        name, label = _name(values, how, where), _label(values, how, where)
        if label is None:
            unlabelled += 1
        elif (there := found.setdefault(name, label)) is not label:
            if (there.value, there.length, there.stratum) != (label.value, label.length, label.stratum):
                raise CorpusError(
                    f"{where}: document {_said(name)} has the label {label.value:g} here, and {there.value:g} in "
                    f"{there.where}: give one row a document, such as the majority's"
                    if there.value != label.value
                    else f"{where}: document {_said(name)} has another length or stratum here than in {there.where}"
                )
            repeated += 1
    if not found:
        raise CorpusError(f"{path} holds no labels ({unlabelled:,} rows without one in the column {how.column!r})")
    return Labels(path, how, dict(sorted(found.items())), unlabelled, repeated)


def digest_of(name_N: np.ndarray, label_N: np.ndarray) -> str:
    """Return a digest of labels: of the keys of their documents, rising, and of their values."""
    state = xxhash.xxh3_128(np.ascontiguousarray(name_N, dtype="<u8").tobytes())
    state.update(np.ascontiguousarray(label_N, dtype="<f8").tobytes())
    return state.hexdigest()


def _name(values: Mapping[str, Any], how: LabelColumns, where: str) -> str | int:
    """Return the id or the key of a row's document."""
    if how.on == "key" and (key := values.get("key")) is not None:
        try:
            if isinstance(key, bool | float) or not 0 <= (number := int(key)) <= _MOST_KEY:
                raise ValueError
        except (TypeError, ValueError):
            raise CorpusError(
                f"{where}: {_said(key)} is no key of a document, a whole number from 0 to 2^64 − 1"
            ) from None
        return number
    name = _value(values, how.id_key, where, "--id-key names another")
    if name is None or name == "":
        raise CorpusError(f"{where}: {how.id_key!r} is empty: give the document's id, or delete the row")
    if how.on == "id":
        return str(name)
    text = _value(values, how.text_key, where, "--text-key names another; a key is made of id and text")
    if not isinstance(text, str):
        raise CorpusError(f"{where}: {how.text_key!r} is {_said(text)}, and a key is made of id and text: give a text")
    return document_key(str(name), text)


def _label(values: Mapping[str, Any], how: LabelColumns, where: str) -> Label | None:
    """Return the label of a row; None if it has none."""
    said = _value(values, how.column, where, "--column names another")
    if said is None or said == "":
        return None
    stratum = length = None
    if how.stratum is not None:
        stratum = _value(values, how.stratum, where, "--stratum names another")
        if stratum is None or stratum == "":
            raise CorpusError(f"{where}: {how.stratum!r} is empty: every labelled document needs a stratum")
    if how.length not in (None, how.text_key):
        length = _number(_value(values, how.length, where, "--length names another"), how.length, where)
    elif isinstance(text := values.get(how.text_key), str):
        length = float(len(text))
    elif how.length is not None:
        raise CorpusError(f"{where}: there is no text in {how.length!r}: --length names another column")
    return Label(_grade(said, how, where), length, None if stratum is None else str(stratum), where)


def _grade(said: Any, how: LabelColumns, where: str) -> float:
    if not how.grades:
        return _number(said, how.column, where, ": give --grades, such as keep=1,drop=0, if labels are words")
    word = str(said).lower() if isinstance(said, bool) else str(said)
    if word not in how.grades:
        known = ", ".join(how.grades)
        raise CorpusError(f"{where}: the label {_said(said)} has no grade; those given are of {known}: add it")
    return how.grades[word]


def _number(value: Any, column: str, where: str, remedy: str = "") -> float:
    """Return a finite number, also of the strings of CSV. True is 1."""
    try:
        number = float(value) if isinstance(value, int | float | str) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise CorpusError(f"{where}: {column!r} is {_said(value)}, which is not a finite number{remedy}")
    return number


def _value(values: Mapping[str, Any], column: str, where: str, remedy: str) -> Any:
    if column not in values:
        known = ", ".join(map(str, list(values)[:20])) or "none"
        raise CorpusError(f"{where}: there is no column {column!r}; its columns are {known} ({remedy})")
    return values[column]


def _said(value: Any) -> str:
    return one_line(repr(value))[:_SHOWN]
