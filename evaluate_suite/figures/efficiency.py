"""Efficiency: a metric against tokens trained on (Fig. 5, 24 - 30), and up to so many repetitions (Fig. 17 - 23)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluate_suite.agreement import speed_up
from evaluate_suite.figures.quality import Outcomes, axis, estimate, measure_title
from evaluate_suite.figures.style import INK, full_line, legend, numbers, panels, say, series
from evaluate_suite.study.outcomes import HEADLINES
from evaluate_suite.study.points import Point, Study, lower_is_better
from pipeline_steps.samplers import FAMILIES, FULL, families, label, ordered


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REPETITIONS = (1, 2, 4, 8)  # the paper's Fig. 17 - 23
_TICKS = 5
_WIDE = 36  # characters of a legend's entry, of which a panel is too narrow for two
Run = list[tuple[Point, float]]  # a run's checkpoints and their values, by step


def groups(samplers: Sequence[str]) -> dict[str, list[str]]:
    """Lines of a family: each sampler; of proxies of several sizes or trainings their mean, the least, the most."""
    names = ordered(samplers)
    if len(names) > 2 and any(names[0] in family for family in list(FAMILIES.values())[1:]):
        return {"Mean": names, label(names[0]): [names[0]], label(names[-1]): [names[-1]]}
    return {label(name): [name] for name in names}


def overview(samplers: Sequence[str]) -> dict[str, list[str]]:
    """Lines that compare families: random and density as they are, of the others the mean."""
    alone = [name for name in ("random", "density") if name in samplers]
    rest = families([name for name in samplers if name not in list(FAMILIES.values())[0]])
    return {label(name): [name] for name in alone} | {
        f"{_short(title)} (mean)": names for title, names in rest.items()
    }


def _short(family: str) -> str:
    return family.replace(", by proxy", "").replace(", by training of the proxy", ", training")


def efficiency(
    study: Study, outcomes: Outcomes, model: str, lines: Mapping[str, Sequence[str]], measures: Sequence[str]
) -> Figure:
    """A panel per measure, a line per group of samplers: mean over its samplers and over rates, at steps all share.

    A tick on the horizontal line marks where a group is as good as everything is at its end, and the legend the
    share of the tokens it has saved by then.

    Args:
        study: what was measured.
        outcomes: of `evaluate_suite.study.outcomes.outcomes`.
        model: whose runs.
        lines: samplers by the name of their group, e.g. of `groups`.
        measures: suites, perplexities, or keys of `HEADLINES`.
    """
    figure, axes = panels(len(measures), 2 if len(measures) > 1 else 1, (5.4, 3.4))
    handles: list[Any] = []
    for one, measure in zip(axes, measures, strict=True):
        runs = _runs(study, outcomes, model, measure)
        curves = {name: mean_curve([r for key, r in runs.items() if key[0] in names]) for name, names in lines.items()}
        handles += _curves(one, curves, _everything(runs), measure, len(measures) == 1)
        say(one, measure_title(measure), "encoder tokens", axis(measure))
    legend(figure, handles, 2 if max(len(handle.get_label()) for handle in handles) < _WIDE else 1)
    return figure


def efficiency_by_rate(
    study: Study, outcomes: Outcomes, model: str, samplers: Sequence[str], measure: str
) -> Figure | None:
    """A panel per rate, a line per sampler; None if there is nothing to draw. Arguments as of `efficiency`."""
    runs = _runs(study, outcomes, model, measure)
    rates = sorted({rate for name, rate in runs if name in samplers})
    if not rates:
        return None
    figure, axes = panels(len(rates), 3)
    handles: list[Any] = []
    for one, rate in zip(axes, rates, strict=True):
        curves = {label(name): mean_curve([runs[name, rate]]) if (name, rate) in runs else [] for name in samplers}
        handles += _curves(one, curves, _everything(runs), measure, False)
        say(one, f"{measure_title(measure)}, {100 * rate:g} % kept", "encoder tokens", axis(measure))
    legend(figure, handles, 3)
    return figure


def repetitions(
    study: Study,
    outcomes: Outcomes,
    model: str,
    samplers: Sequence[str],
    measure: str,
    limits: Sequence[float] = REPETITIONS,
) -> Figure | None:
    """A panel per limit R: mean over the rates whose selection has been repeated R times at most by that step.

    Under each number of tokens stands n, how many rates are left; where n falls, the mean is over larger selections.
    None if there is nothing to draw. Arguments as of `efficiency`.
    """
    runs = {key: run for key, run in _runs(study, outcomes, model, measure).items() if key[0] in samplers}
    if not runs:
        return None
    figure, axes = panels(len(limits), 2, (5.4, 3.4))
    handles: list[Any] = []
    for one, limit in zip(axes, limits, strict=True):
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
        say(one, f"{measure_title(measure)}, {limit:g} × at most", "encoder tokens, and rates left", axis(measure))
    legend(figure, handles, 3)
    return figure


def mean_curve(runs: Sequence[Run]) -> list[tuple[int, float]]:
    """Encoder tokens and mean value over runs, at the steps that all of them have."""
    if not runs:
        return []
    common = set.intersection(*({point.step for point, _ in run} for run in runs))
    kept = [[(point.encoder_tokens, value) for point, value in run if point.step in common] for run in runs]
    return [(here[0][0], float(np.mean([value for _, value in here]))) for here in zip(*kept, strict=True)]


def alive_curve(runs: Sequence[Run], limit: float) -> list[tuple[int, float, int]]:
    """Encoder tokens, mean value and number of the runs that are in epoch `limit` at most, at every step."""
    alive: dict[int, list[tuple[int, float]]] = {}
    for point, value in (pair for run in runs for pair in run):
        if point.epoch <= limit:
            alive.setdefault(point.step, []).append((point.encoder_tokens, value))
    return [(a[0][0], float(np.mean([value for _, value in a])), len(a)) for _, a in sorted(alive.items())]


def saved(curve: Sequence[tuple[int, float]], everything: Sequence[tuple[int, float]], measure: str) -> float | None:
    """Share of the tokens of everything's run that a curve need not have had to do as well; None if it never does."""
    if not curve or not everything:
        return None
    tokens, values = zip(*curve, strict=True)
    lower = measure not in HEADLINES and lower_is_better(measure)
    found = speed_up(tokens, values, everything[-1][1], lower)
    return None if found is None else 1 - (1 - found) * tokens[-1] / everything[-1][0]


