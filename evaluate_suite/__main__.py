"""`python -m evaluate_suite`, which is `winnow evaluate`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError

from evaluate_suite.commands import app
from pipeline_steps.credentials import refuse_credentials_in_command
from pipeline_steps.errors import WinnowError
from pipeline_steps.terminal import complain


def run(words: Sequence[str]) -> None:
    """Run the command line.

    Raises:
        CycloptsError: the words are at fault.
        WinnowError: what they name is at fault.
    """
    winnow = App(name="winnow", result_action="return_value")
    winnow.command(app)
    winnow(["evaluate", *words], exit_on_error=False, print_error=False)


def main(argv: list[str] | None = None) -> int:
    """Run the command line: 0 done, 2 the input is at fault."""
    words = sys.argv[1:] if argv is None else argv
    try:
        refuse_credentials_in_command(words)
        run(words)
    except (CycloptsError, WinnowError, OSError) as error:
        complain(error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
