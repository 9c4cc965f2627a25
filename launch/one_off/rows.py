"""The chosen rows of a corpus into files: one process's share of `winnow select`.

    python -m launch.one_off.rows FOLDER write|rewrite [--part I/N]

FOLDER holds plan.json. A group of source files is written by one process, in order, and noted in groups/ when it is
whole; so files depend neither on the number of processes nor on what was killed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.data import Document

from launch.faults import as_process
from launch.one_off.columns import KEEP, unify
from launch.one_off.parts import Part, PartWriter, parquet_name, rewrite
from pipeline_steps.errors import CorpusError
from pipeline_steps.filters.cuts import Cut, FoundCut
from pipeline_steps.filters.selection_filters import KeptRows
from pipeline_steps.readers.corpus import ROW, CorpusFiles
from pipeline_steps.stores.files import read_json, write_json
from pipeline_steps.stores.listed_files import note
from pipeline_steps.stores.score_store import ScoreStore


_SCRATCH_LEVEL = 1  # of gzip, for files that become Parquet


@dataclass(frozen=True)
class Plan:
    """What processes need to know.

    Attributes:
        folder: where they write.
        corpus: folder of the corpus.
        kind: of its files.
        groups: names of the files that are written together, in the order they are read.
        limit: documents that are read; -1 for all.
        scores: score store.
        scores_fingerprint: of that store.
        cut: as `Cut` takes it.
        column: that scores go to; None: to none.
        format: of the files in the end.
    """

    folder: Path
    corpus: str
    kind: str
    groups: list[list[str]]
    limit: int
    scores: str
    scores_fingerprint: str
    cut: dict[str, Any]
    column: str | None
    format: str

    @classmethod
    def open(cls, folder: Path) -> Plan:
        """Read plan.json of a folder."""
        return cls(folder, **read_json(str(folder / "plan.json")))

    def parts(self) -> list[Part]:
        """Finished files, in order of the corpus."""
        records = [read_json(str(self.done(group))) for group in range(len(self.groups))]
        return [Part.from_json(part) for record in records for part in record["parts"]]

    def done(self, group: int) -> Path:
        """File that says that a group is written."""
        return self.folder / "groups" / f"{group:06d}.json"

    def written(self) -> int:
        """Groups that are."""
        return sum(1 for group in range(len(self.groups)) if self.done(group).exists())

    def columns(self) -> tuple[pa.Schema, dict[str, str]]:
        """Schema of all files in the end, scores as float32 as in their store; columns of no one type, and why."""
        parts = self.parts()
        schema, mixed = unify({part.first: part.schema for part in parts})
        for part in reversed(parts):
            mixed |= part.mixed
        if self.column is not None:
            schema = schema.set(schema.get_field_index(self.column), pa.field(self.column, pa.float32()))
        return schema, mixed

    def schema(self) -> pa.Schema:
        """Of all files in the end, without what other tools keep in it. Raises CorpusError if there is none."""
        schema, mixed = self.columns()
        for why in mixed.values():
            raise CorpusError(f"{why}: {KEEP}")
        return schema

    def to_rewrite(self) -> list[Part]:
        """Files that are not yet Parquet of the common schema."""
        if self.format != "parquet":
            return []
        schema = self.schema()
        return [part for part in self.parts() if self.kind != "parquet" or not schema.equals(part.schema)]


def _write(plan: Plan, part: int, parts: int) -> None:
    cut = FoundCut(ScoreStore.open(plan.scores), Cut(**plan.cut))
    for group in range(part, len(plan.groups), parts):
        if not plan.done(group).exists():
            files = _write_group(plan, group, cut)
            for file in files:
                note(plan.folder / "parts" / file.name)
            write_json(str(plan.done(group)), {"parts": [file.to_json() for file in files]})


def _write_group(plan: Plan, group: int, cut: FoundCut) -> list[Part]:
    folder, prefix = plan.folder / "parts", f"{group:06d}"
    if plan.format == "jsonl":
        writer = PartWriter(folder, prefix, "jsonl")
    elif plan.kind == "parquet":
        writer = PartWriter(folder, prefix, "parquet", _source_schema(plan, group))
    else:
        writer = PartWriter(folder, prefix, "jsonl", level=_SCRATCH_LEVEL)
    for row, source in _rows(plan, group, cut):
        writer.write(row, source)
    return writer.close()


def _rows(plan: Plan, group: int, cut: FoundCut) -> Iterator[tuple[dict[str, Any], str]]:
    """Kept rows of a group as they were, with an id and a score, and their source files."""
    files = CorpusFiles(plan.corpus, plan.kind, dict.fromkeys(plan.groups[group], 0))
    documents: Any = None
    for step in files.reader(str(plan.folder / "listings" / f"{group:06d}.txt"), plan.limit, rows=True):
        documents = step.run(documents, 0, 1)
    # Anew for each group: which of several copies is kept depends on what came before
    kept, source = KeptRows(cut), ""
    score_N = np.empty(0, dtype=np.float32)
    for document in documents:
        if not kept.keeps(document):
            continue
        if kept.place[0] != source:
            source = kept.place[0]
            score_N = cut.store.read(source, ("score",))["score"]
        yield _row(document, plan.column, float(score_N[kept.place[1]])), source


def _row(document: Document, column: str | None, score: float) -> dict[str, Any]:
    row = document.metadata.get(ROW)
    if row is None:  # a page of a WARC
        row = {"text": document.text, **{k: v for k, v in document.metadata.items() if k != "file_path"}}
    if "id" not in row:
        row = {"id": document.id, **row}
    if column is None:
        return row
    if column in row:
        raise CorpusError(
            f"{document.metadata['file_path']}, document {document.id}, has a column {column!r} already: give "
            "--score-column another name"
        )
    return row | {column: score}


def _source_schema(plan: Plan, group: int) -> pa.Schema:
    """Of a group of Parquet files, and of the columns that are added."""
    import fsspec

    found = dict[str, pa.Schema]()
    for name in plan.groups[group]:
        with fsspec.open(f"{plan.corpus}/{name}", "rb") as file:
            found[name] = pq.read_schema(file)
    schema, mixed = unify(found)
    for why in mixed.values():
        raise CorpusError(f"{plan.corpus}/{why}: {KEEP}")
    metadata = next(iter(found.values())).metadata or {}
    kept = {key: value for key, value in metadata.items() if key == b"huggingface" and _has_features(value)}
    fields = list(schema)
    if "id" not in schema.names:
        fields.insert(0, pa.field("id", pa.string()))
    if plan.column is not None:
        fields.append(pa.field(plan.column, pa.float32()))
    return pa.schema(fields, metadata=kept or None)


def _has_features(note: bytes) -> bool:
    """Return whether what datasets has noted in a file can be kept: it holds labels' names."""
    try:
        return isinstance(json.loads(note)["info"]["features"], dict)
    except (KeyError, TypeError, ValueError):
        return False


def _rewrite(plan: Plan, part: int, parts: int) -> None:
    schema = plan.schema()
    for one in plan.to_rewrite()[part::parts]:
        if not (plan.folder / "parts" / f"{parquet_name(one.name)}.json").exists():
            rewrite(plan.folder / "parts", one, schema)
            note(plan.folder / "parts" / parquet_name(one.name))


def main(argv: list[str] | None = None) -> int:
    """One process's share; a user's error is the last line on stderr, with exit status 2."""
    parser = argparse.ArgumentParser(description="Run a share of `winnow select`.")
    parser.add_argument("folder")
    parser.add_argument("step", choices=("write", "rewrite"))
    parser.add_argument("--part", default="0/1", help="this process's share, as I/N")
    args = parser.parse_args(argv)
    part, parts = map(int, args.part.split("/"))

    def share() -> int:
        plan = Plan.open(Path(args.folder))
        (_write if args.step == "write" else _rewrite)(plan, part, parts)
        return 0

    return as_process(share)


if __name__ == "__main__":
    sys.exit(main())
