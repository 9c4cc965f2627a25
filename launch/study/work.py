"""One task of a stage of a study, in a process of its own: what every engine starts.

    python -m launch.study.work STUDY STAGE [--task I] [--made FINGERPRINT]

Every artefact is whole or absent, so a task that was killed is simply run again. Exit code: 0 done, 2 the input is at
fault, 75 stopped by a signal after writing a checkpoint, 1 anything else.
"""

from __future__ import annotations

import argparse
import os
import runpy
import shlex
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launch.faults import as_process
from launch.study.progress import Watched, check_ready, fingerprints
from launch.study.reading import open_study
from launch.study.schema import Run, Study
from launch.study.stages import Stage, milestones_of, selection, splits_of, stages_of
from pipeline_steps.errors import InvalidStudy
from pipeline_steps.samplers import FULL
from train.signals import REQUEUE, run_launcher


_TERMINATED = 128 + signal.SIGTERM  # as a shell says it


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study")
    parser.add_argument("stage")
    parser.add_argument("--task", type=int, default=0)
    parser.add_argument("--log", default="", help="file that the output goes to, for winnow status")
    parser.add_argument("--made", default="", help="fingerprint of the stage as it was started; another is refused")
    args = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))  # so that it notes that it was stopped
    return as_process(lambda: do(open_study(args.study), args.stage, args.task, args.log, args.made))


def do(study: Study, name: str, task: int, log: str = "", made: str = "") -> int:
    """Run a task, and note how it ends; its exit code.

    Raises:
        InvalidStudy: what it needs is not done, or the study file has changed since it was started, as `made`.
    """
    stages = stages_of(study)
    if name not in stages or not 0 <= task < stages[name].tasks:
        raise InvalidStudy(f"{study.path} has no task {task} of a stage {name}: winnow status lists them")
    stage, wanted = stages[name], fingerprints(stages)
    if made not in ("", wanted[name]):
        raise InvalidStudy(f"{study.path} has changed since {name} was started: winnow run {study.path} goes on")
    check_ready(study, stages, wanted, name)
    if os.environ.get("SLURM_NODEID", "0") != "0":  # of several nodes that train together, the first takes the notes
        return _DO[stage.kind](study, stage, task)
    watched = Watched(study, stage, task, wanted[name], log)
    try:
        code = _DO[stage.kind](study, stage, task)
    except (KeyboardInterrupt, SystemExit):
        watched.stop()
        raise
    except BaseException as error:
        watched.stop(f"{type(error).__name__}: {error}".splitlines()[0])
        raise
    if code == 0:
        watched.done()
    else:
        watched.stop("" if code in (REQUEUE, _TERMINATED) else f"it ended with exit code {code}")
    return code


def _pipeline(study: Study, stage: Stage, task: int) -> int:
    from launch.executor import ShareExecutor
    from launch.study.pipelines import pipeline_of

    logs = str(Path(study.output) / "logs" / stage.name)
    ShareExecutor(pipeline_of(study, stage.name), stage.tasks, task, stage.tasks, logs).run()
    return 0


def _proxy(study: Study, stage: Stage, task: int) -> int:
    from launch.study.proxies import build_proxy

    config = dict(stage.made)
    build_proxy(str(Path(study.output) / stage.name), config.pop("tokenizer"), config)
    return 0


def _training(study: Study, stage: Stage, task: int) -> int:
    arguments = training_arguments(study, stage)
    if not study.engine.launch:
        return _run_module("train.pretrain", arguments)
    launcher = [sys.executable, "-P", "-m", "accelerate.commands.launch", *shlex.split(_launch(study))]
    return run_launcher([*launcher, "-m", "train.pretrain", *arguments], Path(run_folder(study, run_of(stage))))


def training_arguments(study: Study, stage: Stage) -> list[str]:
    """Of train.pretrain, for a run."""
    run = run_of(stage)
    values: dict[str, Any] = {**{**study.models, **study.references}[run.model], "seed": run.seed}
    values |= {"tokens": str(Path(study.output) / "tokens" / "train"), "run_dir": run_folder(study, run)}
    values["milestones"] = milestones_of(study, run)
    if run.sampler != FULL:
        values["selection"] = selection(study, run.sampler, run.rate)
    return _flags(values)


def run_of(stage: Stage) -> Run:
    """The run that a training stage trains."""
    return Run(**{name: stage.made[name] for name in Run.__dataclass_fields__})


def run_folder(study: Study, run: Run) -> str:
    """Where a run writes."""
    return str(Path(study.output) / "runs" / run.name)


def _measuring(study: Study, stage: Stage, task: int) -> int:
    _, model, run_name, what = stage.name.split("/")
    run = next(one for one in study.runs() if one.name == f"{model}/{run_name}")
    evaluation, output = study.evaluation, Path(study.output)
    command: list[str] = []
    where = ["--runs", f"{run.sampler}={run_folder(study, run)}", "--output", str(output / "results.jsonl")]
    where += ["--cache", str(output / "evaluation" / run.name)]
    data = ["--data-root", evaluation.data_root] if evaluation.data_root else []
    tuning = [*data, "--budget", evaluation.budget]
    tuning += [f"--launch={_launch(study)}"] if study.engine.launch else []
    if what == "perplexity":
        places = {task: ",".join(str(output / one) for one in stores) for task, stores in splits_of(study).items()}
        command += ["perplexity", *where, "--tokens", *(f"{task}={stores}" for task, stores in places.items())]
    elif what == "few-shot":
        tune = ["--instruction-tune"] if evaluation.instruction_tune else []
        command += ["few-shot", *where, *tuning, *tune, "--limit", str(evaluation.limit)]
        command += ["--tasks", *evaluation.few_shot]
    else:
        command += ["fine-tune", *where, *tuning, "--suites", what]
    return _run_module("evaluate_suite", command)


def _report(study: Study, stage: Stage, task: int) -> int:
    from launch.cli import main as winnow
    from launch.study.reporting import report_arguments

    return winnow(["report", *report_arguments(study)])


def _launch(study: Study) -> str:
    """Arguments of accelerate launch; $MASTER_ADDR and others are those of the job."""
    found = os.path.expandvars(study.engine.launch)
    if "$" in found:
        raise InvalidStudy(f"{study.path}: engine.launch has a variable that is not set here: {found}")
    return found


def _run_module(module: str, arguments: list[str]) -> int:
    """As `python -m` would, in this process: its imports are half of what a small stage takes."""
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as exit:
        return exit.code if isinstance(exit.code, int) else int(exit.code is not None)
    return 0


def _flags(values: Mapping[str, Any]) -> list[str]:
    """Of train.pretrain."""
    flags = []
    for name, value in values.items():
        if isinstance(value, list):
            flags += [f"--{name}", *map(str, value)] if value else []
        elif value is not None:
            flags.append(f"--{name}={value}")
    return flags


_DO = {"pipeline": _pipeline, "proxy": _proxy, "training": _training, "measuring": _measuring, "report": _report}


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(main())
