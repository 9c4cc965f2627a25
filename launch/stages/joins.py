"""Published annotations as a score store: what documents are matched by, and the join."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from typing_extensions import override

from launch.stages.base import PipelineStage, free, open_store
from launch.stages.corpora import Text
from pipeline_steps.stores.files import read_json


if TYPE_CHECKING:
    from datatrove.pipeline.base import PipelineStep

    from pipeline_steps.joins.keys import On
    from pipeline_steps.joins.scores import Duplicates


@dataclass(frozen=True, eq=False, kw_only=True)
class JoinKeysStage(PipelineStage):
    """The id, or a hash of the text, of every document."""

    kind, names, home = "join", "join/keys", "join"
    text: Text
    on: On = "id"

    @override
    def pipeline(self, output: str) -> list[PipelineStep]:
        from pipeline_steps import JoinKeys

        return [*self.text.reader(output), JoinKeys(self.folder(output), self.on)]

    @override
    def check_output(self, output: str, whole: bool) -> None:
        from pipeline_steps.joins.keys import open_keys, verify_keys

        keys = open_keys(self.folder(output))
        verify_keys(keys) if whole else keys.check_complete()


@dataclass(frozen=True, eq=False, kw_only=True)
class Joined(PipelineStage):
    """A score store of annotations, in the study's output itself; see `pipeline_steps.JoinScores`."""

    kind, names, home = "scores", "scores", "."
    keys: JoinKeysStage
    annotations: str
    column: str
    key_column: str | None = None
    labels: Mapping[str, float] = field(default_factory=dict)
    default: float | None = None
    duplicates: Duplicates = "error"
    lower_is_better: bool = False
    memory: str = free("1.5GB")

    @override
    def check_start(self, output: str) -> None:
        from pipeline_steps.engines.models import require
        from pipeline_steps.joins.annotations import Annotations

        require("duckdb", "join")
        self.pipeline(output)  # which refuses a score or an amount of memory that is none
        on = self.keys.on
        Annotations.open(self.annotations, on, self.key_column or on, self.column, self.labels)

    @override
    def pipeline(self, output: str) -> list[PipelineStep]:
        from pipeline_steps import JoinScores

        step = JoinScores(
            self.folder(output),
            self.keys.folder(output),
            self.annotations,
            self.column,
            key_column=self.key_column,
            labels=self.labels,
            default=self.default,
            duplicates=self.duplicates,
            lower_is_better=self.lower_is_better,
            memory=self.memory,
        )
        return [step]

    @override
    def check_output(self, output: str, whole: bool) -> None:
        from pipeline_steps.joins.scores import COUNTS

        open_store(self.folder(output), whole)
        read_json(f"{self.keys.folder(output)}/{COUNTS}")  # what the command shows
