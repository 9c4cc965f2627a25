"""Averages of a run's checkpoints: run directories of one checkpoint, whose weights are the mean.

The mean of checkpoints at a constant learning rate imitates a decay (WSM, arXiv 2507.17634). What measures a run
measures an average; nothing trains on from it, for it has no optimizer state.

<output>/resolved.json              of the run, and `averaged`: step and digest of the weights of each checkpoint
<output>/metrics.jsonl              the run's rows up to the newest of them
<output>/checkpoints/step-00000100/ named by the newest of them, whose state.json it has, with `averaged`
"""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline_steps.errors import InvalidCut, StoreIncomplete, StoreMismatch
from pipeline_steps.stores.files import read_json, write_json
from train.arguments import NEWER
from train.folders import SealedFolder, whole_folder
from train.run_directory import Metrics, checkpoint_folder, list_checkpoints, read_state, step_of
from train.schedules import decay_start


_WEIGHTS = "model.safetensors"
_NOT_COPIED = {_WEIGHTS, "optimizer.safetensors"}
_REMEDY = "delete this checkpoint to average without it, or train it again"


def average(run_dir: Path, last: int, output: Path, stable: bool = False) -> Path:
    """Write the mean of the newest checkpoints of a run; return the folder of the new checkpoint.

    Weights are added in float64, by ascending step, and rounded to their own type once.

    Args:
        run_dir: a run of pre-training.
        last: how many checkpoints.
        output: a new folder; it appears whole. An average of the same checkpoints may be there already.
        stable: take checkpoints of the stable phase of a wsd run only.

    Raises:
        StoreIncomplete: there is no run.
        InvalidCut: the run has fewer such checkpoints, or no stable phase.
        StoreDamaged: a file of a checkpoint is not what was written; names it.
        StoreMismatch: the checkpoints are of different runs, or `output` holds something else.
    """
    try:
        resolved = read_json(f"{run_dir}/resolved.json")
    except FileNotFoundError:
        raise StoreIncomplete(f"{run_dir} holds no run: give a run directory of winnow pretrain") from None
    chosen = _choose(run_dir, NEWER | resolved, last, stable)
    states = [read_state(folder, _REMEDY) for folder in chosen]
    _refuse_different(chosen, states)
    averaged = [{"step": state["step"], "weights": state["files"][_WEIGHTS]} for state in states]
    target = checkpoint_folder(output, states[-1]["step"])
    if output.exists():
        _refuse_another(output, averaged)
        read_state(target, f"delete {output} to make it again")
        return target
    with whole_folder(output) as temporary:
        write_json(f"{temporary}/resolved.json", resolved | {"averaged": averaged})
        with Metrics(temporary, "metrics", states[-1]["step"], run_dir):
            pass
        made = checkpoint_folder(temporary, states[-1]["step"])
        made.mkdir(parents=True)
        for name in states[-1]["files"].keys() - _NOT_COPIED:
            (made / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(chosen[-1] / name, made / name)
        save_file(_mean([folder / _WEIGHTS for folder in chosen]), made / _WEIGHTS, metadata={"format": "pt"})
        told = {name: value for name, value in states[-1].items() if name not in ("files", "interval")}
        SealedFolder.seal(made, "state.json", told | {"averaged": averaged})
    return target


def _choose(run_dir: Path, settings: dict[str, Any], last: int, stable: bool) -> list[Path]:
    if last < 2:
        raise InvalidCut(f"an average of {last} checkpoints is none: give at least 2")
    found, which = list_checkpoints(run_dir), ""
    if stable:
        if settings["schedule"] != "wsd":
            raise InvalidCut(
                f"{run_dir} has the schedule {settings['schedule']}, which has no stable phase: leave out --stable"
            )
        end, which = decay_start(settings["steps"], settings["decay_fraction"]), " of its stable phase"
        found = [folder for folder in found if settings["warmup_steps"] <= step_of(folder) <= end]
    if len(found) < last:
        raise InvalidCut(
            f"{run_dir} has {len(found)} checkpoints{which}, which are less than {last}: average fewer, or train "
            "with more --checkpoints or --milestones"
        )
    return found[-last:]


def _refuse_different(chosen: list[Path], states: list[dict[str, Any]]) -> None:
    for folder, state in zip(chosen, states, strict=True):
        differing = sorted(name for name, found in states[-1]["hashes"].items() if state["hashes"].get(name) != found)
        if differing or state["files"]["config.json"] != states[-1]["files"]["config.json"]:
            raise StoreMismatch(
                f"{folder} is of another run than {chosen[-1]} (they differ in {', '.join(differing) or 'model'}): "
                "average the checkpoints of one run"
            )


def _refuse_another(output: Path, averaged: list[dict[str, Any]]) -> None:
    try:
        found = read_json(f"{output}/resolved.json", f"delete {output} to make it again").get("averaged")
    except FileNotFoundError:
        found = None
    if found != averaged:
        raise StoreMismatch(f"{output} exists and is not the average of these checkpoints: give a new folder")


def _mean(files: list[Path]) -> dict[str, Tensor]:
    """Return the mean of each tensor over files with the same ones, of which no more than a tensor is in memory."""
    with ExitStack() as stack:
        opened = [stack.enter_context(safe_open(file, "pt")) for file in files]
        means = {}
        for name in sorted(opened[0].keys()):
            first = opened[0].get_tensor(name)
            total = first.to(torch.float64)
            for file in opened[1:]:
                total += file.get_tensor(name)
            means[name] = (total / len(files)).to(first.dtype)
    return means
