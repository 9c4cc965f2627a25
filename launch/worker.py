"""One task of a stage of a study, in a process of its own: what every engine starts.

    python -P -m launch.worker STUDY STAGE [--task N] [--made FINGERPRINT] [--output DIR] [--log FILE]

Every artefact is whole or absent, so a task that was killed is simply run again. Exit code: 0 done, 2 the input is at
fault, 75 stopped by a signal after writing a checkpoint, 1 anything else.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence

from launch.faults import as_process
from launch.plan import Plan
from launch.records import Watched, check_ready
from launch.stages.base import Stage
from launch.study_file import open_study
from pipeline_steps.errors import InvalidStudy
from train.signals import REQUEUE


_STOPPED = tuple(128 + number for number in (signal.SIGTERM, signal.SIGUSR1))  # as a shell says it


def command(plan: Plan, stage: Stage, task: int | None, log: str) -> list[str]:
    """Return the command that runs a task; without a task, its number and log are to be added.

    A study file of the user's is named by its absolute path, for engines may start the command elsewhere.
    """
    study = plan.study.path
    path = os.path.abspath(study) if os.path.exists(study) else study  # one that comes with this package
    words = [sys.executable, "-P", "-m", "launch.worker", path, stage.name, "--made", stage.made]
    words += ["--output", os.path.abspath(plan.output)]
    return words if task is None else [*words, "--task", str(task), "--log", log]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study")
    parser.add_argument("stage")
    parser.add_argument("--task", type=int, default=0)
    parser.add_argument("--log", default="", help="file that the output goes to, for winnow status")
    parser.add_argument("--made", default="", help="fingerprint of the stage as it was started; another is refused")
    parser.add_argument("--output", default="", help="folder of the study as it was started; another is refused")
    args = parser.parse_args(argv)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for number in (signal.SIGTERM, signal.SIGUSR1):  # so that the task notes that it was stopped, to go on later
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    return as_process(lambda: _checked_task(args))


def _checked_task(args: argparse.Namespace) -> int:
    plan = Plan.of(open_study(args.study))
    if args.output not in ("", os.path.abspath(plan.output)):
        raise InvalidStudy(
            f"{args.study} had the output {args.output} when {args.stage} was started, and has {plan.output} now: "
            f"winnow run {args.study} goes on"
        )
    return run_task(plan, args.stage, args.task, args.log, args.made)


def run_task(plan: Plan, name: str, task: int, log: str = "", made: str = "") -> int:
    """Run a task, note how it ends, and return its exit code.

    Raises:
        InvalidStudy: what the task needs is not done, or the study file has changed since it was started, as `made`.
    """
    study, output = plan.study.path, plan.output
    stage = plan.stages.get(name)
    if stage is None or not 0 <= task < stage.tasks:
        raise InvalidStudy(f"{study} has no task {task} of a stage {name}: winnow status lists them")
    if made not in ("", stage.made):
        raise InvalidStudy(f"{study} has changed since {name} was started: winnow run {study} goes on")
    check_ready(output, stage, study)
    if os.environ.get("SLURM_NODEID", "0") != "0":  # of several nodes that train together, the first takes the notes
        return _exit_code(stage, output, task)
    watched = Watched(output, stage, task, log)
    try:
        code = _exit_code(stage, output, task)
    except (KeyboardInterrupt, SystemExit):
        watched.stop()
        raise
    except BaseException as error:
        watched.stop(f"{type(error).__name__}: {error}".splitlines()[0])
        raise
    if code == 0:
        watched.done()
    else:
        watched.stop("" if code in (REQUEUE, *_STOPPED) else f"it ended with exit code {code}")
    return code


def _exit_code(stage: Stage, output: str, task: int) -> int:
    """Run the task, and return its exit code; raise SystemExit if a signal has stopped it."""
    try:
        stage.run_task(output, task)
        return 0
    except SystemExit as exit:
        if exit.code in _STOPPED:
            raise
        return exit.code if isinstance(exit.code, int) else int(exit.code is not None)


if __name__ == "__main__":
    sys.exit(main())
