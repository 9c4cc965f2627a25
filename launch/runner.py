"""Run a study: ask every output whether it is there, and hand what is left to an engine.

Only the runner looks into outputs, before it hands out what is left; tasks rely on the records of `launch.records`. Of
an output that nobody is about to read, only the small files that describe it are opened; on one machine, what is about
to be read is verified to the last byte, so that it is made again now and not refused in the middle of the run.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from launch.bad_rows import tell_bad_rows
from launch.engines import NEVER_STARTED, Engine, Task, engine_of
from launch.faults import DISK_FULL, USERS_FAULT
from launch.plan import Plan
from launch.processes import TICK, interrupts_held, log_end
from launch.progress import StageProgress, Stages
from launch.records import forget, forgive, has_begun, task_state, tasks_left
from launch.stages.base import Stage
from launch.stages.corpora import Files, TokenStage
from launch.stages.measurements import COSTS, RESULTS
from launch.worker import command
from pipeline_steps.engines.models import model_identity
from pipeline_steps.errors import InvalidStudy, StageFailed, StoreMismatch, WinnowError
from pipeline_steps.readers.corpus import CorpusFiles, list_corpus
from pipeline_steps.readers.reading import USUAL
from pipeline_steps.readers.special_files import refuse_special_files
from pipeline_steps.stores.artefact import json_types, refuse_differences
from pipeline_steps.stores.files import DELETE, create, read_json, seal, write_json
from train.folders import locked


Tell = Callable[[str], None]
_PATIENCE = 10.0  # seconds in which tasks are gone whose command was killed just now


def run(
    plan: Plan,
    only: str | None,
    progress: StageProgress,
    tell: Tell = lambda _: None,
    what: str = "winnow run",
    prepare: Callable[[], None] = lambda: None,
) -> None:
    """Do what is not done yet; on Slurm, submit it.

    Args:
        plan: the plan.
        only: stages to do, as `Plan.chosen` takes them.
        progress: where stages are shown, and what the user should know.
        tell: is given a line for each stage that was submitted.
        what: the command that runs, for messages.
        prepare: is called once nothing stands against the run, before anything is started.

    Raises:
        WinnowError: the input is at fault, or the folder holds other work.
        StageFailed: a task died; its log is named.
    """
    chosen = plan.chosen(only)
    for note in dict.fromkeys(filter(None, (stage.note for stage in chosen))):
        progress.note(note)
    if not Path(plan.output).exists():  # a study that cannot begin leaves nothing behind
        check_access(plan, chosen)
    with locked(Path(plan.output), what):  # before anything is forgotten that a living run has just done
        for sentence in forget_lost(plan, chosen):
            progress.note(sentence)
        listed = check_access(plan, chosen)
        left = [stage for stage in chosen if tasks_left(plan.output, stage)]
        engine = engine_of(plan, chosen) if left or plan.study.engine.kind == "slurm" else None
        if engine is not None:
            check_needs(plan, chosen, engine)
        claim(plan)
        prepare()
        note_files(plan, listed, [stage for stage in plan.stages.values() if has_begun(plan.output, stage)])
        if more := left_out(plan):
            progress.note(
                f"{more:,} files of {plan.study.corpus} have come since this study began and are not read: another "
                "output takes them in"
            )
        for note in engine.notes if engine else ():
            progress.note(note)
        if engine is None:
            Stages(plan.output, chosen, progress).show()
        elif engine.attended:
            attend(plan, chosen, engine, Stages(plan.output, chosen, progress))
        else:
            submit_all(plan, chosen, engine, tell)
        tell_bad_rows(plan, chosen, progress)


# --------------------------------------------------------------------------------------------------- before the start


def forget_lost(plan: Plan, wanted: Collection[Stage] = ()) -> list[str]:
    """Take the records off every stage that is done but whose output does not open; return a sentence for each.

    Wanted stages are those whose output the caller wants: if they have no other reader, they are opened in full.
    """
    from evaluate_suite.units import mend_results

    said = [
        f"{one} (left out; what measured it is done again)"
        for name in (RESULTS, COSTS)
        for one in mend_results(os.path.join(plan.output, name))
    ]
    needed = {need for stage in plan.stages.values() for need in stage.inputs}
    read = {stage for stage in wanted if stage not in needed and stage.kind in ("scores", "selections", "tokens")}
    lost = []
    for stage in reversed(list(plan.stages.values())):
        if not tasks_left(plan.output, stage):
            try:
                stage.check_output(plan.output, whole=stage in read and plan.study.engine.kind == "local")
                continue
            except StoreMismatch:  # something else stands there: that is for the user to decide
                raise
            except (WinnowError, OSError) as error:
                forget(plan.output, stage)
                why = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
                lost.append(f"{stage.name} is done again: {why}")
        read.update(stage.inputs)
    return said + lost[::-1]


def check_access(plan: Plan, chosen: Iterable[Stage]) -> dict[Files, CorpusFiles]:
    """List every corpus and ask for every model that chosen stages still to be done will read.

    Raises:
        CorpusError: a corpus is not there, or cannot be listed: a credential is missing.
        ModelError: a model is neither a folder nor to be had from the Hub.
    """
    left = [stage for stage in chosen if tasks_left(plan.output, stage)]
    sources = dict.fromkeys(source for stage in left for source in stage.sources)
    places = dict.fromkeys((source.path, source.reading.glob) for source in sources)
    by_place = {place: list_corpus(*place) for place in places}
    for model in dict.fromkeys(model for stage in left for model in stage.models):
        refuse_special_files(model)
        model_identity(model)
    for stage in left:
        stage.check_start(plan.output)
    return {source: by_place[source.path, source.reading.glob] for source in sources}


def note_files(plan: Plan, listed: Mapping[Files, CorpusFiles], begun: Iterable[Stage]) -> None:
    """Write down which files a corpus has, so that its tasks need not list it, each again and for itself.

    What stages have read that have begun stays as it is.
    """
    kept = {source.name for stage in begun for source in stage.sources}
    for source, files in listed.items():
        listing = source.listing(plan.output)
        if not (listing.exists() and source.name in kept):
            write_json(str(listing), asdict(files))


def left_out(plan: Plan) -> int:
    """Return how many files of the corpus have arrived since the study began; it does not read them."""
    sources = {source for stage in plan.stages.values() for source in stage.sources}
    ours = [one for one in sources if one.path == plan.study.corpus and one.name in ("corpus", "train")]
    return sum(
        len(list_corpus(one.path, one.reading.glob).sizes.keys() - one.files(plan.output).sizes.keys())
        for one in ours
        if one.listing(plan.output).exists()
    )


def claim(plan: Plan) -> None:
    """Note what all of a study's files were made from; more samplers, rates, models and seeds may come later.

    Raises:
        StoreMismatch: the folder holds those of another corpus.
    """
    path, study = os.path.join(plan.output, "study.json"), plan.study
    kinds = {stage.kind for stage in plan.stages.values()}
    used = {"tokenizer": {"tokens"}, "embedder": {"embeddings"}, "target": {"ngrams", "quality"}}
    names = ["corpus", "limit", "held_out", *(name for name, of in used.items() if of & kinds)]
    rows = asdict(USUAL)
    del rows["on_bad_row"]  # what is done already had no bad rows, or is done again
    changed = {name: value for name, value in study.reading.changed.items() if name in rows}
    made = {name: getattr(study, name) for name in names} | changed
    if any(isinstance(stage, TokenStage) and stage.beside for stage in plan.stages.values()):
        made["decoder_tokenizer"] = study.tokenizer_of(is_decoder=True)
    made = json_types(made)
    if create(path, seal(made)):
        return
    found = read_json(path, DELETE)
    refuse_differences({name: found.get(name, rows[name]) for name in rows}, rows | changed, plan.output)
    both = found.keys() & made.keys()
    refuse_differences({name: found[name] for name in both}, {name: made[name] for name in both}, plan.output)
    if made.keys() - found.keys():
        write_json(path, found | made)


def check_needs(plan: Plan, chosen: Collection[Stage], engine: Engine) -> None:
    """Refuse to begin a stage on half of another: what is not chosen must be done, or wait in the engine's queue.

    Raises:
        InvalidStudy: names what is missing.
    """
    begun = [stage for stage in chosen if tasks_left(plan.output, stage)]
    end = time.monotonic() + _PATIENCE
    for stage, task in [(one, task) for one in begun for task in tasks_left(plan.output, one)]:
        while engine.attended and (found := task_state(plan.output, stage, task)).state == "running":
            if time.monotonic() > end:
                raise InvalidStudy(
                    f"{stage.name}, task {task}, is running, on another engine or machine ({found.log}): wait for it, "
                    "or end it"
                )
            time.sleep(TICK)
    there = set(chosen)
    missing = []
    for need in dict.fromkeys(need for stage in begun for need in stage.inputs if need not in there):
        left = tasks_left(plan.output, need)
        if left and not set(left) <= engine.queued(need).keys():
            missing.append(need)
    if missing:
        kinds = ", ".join(dict.fromkeys(need.kind for need in missing))
        raise InvalidStudy(
            f"{begun[0].name} and its like need {len(missing)} stages that are not done ({kinds}): winnow run "
            f"{plan.study.path} does them all, or give --only {missing[0].name} first"
        )


# ---------------------------------------------------------------------------------------------------------- the run


def tasks_of(plan: Plan, stage: Stage, numbers: Iterable[int]) -> list[Task]:
    """Return tasks of a stage, for an engine."""
    logs = os.path.join(os.path.abspath(plan.output), "logs", stage.name)
    made = []
    for number in numbers:
        log = os.path.join(logs, f"task-{number}.log")
        made.append(Task(stage, number, tuple(command(plan, stage, number, log)), log))
    return made


def submit_all(plan: Plan, chosen: Sequence[Stage], engine: Engine, tell: Tell = lambda _: None) -> dict[str, Task]:
    """Hand over what is neither done nor in the queue, each stage after those it needs, and return it by handle.

    `tell` is given a line for each stage that was handed over, or is in the queue already.
    """
    wanted, anew = set(chosen), set[Stage]()
    awaited: dict[Stage, list[str]] = {}
    tasks: dict[str, Task] = {}
    for stage in plan.stages.values():
        left = tasks_left(plan.output, stage)
        waiting = {number: handle for number, handle in engine.queued(stage).items() if number in left} if left else {}
        after = [handle for need in stage.inputs for handle in awaited.get(need, ())]
        if waiting and anew.intersection(stage.inputs):
            engine.wait_anew(stage, after)
        awaited[stage] = list(dict.fromkeys(waiting.values()))
        if not left or stage not in wanted:
            continue
        jobs, there = dict.fromkeys(handle.partition("_")[0] for handle in waiting.values()), "  in the queue already"
        new = tasks_of(plan, stage, [number for number in left if number not in waiting])
        if new:
            forgive(plan.output, stage)
            handles = engine.submit(new, after)
            tasks |= dict(zip(handles, new, strict=True))
            jobs, there = dict.fromkeys(handles), "  (some of it is in the queue already)" if waiting else ""
            awaited[stage] += jobs
            anew.add(stage)
        tell(f"{','.join(jobs):>10}  {stage.name}{there}")
    return tasks


def attend(plan: Plan, chosen: Sequence[Stage], engine: Engine, shown: Stages) -> None:
    """Run tasks until none is left; what stands on a failed task is not started, and everything else goes on.

    Raises:
        WinnowError: a task found the input at fault; everything is stopped.
        OSError: a task found a disk full; everything is stopped.
        StageFailed: a task died.
        KeyboardInterrupt: after ending the tasks.
    """
    failed: list[str] = []
    with interrupts_held() as raise_held:
        try:
            tasks = submit_all(plan, chosen, engine)
            while tasks:
                raise_held()
                for handle, code in engine.poll().items():
                    task = tasks.pop(handle)
                    if code not in (0, NEVER_STARTED):
                        failed.append(_failure(task, code))
                shown.tick()
                time.sleep(TICK)
            raise_held()
        finally:
            engine.close()
    shown.show()
    if failed:
        others = f"\n{len(failed) - 1} more failed: winnow status {plan.study.path} shows them." * (len(failed) > 1)
        raise StageFailed(f"{failed[0]}The same command goes on from there.{others}")


def _failure(task: Task, code: int) -> str:
    """Return how a task died, with the end of its log. Raises WinnowError or OSError where the user has to act."""
    if code == DISK_FULL:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.path.dirname(task.log))
    if code == USERS_FAULT:
        raise WinnowError(f"{task.title}: {log_end(task.log, 1)}")
    how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
    memory = " (out of memory?)" if code == -9 else ""
    end = "".join(f"  | {line}\n" for line in log_end(task.log).splitlines())
    return f"{task.title} {how}{memory}; the end of its log, {task.log}:\n{end}"
