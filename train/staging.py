"""A token store copied from a network file system to a local disk, once per machine.

Windows are read in random order: some two documents each, thousands a second. A page cache or a local disk does not
notice; a network file system does.
"""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path

from filelock import FileLock
from tqdm import tqdm

from pipeline_steps.errors import StoreDamaged, StoreIncomplete
from train.folders import whole_folder
from train.token_store import TokenStore, open_artefact


def stage(tokens: str, to: str | None) -> TokenStore:
    """Open a token store: that in `tokens`, or its copy in the folder `to`, which is made if it is missing or damaged.

    A copy appears whole, every byte verified, under the fingerprint of what it is a copy of. All processes of a
    machine may call this at once.

    Raises:
        StoreDamaged: the original is damaged.
        OSError: the disk is full, among others; nothing is left behind.
    """
    if to is None:
        return TokenStore.open(tokens)
    target = Path(to) / open_artefact(tokens).fingerprint
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.parent / ".lock"):  # one process of a machine copies, the others wait
        with suppress(StoreIncomplete, StoreDamaged):
            return TokenStore.open(str(target))
        with whole_folder(target, replace=target.exists()) as folder:
            _copy(Path(tokens), folder)
            try:
                TokenStore.open(str(folder))
            except StoreDamaged:
                TokenStore.open(tokens)  # names the file of the original
                raise
        return TokenStore.open(str(target))


def _copy(source: Path, target: Path) -> None:
    size = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())

    def copy(one: str, other: str) -> None:
        shutil.copyfile(one, other)
        bar.update(os.path.getsize(one))

    hidden = shutil.ignore_patterns(".*")
    with tqdm(total=size, unit="B", unit_scale=True, desc="staging", disable=not sys.stderr.isatty()) as bar:
        shutil.copytree(source, target, ignore=hidden, copy_function=copy, dirs_exist_ok=True)
