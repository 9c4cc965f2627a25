"""Figures of scorers: how they order documents, what they score, what that costs, and ranks on small and large models.

The paper's Fig. 6, 7 and 9, and the extended version's Table 2.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluate_suite.agreement import kendall_tau_matrix
from evaluate_suite.report.outcomes import break_even, total_hours
from evaluate_suite.report.style import FAINT, INK, SERIES, full_line, legend, panels, say, series
from evaluate_suite.report.table_data import minus, time_unit
from pipeline_steps.samplers import label, ordered


if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLIP = (0.001, 0.999)  # quantiles between which a distribution is shown
_BINS = 60
_DARK = 0.45  # luminance below which white numbers are read more easily than black ones


def rank_changes(changes: Mapping[str, float], smaller: str, larger: str) -> Figure:
    """Draw a bar per scorer: how many ranks it rises from the smaller to the larger model (`rank_change`)."""
    names = sorted(changes, key=lambda name: (changes[name], name))
    figure, (axes,) = panels(1, size=(5.6, 1.1 + 0.24 * len(names)))
    values = [changes[name] for name in names]
    colours = [SERIES[1] if value >= 0 else SERIES[2] for value in values]
    axes.barh([label(name) for name in names], values, color=colours, height=0.7)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.grid(visible=False, axis="y")
    axes.set_ylim(-0.6, len(names) - 0.4)
    reach = max(max(map(abs, values)), 0.5) * 1.25
    axes.set_xlim(-reach, reach)
    for y, value in enumerate(values):
        side = 1 if value >= 0 else -1
        look: dict[str, Any] = {"ha": "left" if side > 0 else "right", "va": "center", "fontsize": 8, "color": INK}
        axes.annotate(minus(f"{value:+.1f}"), (value, y), (3 * side, 0), textcoords="offset points", **look)
    say(axes, "Change of rank", f"ranks gained from {smaller} to {larger}", "sampler")
    return figure


def oriented(scores: Mapping[str, np.ndarray], lower_is_better: Collection[str] = ()) -> dict[str, np.ndarray]:
    """Return scores [N] by scorer, in the order of families, turned so that higher is better."""
    return {name: -scores[name] if name in lower_is_better else scores[name] for name in ordered(scores)}


def tau_heat_map(scores: Mapping[str, np.ndarray], lower_is_better: Collection[str] = ()) -> Figure:
    """Draw Kendall's tau-b of every pair of scorers on the same documents.

    Args:
        scores: float32 [N] by scorer.
        lower_is_better: scorers whose scores are turned around first, e.g. perplexities.
    """
    from matplotlib import colormaps

    turned = oriented(scores, lower_is_better)
    tau, names = kendall_tau_matrix(turned), [label(name) for name in turned]
    S = len(names)
    figure, (axes,) = panels(1, size=(3.2 + 0.46 * S, 2.6 + 0.4 * S))
    colours = colormaps["cividis"]  # read alike by all, and in grey: Nuñez et al. 2018
    below = np.where(np.tri(S, k=-1, dtype=bool) | np.eye(S, dtype=bool), tau, np.nan)
    mesh = axes.pcolormesh(below, cmap=colours, vmin=-1, vmax=1, edgecolor="none")
    for row in range(S):
        for column in range(row + 1):
            red, green, blue, _ = colours((tau[row, column] + 1) / 2)
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < _DARK  # ITU-R BT.601
            text = minus(f"{round(tau[row, column], 2) + 0.0:.2f}")
            look: dict[str, Any] = {
                "ha": "center",
                "va": "center",
                "fontsize": 8,
                "color": "#ffffff" if dark else "#000000",
            }
            axes.text(column + 0.5, row + 0.5, text, **look)
    axes.set_xticks(np.arange(S) + 0.5, names, rotation=90)
    axes.set_yticks(np.arange(S) + 0.5, names)
    axes.tick_params(length=0, labelsize=9)
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    say(axes, "Order of documents", "scorer, higher is better", "scorer, higher is better")
    bar = figure.colorbar(mesh, ax=axes, shrink=0.6, pad=0.02)
    bar.set_label("Kendall's tau-b", color=INK)
    bar.ax.tick_params(colors=INK, labelsize=9)
    bar.outline.set_visible(False)
    return figure


def distributions(
    scores: Mapping[str, np.ndarray],
    lower_is_better: Collection[str] = (),
    units: Mapping[str, str] | None = None,
    kept: Mapping[str, np.ndarray] | None = None,
    colours: Mapping[str, int] | None = None,
) -> Figure:
    """Draw a histogram per scorer, higher is better, of what lies between the quantiles `CLIP`.

    Args:
        scores: float32 [N] by scorer.
        lower_is_better: scorers whose scores are shown with their sign changed, as App. D.1 does perplexities.
        units: of the scores.
        kept: bool [N] by scorer, what its sampler keeps: drawn in front of the corpus.
        colours: number of the series of a sampler.
    """
    turned = oriented(scores, lower_is_better)
    figure, axes = panels(len(turned), 3, (4.6, 3.1) if len(turned) == 1 else (3.8, 2.6))
    for one, (name, score_N) in zip(axes, turned.items(), strict=True):
        low, high = np.quantile(score_N, CLIP)
        low, high = (low - 0.5, high + 0.5) if low == high else (low, high)
        bins, colour = list(np.linspace(low, high, _BINS + 1)), SERIES[(colours or {}).get(name, 1)]
        inside_N = (score_N >= low) & (score_N <= high)
        mask_N = (kept or {}).get(name)
        one.hist(score_N[inside_N], bins=bins, color=colour if mask_N is None else FAINT)
        if mask_N is not None:
            one.hist(score_N[inside_N & mask_N], bins=bins, color=colour)
        one.locator_params(axis="x", nbins=5)
        one.locator_params(axis="y", nbins=4)
        unit = (units or {}).get(name) or "score"
        say(one, label(name), f"−{unit}" if name in lower_is_better else unit, "documents")
    if len(turned) > 1:
        said = f"{CLIP[0]:.1%} of the documents at either end are not shown"
        figure.supxlabel(said, fontsize=9, color=INK, x=0.01, ha="left")
    return figure


def cost(
    scoring: Mapping[str, float],
    training: Mapping[str, float],
    runs: int = 1,
    colours: Mapping[str, int] | None = None,
) -> Figure:
    """Draw a panel per model, a line per scorer: time in total against the share of training saved.

    Args:
        scoring: accelerator hours of scoring the corpus, by scorer; the most expensive are shown.
        training: accelerator hours of training on everything, by model.
        runs: trainings that share the scores.
        colours: number of the series of a sampler.
    """
    figure, axes = panels(len(training), 2, (5.2, 3.6))
    names = ordered(sorted(scoring, key=lambda name: -scoring[name])[: len(SERIES)])
    saved = np.linspace(0, 1, 11)
    unit, per_hour = time_unit([*scoring.values(), *training.values()])
    for one, (model, hours) in zip(axes, sorted(training.items(), key=lambda item: item[1]), strict=True):
        for number, name in enumerate(names):
            total = [per_hour * total_hours(share, scoring[name], hours, runs) for share in saved]
            one.plot(100 * saved, total, label=label(name), markevery=5, **series((colours or {}).get(name, number)))
            share = break_even(scoring[name], hours, runs)
            if share <= 1:
                look: dict[str, Any] = {
                    "marker": "o",
                    "markersize": 10,
                    "fillstyle": "none",
                    "color": INK,
                    "zorder": 5,
                }
                one.plot([100 * share], [per_hour * hours], **look)
        one.axhline(per_hour * hours, label="everything, without scores", **full_line())
        one.set_ylim(bottom=0)
        shared = "" if runs == 1 else f", {runs} runs share the scores"
        say(one, f"{model}{shared}", "training saved, %", f"accelerator {unit}")
    legend(figure, axes[0].get_legend_handles_labels()[0], 2)
    return figure
