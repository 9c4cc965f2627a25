"""`winnow`: the front door."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import fields
from io import TextIOWrapper
from typing import Any

from evaluate_suite.__main__ import main as evaluate_suite
from evaluate_suite.report import terminal_table
from launch.coverage import compare, show_coverage
from launch.faults import USERS_FAULT, as_sentence
from launch.inspect import inspect, show
from launch.neighbours import neighbours, show_neighbours
from launch.one_off.commands import add_one_off_commands
from launch.quickstart import run_quickstart
from launch.quickstart_report import write_quickstart_report
from launch.report_command import add_report
from launch.stages import Settings
from launch.study.commands import add_study_commands
from launch.training import add_training_commands
from pipeline_steps import __version__
from pipeline_steps.command_line import Parser, new_place, place
from pipeline_steps.credentials import refuse_credentials_in_command
from pipeline_steps.terminal import Terminal, wide
from train.signals import StageFailed


_EPILOG = """
examples:
  winnow quickstart --output runs/quickstart
  winnow quickstart --output runs/c4 --limit 20000 \\
      --corpus hf://datasets/allenai/c4/en/c4-train.00000-of-01024.json.gz
  winnow quickstart --output runs/flan --proxy google/flan-t5-small \\
      --embedder sentence-transformers/sentence-t5-base

Kill it at any time; the same command goes on where it was, with the same results.
"""


def main(argv: list[str] | None = None) -> int:
    """Run a command: 0 done, 1 a stage died, 2 the input is at fault, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a name that the terminal's encoding cannot show must not end a command
            stream.reconfigure(errors="backslashreplace")
    parser = _parser()
    argv = sys.argv[1:] if argv is None else argv
    errors = Terminal(stderr=True)

    def complain(said: str) -> None:
        errors.print(f"winnow: {said}", style="bold red", highlight=False, soft_wrap=True)

    try:
        refuse_credentials_in_command(argv)
        args, further = parser.parse_known_args(argv)
        if further and not getattr(args, "further", False):  # arguments of train.pretrain, for commands that take them
            parser.error(f"unrecognized arguments: {' '.join(further)}")
        args.further = further
        return args.run(args)
    except StageFailed as error:
        complain(str(error))
        return 1
    except Exception as error:
        if (said := as_sentence(error)) is None:
            raise
        complain(said)
        return USERS_FAULT
    except KeyboardInterrupt:
        errors.print("winnow: interrupted; the same command goes on from here", highlight=False)
        return 130


def _quickstart(args: argparse.Namespace) -> int:
    chosen = {field.name: getattr(args, field.name) for field in fields(Settings)}
    run = run_quickstart(args.output, Settings(**chosen), args.workers)
    settings = write_quickstart_report(run, args.command)
    console = wide()
    console.print(terminal_table(settings))
    console.print(f"report   {run.path('report.html')}\nresults  {run.path('results.jsonl')}", highlight=False)
    return 0


def _inspect(args: argparse.Namespace) -> int:
    facts = inspect(args.path)
    if args.embeddings:
        facts["examples"] = neighbours(args.path, args.embeddings)
    if args.json:
        sys.stdout.write(json.dumps(facts, indent=2, sort_keys=True) + "\n")
        return 0
    show(facts, Terminal())
    if args.embeddings:
        show_neighbours(facts["examples"], Terminal())
    return 0


