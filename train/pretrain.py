"""Pre-train T5 on a selection of a tokenised corpus for a fixed number of tokens.

    accelerate launch -m train.pretrain --tokens TOKENS --selection SELECTION --run-dir RUN --total-tokens 1048576

Killed at any time and started again, it continues and ends with the same weights; a finished run returns at once.
Exit code: 0 finished, 2 refused, 128 + n stopped by signal n after writing a checkpoint.
"""

from __future__ import annotations

import sys

from pipeline_steps.errors import WinnowError
from train.arguments import parse
from train.plan import Plan, PretrainArguments
from train.run_directory import claim, is_finished


def main(argv: list[str] | None = None) -> None:
    """Run the command line; exits."""
    try:
        arguments = parse(PretrainArguments, argv, "train.pretrain", str(__doc__))
        plan = Plan.make(arguments)
        claim(plan.run_dir, plan.resolved)
        if is_finished(plan.run_dir, plan.budget.steps):
            sys.exit(0)
        from train.loop import Trainer  # seconds to import; mistakes above are told before

        stopped = Trainer(plan).train()
    except WinnowError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    sys.exit(128 + stopped if stopped else 0)


if __name__ == "__main__":
    main()
