"""The chosen documents of a corpus as a dataset, in four stages: the cut, rows by many tasks, Parquet, publication."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from launch.stages.base import Stage
from launch.stages.corpora import Files
from launch.stages.scores import Contaminated, GivenScores, Scores, check_exclusions
from pipeline_steps.errors import StoreDamaged, StoreIncomplete
from pipeline_steps.stores.artefact import json_types
from pipeline_steps.stores.files import digest, read_json, write_json


if TYPE_CHECKING:
    from launch.datasets.settings import DatasetSettings
    from launch.datasets.unfinished import Step
    from launch.study_file import Study
    from launch.study_samplers import StudySampler
    from launch.study_sections import AskedDataset


@dataclass(frozen=True, eq=False, kw_only=True)
class DatasetStage(Stage):
    """A stage that writes a dataset.

    Attributes:
        called: the dataset's name in the study.
        settings: what decides the dataset.
    """

    kind, groups = "datasets", "datasets/{self.called}"
    names = "datasets/{self.called}/{self.step}"
    step: ClassVar[str]
    called: str
    settings: DatasetSettings

    def work(self, output: str) -> Path:
        """Return the folder of what is unfinished."""
        return Path(output, "datasets", self.called)

    def receipt(self, output: str) -> Path:
        """Return the file that says that the dataset was published; its unfinished files are gone then."""
        return Path(output, "datasets", f"{self.called}.json")

    def is_published(self, output: str) -> bool:
        """Return whether the receipt is that of this dataset."""
        with suppress(FileNotFoundError, StoreDamaged):
            return bool(read_json(str(self.receipt(output)))["settings"] == self.settings.made())
        return False

    def left(self, output: str) -> Any:
        """Return what is left to be done, nothing if the step is done. Raises StoreIncomplete if it was not begun."""
        raise NotImplementedError

    @override
    def check_output(self, output: str, whole: bool) -> None:
        if self.is_published(output):
            return
        if not self.work(output).exists():
            raise StoreIncomplete("its files became the dataset, which is no longer whole")
        if self.left(output):
            raise StoreIncomplete(f"{self.work(output)} has lost files: they are written again")


@dataclass(frozen=True, eq=False, kw_only=True)
class DatasetCut(DatasetStage):
    """The cut of the scores, and the plan of the dataset's files."""

    step = "cut"
    scores: Scores | GivenScores
    text: Files
    contaminated: Contaminated | None = None  # among what the settings exclude

    @override
    def check_start(self, output: str) -> None:
        own = self.contaminated and self.contaminated.exclusion(output)
        check_exclusions([one for one in self.settings.exclude if one != own])

    @override
    def run_task(self, output: str, task: int) -> None:
        from launch.datasets.unfinished import begin

        begin(self.settings, self.scores.folder(output), self.work(output))

    @override
    def left(self, output: str) -> Any:
        from launch.datasets.unfinished import Unfinished

        Unfinished.open(self.work(output)).drop_damaged()
        return None


@dataclass(frozen=True, eq=False, kw_only=True)
class DatasetRows(DatasetStage):
    """The chosen rows, in files."""

    step: ClassVar[Step] = "rows"
    before: DatasetCut | DatasetRows

    @property
    def text(self) -> Files:
        """Return the corpus."""
        return self.before.text

    @override
    def run_task(self, output: str, task: int) -> None:
        from launch.datasets.rows import write_files

        write_files(self.work(output), self.step, task, self.tasks, self.text.bad_rows(output))

    @override
    def left(self, output: str) -> Any:
        from launch.datasets.rows import groups_left

        return groups_left(self.work(output), self.step)


class DatasetParquet(DatasetRows):
    """The chosen rows as Parquet of the schema that all files share."""

    step = "parquet"


