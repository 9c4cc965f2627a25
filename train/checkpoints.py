"""Checkpoints: folders that are whole or absent, loadable by transformers as they lie.

<run>/checkpoints/step-00000100/
    config.json, generation_config.json, model.safetensors   as `PreTrainedModel.from_pretrained`
    tokenizer.json, tokenizer_config.json                     as `AutoTokenizer.from_pretrained`; decoders' add nothing
    optimizer.safetensors                                     its moments by parameter name
    state.json                                                where the run stands; digests of all others, and its own
<run>/checkpoints/LATEST                                      name of the newest, for people: nothing reads it
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from datatrove.utils.logging import logger
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedModel

from pipeline_steps.engines.models import load_config, load_weights, model_identity
from pipeline_steps.errors import ModelError, StoreIncomplete
from pipeline_steps.stores.files import write_atomically
from train.folders import SealedFolder, whole_folder
from train.model import empty_model
from train.run_directory import checkpoint_folder, list_checkpoints, read_state, step_of
from train.sharding import whole
from train.token_store import META
from train.tokenizers import add_no_special_tokens


def save_checkpoint(
    run_dir: Path,
    model: PreTrainedModel,
    tensors: tuple[dict[str, Tensor], dict[str, Tensor]],
    tokenizer: Path,
    state: dict[str, Any],
) -> Path:
    """Write a checkpoint in one atomic step, then point LATEST to it; return its folder.

    Args:
        run_dir: the run's folder.
        model: whose configuration is saved.
        tensors: weights and optimizer state by name, whole.
        tokenizer: folder that is copied into it; that of a causal model adds no special tokens there.
        state: must hold `step`.

    Raises:
        ModelError: it cannot be written; those before it are intact.
    """
    target = checkpoint_folder(run_dir, state["step"])
    model.config.architectures = [type(model).__name__]
    try:
        with whole_folder(target) as folder:
            model.config.save_pretrained(folder)
            model.generation_config.save_pretrained(folder)
            shutil.copytree(tokenizer, folder, ignore=shutil.ignore_patterns(META), dirs_exist_ok=True)
            if not model.config.is_encoder_decoder:
                add_no_special_tokens(folder)
            for name, values in zip(("model", "optimizer"), tensors, strict=True):
                save_file(values, folder / f"{name}.safetensors", metadata={"format": "pt"})
            SealedFolder.seal(folder, "state.json", state)
        _point_to(target)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"the checkpoint of step {state['step']} cannot be written to {run_dir} ({error}): make room and give the "
            "same command again; the last checkpoint is intact"
        ) from error
    return target


def remove_checkpoint(folder: Path) -> None:
    """Delete a checkpoint; killed halfway, it is not a checkpoint any more, and `tidy` removes the rest."""
    hidden = folder.with_name(f".{folder.name}.removed")
    folder.rename(hidden)
    shutil.rmtree(hidden)


def prune(run_dir: Path, grid: set[int], keep_last: int) -> None:
    """Remove checkpoints that are neither on the grid nor among the last few."""
    on_grid = {checkpoint_folder(run_dir, step) for step in grid}
    for folder in list_checkpoints(run_dir)[:-keep_last]:
        if folder not in on_grid:
            remove_checkpoint(folder)


def drop_after(run_dir: Path, step: int) -> None:
    """Set the checkpoints after `step` aside, which are damaged: the run continues from there.

    They are renamed to step-00000100.damaged, for people to look at; nothing reads them.
    """
    for folder in list_checkpoints(run_dir):
        if step_of(folder) > step:
            aside, number = folder.with_name(f"{folder.name}.damaged"), 1
            while aside.exists():
                number += 1
                aside = folder.with_name(f"{folder.name}.damaged-{number}")
            folder.rename(aside)
            logger.warning(f"{folder} is damaged and lies in {aside} now: delete it when it is of no use")
    if (newest := checkpoint_folder(run_dir, step)).exists():  # not of a branch that begins with its trunk's
        _point_to(newest)


def load_checkpoint(folder: Path) -> tuple[PreTrainedModel, Any, dict[str, Any]]:
    """Return the model (float32, in evaluation mode), tokenizer and state of a checkpoint, every file verified.

    Raises:
        StoreIncomplete: the folder is not a checkpoint of ours.
        StoreDamaged: a file of it is not what was written; names it.
        StoreMismatch: somebody has added a file that transformers would read; names it.
    """
    folder = Path(folder)
    if not (folder / "state.json").exists():
        raise StoreIncomplete(f"{folder} is not a checkpoint: it has no state.json; give a folder in RUN/checkpoints")
    state = read_state(folder)
    return load_model(folder), AutoTokenizer.from_pretrained(folder, trust_remote_code=False), state


def load_model(folder: Path) -> PreTrainedModel:
    """Load the float32 model of a checkpoint, in evaluation mode."""
    weights = load_file(folder / "model.safetensors")
    model = empty_model(str(folder))
    if "lm_head.weight" in weights:
        model.lm_head.weight = nn.Parameter(weights["lm_head.weight"])
    for name, parameter in model.named_parameters():
        parameter.data.copy_(weights[name])
    return model.eval()


def load_pretrained(model: str, revision: str | None = None) -> PreTrainedModel:
    """Load the float32 T5 of a checkpoint, a folder of transformers' or the Hub.

    Raises:
        ModelError: it is not a T5, or it cannot be loaded.
    """
    model_identity(model, revision)  # says in one sentence what is wrong with a name
    config = load_config(model, revision)
    if config.model_type not in ("t5", "mt5"):
        raise ModelError(f"{model} is a {config.model_type}, not a T5: give a T5")
    if (Path(model) / "state.json").exists():
        return load_checkpoint(Path(model))[0]
    return load_weights(AutoModelForSeq2SeqLM, model, revision, dtype="float32")


def load_optimizer(folder: Path) -> dict[str, Tensor]:
    """Load the optimizer's tensors by name."""
    state: dict[str, Tensor] = load_file(folder / "optimizer.safetensors")
    return state


def _point_to(newest: Path) -> None:
    write_atomically(f"{newest.parent}/LATEST", f"{newest.name}\n".encode())


def whole_weights(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return weights by name, tied ones once; all processes of a sharded model must call it."""
    return {name: whole(parameter.detach()).contiguous() for name, parameter in model.named_parameters()}
