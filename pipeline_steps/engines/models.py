"""What every step that loads a model shares: where it comes from, on which device it runs, in which precision."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from pipeline_steps.engines.pretrained import check_folder, refuse_own_code
from pipeline_steps.errors import ModelError
from pipeline_steps.readers.special_files import refuse_special_files


if TYPE_CHECKING:
    import torch

TokenIds = Sequence[int] | np.ndarray
"""Token ids of one text."""

EMBEDDED_PROXY = str(Path(__file__).parents[1] / "resources" / "askllm-proxy")
"""Folder of the small T5 that ships with the package: a default for demonstrations, not for studies."""


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
    """Installed versions, for fingerprints."""
    return {package: version(package) for package in packages}


def pick_device() -> torch.device:
    """This process's CUDA device, or the CPU.

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
    """Rows of token ids as one int64 tensor, filled up on the right."""
    import torch

    tensor = torch.full((len(rows), max(map(len, rows))), fill, dtype=torch.long)
    for row, ids in enumerate(rows):
        tensor[row, : len(ids)] = torch.tensor(ids, dtype=torch.long)
    return tensor
