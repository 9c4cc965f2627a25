"""Tables as data: columns that name unit and direction, cells that know their value and interval. Three renderings."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from rich.table import Table as RichTable


@dataclass(frozen=True)
class Column:
    """A column of a table: its header, its unit, and which direction is better.

    Attributes:
        header: its name.
        unit: of its numbers.
        direction: which of them are better, "higher" or "lower"; "" where neither is.
    """

    header: str
    unit: str = ""
    direction: str = ""

    @property
    def text(self) -> str:
        """The header with the unit and an arrow to what is better."""
        arrow = {"higher": " ↑", "lower": " ↓"}.get(self.direction, "")
        return f"{self.header}{f', {self.unit}' if self.unit else ''}{arrow}"


@dataclass(frozen=True)
class Cell:
    """A cell of a table: a number with its interval, or words.

    Attributes:
        text: what is read.
        value: what is sorted by; None for words.
        low: lower end of the 95 % confidence interval; None if there is none.
        high: upper end.
        digits: after the point, of the interval's ends.
        best: whether it is better than the table's baseline by an interval that holds the noise between trainings.
        shade: 0 to 1, how strongly its background is tinted.
        dot: number of the series whose colour stands before the text, -1 for ink; None for no dot.
    """

    text: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    digits: int = 1
    best: bool = False
    shade: float = 0.0
    dot: int | None = None

    @property
    def interval(self) -> str:
        """The confidence interval in words; "" if there is none."""
        if self.low is None or self.high is None or not math.isfinite(self.low + self.high):
            return ""
        return minus(f"{self.low:,.{self.digits}f} to {self.high:,.{self.digits}f}")


@dataclass(frozen=True)
class Table:
    """A table of a report.

    Attributes:
        title: what it shows.
        columns: the first names the rows.
        rows: a cell per column.
        notes: footnotes.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()


NOTHING = Cell("–")


def joined(table: Table, more: Table) -> Table:
    """Put the columns of a second table, which names the same rows, after those of a table."""
    rows = [(*row, *further[1:]) for row, further in zip(table.rows, more.rows, strict=True)]
    return Table(table.title, (*table.columns, *more.columns[1:]), tuple(rows), (*table.notes, *more.notes))


def time_unit(hours: Iterable[float]) -> tuple[str, float]:
    """Return the unit in which the longest of some times reads well, and how many of it are an hour."""
    longest = max(hours, default=1.0)
    return ("hours", 1.0) if longest >= 1 else ("minutes", 60.0) if longest >= 0.1 else ("seconds", 3600.0)


def number(value: float, digits: int = 1, low: float | None = None, high: float | None = None) -> Cell:
    """Make a cell of a number, with its interval if there is one."""
    return Cell(minus(f"{value:,.{digits}f}"), value, low, high, digits)


def minus(text: str) -> str:
    """Give a number in words a minus sign that is as wide as a digit."""
    return text.replace("-", "−")


def to_markdown(table: Table, intervals: bool = True) -> str:
    """Write a GitHub table with its title and footnotes; cells that are `best` are in bold."""
    header = [escaped(column.text) for column in table.columns]
    lines = [[_cell(cell, intervals) for cell in row] for row in table.rows]
    widths = [max(3, *(len(line[i]) for line in [header, *lines])) for i in range(len(header))]
    rule = [("-" * width if i == 0 else "-" * (width - 1) + ":") for i, width in enumerate(widths)]
    padded = [
        [text.ljust(width) if i == 0 else text.rjust(width) for i, (text, width) in enumerate(zip(line, widths))]  # noqa: B905
        for line in [header, rule, *lines]
    ]
    body = "\n".join(f"| {' | '.join(line)} |" for line in padded)
    notes = "".join(f"\n{escaped(note)}\n" for note in table.notes)
    return f"**{escaped(table.title)}**\n\n{body}\n{notes}"


def to_html(table: Table, intervals: bool = True) -> str:
    """Write a table in a box that it scrolls in, sortable by `data-value`; the caller's page has the styles."""
    from markupsafe import escape

    head = "".join(f'<th scope="col">{escape(column.text)}</th>' for column in table.columns)
    body = "".join(
        f"<tr>{''.join(_html_cell(i, cell, intervals) for i, cell in enumerate(row))}</tr>\n" for row in table.rows
    )
    notes = "".join(f'<p class="soft">{escape(note)}</p>\n' for note in table.notes)
    title = escape(table.title)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{title}">\n<table class="sortable">\n'
        f"<caption>{title}</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n"
        f"</table>\n</div>\n{notes}"
    )


def to_terminal(table: Table) -> RichTable:
    """Make a table for a terminal, with intervals in brackets; names in it are text and no markup."""
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(title=Text(table.title), title_justify="left", caption_justify="left")
    for place, column in enumerate(table.columns):
        shown.add_column(Text(column.text), justify="left" if place == 0 else "right")
    for row in table.rows:
        shown.add_row(*(Text(f"{cell.text} [{cell.interval}]" if cell.interval else cell.text) for cell in row))
    shown.caption = Text("\n".join(table.notes)) if table.notes else None
    return shown


def _html_cell(place: int, cell: Cell, intervals: bool) -> str:
    from markupsafe import escape

    small = f"<small>{escape(cell.interval)}</small>" if intervals and cell.interval else ""
    text = f"<strong>{escape(cell.text)}</strong>" if cell.best else escape(cell.text)
    value = "" if cell.value is None else f' data-value="{cell.value:.10g}"'
    tint = f' style="--tint: {100 * cell.shade:.0f}%"' if cell.shade else ""
    if cell.dot is not None:
        colour = "var(--ink)" if cell.dot < 0 else f"var(--series-{cell.dot})"
        text = f'<span class="dot" style="background: {colour}"></span>{text}'
    return f'<th scope="row"{value}>{text}{small}</th>' if place == 0 else f"<td{value}{tint}>{text}{small}</td>"


def _cell(cell: Cell, intervals: bool) -> str:
    text = escaped(cell.text)
    text = f"**{text}**" if cell.best else text
    return f"{text} [{cell.interval}]" if intervals and cell.interval else text


def escaped(text: str) -> str:
    """Escape text for Markdown: no cell ends early, no markup of a name takes effect."""
    for sign in "\\|*_`[$":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.replace("&", "&amp;").replace("<", "&lt;").split())
