"""`winnow plan`: what a training run, or a study, takes, before anything is started."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from launch.study.reading import open_study, shipped
from launch.study.schema import Study
from launch.study.yaml_lines import read_text, read_yaml
from pipeline_steps.command_line import place
from pipeline_steps.errors import InvalidCut, InvalidStudy
from pipeline_steps.paper import C4_TOKENS
from pipeline_steps.terminal import Terminal


USUAL_MFU = 0.3  # follows from speeds in nanoT5's README (T5-Base, A100: 31 %) and NVIDIA NeMo's (220M: 27 %)


def plan(
    config: str, flags: list[str], corpus_tokens: int | None, accelerator: str, count: int, mfu: float
) -> dict[str, Any]:
    """Tokens, repetitions, operations, hours and memory of a run, as JSON types.

    Raises:
        InvalidCut: no such accelerator, or nonsense numbers; what `train.costs.run_cost` raises.
    """
    from train.arguments import PretrainArguments, parse
    from train.costs import run_cost
    from train.token_store import TokenStore

    speed = count * _speed(accelerator, count, mfu)
    nowhere = ["--tokens", "", "--run_dir", ""]  # a plan needs neither
    arguments = parse(PretrainArguments, ["--config", config, *flags], "winnow plan", str(__doc__), nowhere)
    if corpus_tokens is None and os.path.exists(arguments.tokens):
        corpus_tokens = TokenStore.open(arguments.tokens).tokens
    cost = run_cost(arguments, corpus_tokens or C4_TOKENS)
    return asdict(cost) | {
        "preset": arguments.preset,
        "corpus_tokens": corpus_tokens or C4_TOKENS,
        "accelerator": accelerator,
        "accelerators": count,
        "mfu": mfu,
        "hours": cost.hours(speed),
        "tokens_per_second": cost.encoder_tokens / (cost.hours(speed) * 3600),
    }


def _speed(accelerator: str, count: int, mfu: float) -> float:
    """Operations per second of one accelerator, as reached."""
    from train.costs import PEAK_TFLOPS, peak_flops

    peak = peak_flops(accelerator)
    if peak is None:
        raise InvalidCut(
            f"nothing is known of the accelerator {accelerator!r}: choose one of {', '.join(PEAK_TFLOPS)}"
        )
    if count < 1 or not 0 < mfu <= 1:
        raise InvalidCut(f"{count} accelerators at {mfu:g} of their peak: at least one is needed, at 0 to 1")
    return mfu * peak


def show_plan(found: dict[str, Any], console: Console) -> None:
    """Print a plan as two tables."""
    facts = Table(title=f"{found['preset']}, {found['parameters'] / 1e6:,.1f}M parameters", show_header=False)
    for name in ("encoder_tokens", "raw_tokens", "target_tokens", "samples", "steps"):
        facts.add_row(name.replace("_", " "), f"{found[name]:,}")
    facts.add_row("floating-point operations", f"{found['flops']:.3g}")
    many = f"{found['accelerators']} x {found['accelerator']} at {found['mfu']:.0%} of the peak"
    facts.add_row(f"hours on {many}", f"{found['hours']:,.1f}")
    facts.add_row("encoder tokens a second", f"{found['tokens_per_second']:,.0f}")
    for name, size in found["memory"].items():
        shown = "activations of one row (estimate)" if name == "activations" else name
        facts.add_row(f"memory: {shown}", f"{size / 2**20:,.0f} MiB")
    console.print(facts)
    epochs = Table(title=f"repetitions of a corpus of {found['corpus_tokens']:,} tokens")
    for rate in found["epochs"]:
        epochs.add_column(f"{rate:.0%}", justify="right")
    epochs.add_row(*(f"{value:.2f}" for value in found["epochs"].values()))
    console.print(epochs)


def add_plan(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `winnow plan`."""
    parser = commands.add_parser(
        "plan",
        help="what a training run or a study takes: tokens, operations, hours, memory, storage; when scores pay",
        description="Work out a training run or a study without starting it. CONFIG is a YAML file of a study, or of "
        "train.pretrain's arguments, which further arguments overrule, or the name of one that comes with this "
        "package: paper.yaml, t5-small-paper.yaml. Speeds are a share of the accelerator's peak; of a study that has "
        "begun, those that were measured.",
    )
    parser.add_argument("config", type=place, metavar="CONFIG")
    parser.add_argument(
        "--corpus-tokens", type=_amount, metavar="N", help="of the whole corpus (default: its store's, or C4's 184e9)"
    )
    parser.add_argument(
        "--documents", type=_amount, metavar="N", help="of the corpus of a study (default: its store's, or C4's)"
    )
    parser.add_argument("--accelerator", default="H100", metavar="NAME", help="(%(default)s)")
    parser.add_argument("--accelerators", type=int, default=1, metavar="N", help="how many (%(default)s)")
    parser.add_argument("--mfu", type=float, default=USUAL_MFU, help="share of the peak that is reached (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    parser.set_defaults(run=_run, further=True)


def _amount(text: str) -> int:
    """Return a whole number that may be written 184e9."""
    try:
        found = int(float(text))
    except (ValueError, OverflowError):
        found = 0
    if not 1 <= found < 1 << 63:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 1, such as 184e9")
    return found


def _run(args: argparse.Namespace) -> int:
    if is_study(args.config):
        return _plan_study(args)
    found = plan(args.config, args.further, args.corpus_tokens, args.accelerator, args.accelerators, args.mfu)
    if args.json:
        Terminal().print_json(json.dumps(found))
    else:
        show_plan(found, Terminal())
    return 0


def is_study(config: str) -> bool:
    """Whether a file, or one that comes with this package, is of a study and not of a training: it has samplers."""
    from train.arguments import PretrainArguments

    if not os.path.exists(config):
        return config in shipped()
    try:
        given = read_yaml(config, read_text(config, Path(config))).plain
    except InvalidStudy:
        return True  # whose reader says what is wrong, and where
    of_studies = {one.name for one in fields(Study)} - {one.name for one in fields(PretrainArguments)}
    return not isinstance(given, dict) or not of_studies.isdisjoint(given)


def _plan_study(args: argparse.Namespace) -> int:
    from launch.study.plan import plan_study
    from launch.study.plan_tables import show_study_plan

    if args.further:
        raise InvalidStudy(f"{args.config} is a study, which takes no {' '.join(args.further)}: change the file")
    speed = _speed(args.accelerator, args.accelerators, args.mfu)
    found = plan_study(open_study(args.config), speed, args.documents, args.corpus_tokens)
    if args.json:
        reckoned = {"accelerator": args.accelerator, "accelerators": args.accelerators, "mfu": args.mfu}
        Terminal().print_json(json.dumps(found.as_json() | reckoned))
    else:
        show_study_plan(found, args.accelerator, args.accelerators, args.mfu, Terminal())
    return 0
