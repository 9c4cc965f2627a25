"""The chosen rows of a corpus into files, by tasks that share the groups of an unfinished dataset."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
from datatrove.data import Document
from datatrove.io import get_datafolder

from launch.datasets.columns import KEEP, Row, unify
from launch.datasets.parts import read_rows
from launch.datasets.settings import COUNT
from launch.datasets.unfinished import Step, Unfinished
from pipeline_steps.errors import CorpusError, StoreMismatch
from pipeline_steps.filters.cuts import FoundCut
from pipeline_steps.filters.kept_rows import KeptRows
from pipeline_steps.readers.corpus import ROW, CorpusFiles
from pipeline_steps.readers.formats import TYPED, schema_of
from pipeline_steps.scorers.metadata import LabelStore
from pipeline_steps.stores.score_store import ScoreStore


def groups_left(work: Path, step: Step) -> list[int]:
    """Return the groups that a step has left: task N of `tasks` writes those that are N modulo `tasks`.

    Raises:
        StoreIncomplete: nothing was begun, or the rows that become Parquet are not all written.
        WinnowError: the corpus is at fault, and the dataset has to be begun again.
    """
    with Unfinished.opened(work) as dataset:
        return dataset.left(step)


def write_files(work: Path, step: Step, task: int, tasks: int, bad_rows: str | None = None) -> None:
    """Write a task's share of a step: the rows, or these again as Parquet of the schema that all files have in common.

    Rows that are Parquet of that schema already, or JSON lines in the end, are not written again. Bad rows are noted
    in the folder `bad_rows`.

    Raises:
        WinnowError: as `groups_left` raises it.
    """
    with Unfinished.opened(work) as dataset:
        mine = [group for group in dataset.left(step) if group % tasks == task]
        if step == "rows":
            _write_rows(dataset, mine, bad_rows)
            return
        for group in mine:
            rows = chain.from_iterable(map(read_rows, dataset.rows[group]))
            dataset.write(step, group, rows, dataset.columns[0])


def _write_rows(dataset: Unfinished, groups: Sequence[int], bad_rows: str | None) -> None:
    settings = dataset.settings
    labels = LabelStore.open(settings.labels) if settings.labels else None
    cut = FoundCut(ScoreStore.open(dataset.scores), settings.cut, labels, settings.exclude)
    if cut.digest != dataset.fingerprint:  # its selection is of other documents than the rows would be
        raise StoreMismatch(
            f"{dataset.scores}, the labels or what is excluded has changed since {dataset.work} was begun: give the "
            "same command again, which begins anew"
        )
    is_parquet = settings.format == "parquet"
    for group in groups:
        schema = _source_schema(dataset, group) if is_parquet and dataset.kind in TYPED else None
        dataset.write("rows", group, _rows(dataset, group, cut, bad_rows), schema)


def _rows(dataset: Unfinished, group: int, cut: FoundCut, bad_rows: str | None) -> Iterator[Row]:
    """Yield the kept rows of a group as they were, with an id, a score and a count; or each as often as it is kept."""
    files = CorpusFiles(dataset.corpus, dataset.kind, dict.fromkeys(dataset.groups[group], 0))
    listing = dataset.work / "listings" / f"{group:06d}.txt"
    documents: Any = None
    settings, column = dataset.settings, dataset.settings.score_column
    for step in files.reader(str(listing), settings.limit, True, settings.reading, bad_rows):
        documents = step.run(documents, 0, 1)
    # Anew for each group: which of several copies is kept depends on what came before
    kept = KeptRows(cut)
    for document in documents:
        if not (count := kept.keeps(document)):
            continue
        added: dict[str, Any] = dict.fromkeys(settings.added, count)
        if column is not None:
            added[column], added[settings.rank_column or ""] = kept.scored(ranks=True)
        source = kept.place[0]
        row = _row(document, source, added)
        yield row
        for number in range(2, count + 1 if settings.repeat else 2):
            yield Row(row.values | {"id": _id_of_copy(row, number)}, source)


def _id_of_copy(row: Row, number: int) -> str:
    if not isinstance(row.values["id"], str):
        raise CorpusError(f"{row} has an id that is no text, so its copies have none: leave --repeat out")
    return f"{row.values['id']}#{number}"


def _row(document: Document, source: str, added: Mapping[str, Any]) -> Row:
    row = document.metadata.get(ROW)
    if row is None:  # a page of a WARC
        row = {"text": document.text, **{k: v for k, v in document.metadata.items() if k != "file_path"}}
    if "id" not in row:
        row = {"id": document.id, **row}
    for column in added.keys() & row.keys():
        remedy = "rename it, or give --repeat" if column == COUNT in added else "give --score-column another name"
        raise CorpusError(
            f"{document.metadata['file_path']}, document {document.id}, has a column {column!r} already: {remedy}"
        )
    return Row(row | added, source)


def _source_schema(dataset: Unfinished, group: int) -> pa.Schema:
    """Return the schema that a group of Parquet files has in common, with the columns that are added."""
    folder = get_datafolder(dataset.corpus)
    found = {name: schema_of(folder, name) for name in dataset.groups[group]}
    schema, mixed = unify(found.items())
    for why in mixed.values():
        raise CorpusError(f"{dataset.corpus}/{why}: {KEEP}")
    fields, settings = list(schema), dataset.settings
    if "id" not in schema.names:
        fields.insert(0, pa.field("id", pa.string()))
    fields += [pa.field(name, pa.type_for_alias(kind)) for name, kind in settings.added.items()]
    metadata = next(iter(found.values())).metadata or {}
    kept = {key: value for key, value in metadata.items() if key == b"huggingface" and _has_features(value)}
    return pa.schema(fields, metadata=kept or None)


def _has_features(note: bytes) -> bool:
    """Return whether what datasets has noted in a file can be kept: it holds labels' names."""
    try:
        return isinstance(json.loads(note)["info"]["features"], dict)
    except (KeyError, TypeError, ValueError):
        return False
