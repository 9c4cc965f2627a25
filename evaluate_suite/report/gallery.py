"""Every figure that a study and its scores can draw, one after the other: for the page and for files."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from evaluate_suite.report.decision import main_readings
from evaluate_suite.report.figures_corpus import cost, distributions, rank_changes, tau_heat_map
from evaluate_suite.report.figures_runs import (
    colours,
    efficiency,
    groups,
    overview,
    quantity_quality,
    repetitions,
    samplers_at_one_rate,
)
from evaluate_suite.report.figures_schematic import Place, coverage_and_quality, epochs
from evaluate_suite.report.figures_tasks import signal_to_noise
from evaluate_suite.report.outcomes import Outcomes, estimate
from evaluate_suite.report.points import (
    HEADLINES,
    StudyResults,
    finals,
    lower_is_better,
    measures,
    models,
    rates,
    title,
)
from evaluate_suite.report.tables import rank_changes as changes_of_rank
from evaluate_suite.report.tables import rank_pairs
from pipeline_steps.errors import InvalidCut
from pipeline_steps.samplers import FULL, families, label, ordered


if TYPE_CHECKING:
    from matplotlib.figure import Figure


SECTIONS = ("decide", "quality", "efficiency", "ranks", "cost", "scorers")
_ALONE = 4  # scorers whose distributions are a figure each


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
    study: StudyResults,
    outcomes: Outcomes,
    scores: Mapping[str, np.ndarray],
    lower: Collection[str] = (),
    units: Mapping[str, str] | None = None,
    kept: Mapping[str, np.ndarray] | None = None,
    placed: tuple[str, Mapping[str, Place]] | None = None,
) -> Iterator[Named]:
    """Draw all there is to draw.

    Args:
        study: what was measured.
        outcomes: of `evaluate_suite.report.outcomes.outcomes`.
        scores: float32 [N] by scorer; may be empty.
        lower: scorers whose low scores are the good ones.
        units: of the scores, by scorer.
        kept: bool [N], what a scorer's sampler keeps, by scorer.
        placed: the scorer that judges quality, and where each sampler's selection stands by it.
    """
    yield from _decide(study)
    for model in models(study):
        names = ordered(point.sampler for point in finals(study, model) if point.sampler != FULL)
        by_family = {"": names} if names and colours(study) else families(names)
        for family, members in {"": names}.items() if len(rates(study, model)) == 1 else by_family.items():
            yield from _quality(study, outcomes, model, family, members)
        if len(rates(study, model)) > 1 and (figure := epochs(study, model)):
            yield Named(
                "efficiency", model, _slug("epochs", model), f"Epochs of one token budget: {model}", figure, False
            )
        yield from _efficiency(study, outcomes, model, by_family)
    yield from _ranks(study)
    yield from _scorers(study, scores, lower, units or {}, kept or {})
    if placed and placed[1]:
        judged_by, where = placed
        drawn = coverage_and_quality(where, judged_by)
        yield Named("scorers", "", "coverage-and-quality", "Samplers between coverage and quality", drawn, False)


def _scorers(
    study: StudyResults,
    scores: Mapping[str, np.ndarray],
    lower: Collection[str],
    units: Mapping[str, str],
    kept: Mapping[str, np.ndarray],
) -> Iterator[Named]:
    """Draw what scores cost, how alike they are, and how they are distributed; arguments as of `study_figures`."""
    if study.scoring_hours and study.training_hours:
        figure = cost(study.scoring_hours, study.training_hours, colours=colours(study))
        yield Named("cost", "", "cost", "Time against training saved", figure, len(study.training_hours) > 1)
    if len(scores) > 2:
        yield Named("scorers", "", "kendall-tau", "Kendall's tau of every pair", tau_heat_map(scores, lower), True)
    look = lower, units, kept, colours(study)
    if 0 < len(scores) <= _ALONE:
        for name in ordered(scores):
            drawn = distributions({name: scores[name]}, *look)
            yield Named("scorers", "", _slug("scores", name), f"Distribution of scores: {label(name)}", drawn, False)
    elif scores:
        yield Named("scorers", "", "scores", "Distribution of scores", distributions(scores, *look), True)


def _quality(study: StudyResults, outcomes: Outcomes, model: str, family: str, names: list[str]) -> Iterator[Named]:
    """Draw normalised numbers and perplexities in a figure each, and all measures in one that is wide."""
    points = [point for point in finals(study, model) if point.sampler in names]
    there = [m for m in (*HEADLINES, *measures(study, model)) if any(estimate(p, outcomes, m) for p in points)]
    first = [m for m in there if m in HEADLINES or lower_is_better(m)]
    draw = quantity_quality if len(rates(study, model)) > 1 else samplers_at_one_rate
    where = ": ".join(filter(None, (model, family)))
    for measure in first:
        figure = draw(study, outcomes, model, names, [measure], 1)
        slug = _slug("quality", model, family, measure)
        yield Named("quality", where, slug, f"{title(measure)}: {where}", figure, False)
    if len(there) > len(first):
        figure = draw(study, outcomes, model, names, there)
        yield Named("quality", where, _slug("quality", model, family), f"Every measure: {where}", figure, True)


def _efficiency(
    study: StudyResults, outcomes: Outcomes, model: str, by_family: Mapping[str, list[str]]
) -> Iterator[Named]:
    """Draw what was measured at two steps or more."""
    steps = {
        measure: len({p.step for p in study.checkpoints if p.model == model and estimate(p, outcomes, measure)})
        for measure in (*HEADLINES, *measures(study, model))
    }
    every = [name for names in by_family.values() for name in names]
    lines = {"All families": overview(every)} if len(by_family) > 1 else {}
    # Where all samplers fit into one figure, each has its own line, and its colour
    lines |= {f: groups(names) if f else {label(name): [name] for name in names} for f, names in by_family.items()}
    several = len(rates(study, model)) > 1
    for measure in (measure for measure, count in steps.items() if count > 1):
        where = model if len(by_family) == 1 else f"{model}: {title(measure)}"
        about = f"{title(measure)} against tokens: {model}"
        for family, line in lines.items():
            said = ", ".join(filter(None, (about, family, "mean over rates" if several else "")))
            if figure := efficiency(study, outcomes, model, line, measure, family):
                yield Named("efficiency", where, _slug("efficiency", model, family, measure), said, figure, False)
        for family, names in by_family.items() if several else ():
            each = {label(name): [name] for name in names}
            for kind, figure in (
                ("each rate", efficiency(study, outcomes, model, each, measure, each_rate=True)),
                ("repetitions", repetitions(study, outcomes, model, names, measure)),
            ):
                if figure:
                    said = ", ".join(filter(None, (about, family, kind)))
                    yield Named("efficiency", where, _slug(kind, model, family, measure), said, figure, True)


def _decide(study: StudyResults) -> Iterator[Named]:
    """Draw signal and noise where several seeds tell them apart, of two tasks or more."""
    known = [one for one in main_readings(study.decisions) if one.noise.source == "seeds" and 0 < one.snr < np.inf]
    if len({one.task for one in known}) > 1:
        figure = signal_to_noise(known, study.decisions.models)
        yield Named("decide", "", "signal-to-noise", "Signal and noise of every task", figure, False)


def _ranks(study: StudyResults) -> Iterator[Named]:
    for smaller, larger in rank_pairs(study):
        try:
            changes = changes_of_rank(study, smaller, larger)
        except InvalidCut:
            continue
        title = f"Change of rank from {smaller} to {larger}"
        yield Named("ranks", "", _slug("ranks", smaller, larger), title, rank_changes(changes, smaller, larger), False)


def _slug(*words: str) -> str:
    """Return the name of a file."""
    return re.sub(r"[^a-z0-9.]+", "-", " ".join(filter(None, words)).lower()).strip("-")
