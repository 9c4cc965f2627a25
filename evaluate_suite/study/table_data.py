"""Tables as data: columns that name unit and direction, cells that know their value and interval. Two renderings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Column:
    """Of a table.

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
        """Name, unit and an arrow to what is better."""
        arrow = {"higher": " ↑", "lower": " ↓"}.get(self.direction, "")
        return f"{self.header}{f', {self.unit}' if self.unit else ''}{arrow}"


@dataclass(frozen=True)
class Cell:
    """Of a table.

    Attributes:
        text: what is read.
        value: what is sorted by; None for words.
        low: lower end of the 95 % confidence interval; None if there is none.
        high: upper end.
        digits: after the point, of the interval's ends.
        best: of its column.
    """

    text: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    digits: int = 1
    best: bool = False

    @property
    def interval(self) -> str:
        """The confidence interval in words; "" if there is none."""
        if self.low is None or self.high is None or not math.isfinite(self.low + self.high):
            return ""
        return minus(f"{self.low:,.{self.digits}f} to {self.high:,.{self.digits}f}")


@dataclass(frozen=True)
class Table:
    """Of a report.

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


def number(value: float, digits: int = 1, low: float | None = None, high: float | None = None) -> Cell:
    """A cell of a number, with its interval if there is one."""
    return Cell(minus(f"{value:,.{digits}f}"), value, low, high, digits)


def minus(text: str) -> str:
    """With a minus sign that is as wide as a digit."""
    return text.replace("-", "−")


def mark_best(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> tuple[tuple[Cell, ...], ...]:
    """The rows, with the best cell of every column that has a direction marked; equal ones all are."""
    best = []
    for number, column in enumerate(columns):
        values = [v for row in rows if (v := row[number].value) is not None and math.isfinite(v)]
        choose = {"higher": max, "lower": min}.get(column.direction)
        best.append(choose(values) if choose and values else None)
    return tuple(
        tuple(
            replace(cell, best=True) if at is not None and cell.value == at else cell
            for cell, at in zip(row, best, strict=True)
        )
        for row in rows
    )


def to_markdown(table: Table, intervals: bool = True) -> str:
    """A GitHub table with its title and footnotes; the best of a column in bold."""
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
    """A table in a box that it scrolls in, sortable by `data-value`; the caller's page has the styles."""
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


def _html_cell(place: int, cell: Cell, intervals: bool) -> str:
    from markupsafe import escape

    small = f"<small>{escape(cell.interval)}</small>" if intervals and cell.interval else ""
    text = f"<strong>{escape(cell.text)}</strong>" if cell.best else escape(cell.text)
    value = "" if cell.value is None else f' data-value="{cell.value:.10g}"'
    return f'<th scope="row"{value}>{text}{small}</th>' if place == 0 else f"<td{value}>{text}{small}</td>"


def _cell(cell: Cell, intervals: bool) -> str:
    text = escaped(cell.text)
    text = f"**{text}**" if cell.best else text
    return f"{text} [{cell.interval}]" if intervals and cell.interval else text


def escaped(text: str) -> str:
    """For Markdown: no cell ends early, no markup of a name takes effect."""
    for sign in "\\|*_`[$":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.replace("&", "&amp;").replace("<", "&lt;").split())
