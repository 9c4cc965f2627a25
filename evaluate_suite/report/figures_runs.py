"""Figures of runs: a measure against the rate (the paper's Fig. 4, 10 - 16) and against tokens (Fig. 5, 17 - 30)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluate_suite.agreement import speed_up
from evaluate_suite.report.comparisons import better_than_everything
from evaluate_suite.report.outcomes import Outcomes, estimate
from evaluate_suite.report.points import (
    HEADLINES,
    Point,
    StudyResults,
    finals,
    lower_is_better,
    rates,
    references,
    title,
)
from evaluate_suite.report.style import (
    INK,
    MOST_LINES,
    PANEL,
    full_line,
    legend,
    numbers,
    panels,
    plain_log_ticks,
    say,
    series,
)
from evaluate_suite.results import BITS
from pipeline_steps.paper import REPETITIONS
from pipeline_steps.samplers import FAMILIES, FULL, families, label, ordered


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TICKS = 5
_NARROW = 21  # characters of a legend's entry, of which one panel is wide enough for two
_SHORT, _WIDE = 12, 36  # of a line's name for which a narrower figure will do, and of an entry as above
_DODGE = 0.8  # percentage points between samplers, so that error bars of the same rate stand side by side
_LOGARITHMIC = 3.0  # ratio of the largest perplexity to the smallest from which the axis is logarithmic
Run = list[tuple[Point, float]]  # a run's checkpoints and their values, by step


def dot_of(study: StudyResults, sampler: str) -> int | None:
    """Return the number of the colour that a sampler has in every figure, -1 (ink) for everything.

    None if the study has more samplers than there are colours: then colours differ from figure to figure.
    """
    return -1 if sampler == FULL and colours(study) else colours(study).get(sampler)


def colours(study: StudyResults) -> dict[str, int]:
    """Return the number of each sampler's colour; nothing if there are too many samplers to tell apart."""
    names = [name for name in ordered(point.sampler for point in study.checkpoints) if name != FULL]
    return {name: i for i, name in enumerate(names)} if len(names) <= MOST_LINES else {}


def groups(samplers: Sequence[str]) -> dict[str, list[str]]:
    """Return the lines of a family: one per sampler; for proxies of several sizes their mean, the least, the most."""
    names = ordered(samplers)
    proxies = [members for family, members in FAMILIES.items() if ", by " in family]
    if len(names) > 2 and any(names[0] in members for members in proxies):
        return {"Mean": names, label(names[0]): [names[0]], label(names[-1]): [names[-1]]}
    return {label(name): [name] for name in names}


def overview(samplers: Sequence[str]) -> dict[str, list[str]]:
    """Return the lines that compare families: random and density as they are, of the others the mean."""
    alone = [name for name in ("random", "density") if name in samplers]
    rest = families([name for name in samplers if name not in next(iter(FAMILIES.values()))])
    short = {
        family: family.replace(", by proxy", "").replace(" of the proxy", "").replace(" by", "") for family in rest
    }
    return {label(name): [name] for name in alone} | {
        f"{short[family]} (mean)": names for family, names in rest.items()
    }


