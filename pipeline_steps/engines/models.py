"""What every step that loads a model shares: where a model comes from, its device, precision, threads and batches.

No code of a model's repository is run, and no pickle is read. transformers and sentence-transformers would ask on
stdin whether code is to be trusted, and fall back to pickled weights; both happen nowhere here.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from pipeline_steps.errors import ModelError
from pipeline_steps.readers.special_files import refuse_special_files


if TYPE_CHECKING:
    import torch


TokenIds = Sequence[int] | np.ndarray
"""Token ids of one text."""

EMBEDDED_PROXY = str(Path(__file__).parents[1] / "resources" / "askllm-proxy")
"""Folder of the small T5 that ships with the package: a default for demonstrations, not for studies."""
EMBEDDED_BPE = str(Path(__file__).parents[1] / "resources" / "bpe-tokenizer")
"""Folder of the byte-level tokenizer for decoders that ships with the package."""
_PICKLED = re.compile(r"(pytorch_model|adapter_model|model|weights).*\.(bin|pt|pth|ckpt|pkl|pickle)")
_LIBRARY_MODULE = re.compile(r"sentence_transformers(\.[A-Za-z0-9]\w*)+")  # a class of the library's own
_SAFE_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
_NO_CODE = "code from a model's repository is never run: choose a model that transformers itself knows"


def require(package: str, extra: str) -> None:
    """Raise ModelError with the pip line unless an optional package is installed."""
    from importlib.util import find_spec

    if find_spec(package) is None:
        raise ModelError(f"this step needs {package}: pip install 'winnow-llm[{extra}]'")


def model_identity(model: str, revision: str | None = None) -> dict[str, Any]:
    """Return what pins a model down: the resolved commit of a Hub id, or a digest of a local folder's files.

    Every loader asks for it before it calls transformers.

    Raises:
        ModelError: the folder has no config.json, needs code of its own or has pickled weights only, or the Hub cannot
            be asked.
    """
    if os.path.isdir(model):
        if not os.path.isfile(f"{model}/config.json") and not os.path.isfile(f"{model}/modules.json"):
            raise ModelError(f"{model} holds no model: it has no config.json")
        refuse_special_files(model)
        check_folder(model)
        return {"model": Path(model).name, "digest": _folder_digest(os.path.abspath(model))}
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        config = hf_hub_download(model, "config.json", revision=revision)
    except GatedRepoError as error:
        raise ModelError(
            f"{model} is gated: accept its terms on https://huggingface.co/{model}, then `hf auth login` or "
            "give HF_TOKEN"
        ) from error
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(
            f"{model} is neither a local folder nor to be had from the Hub ({reason}): check the spelling, the "
            "network, or download it once where there is one"
        ) from error
    refuse_own_code(model, config)
    return {"model": model, "revision": Path(config).parent.name}


@lru_cache(maxsize=8)
def _folder_digest(folder: str) -> str:
    digest = xxhash.xxh3_64()
    for path in sorted(Path(folder).rglob("*")):
        if path.suffix in {".json", ".safetensors", ".model", ".txt"}:
            digest.update(path.relative_to(folder).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def library_versions(*packages: str) -> dict[str, str]:
    """Return installed versions, for fingerprints."""
    return {package: version(package) for package in packages}


def vllm_version() -> str:
    """Return the version of the vLLM installed here. Raises ModelError if there is none."""
    try:
        return version("vllm")
    except PackageNotFoundError:
        raise ModelError(
            "vLLM is not installed here: pip install vllm, in an environment of its own (it pins torch and "
            "transformers), or score in this process (vllm=None)"
        ) from None


def pick_device() -> torch.device:
    """Return this process's CUDA device, or the CPU.

    Slurm and Ray give each task its own CUDA_VISIBLE_DEVICES. Among the workers of one LocalPipelineExecutor,
    which share all devices, the worker's own number decides: consecutive, so free of collisions. Workers that share
    the CPU get one thread each, unless OMP_NUM_THREADS says otherwise: threads that outnumber the cores wait for
    each other, tens of times slower.
    """
    import multiprocess
    import torch

    identity = multiprocess.current_process()._identity
    if torch.cuda.is_available():
        return torch.device("cuda", (identity[0] if identity else 0) % torch.cuda.device_count())
    if identity and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    return torch.device("cpu")


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Resolve "auto": bfloat16 on CUDA, float32 on the CPU. Raises ModelError on float16: T5 overflows in it."""
    import torch

    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if dtype not in ("float32", "bfloat16"):
        raise ModelError(f"dtype {dtype!r} is not supported: choose auto, float32 or bfloat16 (T5 overflows float16)")
    return getattr(torch, dtype)


