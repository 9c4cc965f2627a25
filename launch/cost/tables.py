"""A study's plan, or a training's, as text: what there is to do, what it takes, in all, and when scores pay."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import prod
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from launch.cost.hardware import Hardware
from launch.cost.plan import SCORING, StageCost, StudyPlan


def show_study_plan(plan: StudyPlan, hardware: Hardware, console: Console, paper: bool = False) -> None:
    """Print a study's plan; `paper` says what it has for the paper's tables and figures even if it lacks some."""
    corpus, accelerator, lines = plan.corpus, hardware.accelerator, []
    factors = " x ".join(f"{n} {name}" for name, n in plan.selected.items() if n > 1)
    stores = sum(one.kind == "scores" for one in plan.stages)
    if plan.runs:
        lines += [f"{prod(plan.selected.values()):,} trainings on selections: {factors or 'one of each'}"]
        lines += [f"{plan.everything:,} on everything"]
        lines += [f"{model}: {runs:,} x {plan.tokens[model]:,} tokens" for model, runs in plan.runs.items()]
    size = f"{corpus.documents:,} documents, {corpus.tokens:,} tokens ({corpus.known_from})"
    lines += [f"{stores} score stores of {size}"]
    lines += [f"speed, where nothing is measured: {accelerator} at {hardware.mfu:.0%} of its peak"]
    console.print(f"{plan.study}\n  " + "\n  ".join(lines), highlight=False)
    console.print(_table("what there is to do", ("stage", "stages", "tasks", "done", "needs"), _to_do(plan)))
    columns = ["stage", "time", "on", "left", "from", "storage"]
    console.print(_table("what it takes", columns, _prices(plan, accelerator), whole=("stage", "storage")))
    for note in _notes(plan):
        console.print(note, highlight=False)
    columns = ["", "whole", "left", "share", f"days, {hardware.accelerators:,} x {accelerator}"]
    console.print(_table("in all", columns, _totals(plan, hardware)))
    if plan.scorers and plan.runs:
        console.print(_break_even(plan))
        console.print(
            "time: what the scores and all that only they need take, in all and for each training that uses them. "
            "alone: one training pays for all of it. all: the trainings pay alike. Above 100 % there is not so much "
            "to save.",
            highlight=False,
        )
    lacking = sum(bool(one.lacks) for one in plan.exhibits)
    if paper or not lacking:
        console.print(_table("the paper's tables and figures", ("exhibit", "shows", "is fed by"), _exhibits(plan)))
    elif lacking < len(plan.exhibits):
        shown = len(plan.exhibits) - lacking
        of_all = f"{shown} of the paper's {len(plan.exhibits)} tables and figures"
        console.print(f"{of_all} can be drawn: --paper lists all, and what is missing", highlight=False)


def show_plan(found: dict[str, Any], console: Console) -> None:
    """Print a training's plan, as `launch.cost.plan.plan_run` returns it."""
    counted = ("encoder_tokens", "raw_tokens", "target_tokens", "samples", "steps")
    facts = [(name.replace("_", " "), f"{found[name]:,}") for name in counted]
    many = f"{found['accelerators']} x {found['accelerator']} at {found['mfu']:.0%} of the peak"
    facts += [
        ("floating-point operations", f"{found['flops']:.3g}"),
        (f"hours on {many}", f"{found['hours']:,.1f}"),
        ("encoder tokens a second", f"{found['tokens_per_second']:,.0f}"),
    ]
    if parts := found["parts"]:
        said = {name: f"{count / 1e6:,.2f}M" for name, count in parts.items()}
        facts += [
            ("parameters of the body (no embedding, no output layer)", said["body"]),
            ("parameters of the output layer", said["head"]),
            ("parameters that count: body and output layer", said["counted"]),
            ("predicted tokens per parameter that counts", f"{found['tokens_per_parameter']:,.1f}"),
        ]
    for name, size in found["memory"].items():
        shown = "activations of one row (estimate)" if name == "activations" else name
        facts.append((f"memory: {shown}", f"{size / 2**20:,.0f} MiB"))
    parameters = f"{found['preset']}, {found['parameters'] / 1e6:,.1f}M parameters"
    console.print(_table(parameters, ("", "whole run"), facts))
    rates = [f"{rate:.0%}" for rate in found["epochs"]]
    repeated = [f"{value:.2f}" for value in found["epochs"].values()]
    console.print(_table(f"repetitions of a corpus of {found['corpus_tokens']:,} tokens", rates, [repeated]))


_LEFT = ("", "stage", "needs", "on", "from", "scores", "exhibit", "shows", "is fed by")  # columns of words


def _table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], whole: Sequence[str] = (), gap: int = 1
) -> Table:
    """Return a table whose columns are those of words in `_LEFT`, or of numbers.

    A cell after the last column is the row's style; columns in `whole` are never broken into lines.
    """
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, gap, 0, 0))
    for name in columns:
        side = "left" if name in _LEFT else "right"
        table.add_column(name, justify=side, no_wrap=name in whole, overflow="fold")  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*row[: len(columns)], style="".join(row[len(columns) :]))
    return table


