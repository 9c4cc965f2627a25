"""The commands of a study: run, status, plan, report, schema, and the quickstart."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import ArgumentCollection, Group, Parameter, Token

from launch.commands.arguments import CORES, CORPUS, MODEL, NEW_PLACE, PLACE, Forwarded, Rows
from launch.cost.hardware import USUAL_HARDWARE, Hardware
from pipeline_steps.errors import InvalidStudy
from pipeline_steps.readers.reading import USUAL
from pipeline_steps.terminal import Terminal, print_json, wide


if TYPE_CHECKING:  # names of functions that no command has in its signature
    from launch.plan import Plan


Engine = Literal["local", "slurm", "ray"]


def _one_view(given: ArgumentCollection) -> None:
    if len(given.filter_by(value_set=True)) > 1:
        raise ValueError("give --watch or --json, not both")


_VIEW = Parameter(group=Group("How to show it, one of", sort_key=2, validator=_one_view))


def run(
    study: Annotated[str, PLACE],
    /,
    *,
    only: Annotated[str | None, Parameter(metavar="STAGE")] = None,
    executor: Engine | None = None,
    dry_run: bool = False,
) -> int:
    """Run every stage of a study that is not done yet.

    Shared work is done once, then each training, each measurement, the report. Killed at any time, the same command
    goes on. Look with winnow plan before, with winnow status meanwhile.

    Args:
        study: a YAML file, or the name of one that comes with this package:
            decoder.yaml, micro-decoder.yaml, micro.yaml, paper.yaml, quickstart.yaml.
        only: one stage, or all that begin so, e.g. scores or runs/t5-small.
        executor: instead of the study's engine.
        dry_run: say what would be run, and start nothing.

    Examples:
      winnow run micro.yaml                              all 22 samplers of the paper in miniature: minutes on 2 cores
      winnow run micro-decoder.yaml                      can a small decoder tell selections apart? minutes on 2 cores
      winnow run study.yaml --only scores                the score stores, once what they stand on is there
      winnow run study.yaml --executor slurm --dry-run   write every sbatch script, submit nothing
      winnow run study.yaml --executor ray               on the cluster of RAY_ADDRESS, or one started here
    """
    from launch.plan import Plan
    from launch.progress import StageProgress
    from launch.runner import run as run_plan

    plan = Plan.of(_open(study, executor))
    if dry_run:
        return _show_only(plan, only)
    with StageProgress(Terminal(stderr=True)) as progress:
        run_plan(plan, only, progress, lambda line: Terminal().print(line, highlight=False, soft_wrap=True))
    if plan.study.engine.kind != "slurm":
        _show_results(plan, only)
    return 0


def _open(study: str, engine: str | None) -> Any:
    from launch.study_file import open_study

    found = open_study(study)
    if engine is None:
        return found
    return found.model_copy(update={"engine": found.engine.model_copy(update={"kind": engine})})


def _show_only(plan: Plan, only: str | None) -> int:
    """Print what would be run; on Slurm, write the scripts."""
    from launch.status import show, tasks_of

    chosen = plan.chosen(only)
    Terminal().print(show(plan, [task for task in tasks_of(plan) if task.stage in chosen]))
    if plan.study.engine.kind == "slurm":
        from launch.engines.slurm import write_scripts

        scripts = write_scripts(plan, chosen)
        Terminal().print(f"{len(scripts):,} scripts in {plan.output}/slurm")
    return 0


def _show_results(plan: Plan, only: str | None) -> None:
    """Print where the results of a study are: those that no other stage reads."""
    from launch.stages.datasets import Dataset
    from launch.stages.report import Report

    chosen = plan.chosen(only)
    read = {need for stage in chosen for need in stage.inputs}
    for stage in chosen:
        if isinstance(stage, Dataset):
            before, after = stage.record(plan.output)["documents"]
            said = f"dataset  {stage.settings.output}: {after:,} of {before:,} documents"
            Terminal().print(said, highlight=False, soft_wrap=True)
        elif stage not in read and stage.kind in ("scores", "selections", "tokens"):
            Terminal().print(f"{stage.kind:<8} {stage.folder(plan.output)}", highlight=False, soft_wrap=True)
        if isinstance(stage, Report):
            from evaluate_suite.report import terminal_table

            wide().print(terminal_table(stage.settings(plan.output)))
            where = f"report   {plan.output}/report.html\nresults  {plan.output}/results.jsonl"
            Terminal().print(where, highlight=False, soft_wrap=True)


def status(
    study: Annotated[str, PLACE],
    /,
    *,
    watch: Annotated[
        list[float] | None, _VIEW, Parameter(consume_multiple=(0, 1), metavar="SECONDS", allow_repeating=False)
    ] = None,
    json: Annotated[bool, _VIEW] = False,
) -> int:
    """Print what each kind of stage is doing, what runs and what has failed, with the end of its log.

    Reads files, so it works from any machine that sees the output folder; where squeue answers, it also notices jobs
    that ended before they could write any. Exit code: 0 all is done, 1 a task has failed, 3 otherwise.

    Args:
        study: a YAML file, or the name of one that comes with this package.
        watch: look again every so often, every 5 seconds if no number follows.
        json: print one JSON object instead.

    Examples:
      winnow status study.yaml
      winnow status study.yaml --watch 30
    """
    from rich.live import Live

    from launch.engines.slurm import lost
    from launch.plan import Plan
    from launch.status import as_json, exit_code, is_stuck, show, tasks_of

    plan = Plan.of(_open(study, None))
    seconds = None if watch is None else (watch or [5.0])[0]
    tasks = tasks_of(plan, lost(plan))
    if json:
        print_json(as_json(tasks))
        return exit_code(tasks)
    with Live(show(plan, tasks), console=wide(), auto_refresh=False) as live:
        while seconds and exit_code(tasks) != 0 and not is_stuck(tasks):
            time.sleep(seconds)
            tasks = tasks_of(plan, lost(plan))
            live.update(show(plan, tasks), refresh=True)
    return exit_code(tasks)


def _amount(kind: Any, words: Sequence[Token]) -> int:
    """Return a whole number that may be written 184e9."""
    text = words[0].value
    try:
        found = int(float(text))
    except (ValueError, OverflowError):
        found = 0
    if not 1 <= found < 1 << 63:
        raise ValueError(f"{text!r} is not a number of at least 1, such as 184e9")
    return found


Amount = Annotated[int | None, Parameter(converter=_amount)]


def plan(
    config: Annotated[str, PLACE],
    /,
    *flags: Forwarded,
    corpus_tokens: Amount = None,
    documents: Amount = None,
    hardware: Hardware = USUAL_HARDWARE,
    paper: bool = False,
    json: bool = False,
) -> int:
    """Work out a training run or a study without starting it: tokens, operations, hours, memory, storage.

    Speeds are a share of the accelerator's peak; of a study that has begun, those that were measured.

    Args:
        config: a YAML file of a study, or of the training's flags, which further flags overrule, or the name of one
            that comes with this package: paper.yaml, t5-small-paper.yaml.
        corpus_tokens: tokens of the whole corpus (default: its store's, or C4's 184e9).
        documents: documents of the corpus of a study (default: its store's, or C4's).
        paper: list the paper's tables and figures: which stages of the study feed each, or what it lacks. A study that
            lacks nothing is listed so anyway.
        json: print one JSON object instead.

    Examples:
      winnow plan paper.yaml --accelerators 64
      winnow plan t5-large-paper.yaml --accelerator H200 --accelerators 8 --total-tokens 1000000000
    """
    from launch.cost.plan import is_study, plan_run, plan_study
    from launch.cost.tables import show_plan, show_study_plan

    if is_study(config):
        if flags:
            raise InvalidStudy(f"{config} is a study, which takes no {' '.join(flags)}: change the file")
        study = plan_study(_open(config, None), hardware.speed(), documents, corpus_tokens)
        if json:
            print_json(study.as_json() | vars(hardware))
        else:
            show_study_plan(study, hardware, Terminal(), paper)
        return 0
    if paper:
        raise InvalidStudy(f"{config} is a training: --paper lists what the stages of a study feed, leave it out")
    found = plan_run(config, list(flags), corpus_tokens, hardware)
    if json:
        print_json(found)
    else:
        show_plan(found, Terminal())
    return 0


def schema() -> int:
    """Print the JSON schema of study files, for editors.

    Examples:
      winnow schema > study.schema.json
    """
    from launch.study_file import schema as schema_of_studies  # type: ignore[import-not-found,unused-ignore]

    print_json(schema_of_studies())
    return 0


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class QuickstartFlags:
    """The flags of `winnow quickstart` that decide its numbers.

    Attributes:
        corpus: file, folder or glob of .jsonl, .csv, .parquet, .arrow or .warc files, local or s3://..., or
            hf://datasets/USER/NAME?config=NAME&split=NAME (default: the documentation of the installed Python
            packages).
        limit: read at most this many documents of --corpus.
        proxy: Ask-LLM proxy: Hub id or folder of an encoder-decoder (default: the embedded one).
        embedder: Hub id or folder of a sentence-transformers model; the default needs no weights.
        rate: fraction of documents to keep.
        train_tokens: encoder tokens each model is trained for.
        seed: of sampling, and the first of three of order and masks.
    """

    corpus: Annotated[str | None, CORPUS] = None
    limit: int = 40_000
    reading: Rows = USUAL
    proxy: Annotated[str | None, MODEL] = None
    embedder: Annotated[str, MODEL] = "hashed-ngrams"
    rate: float = 0.2
    train_tokens: int = 256_000
    seed: int = 0


def quickstart(
    *,
    output: Annotated[str, NEW_PLACE],
    flags: QuickstartFlags = QuickstartFlags(),
    workers: int = CORES,
) -> int:
    """Score a corpus, select from it, train one tiny T5 on each selection and on everything, and compare them.

    Scores with Ask-LLM and Density, keeps a fraction by random, by Ask-LLM and by Density, and trains every model for
    the same number of tokens. Kill it at any time; the same command goes on where it was, with the same results.

    Args:
        output: what the run writes; resumed if it exists.
        workers: processes at a time; changes the speed, nothing else.

    Examples:
      winnow quickstart --output runs/quickstart
      winnow quickstart --output runs/c4 --limit 20000 \\
          --corpus hf://datasets/allenai/c4/en/c4-train.00000-of-01024.json.gz
      winnow quickstart --output runs/flan --proxy google/flan-t5-small \\
          --embedder sentence-transformers/sentence-t5-base
    """
    from launch.small_studies import SmallStudy, quickstart_values, refuse_inside

    if flags.corpus is not None:
        refuse_inside(flags.corpus, output)
    small = SmallStudy("winnow quickstart", f"{output}/study.yaml", quickstart_values(output, flags), workers)
    _show_results(small.run(), None)
    return 0
