"""A study's plan as text: what there is to do, what it takes, in all, and when scores pay."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from rich import box
from rich.console import Console
from rich.table import Table

from launch.study.plan import SCORING, StudyPlan


def show_study_plan(plan: StudyPlan, accelerator: str, count: int, mfu: float, console: Console) -> None:
    """Print it.

    Args:
        plan: the plan.
        accelerator: its name.
        count: how many there are.
        mfu: share of their peak that is reckoned with.
        console: to print to.
    """
    corpus = plan.corpus
    factors = " x ".join(f"{n} {name}" for name, n in plan.selected.items() if n > 1)
    stores = sum(group.startswith("scores/") for group in plan.groups())
    lines = [f"{prod(plan.selected.values()):,} trainings on selections: {factors or 'one of each'}"]
    lines += [f"{plan.everything:,} on everything"]
    lines += [f"{model}: {runs:,} x {plan.tokens[model]:,} tokens" for model, runs in plan.runs.items()]
    lines += [
        f"{stores} score stores of {corpus.documents:,} documents, {corpus.tokens:,} tokens ({corpus.known_from})"
    ]
    lines += [f"speed, where nothing is measured: {accelerator} at {mfu:.0%} of its peak"]
    console.print(f"{plan.study}\n  " + "\n  ".join(lines), highlight=False)
    console.print(_stages(plan))
    console.print(_costs(plan, accelerator))
    for note in _notes(plan):
        console.print(note, highlight=False)
    console.print(_totals(plan, accelerator, count))
    if plan.scorers:
        console.print(_break_even(plan))
        console.print(
            "time: of scores and what only they need, in all and for each run that uses them. alone: one run pays for "
            "all of it; all: they pay alike. Above 100 % there is not so much to save.",
            highlight=False,
        )


def _stages(plan: StudyPlan) -> Table:
    table = _table("what there is to do")
    for name in ("stage", "stages", "tasks", "done", "needs"):
        table.add_column(name, justify="left" if name in ("stage", "needs") else "right", overflow="fold")
    for group, members in plan.groups().items():
        tasks, done = sum(one.tasks for one in members), sum(one.done for one in members)
        needs = ", ".join(plan.needs[group])
        table.add_row(
            group, f"{len(members):,}", f"{tasks:,}", f"{done:,}", needs, style="dim" if done == tasks else ""
        )
    return table


def _costs(plan: StudyPlan, accelerator: str) -> Table:
    table = _table("what it takes")
    for name in ("stage", "time", "on", "left", "from", "storage"):
        whole = name in ("stage", "storage")
        table.add_column(name, justify="left" if name in ("stage", "on", "from") else "right", no_wrap=whole)
    for group, members in plan.groups().items():
        known = [one for one in members if one.hours is not None]
        star = "*" if len(known) < len(members) else ""
        hours = _time(sum(one.hours or 0.0 for one in known)) if known else "-"
        left = _time(sum(one.hours_left or 0.0 for one in known)) if known else "-"
        table.add_row(
            group,
            hours + star,
            accelerator if any(one.accelerator for one in members) else "core",
            left,
            ", ".join(dict.fromkeys(one.origin for one in known)) or "unknown",
            _bytes(sum(one.bytes or 0.0 for one in members)),
        )
    return table


def _notes(plan: StudyPlan) -> Iterator[str]:
    """What the numbers leave out, and where they err to which side."""
    unknown = [one for one in plan.stages if one.hours is None]
    if unknown:
        said = {}
        for group, members in plan.groups().items():
            names = [one.stage for one in members if one in unknown]
            if names:
                said[group] = names[0] if len(names) == 1 else f"{group} ({len(names)} of {len(members)})"
        yield f"* not counted: {', '.join(said.values())}"
    if any(one.origin == "measured" for one in plan.stages):
        yield "measured: hours of what it ran on, whatever that was."
    if any(one.origin == "FLOPs" for one in plan.stages):
        yield (
            "FLOPs: operations are counted from above: each document as the mean one, cut to what a scorer reads, and "
            "rows of fine-tuning as full. Of few-shot tasks, tuning on FLAN is counted, the questions are not."
        )
    if any(one.origin == "assumed" for one in plan.stages):
        yield "assumed: as fast as this project's benchmarks on one core; your disks may be slower."


def _totals(plan: StudyPlan, accelerator: str, count: int) -> Table:
    table = _table("in all")
    for name in ("", "whole", "left", "share", f"days, {count:,} x {accelerator}"):
        table.add_column(name, justify="right" if name else "left")
    whole = plan.hours()
    kinds = {"scoring": SCORING, "training": ("runs",), "measuring": ("measured",)}
    for name, own in kinds.items():
        hours = plan.hours(*own)
        days = f"{plan.hours(*own, left=True) / 24 / count:,.1f}"
        share = f"{hours / whole:.1%}" if whole else ""
        table.add_row(f"{accelerator}: {name}", _time(hours), _time(plan.hours(*own, left=True)), share, days)
    left = plan.hours(left=True)
    table.add_row(accelerator, _time(whole), _time(left), "", f"{left / 24 / count:,.1f}", style="bold")
    cores, cores_left = (plan.hours(accelerator=False, left=one) for one in (False, True))
    table.add_row("core", _time(cores), _time(cores_left))
    table.add_row("storage", _bytes(sum(one.bytes or 0.0 for one in plan.stages)))
    return table


def _break_even(plan: StudyPlan) -> Table:
    table = _table("when scores pay: % of a training to be saved", gap=0)  # fits into 80 columns
    models = list(plan.scorers[0].one)
    for name in ("scores", "time", "runs", "a run"):
        table.add_column(name, justify="left" if name == "scores" else "right", no_wrap=True)
    for model in models:
        table.add_column(f"{model}\nalone", justify="right", no_wrap=True)
        table.add_column("\nall", justify="right", no_wrap=True)
    for one in plan.scorers:
        shares = [share for model in models for share in (one.one[model], one.shared[model])]
        a_run = one.hours / one.runs if one.hours is not None and one.runs else None
        whole, each = ("-" if value is None else _time(value) for value in (one.hours, a_run))
        cells = ["-" if share is None else _share(share) for share in shares]
        table.add_row(one.scores.partition("/")[2], whole, f"{one.runs:,}", each, *cells)
    return table


def _table(title: str, gap: int = 1) -> Table:
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, gap, 0, 0))


def _time(hours: float) -> str:
    for unit, scale in (("h", 1.0), ("min", 60.0)):
        if hours * scale >= 1:
            return f"{_digits(hours * scale)} {unit}"
    return f"{_digits(hours * 3600)} s" if hours * 3600 >= 0.05 else "<0.1 s" if hours else "0"


def _share(share: float) -> str:
    return _digits(100 * share) if share >= 5e-4 or share == 0 else "<0.1"


def _digits(value: float) -> str:
    """At least three, or one after the point."""
    return f"{value:,.0f}" if value >= 100 or value == 0 else f"{value:.1f}"


def _bytes(size: float) -> str:
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:,.1f} {unit}"
    return f"{size:.0f} B" if size else ""
