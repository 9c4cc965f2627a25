"""How figures look: panels, series that differ without colour, files, and SVG that takes the colours of its page."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_steps.stores.files import write_atomically


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT = "#22252b", "#dcd8d0"
# Checked for protanopia, deuteranopia and tritanopia (Machado et al. 2009, severity 1): the tests hold them apart
SERIES = ("#7b8190", "#2f74c0", "#c8551b", "#2a8a62", "#a020f0", "#e69900", "#29cc7a")
MOST_LINES = len(SERIES)  # of one figure: more cannot be told apart
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 1.5)),
    (0, (1.5, 1.2)),
    (0, (6, 1.5, 1.5, 1.5)),
    (0, (3, 3)),
    "-",
    (0, (8, 2)),
)
_CSS = {INK: "currentColor", FAINT: "var(--rule)"} | {c: f"var(--series-{i})" for i, c in enumerate(SERIES)}
PANEL = (4.6, 3.1)  # inches: at 100 per inch about the width of a phone
_LEGEND_ROW = 0.22  # inches
_DPI = 200


def panels(count: int, columns: int = 1, size: tuple[float, float] = PANEL) -> tuple[Figure, list[Axes]]:
    """Make a figure of so many panels in rows, and return its axes too."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    columns = min(columns, count)
    rows = -(-count // columns)
    layout = ConstrainedLayoutEngine(w_pad=0.09, h_pad=0.07)
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout=layout, facecolor="none")
    axes = [figure.add_subplot(rows, columns, number + 1) for number in range(count)]
    for one in axes:
        one.set_facecolor("none")
        one.spines[["top", "right"]].set_visible(False)
        one.spines[["bottom", "left"]].set_color(FAINT)
        one.tick_params(colors=INK, labelsize=10, color=FAINT, labelcolor=INK)
        one.grid(axis="y", color=FAINT, linewidth=0.6)
        one.set_axisbelow(True)
    return figure, axes


def say(axes: Axes, title: str, x: str, y: str) -> None:
    """Write the title of a panel and the names of its axes, units included."""
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
    axes.set_xlabel(x, fontsize=10.5, color=INK)
    axes.set_ylabel(y, fontsize=10.5, color=INK)


def series(number: int) -> dict[str, Any]:
    """Return colour, marker and dash of the `number`-th line: each alone tells seven apart."""
    return {
        "color": SERIES[number % len(SERIES)],
        "marker": _MARKERS[number % len(_MARKERS)],
        "linestyle": _DASHES[number % len(_DASHES)],
        "markersize": 5,
        "linewidth": 1.7,
    }


def full_line() -> dict[str, Any]:
    """Return the look of the line of training on everything."""
    return {"color": INK, "linestyle": (0, (2, 2)), "linewidth": 1.2}


def legend(figure: Figure, handles: Sequence[Any], columns: int) -> None:
    """Draw one legend below all panels, which stay as high as they are; handles of the same label are shown once."""
    unique = {handle.get_label(): handle for handle in handles}
    figure.set_figheight(figure.get_figheight() + _LEGEND_ROW * -(-len(unique) // columns))
    figure.legend(
        handles=list(unique.values()),
        loc="outside lower left",
        ncols=columns,
        frameon=False,
        fontsize=9.5,
        labelcolor=INK,
        handlelength=3.4,
        columnspacing=1.4,
    )


def numbers(values: Iterable[float]) -> list[str]:
    """Write short numerals: 2000 is "2k", 5.2e11 is "524B"."""
    shown = []
    for value in values:
        scale, suffix = next(((s, x) for s, x in ((1e9, "B"), (1e6, "M"), (1e3, "k")) if abs(value) >= s), (1.0, ""))
        shown.append(f"{value / scale:.3g}{suffix}")
    return shown


def plain_log_ticks(axes: Axes) -> None:
    """Make the y axis logarithmic, with numbers a reader knows (200, 500) instead of powers of ten."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    nice = [m * 10.0**e for e in range(-1, 7) for m in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)]
    shown = [tick for tick in nice if low <= tick <= high]
    shown = shown[:: 1 + len(shown) // 8]
    axes.yaxis.set_major_locator(FixedLocator(shown or [low, high]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}"))


def svg(figure: Figure, description: str) -> str:
    """Return inline SVG. Ink, rules and series become variables of the page: light, dark and print are one file."""
    text = _bytes(figure, "svg", description).decode()
    text = re.sub(r"^.*?(?=<svg )", "", text, flags=re.DOTALL)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)  # inline SVG needs no namespaces
    text = re.sub(r' id="[a-z][\w.]*_\d+"', "", text)  # names of its groups, the same in every figure of a page
    text = re.sub(r'(?<= d=")[^"]*', _hundredths, text)
    for colour, css in _CSS.items():
        text = text.replace(colour, css)
    label = description.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def save(figure: Figure, path: str) -> list[str]:
    """Write `path`.svg, .pdf and .png on white, and say which files these are."""
    figure.set_facecolor("white")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    files = []
    for kind in ("svg", "pdf", "png"):
        write_atomically(f"{path}.{kind}", _bytes(figure, kind, path.rsplit("/", 1)[-1]))
        files.append(f"{path}.{kind}")
    return files


def _hundredths(path: re.Match[str]) -> str:
    """A path whose coordinates are cut to hundredths of a point, a third shorter."""
    return re.sub(r"(\.\d\d)\d+", r"\1", path[0])


def _bytes(figure: Figure, kind: str, salt: str) -> bytes:
    from matplotlib import rc_context
    from matplotlib.text import Text

    # Neither times nor versions: the same numbers are the same bytes. The salt keeps ids of figures on a page apart
    dates = {"svg": {"Date": None, "Creator": None}, "pdf": {"CreationDate": None, "Producer": None, "Creator": None}}
    buffer = io.BytesIO()
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a dollar in a name is a dollar
    look = {"svg.fonttype": "none", "svg.hashsalt": salt, "pdf.fonttype": 42, "text.parse_math": False}
    with rc_context(look):
        figure.savefig(buffer, format=kind, dpi=_DPI, metadata=dates.get(kind, {"Software": None}))
    return buffer.getvalue()
