"""Figures of a quickstart's report, as SVG of its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evaluate_suite.figures.style import FAINT, SERIES, panels, plain_log_ticks, say, svg


Curve = Sequence[tuple[float, float]]


def learning_curves(curves: Mapping[str, Curve], title: str) -> str:
    """Held-out perplexity against tokens trained on, one line per sampler: {sampler: [(tokens, perplexity), ...]}."""
    figure, (axes,) = panels(1)
    for number, (sampler, points) in enumerate(curves.items()):
        tokens, perplexity = zip(*points, strict=True)
        line: dict[str, Any] = {
            "marker": "o",
            "markersize": 4,
            "linewidth": 2,
            "color": SERIES[number],
            "label": sampler,
        }
        axes.plot(np.array(tokens) / 1e6, perplexity, **line)
    say(axes, title, "encoder tokens, millions", "perplexity")
    plain_log_ticks(axes)
    axes.set_xlim(left=0)
    return svg(figure, f"{title}: perplexity of {', '.join(curves)} against encoder tokens")


def score_distribution(score_N: np.ndarray, kept_N: np.ndarray, title: str, unit: str, colour: int) -> str:
    """Histogram of a score over the corpus, and over what its sampler kept; 0.1 % at either end is not shown."""
    figure, (axes,) = panels(1)
    low, high = np.quantile(score_N, [0.001, 0.999])
    if low == high:
        low, high = low - 0.5, high + 0.5
    bins = np.linspace(low, high, 50)
    axes.hist(np.clip(score_N, low, high), bins=list(bins), color=FAINT, label="corpus")
    axes.hist(np.clip(score_N[kept_N], low, high), bins=list(bins), color=SERIES[colour], label="kept")
    say(axes, title, unit, "documents")
    return svg(figure, f"{title}: distribution over {score_N.size:,} documents, {kept_N.sum():,} kept")
