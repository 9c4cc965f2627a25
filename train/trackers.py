"""What a run reports to trackers beside its own files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import filter_trackers

from pipeline_steps.errors import ModelError
from train.training_plan import TrainingPlan


def start_trackers(accelerator: Accelerator, plan: TrainingPlan, done: int) -> Callable[[str, dict[str, Any]], None]:
    """A function that takes rows by name; TensorBoard's files are in <run>/pretrain.

    Raises:
        ModelError: the tracker is not known to accelerate, or not installed.
    """
    name = plan.arguments.report_to
    if name == "none":
        return lambda _, row: None
    try:
        trackers = filter_trackers([name], str(plan.run_dir))
    except ValueError as error:
        raise ModelError(f"no tracker {name!r} ({error}): choose one of accelerate's, or none") from error
    if not trackers:
        raise ModelError(f"the tracker {name} is not installed: pip install {name}, or say --report_to none")
    accelerator.log_with = trackers
    settings = {key: value for key, value in plan.resolved.items() if isinstance(value, (int, float, str, bool))}
    options = {"tensorboard": {"purge_step": done + 1}}  # what a killed run has shown beyond its checkpoint
    accelerator.init_trackers("pretrain", settings, options if name == "tensorboard" else {})

    def report(group: str, row: dict[str, Any]) -> None:
        prefix = f"{group}/{row['split']}" if "split" in row else group
        shown = {f"{prefix}/{key}": value for key, value in row.items() if isinstance(value, (int, float))}
        accelerator.log(shown, step=row["step"])

    return report
