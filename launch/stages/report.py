"""The report of a study."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import override

from launch.stages.base import Stage, free
from launch.stages.corpora import Files, Split, Text
from launch.stages.foundations import Assignments
from launch.stages.measurements import Measurement
from launch.stages.scores import GivenScores, Scores, Selected, with_foundations
from pipeline_steps.errors import StoreIncomplete
from pipeline_steps.readers.reading import USUAL
from pipeline_steps.samplers import EMBEDDED


# Our presets of a million body weights or fewer
_TINY = ("t5-tiny", "t5-v1_1-tiny", "llama-tiny", "llama-nano", "llama-micro")
_READ_AGAIN = 1_000_000  # documents of a corpus that is read once more, to show some: minutes


@dataclass(frozen=True)
class Reported:
    """What a report shows of a sampler: its scores, and the selection at the smallest rate."""

    sampler: str
    scores: Scores | GivenScores
    selection: Selected | None


@dataclass(frozen=True, eq=False, kw_only=True)
class Report(Stage):
    """Tables, figures and documents to read, in one file.

    Attributes:
        measured: every measurement.
        samplers: what is known of each sampler.
        text: the corpus, to show documents of.
        contamination: what the documents share with evaluation sets; None if that was not measured.
        study: the study file, as the command names it.
    """

    kind = "report"
    measured: tuple[Measurement, ...]
    samplers: tuple[Reported, ...]
    text: Text
    contamination: Scores | GivenScores | None = None
    study: str = free("")

    def settings(self, output: str) -> Any:
        """Return what the report is made of."""
        from evaluate_suite.report import ReportSettings
        from launch.records import seconds_of

        scored = {one.sampler: one.scores for one in self.samplers if not _by_chance(one.scores)}
        return ReportSettings(
            runs=[output],
            output=os.path.join(output, "report.html"),
            scores={name: scores.folder(output) for name, scores in scored.items()},
            selections={one.sampler: one.selection.file(output) for one in self.samplers if one.selection},
            contamination=self.contamination.folder(output) if self.contamination else None,
            corpus=self._shown(output, [scores.folder(output) for scores in scored.values()]),
            reading=self.text.reading if isinstance(self.text, Files) else USUAL,
            partial=True,
            scoring_hours={
                name: sum(seconds_of(output, stage) for stage in with_foundations(scores)) / 3600
                for name, scores in scored.items()
                if isinstance(scores, Scores)
            },
            clusters=self._clusters(output),
            command=f"winnow run {self.study}",
            notes=list(self._notes()),
            facts={"corpus": self._corpus(output)},
        )

    def _clusters(self, output: str) -> str | None:
        """Return the folder of the clusters that the first sampler with any stands on."""
        stores = [one.scores for one in self.samplers if isinstance(one.scores, Scores)]
        found = (stage for scores in stores for stage in with_foundations(scores) if isinstance(stage, Assignments))
        return next((stage.folder(output) for stage in found), None)

    def _notes(self) -> Iterator[str]:
        """Yield paragraphs on what a reader of the numbers has to know."""
        if isinstance(self.text, Split):
            yield (
                "Held-out text. In-distribution is a random 5 % of the documents; high quality (HQ) are those of "
                "another 10 % that pass a fixed rule over words, punctuation and layout "
                "(pipeline_steps/readers/splits.py), which knows nothing of any scorer. Both are drawn by a hash of a "
                "document's first 20 words, so copies that open alike are not trained on. Other near-copies may be."
            )
        trainings = [one.training for one in self.measured]
        if tiny := {one.run.model for one in trainings if one.arguments["preset"] in _TINY}:
            yield (
                f"The models are tiny ({', '.join(sorted(tiny))}) and the training short: which sampler wins here "
                "says nothing about a large model on a crawl."
            )
        if any(isinstance(one.scores, Scores) and one.scores.model == EMBEDDED for one in self.samplers):
            yield (
                "The embedded Ask-LLM proxy was trained to prefer long, informative prose over damaged prose, "
                "advertising, chat and the furniture of pages, partly on documentation like that of the embedded "
                "corpus. What it calls good and what the rule for high quality calls good are related by that. It "
                "knows neither facts nor harm; its model card says what it cannot do."
            )

    def _corpus(self, output: str) -> str:
        from train.token_store import TokenStore

        tokens = TokenStore.open(self.measured[0].training.tokens.folder(output))
        source = self.text if isinstance(self.text, Files) else self.text.corpus.deal.source
        path = source.path if source else "the documentation of the installed Python packages"
        return f"{tokens.documents:,} documents ({tokens.tokens:,} tokens) of {path}"

    def _shown(self, output: str, stores: list[str]) -> str | None:
        """Return the corpus if its documents can be shown: scores of the first documents only are not the corpus's."""
        from pipeline_steps import ScoreStore

        whole = isinstance(self.text, Split) or self.text.limit < 0
        if not stores or not whole or len(ScoreStore.open(stores[0]).scores) > _READ_AGAIN:
            return None
        return self.text.path if isinstance(self.text, Files) else self.text.folder(output)

    @property
    @override
    def imports(self) -> tuple[str, ...]:
        return ("evaluate_suite.report.write",)

    @override
    def run_task(self, output: str, task: int) -> None:
        from evaluate_suite.report import write_report

        for line in write_report(self.settings(output)):
            sys.stdout.write(f"{line}\n")

    @override
    def check_output(self, output: str, whole: bool) -> None:
        report = Path(output, "report.html")
        if not report.is_file() or not report.stat().st_size:
            raise StoreIncomplete(f"{report} is not there")


def _by_chance(scores: Scores | GivenScores) -> bool:
    return isinstance(scores, Scores) and scores.row == "random"
