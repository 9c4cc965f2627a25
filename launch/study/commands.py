"""`winnow run` and `winnow status`: a study from its file."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from rich.live import Live

from launch.progress import StageProgress
from launch.study.access import check_access, left_out, note_files
from launch.study.local import run_local
from launch.study.progress import begun, fingerprints, tasks_left
from launch.study.ray import run_ray
from launch.study.reading import open_study
from launch.study.schema import Study
from launch.study.slurm import lost, queued, submit, write_scripts
from launch.study.stages import Stage, stages_of
from launch.study.status import Task, as_json, exit_code, show, tasks_of
from launch.study.yaml_lines import suggestion
from pipeline_steps.errors import InvalidStudy
from pipeline_steps.stores.artefact import json_types, refuse_differences
from pipeline_steps.stores.files import DELETE, create, read_json, seal, write_json
from pipeline_steps.terminal import Terminal, wide
from train.folders import locked


def run_study(path: str, only: str | None, executor: str | None, dry_run: bool) -> int:
    """Run what is left of a study, and return the exit code.

    Args:
        path: of the study file.
        only: one stage, or all that begin so; None for all.
        executor: instead of the study's engine.
        dry_run: say what would be run, and start nothing.
    """
    study = open_study(path)
    if executor:
        study = replace(study, engine=replace(study.engine, kind=executor))
    stages = stages_of(study)
    made, chosen = fingerprints(stages), _chosen(study, stages, only)
    if dry_run:
        Terminal().print(show(study, tasks_of(study, chosen, made)))
        if study.engine.kind == "slurm":
            Terminal().print(f"{len(write_scripts(study, chosen, made)):,} scripts in {study.output}/slurm")
        return 0
    if not Path(study.output).exists():  # a study that cannot begin leaves nothing behind
        _check_needs(study, stages, chosen, made)
        check_access(study, list(chosen))
    with locked(Path(study.output), "winnow run"):  # before anything is forgotten that a living run has just done
        _prepare(study, stages, chosen, made)
        if study.engine.kind == "slurm":
            for name, job in submit(study, stages, made, chosen):
                Terminal().print(f"{job:>10}  {name}", highlight=False, soft_wrap=True)
            return 0
        with StageProgress(Terminal(stderr=True)) as progress:
            run_here = run_ray if study.engine.kind == "ray" else run_local
            run_here(study, chosen, made, progress)
    if "report" in chosen:
        Terminal().print(
            f"report   {study.output}/report.html\nresults  {study.output}/results.jsonl", highlight=False
        )
    return 0


def _prepare(study: Study, stages: Mapping[str, Stage], chosen: Mapping[str, Stage], made: Mapping[str, str]) -> None:
    """Forget what was lost, look whether everything else is there, and note what the study reads."""
    from launch.study.outputs import forget_lost

    begun_before = [name for name, stage in stages.items() if begun(study, stage, made[name])]
    for sentence in forget_lost(study, stages, made):
        Terminal(stderr=True).print(sentence, style="yellow", soft_wrap=True)
    _check_needs(study, stages, chosen, made)
    listed = check_access(study, [name for name, stage in chosen.items() if tasks_left(study, stage, made[name])])
    claim(study)
    note_files(study, listed, begun_before)
    if more := left_out(study):
        Terminal(stderr=True).print(
            f"{more:,} files of {study.corpus} have come since this study began and are not read: another output "
            "takes them in",
            style="yellow",
            soft_wrap=True,
        )


def show_status(path: str, watch: float | None, as_object: bool) -> int:
    """Print how far a study is, and return the exit code.

    Args:
        path: of the study file.
        watch: seconds between two looks; None for one look.
        as_object: print one JSON object.
    """
    study = open_study(path)
    stages = stages_of(study)
    made = fingerprints(stages)

    def look() -> list[Task]:
        return tasks_of(study, stages, made, lost(study, stages, made))  # what leaves the queue after that is not lost

    tasks = look()
    if as_object:
        sys.stdout.write(json.dumps(as_json(tasks), indent=2) + "\n")
        return exit_code(tasks)
    console = wide()
    with Live(show(study, tasks), console=console, auto_refresh=False) as live:
        while watch and exit_code(tasks) != 0 and not _is_stuck(tasks):
            time.sleep(watch)
            tasks = look()
            live.update(show(study, tasks), refresh=True)
    return exit_code(tasks)


def _is_stuck(tasks: list[Task]) -> bool:
    states = {task.found.state for task in tasks}
    return "failed" in states and "running" not in states


def claim(study: Study) -> None:
    """Note what all of a study's files were made from; more samplers, rates, models and seeds may come later.

    Raises:
        StoreMismatch: the folder holds those of another corpus.
    """
    path = Path(study.output) / "study.json"
    kinds = {name.partition("/")[0] for name in stages_of(study)}
    used = {"tokenizer": "tokens", "embedder": "embeddings", "target": "ngrams"}
    names = ["corpus", "limit", "held_out", *(name for name, kind in used.items() if kind in kinds)]
    names += ["target"] if "quality" in kinds and "target" not in names else []
    made = {name: getattr(study, name) for name in names}
    if create(str(path), seal(json_types(made))):
        return
    found = read_json(str(path), DELETE)
    both = found.keys() & made.keys()
    refuse_differences(
        {name: found[name] for name in both}, json_types({name: made[name] for name in both}), study.output
    )
    if made.keys() - found.keys():
        write_json(str(path), found | made)


def _chosen(study: Study, stages: Mapping[str, Stage], only: str | None) -> dict[str, Stage]:
    found = {name: stage for name, stage in stages.items() if only is None or (name + "/").startswith(only + "/")}
    if not found:
        raise InvalidStudy(f"{study.path} has no stage {only!r}: {suggestion(only or '', list(stages)[:30])}")
    return found


def _check_needs(
    study: Study, stages: Mapping[str, Stage], chosen: Mapping[str, Stage], made: Mapping[str, str]
) -> None:
    """A stage never runs on half of another; on Slurm it waits for what is in the queue."""
    begun = [stage for name, stage in chosen.items() if tasks_left(study, stage, made[name])]
    needs = dict.fromkeys(need for stage in begun for need in stage.needs if need not in chosen)
    missing = [need for need in needs if tasks_left(study, stages[need], made[need])]
    if missing and study.engine.kind == "slurm":
        there = queued(study, stages, made)
        missing = [need for need in missing if need not in there]
    if missing:
        kinds = ", ".join(dict.fromkeys(need.partition("/")[0] for need in missing))
        raise InvalidStudy(
            f"{begun[0].name} and its like need {len(missing)} stages that are not done ({kinds}): winnow run "
            f"{study.path} does them all, or give --only {missing[0]} first"
        )
