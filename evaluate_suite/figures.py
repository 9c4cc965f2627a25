"""Figures as SVG that takes its colours and fonts from the page around it: light, dark and print alike."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


# Placeholders, replaced by CSS variables of the page once matplotlib has drawn them
_INK, _FAINT = "#010203", "#040506"
_CSS = {_INK: "currentColor", _FAINT: "var(--rule)"}
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "winnow",  # element ids, hence bytes, must not change from run to run
    "font.family": "sans-serif",
    "font.size": 11,
    "text.color": _INK,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": _FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}
_SIZE = (4.6, 3.1)  # inches: at 100 per inch about the width of a phone
Curve = Sequence[tuple[float, float]]


def learning_curves(curves: Mapping[str, Curve], title: str) -> str:
    """Held-out perplexity against tokens trained on, one line per sampler: {sampler: [(tokens, perplexity), ...]}."""
    figure, axes = _axes(title)
    for number, (sampler, points) in enumerate(curves.items()):
        tokens, perplexity = zip(*points, strict=True)
        line = {"marker": "o", "markersize": 4, "linewidth": 2, "color": _placeholder(number), "label": sampler}
        axes.plot(np.array(tokens) / 1e6, perplexity, **line)
    axes.set_xlabel("encoder tokens, millions")
    axes.set_ylabel("perplexity")
    axes.set_yscale("log")
    _plain_log_ticks(axes)
    axes.set_xlim(left=0)
    return _svg(figure, f"{title}: perplexity of {', '.join(curves)} against encoder tokens", len(curves))


def score_distribution(score_N: np.ndarray, kept_N: np.ndarray, title: str, unit: str, colour: int) -> str:
    """Histogram of a score over the corpus, and over what its sampler kept; 0.1 % at either end is not shown."""
    figure, axes = _axes(title)
    low, high = np.quantile(score_N, [0.001, 0.999])
    if low == high:
        low, high = low - 0.5, high + 0.5
    bins = np.linspace(low, high, 50)
    axes.hist(np.clip(score_N, low, high), bins=bins, color=_FAINT, label="corpus")
    axes.hist(np.clip(score_N[kept_N], low, high), bins=bins, color=_placeholder(colour), label="kept")
    axes.set_xlabel(unit)
    axes.set_ylabel("documents")
    return _svg(figure, f"{title}: distribution over {score_N.size:,} documents, {kept_N.sum():,} kept", colour + 1)


def _axes(title: str) -> tuple[Any, Any]:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
        axes.set_axisbelow(True)
        return figure, axes


def _plain_log_ticks(axes: Any) -> None:
    """Numbers a reader knows (200, 500) instead of powers of ten."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low, high = axes.get_ylim()
    nice = [m * 10.0**e for e in range(-1, 7) for m in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)]
    shown = [tick for tick in nice if low <= tick <= high]
    shown = shown[:: 1 + len(shown) // 8]
    axes.yaxis.set_major_locator(FixedLocator(shown or [low, high]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _placeholder(number: int) -> str:
    return f"#0a0b{number + 1:02x}"


def _svg(figure: Any, description: str, colours: int) -> str:
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context(_STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = re.sub(r"^.*?(?=<svg )", "", buffer.getvalue(), flags=re.DOTALL)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)  # inline SVG needs no namespaces
    for placeholder, css in _CSS.items() | {(_placeholder(i), f"var(--series-{i})") for i in range(colours)}:
        svg = svg.replace(placeholder, css)
    label = description.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
