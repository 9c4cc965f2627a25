"""Every figure that a study and its scores can draw, one after the other: for the page and for files."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from evaluate_suite.figures.cost import cost
from evaluate_suite.figures.efficiency import efficiency, efficiency_by_rate, groups, overview, repetitions
from evaluate_suite.figures.quality import Outcomes, estimate, measure_title, quantity_quality
from evaluate_suite.figures.scorers import distributions, rank_changes, tau_heat_map
from evaluate_suite.study.outcomes import HEADLINES
from evaluate_suite.study.points import Study, finals, lower_is_better, measures, models
from evaluate_suite.study.tables import rank_changes as changes_of_rank
from pipeline_steps.errors import InvalidCut
from pipeline_steps.samplers import FULL, families


if TYPE_CHECKING:
    from matplotlib.figure import Figure


SECTIONS = ("quality", "efficiency", "ranks", "cost", "scorers")


@dataclass(frozen=True, eq=False)
class Named:
    """A figure and where it belongs.

    Attributes:
        section: of the page, one of `SECTIONS`.
        group: heading in the section.
        name: of its files, without ending.
        title: in words.
        figure: drawn.
        wide: has several panels: on the page it is folded away.
    """

    section: str
    group: str
    name: str
    title: str
    figure: Figure
    wide: bool


def study_figures(
    study: Study,
    outcomes: Outcomes,
    scores: Mapping[str, np.ndarray],
    lower: Collection[str] = (),
    units: Mapping[str, str] | None = None,
) -> Iterator[Named]:
    """All there is to draw.

    Args:
        study: what was measured.
        outcomes: of `evaluate_suite.study.outcomes.outcomes`.
        scores: float32 [N] by scorer; may be empty.
        lower: scorers whose low scores are the good ones.
        units: of the scores, by scorer.
    """
    for model in models(study):
        samplers = {point.sampler for point in finals(study, model)} - {FULL}
        for family, names in families(samplers).items():
            yield from _quality(study, outcomes, model, family, names)
        if samplers:
            yield from _efficiency(study, outcomes, model, families(samplers))
    yield from _ranks(study)
    if study.scoring_hours and study.training_hours:
        figure = cost(study.scoring_hours, study.training_hours)
        yield Named(
            "cost", "", "cost", "Accelerator hours against training saved", figure, len(study.training_hours) > 1
        )
    if len(scores) > 1:
        yield Named("scorers", "", "kendall-tau", "Kendall's tau of every pair", tau_heat_map(scores, lower), True)
    if scores:
        drawn = distributions(scores, lower, units)
        yield Named("scorers", "", "scores", "Distribution of scores", drawn, len(scores) > 1)


def _quality(study: Study, outcomes: Outcomes, model: str, family: str, names: list[str]) -> Iterator[Named]:
    """Normalised numbers and perplexities a figure each; all measures in one that is wide."""
    points = [point for point in finals(study, model) if point.sampler in names]
    there = [m for m in (*HEADLINES, *measures(study, model)) if any(estimate(p, outcomes, m) for p in points)]
    first = [m for m in there if m in HEADLINES or lower_is_better(m)]
    for measure in first:
        title = f"{measure_title(measure)}: {model}, {family}"
        figure = quantity_quality(study, outcomes, model, names, [measure], 1)
        yield Named("quality", f"{model}: {family}", _slug("quality", model, family, measure), title, figure, False)
    if len(there) > len(first):
        title = f"Every measure: {model}, {family}"
        figure = quantity_quality(study, outcomes, model, names, there)
        yield Named("quality", f"{model}: {family}", _slug("quality", model, family), title, figure, True)


def _efficiency(study: Study, outcomes: Outcomes, model: str, by_family: Mapping[str, list[str]]) -> Iterator[Named]:
    """Of what was measured at two steps or more."""
    steps = {
        measure: len({p.step for p in study.checkpoints if p.model == model and estimate(p, outcomes, measure)})
        for measure in (*HEADLINES, *measures(study, model))
    }
    curves = [measure for measure, count in steps.items() if count > 1]
    every = [name for names in by_family.values() for name in names]
    lines = {"all families": overview(every)} if len(by_family) > 1 else {}
    lines |= {family: groups(names) for family, names in by_family.items()}
    for measure in curves:
        for family, line in lines.items():
            figure = efficiency(study, outcomes, model, line, [measure])
            title = f"{measure_title(measure)} against tokens: {model}, {family}, mean over rates"
            slug = _slug("efficiency", model, family, measure)
            yield Named("efficiency", f"{model}: {measure_title(measure)}", slug, title, figure, False)
        for family, names in by_family.items():
            for kind, draw in (("each rate", efficiency_by_rate), ("repetitions", repetitions)):
                if drawn := draw(study, outcomes, model, names, measure):
                    title = f"{measure_title(measure)} against tokens: {model}, {family}, {kind}"
                    slug = _slug(kind, model, family, measure)
                    yield Named("efficiency", f"{model}: {measure_title(measure)}", slug, title, drawn, True)


def _ranks(study: Study) -> Iterator[Named]:
    trained = [model for model in models(study) if any(p.sampler != FULL for p in finals(study, model))]
    for smaller, larger in zip(trained, trained[1:], strict=False):
        try:
            changes = changes_of_rank(study, smaller, larger)
        except InvalidCut:
            continue
        title = f"Change of rank from {smaller} to {larger}"
        yield Named("ranks", "", _slug("ranks", smaller, larger), title, rank_changes(changes, smaller, larger), False)


def _slug(*words: str) -> str:
    """A file name."""
    return re.sub(r"[^a-z0-9.]+", "-", " ".join(words).lower()).strip("-")
