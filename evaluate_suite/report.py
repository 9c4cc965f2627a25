"""The report: one HTML file that needs no network, and the same table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from evaluate_suite.bootstrap import Estimate
from evaluate_suite.figures import Curve, learning_curves, score_distribution


if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class SamplerResult:
    """One row of the table.

    Attributes:
        sampler: its name.
        documents: how many it keeps.
        tokens: how many tokens those hold.
        encoder_tokens: encoder positions its model was trained on.
        epochs: repetitions of the selection.
        perplexity: by task.
        scoring_seconds: process-seconds its scores took.
        training_seconds: process-seconds its training took.
    """

    sampler: str
    documents: int
    tokens: int
    encoder_tokens: int
    epochs: float
    perplexity: Mapping[str, Estimate]
    scoring_seconds: float
    training_seconds: float


@dataclass(frozen=True)
class Example:
    """A document to look at."""

    score: float
    id: str
    source: str
    text: str


@dataclass(frozen=True, eq=False)
class ScoreView:
    """A scorer's verdict on the corpus.

    Attributes:
        name: of the scorer.
        unit: of its score.
        meaning: of a high score, in words.
        sampler: which sampler cuts it.
        scores: float32 [N].
        kept: bool [N], what that sampler keeps.
        highest: documents with the highest scores, best first.
        lowest: documents with the lowest scores, lowest first.
    """

    name: str
    unit: str
    meaning: str
    sampler: str
    scores: np.ndarray
    kept: np.ndarray
    highest: Sequence[Example]
    lowest: Sequence[Example]


@dataclass(frozen=True, eq=False)
class Report:
    """All that is shown.

    Attributes:
        corpus: what was read, in words.
        tasks: titles of the held-out splits by task, in order.
        results: one per sampler.
        curves: task -> sampler -> (encoder tokens, perplexity).
        verdicts: task -> sentences.
        views: one per scorer.
        selections: sampler -> bool [N].
        notes: paragraphs on how this was made.
        facts: command, versions, settings: name -> value.
    """

    corpus: str
    tasks: Mapping[str, str]
    results: Sequence[SamplerResult]
    curves: Mapping[str, Mapping[str, Curve]]
    verdicts: Mapping[str, Sequence[str]]
    views: Sequence[ScoreView]
    selections: Mapping[str, np.ndarray]
    notes: Sequence[str]
    facts: Mapping[str, str]


def render(report: Report) -> str:
    """The report as a self-contained HTML page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    samplers = [result.sampler for result in report.results]
    environment = Environment(
        loader=PackageLoader("evaluate_suite"),
        autoescape=True,  # documents hold markup of their own
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    most = max(result.scoring_seconds + result.training_seconds for result in report.results)
    return environment.get_template("report.html.jinja").render(
        report=report,
        samplers=samplers,
        curves=[Markup(learning_curves(report.curves[task], title)) for task, title in report.tasks.items()],
        distributions={
            view.name: Markup(
                score_distribution(view.scores, view.kept, view.name, view.unit, samplers.index(view.sampler))
            )
            for view in report.views
        },
        overlap=overlap(report.selections),
        most_seconds=max(most, 1e-9),
    )


def overlap(selections: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Share of the row's documents that the column keeps too."""
    return {
        row: {column: float((kept & other).sum() / max(kept.sum(), 1)) for column, other in selections.items()}
        for row, kept in selections.items()
    }


def terminal_table(report: Report) -> Table:
    """The table of results for a terminal."""
    from rich.table import Table

    table = Table(title="Same model, same tokens, other documents", title_justify="left")
    table.add_column("sampler", no_wrap=True)
    columns = ["documents", "tokens", "epochs"]
    columns += [f"{title} ppl" for title in report.tasks.values()]
    columns += ["scoring s", "training s"]
    for column in columns:
        table.add_column(column, justify="right")
    for result in report.results:
        perplexities = [result.perplexity[task] for task in report.tasks]
        table.add_row(
            result.sampler,
            f"{result.documents:,}",
            f"{result.encoder_tokens:,}",
            f"{result.epochs:.2f}",
            *[f"{p.value:.1f} [{p.low:.1f}, {p.high:.1f}]" for p in perplexities],
            f"{result.scoring_seconds:.0f}",
            f"{result.training_seconds:.0f}",
        )
    return table
