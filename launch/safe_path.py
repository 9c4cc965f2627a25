"""Whatever winnow starts imports winnow's own packages, and never a user's train.py or launch/ that lies beside it."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from pipeline_steps.errors import WinnowError


ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("pipeline_steps", "train", "evaluate_suite", "launch")


def keep_path_safe() -> None:
    """Keep the working directory off the import path of every process that this one starts.

    Raises:
        WinnowError: PYTHONPATH puts somebody else's module before one of winnow's packages, which no flag prevents.
    """
    os.environ["PYTHONSAFEPATH"] = "1"
    for name in PACKAGES:
        found = find_spec(name)
        where = found.origin if found else None
        if where is None or Path(where).resolve().parent.parent != ROOT:
            raise WinnowError(f"{name} is {where or 'nowhere'}, not winnow's: take that folder out of PYTHONPATH")
