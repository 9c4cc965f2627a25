"""`winnow run` and `winnow status`: a study from its file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from launch.progress import StageProgress
from launch.study.local import run_local
from launch.study.progress import fingerprints, tasks_left
from launch.study.reading import open_study
from launch.study.schema import Study
from launch.study.slurm import submit, write_scripts
from launch.study.stages import Stage, stages_of
from launch.study.yaml_lines import suggestion
from pipeline_steps.errors import InvalidStudy
from pipeline_steps.files import read_json, write_json
from train.folders import locked
from train.run_directory import refuse_differences


Commands = argparse._SubParsersAction


def add_study_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add them."""
    run = commands.add_parser(
        "run",
        help="a study: score, select, train, measure and report, many runs from one file",
        description="Run every stage of a study that is not done yet: shared work once, then each training, each "
        "measurement, the report. Killed at any time, the same command goes on. STUDY is a YAML file, or the name of "
        "one that comes with this package.",
    )
    run.add_argument("study", metavar="STUDY")
    run.add_argument("--only", metavar="STAGE", help="one stage, or all that begin so, e.g. scores or runs/t5-small")
    run.add_argument("--executor", choices=("local", "slurm"), help="instead of the study's engine")
    run.add_argument("--dry-run", action="store_true", help="say what would be run, and start nothing")
    run.set_defaults(run=_run)
    status = commands.add_parser(
        "status",
        help="how far a study is; exit code 0 if it is done, 3 if not",
        description="Print each stage's tasks.",
    )
    status.add_argument("study", metavar="STUDY")
    status.set_defaults(run=_status)


def _run(args: argparse.Namespace) -> int:
    study = open_study(args.study)
    if args.executor:
        study = replace(study, engine=replace(study.engine, kind=args.executor))
    stages = stages_of(study)
    made, chosen = fingerprints(stages), _chosen(study, stages, args.only)
    if args.dry_run:
        _show(study, chosen, made, Console())
        if study.engine.kind == "slurm":
            Console().print(f"{len(write_scripts(study, chosen, made)):,} scripts in {study.output}/slurm")
        return 0
    _check_needs(study, stages, chosen, made)
    claim(study)
    if study.engine.kind == "slurm":
        for name, job in submit(study, chosen, made):
            Console().print(f"{job:>10}  {name}", highlight=False)
        return 0
    with locked(Path(study.output), "winnow run"), StageProgress(Console()) as progress:
        run_local(study, chosen, made, progress)
    Console().print(f"report   {study.output}/report.html\nresults  {study.output}/results.jsonl", highlight=False)
    return 0


def _status(args: argparse.Namespace) -> int:
    study = open_study(args.study)
    stages = stages_of(study)
    made = fingerprints(stages)
    _show(study, stages, made, Console(width=None if sys.stdout.isatty() else 160))
    return 3 if any(tasks_left(study, stage, made[name]) for name, stage in stages.items()) else 0


def claim(study: Study) -> None:
    """Note what all of a study's files were made from; more samplers, rates, models and seeds may come later.

    Raises:
        StoreMismatch: the folder holds those of another corpus.
    """
    path = Path(study.output) / "study.json"
    made = {name: getattr(study, name) for name in ("corpus", "limit", "tokenizer", "held_out", "target", "embedder")}
    if path.exists():
        refuse_differences(read_json(str(path)), made, study.output)
    write_json(str(path), made)


def _chosen(study: Study, stages: Mapping[str, Stage], only: str | None) -> dict[str, Stage]:
    found = {name: stage for name, stage in stages.items() if only is None or (name + "/").startswith(only + "/")}
    if not found:
        raise InvalidStudy(f"{study.path} has no stage {only!r}: {suggestion(only or '', list(stages)[:30])}")
    return found


def _check_needs(
    study: Study, stages: Mapping[str, Stage], chosen: Mapping[str, Stage], made: Mapping[str, str]
) -> None:
    """A stage never runs on half of another."""
    for stage in chosen.values():
        for need in stage.needs:
            left = tasks_left(study, stages[need], made[need]) if need not in chosen else []
            if left:
                raise InvalidStudy(
                    f"{stage.name} needs {need}, of which {len(left)} of {stages[need].tasks} tasks are not done: "
                    f"winnow run {study.path} --only {need}"
                )


def _show(study: Study, stages: Mapping[str, Stage], made: Mapping[str, str], console: Console) -> None:
    """A line for each kind of stage, and one for each stage that is begun."""
    table = Table("stage", "tasks", "done", title=f"{study.path}: {len(study.runs())} runs", title_justify="left")
    kinds: dict[str, list[Stage]] = {}
    for stage in stages.values():
        kinds.setdefault(stage.name.partition("/")[0], []).append(stage)
    for kind, members in kinds.items():
        tasks = sum(stage.tasks for stage in members)
        done = tasks - sum(len(tasks_left(study, stage, made[stage.name])) for stage in members)
        table.add_row(kind if len(members) == 1 else f"{kind}: {len(members)} stages", f"{tasks:,}", f"{done:,}")
    console.print(table)
