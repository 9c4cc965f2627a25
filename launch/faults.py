"""Errors as one sentence: for the command line, and from a process to the one that started it."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable

from pipeline_steps.errors import WinnowError
from pipeline_steps.terminal import one_line


USERS_FAULT = 2
DISK_FULL = os.EX_IOERR  # an exit status of its own: on a full disk, no log can say what happened
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_SAID = "No space left on device"  # by libraries whose errors have no number, such as safetensors


_EXTRAS = {
    **dict.fromkeys(("torch", "transformers"), "score"),
    **dict.fromkeys(("accelerate", "psutil", "tensorboard"), "train"),
    **dict.fromkeys(("jinja2", "matplotlib", "scipy"), "report"),
    **dict.fromkeys(("evaluate", "lm_eval", "rouge_score", "sklearn"), "eval"),
    **dict.fromkeys(("s3fs", "botocore"), "s3"),
    "duckdb": "join",
    "numba": "density",
    "faiss": "cluster",
    "fasttext": "fasttext",
    "ray": "ray",
    "sentence_transformers": "embed",
    "spacy": "english",
    "trafilatura": "warc",
}
"""Extras of this package, by the modules that they bring."""


def as_sentence(error: Exception) -> str | None:
    """Return what to tell the user about an error; None if the error is a fault of this package."""
    if isinstance(error, WinnowError):
        return one_line(error)
    if isinstance(error, ModuleNotFoundError) and (extra := _EXTRAS.get((error.name or "").partition(".")[0])):
        return f"this needs {error.name}, which is not installed: pip install 'winnow-llm[{extra}]'"
    if is_disk_full(error):
        where = getattr(error, "filename", None)
        disk = f"the disk of {one_line(os.fsdecode(where))}" if where else "a disk"
        return f"{disk} is full: make room and give the same command again, which goes on from there"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{one_line(os.fsdecode(error.filename))} cannot be used: {error.strerror or type(error).__name__}"
    return None


def is_disk_full(error: Exception) -> bool:
    """Return whether an error says that a disk, or a user's share of it, is full."""
    return getattr(error, "errno", None) in _FULL or _FULL_SAID in str(error)


def as_process(share: Callable[[], int]) -> int:
    """Run one process's share and return its exit status; the last line on stderr says what the user can mend."""
    try:
        return share()
    except Exception as error:
        said = as_sentence(error)
        if said is None:
            raise
        if is_disk_full(error):
            return DISK_FULL
        if not isinstance(error, WinnowError):
            traceback.print_exc()
        sys.stderr.write(f"{said}\n")
        return USERS_FAULT
