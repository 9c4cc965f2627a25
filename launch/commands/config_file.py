"""The file of `winnow --config`: flags of one command as keys and values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pipeline_steps.command_line import place
from pipeline_steps.credentials import refuse_credentials
from pipeline_steps.errors import WinnowError


_LONGEST = 1 << 16  # bytes; what a command line may say is shorter


def read_config(path: str) -> dict[str, Any]:
    """Return the keys and values of a YAML or JSON file, those without a value left out.

    Raises:
        WinnowError: the file cannot be read, is no mapping of flags to values, or holds a credential.
    """
    try:
        with Path(place(path)).open("rb") as opened:
            text = opened.read(_LONGEST + 1)
        if len(text) > _LONGEST:
            raise ValueError(f"it has more than {_LONGEST:,} bytes")
        found = yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise WinnowError(f"--config {path} cannot be read as YAML or JSON: {error}") from error
    if not isinstance(found, dict):
        raise WinnowError(f"--config {path} must hold flags and their values, not {type(found).__name__}")
    refuse_credentials(found, path)
    for key, value in found.items():
        if any(isinstance(one, dict | list) for one in (value if isinstance(value, list) else [value, key])):
            raise WinnowError(f"--config {path}: {key} must be a value or a list of values")
    return {str(key).replace("_", "-"): value for key, value in found.items() if value is not None}