def padded(rows: Sequence[Sequence[int]], fill: int) -> torch.Tensor:
    """Return rows of token ids as one int64 tensor, filled up on the right."""
    import torch

    tensor = torch.full((len(rows), max(map(len, rows))), fill, dtype=torch.long)
    for row, ids in enumerate(rows):
        tensor[row, : len(ids)] = torch.tensor(ids, dtype=torch.long)
    return tensor


def own_threads() -> int:
    """Return OMP_NUM_THREADS if it is set; one in a worker of a pool, which shares the cores; else one per core."""
    import multiprocess

    if asked := os.environ.get("OMP_NUM_THREADS", ""):
        return max(1, int(asked.split(",")[0]))
    if multiprocess.current_process()._identity:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def batches_by_length(lengths: Sequence[int], padded_tokens: int) -> list[list[int]]:
    """Return row numbers by falling length, cut into batches of at most `padded_tokens`, padding included.

    A row longer than that is a batch of its own. Sort within a window only: then what is batched together, hence
    every last bit of a result, does not depend on the number of tasks.
    """
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if not batches or (len(batches[-1]) + 1) * lengths[batches[-1][0]] > padded_tokens:
            batches.append([])
        batches[-1].append(row)
    return batches


def load_config(model: str, revision: str | None = None, **options: Any) -> Any:
    """Return a model's configuration. This and the loaders below raise ModelError: see `_load`."""
    from transformers import AutoConfig

    return _load(AutoConfig.from_pretrained, "configuration", model, revision, **options)


def load_tokenizer(model: str, revision: str | None = None) -> Any:
    """Return a model's fast tokenizer."""
    from transformers import AutoTokenizer

    tokenizer = _load(AutoTokenizer.from_pretrained, "tokenizer", model, revision)
    if not tokenizer.is_fast:
        raise ModelError(f"{model} has no fast tokenizer (tokenizer.json): convert it with transformers first")
    return tokenizer


def load_weights(family: Any, model: str, revision: str | None = None, **options: Any) -> Any:
    """Return a model of one of transformers' auto classes, its weights read from safetensors."""
    if os.path.isdir(model):
        check_folder(model)
    return _load(family.from_pretrained, "weights", model, revision, use_safetensors=True, **options)


def load_sentence_transformer(model: str, revision: str | None, **options: Any) -> Any:
    """Return a SentenceTransformer; of one on the Hub, only what can hold neither code nor pickles is downloaded."""
    from huggingface_hub import snapshot_download
    from sentence_transformers import SentenceTransformer

    folder = model
    if not os.path.isdir(model):
        folder = snapshot_download(model, revision=revision, allow_patterns=_SAFE_FILES)
    check_folder(folder, model)
    weights = {"use_safetensors": True, **options.pop("model_kwargs", {})}
    return _load(SentenceTransformer, "weights", folder, None, local_files_only=True, model_kwargs=weights, **options)


def check_folder(folder: str, name: str = "") -> None:
    """Raise ModelError if a folder's model, `name` to the user, needs code of its own or has only pickled weights."""
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
    """Yield folder and class of each module of a sentence-transformers model; none of other models."""
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
    """Call a loader with remote code off; whatever fails is a ModelError that says what of which model."""
    try:
        return load(model, revision=revision, trust_remote_code=False, **options)
    except Exception as error:  # damaged files raise whatever their parsers do
        if "trust_remote_code" in str(error):
            raise ModelError(f"the {what} of {model} needs code of its own: {_NO_CODE}") from error
        said = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(f"cannot load the {what} of {model}: {said.strip()}") from error