def _curves(
    axes: Axes,
    curves: Mapping[str, Sequence[tuple[int, float]]],
    everything: Sequence[tuple[int, float]],
    measure: str,
    say_saved: bool,
) -> list[Any]:
    handles: list[Any] = []
    tokens: set[int] = {x for x, _ in everything}
    for number, (name, curve) in enumerate(curves.items()):
        if not curve:
            continue
        share = saved(curve, everything, measure)
        reached = share is not None and share > 0
        text = f"{name}: {share:.0%} saved" if reached and say_saved else name
        handles += axes.plot(*zip(*curve, strict=True), label=text, **series(number))
        if reached and share is not None:
            at = (1 - share) * everything[-1][0]
            axes.plot(
                [at], [everything[-1][1]], marker="|", markersize=14, markeredgewidth=2, color=series(number)["color"]
            )
        tokens |= {x for x, _ in curve}
    if everything:
        handles += axes.plot(*zip(*everything, strict=True), color=INK, linewidth=1.5, label=label(FULL))
        handles.append(axes.axhline(everything[-1][1], label=f"{label(FULL)}, at its end", **full_line()))
    shown = _spread(sorted(tokens))
    axes.set_xticks(shown, numbers(shown))
    return handles


def _runs(study: Study, outcomes: Outcomes, model: str, measure: str) -> dict[tuple[str, float], Run]:
    """Runs that were measured at two steps or more."""
    runs: dict[tuple[str, float], Run] = {}
    for point in study.checkpoints:
        if point.model == model and (found := _estimate(point, outcomes, measure)) is not None:
            runs.setdefault((point.sampler, point.rate), []).append((point, found))
    return {key: run for key, run in runs.items() if len(run) > 1}


def _estimate(point: Point, outcomes: Outcomes, measure: str) -> float | None:
    """Value; of everything's own checkpoints the number itself, not what its last one is worth by definition."""
    found = estimate(point, outcomes, measure)
    if measure in HEADLINES and point.sampler == FULL:
        outcome = outcomes.get((point.model, point.sampler, point.rate, point.step))
        number = getattr(outcome, measure) if outcome else None
        return None if number is None else number.value * (1e-6 if measure == "effective_size" else 1.0)
    return found[0] if found else None


def _everything(runs: Mapping[tuple[str, float], Run]) -> list[tuple[int, float]]:
    return mean_curve([run for (name, _), run in runs.items() if name == FULL])


def _spread(values: Sequence[int]) -> list[int]:
    """At most `_TICKS` of them, evenly spaced, the last among them."""
    chosen = np.linspace(len(values) - 1, 0, min(_TICKS, len(values))).round().astype(int).tolist()
    return [values[i] for i in reversed(chosen)]


def _range(counts: Sequence[int]) -> str:
    return str(counts[0]) if min(counts) == max(counts) else f"{min(counts)}–{max(counts)}"
