"""Pre-train a model on a selection of a tokenised corpus for a fixed number of tokens.

    accelerate launch -m train.pretrain --config t5-small-paper.yaml --tokens TOKENS --run-dir RUN --selection FILE
    accelerate launch -m train.pretrain --tokens TOKENS --run-dir RUN --total-tokens 1048576

Killed at any time and started again, it continues and ends with the same weights; a finished run returns at once.
Exit code: 0 finished, 2 refused, 75 stopped by SIGTERM or SIGUSR1 after writing a checkpoint (start it again: the
code of a temporary failure), 130 by SIGINT. Launchers change exit codes; RUN/preempted.json is there in both cases.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import nullcontext
from pathlib import Path

from pipeline_steps.errors import WinnowError
from pipeline_steps.stores.artefact import claim
from pipeline_steps.terminal import complain
from train.arguments import parse
from train.folders import locked
from train.plan import Plan, PretrainArguments
from train.run_directory import is_finished, note_preemption, tidy
from train.signals import REQUEUE
from train.training_plan import TrainingPlan


def main(argv: list[str] | None = None) -> None:
    """Run the command line; exits."""
    try:
        arguments = parse(PretrainArguments, argv, "train.pretrain", str(__doc__))
        note_preemption(Path(arguments.run_dir), None)  # first of all: a job that is refused must not be requeued
        sys.exit(run(Plan.make(arguments)))
    except (WinnowError, OSError) as error:
        complain(error)
        sys.exit(2)


def run(plan: TrainingPlan) -> int:
    """Start a plan, or continue it; the exit code."""
    # Workers outlive a launcher that is killed: the first of them holds the lock for all
    is_first = int(os.environ.get("RANK", 0)) == 0
    with locked(plan.run_dir, "training run") if is_first else nullcontext():
        claim(f"{plan.run_dir}/resolved.json", plan.resolved, str(plan.run_dir))
        if is_first:
            tidy(plan.run_dir)
        if is_finished(plan.run_dir, plan.budget.steps):
            return 0
        from train.loop import Trainer  # seconds to import; mistakes above are told before

        stopped = Trainer(plan).train()
        if stopped is None:
            return 0
        note_preemption(plan.run_dir, stopped)
        return 128 + stopped if stopped == signal.SIGINT else REQUEUE


if __name__ == "__main__":
    main()
