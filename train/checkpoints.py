"""Checkpoints: folders that are whole or absent, loadable by transformers as they lie.

<run>/checkpoints/step-00000100/
    config.json, generation_config.json, model.safetensors   as `T5ForConditionalGeneration.from_pretrained`
    tokenizer.json, tokenizer_config.json                     as `AutoTokenizer.from_pretrained`
    optimizer.safetensors                                     Adafactor's moments by parameter name
    state.json                                                where the run stands, and checksums of the weights
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

from pipeline_steps.errors import StoreIncomplete, StoreMismatch
from pipeline_steps.files import read_json, write_json
from train.folders import whole_folder
from train.run_directory import checkpoint_folder, list_checkpoints


_WEIGHTS = ("model.safetensors", "optimizer.safetensors")


def save_checkpoint(
    run_dir: Path,
    model: T5ForConditionalGeneration,
    optimizer: dict[str, Tensor],
    tokenizer: Path,
    state: dict[str, Any],
) -> Path:
    """Write a checkpoint in one atomic step; `state` must hold `step`. Returns its folder."""
    target = checkpoint_folder(run_dir, state["step"])
    with whole_folder(target) as folder:
        _save_model(model, folder)
        for file in sorted(tokenizer.iterdir()):
            shutil.copyfile(file, folder / file.name)
        save_file(optimizer, folder / "optimizer.safetensors")
        write_json(f"{folder}/state.json", state | {"xxh3": {name: _checksum(folder / name) for name in _WEIGHTS}})
    return target


def remove_checkpoint(folder: Path) -> None:
    """Delete a checkpoint; killed halfway, it is not a checkpoint any more, and `sweep` removes the rest."""
    hidden = folder.with_name(f".{folder.name}.removed")
    folder.rename(hidden)
    shutil.rmtree(hidden)


def sweep(run_dir: Path, step: int) -> None:
    """Remove what a killed run left behind: half-written folders, and checkpoints after `step`, which are damaged."""
    for folder in list_checkpoints(run_dir):
        if folder > checkpoint_folder(run_dir, step):
            remove_checkpoint(folder)
    for folder in sorted((run_dir / "checkpoints").glob(".*")):
        shutil.rmtree(folder)


def latest_checkpoint(run_dir: Path) -> Path | None:
    """The newest checkpoint whose weights have the checksums its state gives them, or None."""
    return next((folder for folder in reversed(list_checkpoints(run_dir)) if _is_valid(folder)), None)


def load_checkpoint(folder: Path) -> tuple[T5ForConditionalGeneration, Any, dict[str, Any]]:
    """Model (float32, in evaluation mode), tokenizer and state of a checkpoint.

    Raises:
        StoreIncomplete: the folder is not a checkpoint of ours.
        StoreMismatch: its weights are damaged.
    """
    folder = Path(folder)
    if not (folder / "state.json").exists():
        raise StoreIncomplete(f"{folder} is not a checkpoint: it has no state.json; give a folder in RUN/checkpoints")
    if not _is_valid(folder):
        raise StoreMismatch(f"{folder} is damaged: its weights do not have their checksum; delete it and run again")
    return load_model(folder), AutoTokenizer.from_pretrained(folder), read_json(f"{folder}/state.json")


def load_model(folder: Path) -> T5ForConditionalGeneration:
    """Float32 model of a checkpoint, in evaluation mode."""
    weights = load_file(folder / "model.safetensors")
    with torch.random.fork_rng(devices=[]):  # building a model draws initial weights
        model = T5ForConditionalGeneration(T5Config.from_pretrained(folder))
    if "lm_head.weight" in weights:
        model.lm_head.weight = nn.Parameter(weights["lm_head.weight"])
    for name, parameter in model.named_parameters():
        parameter.data.copy_(weights[name])
    return model.eval()


def load_optimizer(folder: Path) -> dict[str, Tensor]:
    """The optimizer's tensors by name."""
    state: dict[str, Tensor] = load_file(folder / "optimizer.safetensors")
    return state


def _save_model(model: T5ForConditionalGeneration, folder: Path) -> None:
    """What `save_pretrained` writes, without its progress bar; tied weights once, under their first name."""
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    weights = {name: parameter.detach().contiguous() for name, parameter in model.named_parameters()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _is_valid(folder: Path) -> bool:
    try:
        checksums = read_json(f"{folder}/state.json")["xxh3"]
        return all(checksums[name] == _checksum(folder / name) for name in _WEIGHTS)
    except (FileNotFoundError, KeyError, ValueError):
        return False


def _checksum(path: Path) -> str:
    state = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 24):
            state.update(chunk)
    return state.hexdigest()
