"""`winnow report`: its arguments; `launch.study_report` does the work."""

from __future__ import annotations

import argparse
import sys

from pipeline_steps.command_line import named_place, new_place, place
from pipeline_steps.engines.models import require
from pipeline_steps.terminal import Terminal


_EPILOG = """
examples:
  winnow report runs/ --output report.html
  winnow report runs/small runs/large/results.jsonl --output report.html --figures figures \\
      --scores ask-llm-small=scores/small ask-llm-xl=scores/xl perplexity-large=scores/perplexity \\
      --selections ask-llm-xl=selections/xl.safetensors random=selections/random.safetensors \\
      --corpus corpus/ --scoring-hours ask-llm-xl=10.0
  winnow report runs/ --output card.md --format markdown

The run on everything is the sampler "full": over-scaling needs it of this model and of a larger one, effective model
size of two sizes. Names of samplers are free; the paper's (random, density, semdedup, prototypes, dsir,
quality-classifier, ask-llm-{small,base,large,xl,xxl,gemma-7b}, perplexity-{small,base,large,xl,xxl},
perplexity-large-{20k,100k,300k,500k,700k}) are put into families, one figure each.
"""


def add_report(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `winnow report`."""
    parser = commands.add_parser(
        "report",
        help="figures and tables of many runs, of scores and of selections, in one file",
        description="Gather the results of training runs and draw what the paper draws: Table 1 with confidence "
        "intervals, quality against quantity, efficiency, cost, agreement of scorers, documents to read.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "runs",
        nargs="+",
        type=place,
        metavar="RUNS",
        help="files of results, or folders that hold results.jsonl anywhere",
    )
    parser.add_argument("--output", required=True, type=new_place, metavar="FILE", help="the report")
    parser.add_argument(
        "--format", choices=("html", "markdown"), default="html", help="markdown: Table 1 and words, for a model card"
    )
    parser.add_argument("--scores", nargs="+", type=named_place, default=[], metavar="NAME=DIR", help="score stores")
    parser.add_argument(
        "--lower-is-better",
        nargs="+",
        default=[],
        metavar="NAME",
        help="scores that are turned around before scorers are compared; those of PerplexityScorer always are",
    )
    parser.add_argument(
        "--selections",
        nargs="+",
        type=named_place,
        default=[],
        metavar="NAME=FILE",
        help="selections, for their overlap",
    )
    parser.add_argument("--corpus", metavar="PATH", help="corpus of the scores, to show documents of")
    parser.add_argument(
        "--figures", type=new_place, metavar="DIR", help="also write every figure as .svg, .pdf and .png"
    )
    parser.add_argument(
        "--partial", action="store_true", help="average incomplete suites over the tasks all runs have, and say so"
    )
    parser.add_argument(
        "--scoring-hours", nargs="+", type=_hours, default=[], metavar="NAME=H", help="accelerator hours of scoring"
    )
    parser.set_defaults(run=_report, command=" ".join(["winnow", *sys.argv[1:]]))


def _report(args: argparse.Namespace) -> int:
    for module, extra in (("scipy", "eval"), ("torch", "score"), ("matplotlib", "report"), ("jinja2", "report")):
        require(module, extra)
    from launch.study_report import write_study_report

    console = Terminal()
    for line in write_study_report(args):
        console.print(line, highlight=False, soft_wrap=True)
    return 0


def _hours(text: str) -> tuple[str, float]:
    name, _, hours = text.partition("=")
    try:
        found = float(hours if name else "")
    except ValueError:
        found = -1.0
    if not 0 <= found < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=HOURS, e.g. ask-llm-xl=10.0")
    return name, found
