"""Figure of tasks: how far signal stands above noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from evaluate_suite.decide import NONE, TaskReading
from evaluate_suite.report.decision import name_of
from evaluate_suite.report.style import FAINT, INK, MOST_LINES, legend, panels, say, series


if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TICKS = 9  # from which numbers lie on one another: then only a third of them is written


def signal_to_noise(readings: Sequence[TaskReading], models: Sequence[str]) -> Figure:
    """Draw a row per task: a dot per model at its SNR, hollow where there is no signal; a bar is what equals show.

    Args:
        readings: of one metric a task, whose noise is known.
        models: from small to large; no more than can be told apart are drawn, the largest ones.
    """
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    drawn = [model for model in models if any(one.model == model for one in readings)][-MOST_LINES:]
    finite = [one for one in readings if one.model in drawn and 0 < one.snr < math.inf]
    best = {task: max(one.snr for one in finite if one.task == task) for task in {one.task for one in finite}}
    tasks = sorted(best, key=lambda task: (best[task], task))
    figure, (axes,) = panels(1, size=(5.4, 1.3 + 0.3 * len(tasks)))
    axes.set_xscale("log")
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x", color=FAINT, linewidth=0.6)
    step = 0.5 / max(len(drawn), 1)
    for number, model in enumerate(drawn):
        look = series(number + 1) | {"linestyle": "none"}
        for one in (one for one in finite if one.model == model):
            y = tasks.index(one.task) + step * ((len(drawn) - 1) / 2 - number)
            axes.plot([one.snr_of_equals] * 2, [y - 0.45 * step, y + 0.45 * step], color=INK, linewidth=1.6)
            axes.plot([one.snr], [y], **look, fillstyle="none" if one.verdict == NONE else "full")
    axes.set_yticks(range(len(tasks)), [name_of(task) for task in tasks])
    axes.set_ylim(-0.7, len(tasks) - 0.3)
    low, high = axes.get_xlim()
    ticks = [m * 10.0**e for e in range(-2, 7) for m in (1, 2, 5) if low <= m * 10.0**e <= high]
    axes.xaxis.set_major_locator(FixedLocator(ticks if len(ticks) < _TICKS else ticks[::3]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    say(axes, "Signal and noise of every task", "SNR: worst to best recipe, over noise", "task")
    handles = [Line2D([], [], label=model, **(series(n + 1) | {"linestyle": "none"})) for n, model in enumerate(drawn)]
    hollow = Line2D([], [], label="no signal", linestyle="none", marker="o", fillstyle="none", color=INK)
    equal = Line2D([], [], label="SNR if recipes were equal", linestyle="none", marker="|", markersize=10, color=INK)
    legend(figure, [*handles, hollow, equal], 2)
    return figure