def quantity_quality(
    study: StudyResults,
    outcomes: Outcomes,
    model: str,
    samplers: Sequence[str],
    measures: Sequence[str],
    columns: int = 3,
) -> Figure:
    """Draw a panel per measure: a line per sampler over rates, training on everything as a horizontal line.

    Args:
        study: what was measured.
        outcomes: of `evaluate_suite.report.outcomes.outcomes`.
        model: whose runs.
        samplers: `MOST_LINES` at most.
        measures: suites, perplexities, or keys of `HEADLINES`.
        columns: of panels.
    """
    figure, axes = panels(len(measures), columns)
    points = finals(study, model)
    for one, measure in zip(axes, measures, strict=True):
        for number, sampler in enumerate(samplers):
            mine = sorted((p for p in points if p.sampler == sampler), key=lambda point: point.rate)
            shift = _DODGE * (number - (len(samplers) - 1) / 2)
            known = [(100 * p.rate + shift, *found) for p in mine if (found := estimate(p, outcomes, measure))]
            if known:
                x, value, low, high = np.array(known).T
                error = _error(value, low, high)
                one.errorbar(x, value, yerr=error, label=label(sampler), elinewidth=0.9, capsize=2, **series(number))
                one.margins(x=0.06)
        _everything_at_its_end(one.axhline, study, outcomes, model, measure)
        one.set_xticks([100 * rate for rate in rates(study, model)])
        one.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        say(one, title(measure), "documents kept, %", axis(measure))
    handles = [handle for one in axes for handle in one.get_legend_handles_labels()[0]]
    narrow = min(columns, len(measures)) == 1 and any(len(str(handle.get_label())) > _NARROW for handle in handles)
    legend(figure, handles, 1 if narrow else 2)
    return figure


def samplers_at_one_rate(
    study: StudyResults,
    outcomes: Outcomes,
    model: str,
    samplers: Sequence[str],
    measures: Sequence[str],
    columns: int = 3,
) -> Figure:
    """Draw a panel per measure: a dot with its 95 % interval per sampler, training on everything as a vertical line.

    For studies of one rate. Arguments as of `quantity_quality`, but there may be any number of samplers.
    """
    height = 1.15 + 0.3 * (len(samplers) + 1)
    figure, axes = panels(len(measures), columns, (4.6, height))
    last = {point.sampler: point for point in finals(study, model)}
    names = [name for name in (FULL, *samplers) if name in last]
    for one, measure in zip(axes, measures, strict=True):
        for row, name in enumerate(names):
            if found := estimate(last[name], outcomes, measure):
                value, low, high = found
                number = names.index(name) - (FULL in names)
                look = ({"color": INK, "marker": "o"} if name == FULL else series(number)) | {"linestyle": "none"}
                one.errorbar([value], [row], xerr=_error(value, low, high), elinewidth=1.4, capsize=3, **look)
        _everything_at_its_end(one.axvline, study, outcomes, model, measure)
        one.set_yticks(range(len(names)), [label(name) for name in names])
        one.set_ylim(len(names) - 0.5, -0.5)
        one.grid(visible=False, axis="y")
        one.locator_params(axis="x", nbins=5)
        one.margins(x=0.08)
        say(one, title(measure), axis(measure), "sampler")
    return figure


def efficiency(
    study: StudyResults,
    outcomes: Outcomes,
    model: str,
    lines: Mapping[str, Sequence[str]],
    measure: str,
    heading: str = "",
    each_rate: bool = False,
) -> Figure | None:
    """Draw a line per group of samplers: mean over its samplers and over rates, at the steps that all of them share.

    A tick on the horizontal line marks where a group is as good as everything is at its end, and the legend the
    share of the tokens it has saved by then, if all of its runs end better than everything by an interval that holds
    the noise between trainings. None if there is nothing to draw.

    Args:
        study: what was measured.
        outcomes: of `evaluate_suite.report.outcomes.outcomes`.
        model: whose runs.
        lines: samplers by the name of their group, e.g. of `groups`.
        measure: a suite, a perplexity, or a key of `HEADLINES`.
        heading: of the panel; the title of the measure unless given.
        each_rate: draw a panel per rate instead of the mean over rates.
    """
    runs = _runs(study, outcomes, model, measure)
    drawn = {name for names in lines.values() for name in names}
    shown = sorted({rate for name, rate in runs if name in drawn})
    if not shown:
        return None
    kept = [[rate] for rate in shown] if each_rate else [shown]
    better = better_than_everything(study, outcomes, model, measure)
    alone = (4.9, 3.3) if max(map(len, lines)) < _SHORT else (5.4, 3.4)
    figure, axes = panels(len(kept), 3, PANEL if each_rate else alone)
    handles: list[Any] = []
    for one, at in zip(axes, kept, strict=True):
        curves = {
            line: mean_curve([run for (name, rate), run in runs.items() if name in names and rate in at])
            for line, names in lines.items()
        }
        groups = {line: {key for key in runs if key[0] in names and key[1] in at} for line, names in lines.items()}
        ahead = {line for line, those in groups.items() if those <= better}
        handles += _curves(one, curves, _everything(runs), measure, ahead, not each_rate)
        rate = f", {100 * at[0]:g} % kept" if each_rate else ""
        say(one, (heading or title(measure)) + rate, "encoder tokens", axis(measure))
    narrow = max(len(handle.get_label()) for handle in handles) >= _WIDE
    legend(figure, handles, 3 if each_rate else 1 if narrow else 2)
    return figure


