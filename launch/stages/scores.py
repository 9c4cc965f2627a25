"""Score stores, the models that score, and what is selected by scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from launch.stages.base import PipelineStage, Stage, open_sealed, open_store, place_of
from launch.stages.corpora import Text
from launch.stages.foundations import Foundation
from pipeline_steps.errors import ModelError
from pipeline_steps.samplers import EMBEDDED, find


if TYPE_CHECKING:
    from datatrove.pipeline.base import PipelineStep

    from launch.stages.runs import Training


@dataclass(frozen=True, eq=False, kw_only=True)
class Proxy(Stage):
    """A model of random weights that takes the place of a published one."""

    kind, names = "proxies", "proxies/{self.called}"
    called: str
    tokenizer: str
    config: Mapping[str, Any]

    @override
    def run_task(self, output: str, task: int) -> None:
        from launch.proxies import build_proxy

        build_proxy(self.folder(output), self.tokenizer, self.config)

    @override
    def check_output(self, output: str, whole: bool) -> None:
        from launch.proxies import PROXY_FILES

        open_sealed(self.folder(output), PROXY_FILES, whole)


@dataclass(frozen=True)
class ScoringCheckpoint:
    """A checkpoint of a training of this study, which scores."""

    training: Training
    step: int

    def folder(self, output: str) -> str:
        """Return the checkpoint's folder. Raises ModelError if the training has not kept it."""
        from train.run_directory import checkpoint_folder

        run = Path(self.training.folder(output))
        folder = checkpoint_folder(run, self.step)
        if run.exists() and not folder.exists():
            raise ModelError(
                f"{run} has no checkpoint of step {self.step}, which scores perplexity: it was trained before this "
                "sampler was added; choose a step that it has kept, or delete the folder to train it again"
            )
        return str(folder)


@dataclass(frozen=True, eq=False, kw_only=True)
class Scores(PipelineStage):
    """A score store of the corpus.

    Attributes:
        store: the store's name.
        text: the corpus.
        row: the row of the table of samplers whose scorer is run.
        model: what the scorer asks; None for scorers that ask no model.
        stands_on: what the scorer takes beside the documents.
        options: further arguments of the scorer.
    """

    kind, names, groups = "scores", "scores/{self.store}", "scores/{self.store}"
    store: str
    text: Text
    row: str
    model: str | Proxy | ScoringCheckpoint | None = None
    stands_on: Foundation | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    @override
    def models(self) -> tuple[str, ...]:
        return (self.model,) if isinstance(self.model, str) and self.model != EMBEDDED else ()

    @property
    @override
    def imports(self) -> tuple[str, ...]:
        return ("pipeline_steps.engines.t5",) if self.model is not None else ()

    @override
    def pipeline(self, output: str) -> list[PipelineStep]:
        folders = self.stands_on.folders(output) if self.stands_on else []
        model = {}
        if self.model is not None:
            model = {"model": place_of(self.model) if isinstance(self.model, str) else self.model.folder(output)}
        scorer: Any = find(self.row).scorer_class()
        return [*self.text.reader(output), scorer(self.folder(output), *folders, **model, **self.options)]


@dataclass(frozen=True, eq=False, kw_only=True)
class GivenScores(Stage):
    """A finished score store from outside the study, which is used as it is.

    Attributes:
        store: its name in the study.
        path: its folder.
        row: the row of the table of samplers whose scores it must hold; "" for any.
    """

    kind, names = "scores", "scores/{self.store}"
    store: str
    path: str
    row: str = ""

    @override
    def check_start(self, output: str) -> None:
        from launch.datasets.settings import check_scores

        self.check_output(output, whole=False)
        if self.row:
            check_scores(self.path, self.row)

    @override
    def folder(self, output: str) -> str:
        return self.path

    @override
    def run_task(self, output: str, task: int) -> None:
        self.check_output(output, whole=False)

    @override
    def check_output(self, output: str, whole: bool) -> None:
        open_store(self.path, whole)


def check_exclusions(exclude: Sequence[str]) -> None:
    """Open the score stores from outside the study that exclude documents. Raises WinnowError if one is not whole."""
    from pipeline_steps.filters.cut_settings import exclusions

    for one in exclusions(exclude):
        open_store(one.scores, whole=False)


@dataclass(frozen=True)
class Contaminated:
    """The documents that hold questions of evaluation sets, which no selection of a study keeps.

    Attributes:
        scores: what they share with the sets.
        most: the largest score that stays.
    """

    scores: Scores | GivenScores
    most: float = 0.0

    def exclusion(self, output: str) -> str:
        """Return what a cut is told to exclude."""
        return f"{self.scores.folder(output)}:{self.most!r}"


@dataclass(frozen=True, eq=False, kw_only=True)
class Selected(PipelineStage):
    """A file of counts: the times that a sampler keeps each document at a rate."""

    kind, names = "selections", "selections/{self.sampler}/{self.rate:g}"
    scores: Scores | GivenScores
    sampler: str
    mode: str
    rate: float
    seed: int = 0
    shaping: Mapping[str, Any] = field(default_factory=dict)  # further arguments of Cut
    labels: str = ""
    exclude: tuple[str, ...] = ()  # score stores from outside the study
    contaminated: Contaminated | None = None

    @override
    def check_start(self, output: str) -> None:
        check_exclusions(self.exclude)

    def file(self, output: str) -> str:
        """Return the file of the selection."""
        return f"{self.folder(output)}.safetensors"

    @override
    def pipeline(self, output: str) -> list[PipelineStep]:
        from pipeline_steps import Cut, ScoreSelector

        cut = Cut(self.mode, rate=self.rate, seed=self.seed, **self.shaping)  # type: ignore[arg-type]
        exclude = [*self.exclude, *([self.contaminated.exclusion(output)] if self.contaminated else [])]
        return [ScoreSelector(self.scores.folder(output), cut, self.labels or None, self.file(output), exclude)]

    @override
    def check_output(self, output: str, whole: bool) -> None:
        from pipeline_steps import Selection

        Selection.load(self.file(output))


def with_foundations(scores: Scores) -> list[Stage]:
    """Return a store and what only scorers stand on: not the corpus, nor a training whose checkpoint scores."""
    found: list[Stage] = [scores]
    for stage in found:  # grows
        found += [one for one in stage.inputs if one not in found and one.kind != "corpus" and not one.launched]
    return found
