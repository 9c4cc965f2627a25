"""`winnow plan` of one training run: what it takes, before anything is started."""

from __future__ import annotations

import os
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from launch.study.schema import Study
from launch.study.yaml_lines import read_text, read_yaml
from launch.study_file import shipped
from pipeline_steps.errors import InvalidCut, InvalidStudy
from pipeline_steps.paper import C4_TOKENS


def plan_run(
    config: str, flags: list[str], corpus_tokens: int | None, accelerator: str, count: int, mfu: float
) -> dict[str, Any]:
    """Return the tokens, repetitions, operations, hours and memory of a run, as JSON types.

    Raises:
        InvalidCut: no such accelerator, or nonsense numbers; and what `train.costs.run_cost` raises.
    """
    from train.plan import PretrainArguments

    from train.arguments import parse
    from train.costs import run_cost
    from train.token_store import TokenStore

    speed = count * reached_speed(accelerator, count, mfu)
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


def reached_speed(accelerator: str, count: int, mfu: float) -> float:
    """Return the operations per second of one accelerator, as reached.

    Raises:
        InvalidCut: the accelerator is not known, or a number makes no sense.
    """
    from train.flops import PEAK_TFLOPS, peak_flops

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


def is_study(config: str) -> bool:
    """Return whether a file, or one that comes with this package, is of a study and not of a training."""
    from train.plan import PretrainArguments

    if not os.path.exists(config):
        return config in shipped()
    try:
        given = read_yaml(config, read_text(config, Path(config))).plain
    except InvalidStudy:
        return True  # whose reader says what is wrong, and where
    of_studies = {one.name for one in fields(Study)} - {one.name for one in fields(PretrainArguments)}
    return not isinstance(given, dict) or not of_studies.isdisjoint(given)