def repetitions(
    study: StudyResults,
    outcomes: Outcomes,
    model: str,
    samplers: Sequence[str],
    measure: str,
    limits: Sequence[float] = REPETITIONS,
) -> Figure | None:
    """Draw a panel per limit R: mean over the rates whose selection has been repeated R times at most by that step.

    Limits above the first that no run exceeds are left out: their panels would be alike. Under each number of tokens
    stands n, how many rates are left; where n falls, the mean is over larger selections.
    None if there is nothing to draw. Arguments as of `efficiency`.
    """
    runs = {key: run for key, run in _runs(study, outcomes, model, measure).items() if key[0] in samplers}
    if not runs:
        return None
    most = max(point.epoch for run in runs.values() for point, _ in run)
    told = [limit for at, limit in enumerate(limits) if at == 0 or limits[at - 1] < most]
    figure, axes = panels(len(told), 2, (5.4, 3.4))
    handles: list[Any] = []
    for one, limit in zip(axes, told, strict=True):
        left: dict[int, list[int]] = {}
        for number, sampler in enumerate(samplers):
            curve = alive_curve([run for key, run in runs.items() if key[0] == sampler], limit)
            for tokens, _, n in curve:
                left.setdefault(tokens, []).append(n)
            if curve:
                x, y, _ = zip(*curve, strict=True)
                handles += one.plot(x, y, label=label(sampler), **series(number))
        shown = _spread(sorted(left))
        said = [f"{t}\nn = {_range(left[x])}" for t, x in zip(numbers(shown), shown, strict=True)]
        one.set_xticks(shown, said)
        say(one, f"{title(measure)}, {limit:g} × at most", "encoder tokens, and rates left", axis(measure))
    legend(figure, handles, 3)
    return figure


def mean_curve(runs: Sequence[Run]) -> list[tuple[int, float]]:
    """Return encoder tokens and mean value over runs, at the steps that all of them have."""
    if not runs:
        return []
    common = set.intersection(*({point.step for point, _ in run} for run in runs))
    kept = [[(point.encoder_tokens, value) for point, value in run if point.step in common] for run in runs]
    return [(here[0][0], float(np.mean([value for _, value in here]))) for here in zip(*kept, strict=True)]


def alive_curve(runs: Sequence[Run], limit: float) -> list[tuple[int, float, int]]:
    """Return encoder tokens, mean value and number of the runs in epoch `limit` at most, at every step."""
    alive: dict[int, list[tuple[int, float]]] = {}
    for point, value in (pair for run in runs for pair in run):
        if point.epoch <= limit:
            alive.setdefault(point.step, []).append((point.encoder_tokens, value))
    return [(a[0][0], float(np.mean([value for _, value in a])), len(a)) for _, a in sorted(alive.items())]


def saved(curve: Sequence[tuple[int, float]], everything: Sequence[tuple[int, float]], measure: str) -> float | None:
    """Return the share of the tokens of everything's run that a curve does as well without; None if it never does."""
    if not curve or not everything:
        return None
    tokens, values = zip(*curve, strict=True)
    found = speed_up(tokens, values, everything[-1][1], lower_is_better(measure))
    return None if found is None else 1 - (1 - found) * tokens[-1] / everything[-1][0]