def _to_do(plan: StudyPlan) -> Iterator[tuple[str, ...]]:
    for group, members in plan.groups().items():
        tasks, done = sum(one.tasks for one in members), sum(one.done for one in members)
        counts = f"{len(members):,}", f"{tasks:,}", f"{done:,}"
        yield group, *counts, ", ".join(plan.needs[group]), "dim" if done == tasks else ""


def _prices(plan: StudyPlan, accelerator: str) -> Iterator[tuple[str, ...]]:
    for group, members in plan.groups().items():
        known = [one for one in members if one.hours is not None]
        hours = _time(sum(one.hours or 0.0 for one in known)) if known else "-"
        left = _time(sum(one.hours_left or 0.0 for one in known)) if known else "-"
        device = accelerator if any(one.accelerator for one in members) else "core"
        origin = ", ".join(dict.fromkeys(one.origin for one in known)) or "unknown"
        star = "*" if len(known) < len(members) else ""
        yield group, hours + star, device, left, origin, _bytes(sum(one.bytes or 0.0 for one in members))


def _notes(plan: StudyPlan) -> Iterator[str]:
    """Yield what the numbers leave out, and on which side they err."""
    unknown = [_unknown(group, members) for group, members in plan.groups().items()]
    if any(unknown):
        yield f"* not counted: {', '.join(filter(None, unknown))}"
    origins = {one.origin for one in plan.stages}
    if "measured" in origins:
        yield "measured: hours on what it ran on, whatever that was."
    if "FLOPs" in origins:
        yield (
            "FLOPs: operations are counted from above: each document as the mean one, cut to what a scorer reads, and "
            "each row of fine-tuning as full. Tuning on FLAN is counted, the questions of few-shot tasks are not."
        )
    if "assumed" in origins:
        yield "assumed: as fast as this project's benchmarks on one core; your disks may be slower."


def _unknown(group: str, members: Sequence[StageCost]) -> str:
    names = [one.stage for one in members if one.hours is None]
    return "".join(names) if len(names) < 2 else f"{group} ({len(names)} of {len(members)})"


def _totals(plan: StudyPlan, hardware: Hardware) -> Iterator[tuple[str, ...]]:
    whole, left = plan.hours(), plan.hours(left=True)
    accelerator, count = hardware.accelerator, hardware.accelerators
    for name, kinds in {"scoring": SCORING, "training": ("runs",), "measuring": ("measured",)}.items():
        hours, own_left = plan.hours(*kinds), plan.hours(*kinds, left=True)
        share = f"{hours / whole:.1%}" if whole else ""
        yield f"{accelerator}: {name}", _time(hours), _time(own_left), share, f"{own_left / 24 / count:,.1f}"
    yield accelerator, _time(whole), _time(left), "", f"{left / 24 / count:,.1f}", "bold"
    cores, cores_left = (_time(plan.hours(accelerator=False, left=one)) for one in (False, True))
    yield "core", cores, cores_left, "", ""
    yield "storage", _bytes(plan.bytes), "", "", ""


def _break_even(plan: StudyPlan) -> Table:
    models = list(plan.scorers[0].one)
    columns = ["scores", "time", "runs", "a run", *(name for one in models for name in (f"{one}\nalone", "\nall"))]
    rows = []
    for one in plan.scorers:
        shares = [share for model in models for share in (one.one[model], one.shared[model])]
        a_run = one.hours / one.runs if one.hours is not None and one.runs else None
        whole, each = ("-" if value is None else _time(value) for value in (one.hours, a_run))
        cells = ["-" if share is None else _share(share) for share in shares]
        rows.append([one.scores.partition("/")[2], whole, f"{one.runs:,}", each, *cells])
    title = "when scores pay: % of a training to be saved"
    return _table(title, columns, rows, whole=columns, gap=0)  # so that two models fit into 80 columns


def _exhibits(plan: StudyPlan) -> Iterator[tuple[str, ...]]:
    for one in plan.exhibits:
        fed = ", ".join(f"{count:,} {kind}" for kind, count in one.stages.items())
        yield one.exhibit, one.about, f"lacks {'; '.join(one.lacks)}" if one.lacks else fed, "dim" if one.lacks else ""


def _time(hours: float) -> str:
    for unit, scale in (("h", 1.0), ("min", 60.0)):
        if hours * scale >= 1:
            return f"{_digits(hours * scale)} {unit}"
    return f"{_digits(hours * 3600)} s" if hours * 3600 >= 0.05 else "<0.1 s" if hours else "0"


def _share(share: float) -> str:
    return _digits(100 * share) if share >= 5e-4 or share == 0 else "<0.1"


def _digits(value: float) -> str:
    """Return a number with three digits at least, or with one after the point."""
    return f"{value:,.0f}" if value >= 100 or value == 0 else f"{value:.1f}"


def _bytes(size: float) -> str:
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:,.1f} {unit}"
    return f"{size:.0f} B" if size else ""
