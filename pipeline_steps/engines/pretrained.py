"""The one way to what others have trained: no code of a model's repository is run, and no pickle is read.

transformers and sentence-transformers would ask on stdin whether code is to be trusted, and fall back to pickled
weights; both happen nowhere here.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipeline_steps.errors import ModelError


_PICKLED = re.compile(r"(pytorch_model|adapter_model|model|weights).*\.(bin|pt|pth|ckpt|pkl|pickle)")
_LIBRARY_MODULE = re.compile(r"sentence_transformers(\.[A-Za-z0-9]\w*)+")  # a class of the library's own
_SAFE_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
_NO_CODE = "code from a model's repository is never run: choose a model that transformers itself knows"


def load_config(model: str, revision: str | None = None, **options: Any) -> Any:
    """Return a model's configuration. Raises ModelError: see `_load`."""
    from transformers import AutoConfig

    return _load(AutoConfig.from_pretrained, "configuration", model, revision, **options)


def load_tokenizer(model: str, revision: str | None = None) -> Any:
    """Return a model's fast tokenizer. Raises ModelError: see `_load`, or there is none."""
    from transformers import AutoTokenizer

    tokenizer = _load(AutoTokenizer.from_pretrained, "tokenizer", model, revision)
    if not tokenizer.is_fast:
        raise ModelError(f"{model} has no fast tokenizer (tokenizer.json): convert it with transformers first")
    return tokenizer


def load_weights(family: Any, model: str, revision: str | None = None, **options: Any) -> Any:
    """Return a model of one of transformers' auto classes, its weights read from safetensors.

    Raises:
        ModelError: see `_load`.
    """
    if os.path.isdir(model):
        check_folder(model)
    return _load(family.from_pretrained, "weights", model, revision, use_safetensors=True, **options)


def load_sentence_transformer(model: str, revision: str | None, **options: Any) -> Any:
    """Return a SentenceTransformer; of one on the Hub, only what can hold neither code nor pickles is downloaded.

    Raises:
        ModelError: see `_load`, or one of its modules is not the library's own.
    """
    from huggingface_hub import snapshot_download
    from sentence_transformers import SentenceTransformer

    folder = model
    if not os.path.isdir(model):
        folder = snapshot_download(model, revision=revision, allow_patterns=_SAFE_FILES)
    check_folder(folder, model)
    weights = {"use_safetensors": True, **options.pop("model_kwargs", {})}
    return _load(SentenceTransformer, "weights", folder, None, local_files_only=True, model_kwargs=weights, **options)


def check_folder(folder: str, name: str = "") -> None:
    """Raise ModelError if a folder's model needs code of its own, or has weights that only a pickle holds.

    Args:
        folder: the model, its modules in folders of their own included.
        name: what messages call it; "" for the folder itself.
    """
    name = name or folder
    refuse_own_code(name, f"{folder}/config.json")
    for place, kind in _modules(name, folder):
        if not _LIBRARY_MODULE.fullmatch(kind):
            raise ModelError(f"{name} has a module of the class {kind}, not of sentence-transformers' own: {_NO_CODE}")
        refuse_own_code(name, f"{place}/config.json")
        _refuse_pickles(name, place)
    _refuse_pickles(name, Path(folder))


def refuse_own_code(model: str, config: str) -> None:
    """Raise ModelError if a config.json, which may be missing, asks for code that does not come with transformers."""
    path = Path(config)
    found = _read(path) if path.is_file() else {}
    if not isinstance(found, dict):
        raise ModelError(f"{path} is damaged: it must hold a JSON object; copy it again from where the model is from")
    attention = found.get("attn_implementation") or found.get("_attn_implementation")
    if isinstance(attention, str) and "/" in attention:
        raise ModelError(f"{model} asks for the attention kernel {attention} from the Hub: {_NO_CODE}")
    activation = found.get("activation_function")  # transformers' own have no dot
    if isinstance(activation, str) and "." in activation and not activation.startswith("torch."):
        raise ModelError(f"{model} needs code of its own (the activation function {activation}): {_NO_CODE}")
    if found.get("auto_map") and not _is_known(found.get("model_type")):
        raise ModelError(
            f"{model} needs code of its own ({path.name} has an auto_map, and transformers knows no "
            f"{found.get('model_type')}): {_NO_CODE}"
        )


def _is_known(model_type: Any) -> bool:
    try:
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    except ImportError:  # nothing is loaded on this machine
        return True
    return model_type in CONFIG_MAPPING_NAMES


def _modules(name: str, folder: str) -> Iterator[tuple[Path, str]]:
    """Folder and class of each module of a sentence-transformers model; none of other models."""
    listing = Path(folder, "modules.json")
    if not listing.is_file():
        return
    try:
        for module in _read(listing):
            yield Path(folder, module["path"]), str(module["type"])
    except (TypeError, KeyError) as error:
        raise ModelError(f"{listing} is damaged: it must list each module's path and type; copy it again") from error


def _refuse_pickles(name: str, place: Path) -> None:
    files = [file.name for file in place.iterdir()] if place.is_dir() else []
    pickled = sorted(file for file in files if _PICKLED.fullmatch(file))
    if pickled and not any(file.endswith(".safetensors") and _is_weights(file) for file in files):
        raise ModelError(
            f"{name} has its weights as a pickle only ({place / pickled[0]}), which could hold code and is not read: "
            "convert them to model.safetensors, with transformers' from_pretrained and save_pretrained where you "
            "trust their origin, or use https://huggingface.co/spaces/safetensors/convert"
        )


def _is_weights(file: str) -> bool:
    return file.startswith(("model", "adapter_model", "diffusion_pytorch_model"))


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is damaged ({error}): copy it again from where the model is from") from error


def _load(load: Callable[..., Any], what: str, model: str, revision: str | None, **options: Any) -> Any:
    """Call a loader of transformers' with remote code off.

    Raises:
        ModelError: the model needs code of its own, has no such files, or they cannot be read.
    """
    try:
        return load(model, revision=revision, trust_remote_code=False, **options)
    except Exception as error:  # damaged files raise whatever their parsers do
        if "trust_remote_code" in str(error):
            raise ModelError(f"the {what} of {model} needs code of its own: {_NO_CODE}") from error
        said = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(f"cannot load the {what} of {model}: {said.strip()}") from error