def axis(measure: str) -> str:
    """Return what the axis of a measure is called: its unit, or which direction is better."""
    if measure in HEADLINES:
        return {"over_scaling": "over-scaling, %", "effective_size": "worth, M parameters"}[measure]
    name = BITS.get(measure, "perplexity").lower()
    return f"{name} (lower is better)" if lower_is_better(measure) else "score, points"


def _curves(
    axes: Axes,
    curves: Mapping[str, Sequence[tuple[int, float]]],
    everything: Sequence[tuple[int, float]],
    measure: str,
    ahead: Collection[str],
    say_saved: bool,
) -> list[Any]:
    handles: list[Any] = []
    tokens: set[int] = {x for x, _ in everything}
    for number, (name, curve) in enumerate(curves.items()):
        if not curve:
            continue
        share = saved(curve, everything, measure) if name in ahead else None
        reached = share is not None and share > 0
        text = f"{name}: {share:.0%} saved" if reached and say_saved else name
        handles += axes.plot(*zip(*curve, strict=True), label=text, **series(number))
        if reached and share is not None:
            at, colour = (1 - share) * everything[-1][0], series(number)["color"]
            axes.plot([at], [everything[-1][1]], marker="|", markersize=14, markeredgewidth=2, color=colour)
        tokens |= {x for x, _ in curve}
    if everything:
        handles += axes.plot(*zip(*everything, strict=True), color=INK, linewidth=1.5, label=label(FULL))
        handles.append(axes.axhline(everything[-1][1], label=f"{label(FULL)}, at its end", **full_line()))
    values = [value for curve in (*curves.values(), everything) for _, value in curve]
    if lower_is_better(measure) and values and max(values) > _LOGARITHMIC * min(values):
        plain_log_ticks(axes)
    shown = _spread(sorted(tokens))
    axes.set_xticks(shown, numbers(shown))
    return handles


def _runs(study: StudyResults, outcomes: Outcomes, model: str, measure: str) -> dict[tuple[str, float], Run]:
    """Return the runs that were measured at two steps or more, by sampler and rate."""
    runs: dict[tuple[str, float], Run] = {}
    for point in study.checkpoints:
        if point.model == model and (found := _value(point, outcomes, measure)) is not None:
            runs.setdefault((point.sampler, point.rate), []).append((point, found))
    return {key: run for key, run in runs.items() if len(run) > 1}


def _value(point: Point, outcomes: Outcomes, measure: str) -> float | None:
    """Return a value; of everything's own checkpoints the number itself, not what the last is worth by definition."""
    if measure in HEADLINES and point.sampler == FULL:
        number = getattr(outcomes.get((*point.run, point.step)), measure, None)
        return None if number is None else number.value * (1e-6 if measure == "effective_size" else 1.0)
    found = estimate(point, outcomes, measure)
    return found[0] if found else None


def _everything(runs: Mapping[tuple[str, float], Run]) -> list[tuple[int, float]]:
    return mean_curve([run for (name, _), run in runs.items() if name == FULL])


def _everything_at_its_end(draw: Any, study: StudyResults, outcomes: Outcomes, model: str, measure: str) -> None:
    everything = references(study).get(model)
    if everything and (known := estimate(everything, outcomes, measure)):
        draw(known[0], label=label(FULL), **full_line())


def _error(value: Any, low: Any, high: Any) -> np.ndarray:
    """Return lengths of error bars, [2, n]. A percentile interval may leave out its own estimate."""
    return np.nan_to_num(np.maximum(np.array([value - low, high - value]).reshape(2, -1), 0))


def _spread(values: Sequence[int]) -> list[int]:
    """Return at most `_TICKS` of the values, evenly spaced, the last among them."""
    chosen = np.linspace(len(values) - 1, 0, min(_TICKS, len(values))).round().astype(int).tolist()
    return [values[i] for i in reversed(chosen)]


def _range(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low}–{high}"
