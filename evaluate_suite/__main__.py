"""Measure training runs.

    winnow evaluate --list
    winnow evaluate perplexity --runs full=RUN random=RUN --tokens in_distribution=DIR --output results.jsonl

Every checkpoint of every run is measured on every split; what was measured before is not measured again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from evaluate_suite.perplexity import HeldOut, evaluate_run
from evaluate_suite.registry import SUITES, by_suite, registry
from evaluate_suite.results import write_results
from pipeline_steps.errors import WinnowError


def main(argv: list[str] | None = None) -> int:
    """Run the command line: 0 done, 2 the input is at fault."""
    parser = argparse.ArgumentParser(
        prog="winnow evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="store_true", help="print the paper's 111 tasks and how each is measured")
    commands = parser.add_subparsers(metavar="COMMAND")
    ppl = commands.add_parser("perplexity", help="span-corruption perplexity on held-out splits")
    ppl.add_argument("--runs", nargs="+", type=_named, required=True, metavar="NAME=DIR", help="run folders of train")
    ppl.add_argument(
        "--tokens", nargs="+", type=_named, required=True, metavar="TASK=DIR", help="held-out token stores"
    )
    ppl.add_argument("--output", required=True, metavar="FILE", help="results, as JSON lines")
    ppl.add_argument("--cache", metavar="DIR", help="where measurements are kept (default: beside the output)")
    ppl.add_argument("--max-windows", type=int, default=256, help="windows of each split, evenly spaced (%(default)s)")
    ppl.add_argument("--seed", type=int, default=0, help="of the masks (%(default)s)")
    args = parser.parse_args(argv)
    if args.list:
        return _show_tasks()
    if not hasattr(args, "runs"):
        parser.error("say --list, or perplexity and its arguments")
    cache = Path(args.cache or Path(args.output).parent / "evaluation")
    splits = [HeldOut(task, folder, args.max_windows, args.seed) for task, folder in args.tokens]
    try:
        write_results(args.output, [row for n, run in args.runs for row in evaluate_run(Path(run), n, splits, cache)])
    except WinnowError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def _show_tasks() -> int:
    """Print the registry, a table a suite."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    for suite, tasks in by_suite().items():
        table = Table(
            "task", "protocol", "shots", "metrics", "chance", "dataset", title=SUITES[suite], title_justify="left"
        )
        for task in tasks:
            name = task.name if task.scored else f"{task.name} (not scored: {task.note})"
            shots = f"{task.shots} {task.mode}" if task.mode else ""
            chance = "" if task.chance is None else f"{task.chance:g}"
            where = f"{task.dataset} {task.config} {task.split}"
            table.add_row(name, task.protocol, shots, ", ".join(task.metrics), chance, where)
        console.print(table)
    scored = sum(task.scored for task in registry().values())
    console.print(f"{len(registry())} tasks, {scored} of them scored", highlight=False)
    return 0


def _named(text: str) -> tuple[str, str]:
    name, separator, folder = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=DIR")
    return name, folder


if __name__ == "__main__":
    sys.exit(main())