@dataclass(frozen=True, eq=False, kw_only=True)
class Dataset(DatasetStage):
    """The dataset with its card, where it belongs."""

    names = DatasetStage.groups
    parquet: DatasetParquet

    def published(self) -> dict[str, Any] | None:
        """Return the record of the dataset if it is whole where it belongs. Raises StoreMismatch if another is."""
        from launch.datasets.publish import is_published

        return is_published(self.settings, lambda _: None)

    def record(self, output: str) -> dict[str, Any]:
        """Return how many documents and tokens there were before and after."""
        return dict(read_json(str(self.receipt(output))))

    @override
    def check_start(self, output: str) -> None:
        from launch.datasets.unfinished import check_begun
        from pipeline_steps.scorers.metadata import LabelStore

        self.published()
        if self.settings.labels is not None:
            LabelStore.open(self.settings.labels)
        check_begun(self.settings, self.work(output))

    @override
    def run_task(self, output: str, task: int) -> None:
        from launch.datasets.publish import publish

        self._receive(output, self.published() or publish(self.work(output)))
        shutil.rmtree(self.work(output), ignore_errors=True)

    def _receive(self, output: str, record: Mapping[str, Any]) -> None:
        counted = {name: record[name] for name in ("documents", "tokens", "copies") if name in record}
        write_json(str(self.receipt(output)), {"settings": self.settings.made(), **counted})

    @override
    def check_output(self, output: str, whole: bool) -> None:
        from launch.datasets.publish import is_published

        said: list[str] = []
        record = is_published(self.settings, said.append)
        if record is None:
            self.receipt(output).unlink(missing_ok=True)  # so that the stages before write their files again
            raise StoreIncomplete("".join(said) or f"{self.settings.output} is not there")
        if not self.is_published(output):  # the receipt alone was lost: nothing has to be written again
            self._receive(output, record)


def _under(sampler: StudySampler) -> dict[str, Any]:
    """Return the options of what the sampler's scorer stands on, where there are any."""
    return {"foundations": dict(sampler.foundations)} if sampler.foundations else {}


@dataclass(frozen=True)
class DatasetBefore:
    """What a dataset is made from: scores of a text, and what the study never keeps."""

    scores: Scores | GivenScores
    text: Files
    contaminated: Contaminated | None = None


def dataset_of(study: Study, asked: AskedDataset, sampler: StudySampler, mode: str, before: DatasetBefore) -> Dataset:
    """Return the last stage of a dataset that a study asks for, of a sampler's scores of a text.

    The mode is that of the cut unless the study says otherwise.
    """
    from launch.datasets.settings import DatasetSettings, usual_column
    from pipeline_steps.filters.cuts import Cut

    embeds = sampler.stands_on in ("density", "clusters", "similarities") and not sampler.scores
    shaping = asked.shaping() or sampler.shaping
    text, contaminated = before.text, before.contaminated
    exclude = [*(asked.exclude or sampler.exclude)]
    exclude += [contaminated.exclusion(study.output)] if contaminated else []
    targeted = sampler.stands_on in ("dsir", "quality-classifier") and not sampler.scores
    settings = DatasetSettings(
        corpus=text.path,
        cut=Cut(asked.mode or ("top" if "copies" in shaping else mode), **asked.amount, **shaping),  # type: ignore[arg-type]
        output=asked.output,
        limit=text.limit,
        sampler=None if sampler.scores else sampler.row,
        model=None if sampler.scores else sampler.model or None,
        options={} if sampler.scores else json_types(dict(sampler.options) | _under(sampler)),
        embedder=study.embedder if embeds else None,
        target=study.target if targeted else None,
        scores=sampler.scores or None,
        format=asked.format,
        score_column=asked.score_column or usual_column(sampler.row, sampler.scores or None),
        private=asked.private,
        reading=text.reading,
        labels=asked.labels or (sampler.labels or None if shaping == sampler.shaping else None),
        repeat=asked.repeat,
        exclude=exclude,
    )
    called = f"{sampler.name}-{digest(asked.output.rstrip('/').encode())[:8]}"
    of: dict[str, Any] = {"called": called, "settings": settings}
    tasks = study.engine.tasks
    first = DatasetCut(scores=before.scores, text=text, contaminated=contaminated, **of)
    rows = DatasetRows(before=first, tasks=tasks, **of)
    return Dataset(parquet=DatasetParquet(before=rows, tasks=tasks, **of), **of)