def _coverage(args: argparse.Namespace) -> int:
    rows = compare(args.selections, args.clusters, args.embeddings, args.density, args.quality)
    if args.json:
        sys.stdout.write(json.dumps(rows, indent=2, sort_keys=True) + "\n")
    else:
        show_coverage(rows, Terminal())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = Parser(
        prog="winnow", description="Choose the documents a language model is trained on."
    )
    parser.add_argument("--version", action="version", version=f"winnow {__version__}")
    commands: Any = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_quickstart(commands)
    look = commands.add_parser(
        "inspect",
        help="what a score store holds: counts, quantiles, histogram, how it was made, what is missing",
        description="Print how many documents a score store holds, how their scores are distributed (exactly), what "
        "made them, and which sources are unfinished. Works while scoring is still running.",
    )
    look.add_argument(
        "path",
        type=place,
        metavar="PATH",
        help="folder of the score store, local or e.g. s3://bucket/scores/ask-llm",
    )
    look.add_argument("--json", action="store_true", help="print one JSON object instead")
    look.add_argument(
        "--embeddings",
        type=place,
        metavar="DIR",
        help="embedding store of the same corpus: also show the nearest documents of the highest and lowest scores",
    )
    look.set_defaults(run=_inspect)
    _add_coverage(commands)
    add_one_off_commands(commands)
    add_training_commands(commands)
    evaluate = commands.add_parser(
        "evaluate",
        add_help=False,
        help="the paper's 111 tasks (--list): perplexity, fine-tuned suites, few-shot tasks",
    )
    evaluate.set_defaults(run=lambda args: evaluate_suite(args.further), further=True)
    add_report(commands)
    add_study_commands(commands)
    return parser


def _add_coverage(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    cover = commands.add_parser(
        "coverage",
        help="selections side by side: how evenly they cover the corpus, how good they are",
        description="Print, for each selection, its entropy over clusters, its kernel discrepancy to the corpus and "
        "to a uniform cover of it, and its mean quality: the trade-off between quality and coverage.",
    )
    cover.add_argument("selections", nargs="+", type=place, metavar="SELECTION", help="file written by Selection.save")
    cover.add_argument("--clusters", required=True, type=place, metavar="DIR", help="folder KMeansAssign wrote to")
    cover.add_argument("--embeddings", required=True, type=place, metavar="DIR", help="folder Embedder wrote to")
    cover.add_argument("--density", required=True, type=place, metavar="DIR", help="score store of DensityScorer")
    cover.add_argument(
        "--quality", type=place, metavar="DIR", help="score store whose mean is shown, e.g. of AskLLMScorer"
    )
    cover.add_argument("--json", action="store_true", help="print a JSON list instead")
    cover.set_defaults(run=_coverage)


def _add_quickstart(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    quick = commands.add_parser(
        "quickstart",
        help="score, select, pre-train, evaluate and report on one machine, in minutes",
        description="Score a corpus with Ask-LLM and Density, keep a fraction of it by random, by Ask-LLM and by "
        "Density, pre-train one tiny T5 on each and on everything for the same number of tokens, and compare them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = Settings()
    quick.add_argument(
        "--output", required=True, type=new_place, metavar="DIR", help="what the run writes; resumed if it exists"
    )
    quick.add_argument(
        "--corpus",
        metavar="PATH",
        help="file, folder or glob of .jsonl, .parquet or .warc files, local, s3:// or hf://datasets/... "
        "(default: the documentation of the installed Python packages)",
    )
    quick.add_argument(
        "--limit",
        type=int,
        default=default.limit,
        metavar="N",
        help="read at most N documents of --corpus (%(default)s)",
    )
    quick.add_argument(
        "--proxy",
        type=place,
        default=default.proxy,
        metavar="MODEL",
        help="Ask-LLM proxy: Hub id or folder of an encoder-decoder (default: the embedded one)",
    )
    quick.add_argument(
        "--embedder",
        type=place,
        default=default.embedder,
        metavar="MODEL",
        help="Hub id or folder of a sentence-transformers model (default: %(default)s, which needs no weights)",
    )
    quick.add_argument("--rate", type=float, default=default.rate, help="fraction of documents to keep (%(default)s)")
    quick.add_argument(
        "--train-tokens",
        type=int,
        default=default.train_tokens,
        metavar="N",
        help="encoder tokens each model is trained for (%(default)s)",
    )
    quick.add_argument("--seed", type=int, default=default.seed, help="of sampling, order and masks (%(default)s)")
    quick.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="processes at a time (%(default)s); changes the speed, nothing else",
    )
    quick.set_defaults(run=_quickstart, command=" ".join(["winnow", *sys.argv[1:]]))


if __name__ == "__main__":
    sys.exit(main())
