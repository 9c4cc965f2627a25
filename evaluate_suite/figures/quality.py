"""Quantity against quality: a metric of the last checkpoint against the share of documents kept (Fig. 4, 10 - 16)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from evaluate_suite.figures.style import full_line, legend, panels, say, series
from evaluate_suite.study.outcomes import HEADLINES, Outcome, full_value, headline
from evaluate_suite.study.points import Point, Study, finals, lower_is_better, references, title
from pipeline_steps.samplers import FULL, label


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Outcomes = Mapping[tuple[str, str, float, int], Outcome]
_NARROW = 21  # characters of a legend's entry, of which one panel is wide enough for two
_DODGE = 0.8  # percentage points between samplers, so that error bars of the same rate stand side by side


def quantity_quality(
    study: Study,
    outcomes: Outcomes,
    model: str,
    samplers: Sequence[str],
    measures: Sequence[str],
    columns: int = 3,
) -> Figure:
    """A panel per measure, a line per sampler with 95 % intervals, training on everything as a horizontal line.

    Args:
        study: what was measured.
        outcomes: of `evaluate_suite.study.outcomes.outcomes`.
        model: whose runs.
        samplers: a family of them; more than seven cannot be told apart.
        measures: suites, perplexities, or keys of `HEADLINES`.
        columns: of panels.
    """
    figure, axes = panels(len(measures), columns)
    points = finals(study, model)
    for one, measure in zip(axes, measures, strict=True):
        for number, sampler in enumerate(samplers):
            mine = sorted((p for p in points if p.sampler == sampler), key=lambda point: point.rate)
            _line(one, [(p.rate, estimate(p, outcomes, measure)) for p in mine], number, len(samplers), label(sampler))
        everything = references(study).get(model)
        if everything and (known := estimate(everything, outcomes, measure)):
            one.axhline(known[0], label=label(FULL), **full_line())
        one.set_xticks([100 * rate for rate in sorted({p.rate for p in points if p.sampler != FULL})])
        one.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        say(one, measure_title(measure), "documents kept, %", axis(measure))
    handles = [handle for one in axes for handle in one.get_legend_handles_labels()[0]]
    narrow = min(columns, len(measures)) == 1 and any(len(str(handle.get_label())) > _NARROW for handle in handles)
    legend(figure, handles, 1 if narrow else 2)
    return figure


def estimate(point: Point, outcomes: Outcomes, measure: str) -> tuple[float, float, float] | None:
    """Value and 95 % interval of any measure of a checkpoint; None if it was not measured."""
    if measure in HEADLINES:
        found = outcomes.get((point.model, point.sampler, point.rate, point.step))
        if point.sampler == FULL and found is not None and getattr(found, measure) is not None:
            return (full_value(measure, point.model),) * 3
        return headline(found, measure) if found else None
    score = point.scores.get(measure)
    return (score.value, score.low, score.high) if score else None


def measure_title(measure: str) -> str:
    """In words."""
    return HEADLINES.get(measure) or title(measure)


def axis(measure: str) -> str:
    """Of a measure: what is better, and its unit."""
    if measure in HEADLINES:
        return {"over_scaling": "over-scaling, %", "effective_size": "worth, M parameters"}[measure]
    return "perplexity (lower is better)" if lower_is_better(measure) else "score, points"


def _line(
    axes: Axes,
    points: Sequence[tuple[float, tuple[float, float, float] | None]],
    number: int,
    of: int,
    name: str,
) -> None:
    known = [(rate, *found) for rate, found in points if found]
    if not known:
        return
    rate, value, low, high = np.array(known).T
    x = 100 * rate + _DODGE * (number - (of - 1) / 2)
    look = series(number)
    error = np.maximum([value - low, high - value], 0)  # a percentile interval may leave out its own estimate
    axes.errorbar(x, value, yerr=np.nan_to_num(error), label=name, elinewidth=0.9, capsize=2, **look)
    axes.margins(x=0.06)
