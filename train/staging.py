"""A token store copied from a network file system to a local disk, once per machine.

Windows are read in random order: some two documents each, thousands a second. A page cache or a local disk does not
notice; a network file system does.
"""

from __future__ import annotations

import fcntl
import shutil
import sys
from pathlib import Path

from tqdm import tqdm

from train.folders import whole_folder
from train.token_store import TokenStore


def stage(tokens: str, to: str | None) -> str:
    """The folder to read a token store from: `tokens` itself, or its copy in the folder `to`.

    A copy appears whole, its checksums verified, under a name that goes with its content. All processes of a machine
    may call this at once.

    Raises:
        StoreMismatch: the copy is damaged, as is then the original.
        OSError: the disk is full, among others; nothing is left behind.
    """
    if to is None:
        return tokens
    store = TokenStore.open(tokens)
    target = Path(to) / f"{store.corpus_digest}-{store.tokenizer_sha256[:16]}-{int(store.append_eos)}"
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target.parent / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one process of a machine copies, the others wait
        if not target.exists():
            with whole_folder(target) as folder:
                _copy(Path(tokens), folder)
                TokenStore.open(str(folder)).verify()
    return str(target)


def _copy(source: Path, target: Path) -> None:
    files = [path for path in sorted(source.rglob("*")) if path.is_file() and not _is_hidden(path, source)]
    total = sum(path.stat().st_size for path in files)
    with tqdm(total=total, unit="B", unit_scale=True, desc="staging", disable=not sys.stderr.isatty()) as bar:
        for path in files:
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
            bar.update(path.stat().st_size)


def _is_hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)
