"""What scoring costs and when it pays (the extended version's Table 2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from evaluate_suite.figures.style import INK, full_line, legend, panels, say, series
from pipeline_steps.samplers import label, ordered


if TYPE_CHECKING:
    from matplotlib.figure import Figure


def total_hours(saved: float, scoring: float, training: float, runs: int = 1) -> float:
    """Accelerator hours of one of `runs` trainings that share the scores and each save that share of training."""
    return (1 - saved) * training + scoring / runs


def break_even(scoring: float, training: float, runs: int = 1) -> float:
    """Share of training that must be saved to pay for the scores; above 1 they never pay."""
    return scoring / (runs * training)


def cost(scoring: Mapping[str, float], training: Mapping[str, float], runs: int = 1) -> Figure:
    """A panel per model, a line per scorer: hours in total against the share of training saved.

    Args:
        scoring: accelerator hours of scoring the corpus, by scorer; the dearest seven are shown.
        training: of training on everything, by model.
        runs: trainings that share the scores.
    """
    figure, axes = panels(len(training), 2, (5.2, 3.6))
    names = ordered(sorted(scoring, key=lambda name: -scoring[name])[:7])
    saved = np.linspace(0, 1, 11)
    for one, (model, hours) in zip(axes, sorted(training.items(), key=lambda item: item[1]), strict=True):
        for number, name in enumerate(names):
            total = [total_hours(share, scoring[name], hours, runs) for share in saved]
            one.plot(100 * saved, total, label=label(name), markevery=5, **series(number))
            share = break_even(scoring[name], hours, runs)
            if share <= 1:
                one.plot([100 * share], [hours], marker="o", markersize=10, fillstyle="none", color=INK, zorder=5)
        one.axhline(hours, label="everything, without scores", **full_line())
        one.set_ylim(bottom=0)
        shared = "" if runs == 1 else f", {runs} runs share the scores"
        say(one, f"{model}{shared}", "training saved, %", "accelerator hours")
    legend(figure, axes[0].get_legend_handles_labels()[0], 2)
    return figure
