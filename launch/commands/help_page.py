"""How help pages are set: paragraphs of docstrings fill the width of the terminal, and examples stay as they are."""

from __future__ import annotations

import inspect
from typing import Any

from cyclopts import App
from cyclopts.help.formatters import DefaultFormatter
from rich.console import Console, ConsoleOptions
from rich.text import Text


class Filled(DefaultFormatter):
    """A formatter that takes the line breaks of a docstring for spaces, and its empty lines for those of a page."""

    def __call__(self, console: Console, options: ConsoleOptions, panel: Any) -> None:
        """Print a panel of flags or commands."""
        for entry in panel.entries:
            _fill(entry.description)
        super().__call__(console, options, panel)

    def render_description(self, console: Console, options: ConsoleOptions, description: Any) -> None:
        """Print what a command does."""
        _fill(description)
        super().render_description(console, options, description)


def teach(command: App) -> None:
    """Give a command's help page its whole docstring, and the examples at its end as they stand there."""
    if command.default_command is not None and command.help_epilogue is None:
        text, _, examples = inspect.cleandoc(command.default_command.__doc__ or "").partition("\n\nExamples:\n")
        command.help = text
        command.help_epilogue = f"Examples:\n{examples}" if examples else ""


def _fill(description: Any) -> None:
    text = getattr(description, "primary_renderable", None)
    if isinstance(text, Text):
        paragraphs = (" ".join(one.split()) for one in text.plain.split("\n\n"))
        description.primary_renderable = Text("\n\n".join(paragraphs))
