"""A dataset while it is written: a local folder that any number of tasks fill, and that may be left at any time.

<work>/plan.json                what was decided before the first row was written
<work>/selection.safetensors    which documents are kept
<work>/rows/000000-00000.*      rows of a group of source files, which one task writes in order
<work>/rows/000000.json         the files of a group, each with its digest, once the group is whole
<work>/parquet/...              the same of the groups that become Parquet of the schema that all files share

The files depend neither on the number of tasks nor on what was killed.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow as pa
from datatrove.utils.logging import logger

from launch.datasets.columns import KEEP, Row, unify
from launch.datasets.parts import LEVEL, SCRATCH_LEVEL, Form, WrittenFile, write_parts
from launch.datasets.settings import DatasetSettings
from pipeline_steps.errors import CorpusError, InvalidCut, StoreDamaged, StoreIncomplete, StoreMismatch, WinnowError
from pipeline_steps.filters.cuts import Cut, FoundCut, select
from pipeline_steps.readers.corpus import CorpusFiles, list_corpus, refuse_changed_files
from pipeline_steps.readers.reading import Reading
from pipeline_steps.scorers.metadata import LabelStore
from pipeline_steps.stores.artefact import refuse_differences
from pipeline_steps.stores.files import read_json, write_json
from pipeline_steps.stores.listed_files import damaged
from pipeline_steps.stores.score_store import ScoreStore


Step = Literal["rows", "parquet"]
GROUP_BYTES = 1 << 26  # of source files times the share that is kept: a file of the dataset


@dataclass(frozen=True)
class Unfinished:
    """A dataset that is being written, as plan.json in its folder describes it.

    Attributes:
        work: the folder.
        settings: of the dataset.
        made_from: what decides its content.
        corpus: the folder of the corpus's files.
        kind: of those files, as `CorpusFiles` names it.
        groups: names of the files that are written together, in the order they are read.
        scores: the score store.
        fingerprint: digest of the found cut: of its scores, labels and exclusions.
        documents: how many the cut keeps, as rows.
    """

    work: Path
    settings: DatasetSettings
    made_from: dict[str, Any]
    corpus: str
    kind: str
    groups: list[list[str]]
    scores: str
    fingerprint: str
    documents: int

    @classmethod
    def open(cls, work: Path) -> Unfinished:
        """Read the plan in a folder.

        Raises:
            StoreIncomplete: there is none.
            StoreDamaged: it is not what was written.
        """
        try:
            made = read_json(f"{work}/plan.json")
        except FileNotFoundError:
            raise StoreIncomplete(f"no dataset was begun in {work}: give the same command again") from None
        settings = made.pop("settings")
        settings |= {"cut": Cut(**settings["cut"]), "reading": Reading(**settings.get("reading", {}))}
        return cls(work, DatasetSettings(**settings), **made)

    @classmethod
    @contextmanager
    def opened(cls, work: Path) -> Iterator[Unfinished]:
        """Yield what `open` returns; if the input is at fault, remove the plan: it will be mended, or settings change.

        Raises what `open` raises.
        """
        dataset = cls.open(work)
        try:
            yield dataset
        except StoreIncomplete:
            raise
        except WinnowError:
            (work / "plan.json").unlink(missing_ok=True)
            raise

    def save(self) -> None:
        """Write the plan."""
        write_json(f"{self.work}/plan.json", {key: value for key, value in asdict(self).items() if key != "work"})

    def write(self, step: Step, group: int, rows: Iterable[Row], schema: pa.Schema | None) -> None:
        """Write the files of a group, of a schema or as the rows have it, and then their record."""
        is_parquet = self.settings.format == "parquet"
        form = Form(
            schema=schema,
            is_parquet=is_parquet,
            level=SCRATCH_LEVEL if is_parquet else LEVEL,
            text_key=self.settings.reading.text_key,
            score_column=self.settings.score_column,
        )
        parts = write_parts(rows, self.work / step, f"{group:06d}", form)
        write_json(str(self._record(step, group)), {"parts": [part.to_json() for part in parts]})

    def left(self, step: Step) -> list[int]:
        """Return the groups that a step has to write and has not written; raises what `to_rewrite` raises."""
        groups = range(len(self.groups)) if step == "rows" else self.to_rewrite
        return [group for group in groups if not self._record(step, group).exists()]

    @cached_property
    def rows(self) -> list[dict[Path, WrittenFile]]:
        """The files of rows of each group.

        Raises:
            StoreIncomplete: a group is not written yet.
            StoreMismatch: the corpus does not hold what the cut keeps.
        """
        rows = [self._parts("rows", group) for group in range(len(self.groups))]
        found = sum(part.rows for parts in rows for part in parts.values())
        if found != self.documents:
            raise StoreMismatch(
                f"{self.settings.corpus} holds {found:,} of the {self.documents:,} documents that the cut of "
                f"{self.scores} keeps: give the corpus, and the --limit, of these scores"
            )
        return rows

    @cached_property
    def columns(self) -> tuple[pa.Schema, dict[str, str]]:
        """The schema of all files, added columns of their types; and why columns have no one type, by name."""
        parts = [part for parts in self.rows for part in parts.values()]
        schema, mixed = unify([(part.first, part.schema) for part in parts])
        for part in reversed(parts):
            mixed |= part.mixed
        for column, kind in self.settings.added.items():
            schema = schema.set(schema.get_field_index(column), pa.field(column, pa.type_for_alias(kind)))
        return schema, mixed

    @cached_property
    def to_rewrite(self) -> list[int]:
        """The groups whose rows are not Parquet of the common schema. Raises CorpusError if there is none."""
        if self.settings.format != "parquet":
            return []
        schema, mixed = self.columns
        for why in mixed.values():
            raise CorpusError(f"{why}: {KEEP}")
        return [
            group
            for group, parts in enumerate(self.rows)
            if not all(path.suffix == ".parquet" and schema.equals(part.schema) for path, part in parts.items())
        ]

    @property
    def files(self) -> dict[Path, WrittenFile]:
        """The files of the dataset, in order; raises what `rows` and `to_rewrite` raise."""
        rewritten = {group: self._parts("parquet", group) for group in self.to_rewrite}
        groups = [rewritten.get(group, parts) for group, parts in enumerate(self.rows)]
        return {path: part for parts in groups for path, part in parts.items()}

    def drop_damaged(self) -> None:
        """Forget the groups whose files are not what was written."""
        for record in sorted(one for step in get_args(Step) for one in (self.work / step).glob("*.json")):
            try:
                parts = read_json(str(record))["parts"]
                lost = damaged(record.parent, {part["name"]: part["entry"] for part in parts})
            except StoreDamaged:
                lost = [record.name]
            if lost:
                logger.warning(f"{record.with_name(lost[0])} is damaged, or not there (written again now)")
                record.unlink()

    def _record(self, step: Step, group: int) -> Path:
        return self.work / step / f"{group:06d}.json"

    def _parts(self, step: Step, group: int) -> dict[Path, WrittenFile]:
        record = self._record(step, group)
        try:
            parts = map(WrittenFile.from_json, read_json(str(record))["parts"])
        except FileNotFoundError:
            raise StoreIncomplete(f"{record} is not there yet: give the same command again") from None
        return {record.with_name(part.name): part for part in parts}


def check_begun(settings: DatasetSettings, work: Path, files: CorpusFiles | None = None) -> Unfinished | None:
    """Return the dataset that was begun in a folder; what stands there without a plan is removed.

    The files are those of the corpus, if they have been listed already.

    Raises:
        StoreMismatch: other settings were begun there, or the corpus has changed since.
    """
    try:
        begun = Unfinished.open(work)
    except (StoreIncomplete, StoreDamaged):
        shutil.rmtree(work, ignore_errors=True)
        return None
    made_from = settings.made_from(files or list_corpus(settings.corpus, settings.reading.glob))
    refuse_changed_files(begun.made_from, made_from, str(work))
    refuse_differences(begun.made_from, made_from, f"{work}, which is unfinished,")
    return begun


def begin(settings: DatasetSettings, scores: str, work: Path) -> None:
    """Find the cut and plan which files are written together, or go on with a dataset of the same settings.

    The folder is a local one, for this dataset alone.

    Raises:
        InvalidCut: the cut keeps nothing, or asks for more than there is.
        StoreMismatch: another dataset was begun in `work`, or the corpus or the scores have changed since.
    """
    files = list_corpus(settings.corpus, settings.reading.glob)
    begun, store = check_begun(settings, work, files), ScoreStore.open(scores)
    labels = LabelStore.open(settings.labels) if settings.labels else None
    chosen = select(store, settings.cut, labels, settings.exclude)
    if not chosen.documents:
        raise InvalidCut(f"this cut keeps none of {chosen.counts.size:,} documents: give a larger amount")
    rows = chosen.copies if settings.repeat else chosen.documents
    share = rows / chosen.counts.size
    plan = Unfinished(
        work=work,
        settings=settings,
        made_from=settings.made_from(files),
        corpus=files.folder,
        kind=files.kind,
        groups=list(_groups(files, share)) if settings.limit < 0 else [list(files.sizes)],
        scores=scores,
        fingerprint=FoundCut(store, settings.cut, labels, settings.exclude).digest,
        documents=rows,
    )
    if begun is not None and replace(begun, settings=settings) != plan:
        raise StoreMismatch(
            f"{settings.corpus}, {scores}, the labels or what is excluded has changed since {work} was begun: delete "
            "that folder"
        )
    chosen.save(f"{work}/selection.safetensors")
    plan.save()
    plan.drop_damaged()


def _groups(files: CorpusFiles, share: float) -> Iterator[list[str]]:
    """Yield runs of files that make a file of the dataset, or several."""
    group, size = list[str](), 0.0
    for name, own in files.sizes.items():
        group.append(name)
        size += own * share or GROUP_BYTES
        if size >= GROUP_BYTES:
            yield group
            group, size = [], 0.0
    if group:
        yield group
