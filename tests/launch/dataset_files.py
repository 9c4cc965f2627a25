"""Corpora for datasets, and what is in their files."""

import json
import re
from pathlib import Path

from conftest import document


def load(path):
    from datasets import load_dataset

    return load_dataset(str(path), cache_dir=f"{path}.cache", split="train")


def files_of(path):
    return {file.relative_to(path): file.read_bytes() for file in sorted(Path(path).rglob("*")) if file.is_file()}


def without_output(files):
    """Without the card's last words and its digest: they tell where the dataset was written."""
    named = {str(name): blob for name, blob in files.items()}
    record = json.loads(named.pop("winnow.json"))
    del record["xxh3"], record["files"]["README.md"]
    named["README.md"] = re.sub(rb"--output \S+", b"", named["README.md"])
    return named | {"winnow.json": record}


def made_of(folder, *files):
    """A corpus of JSON lines: for each file, rows beside their texts."""
    folder.mkdir()
    for name, rows in zip("abc", files, strict=False):
        lines = [json.dumps(document(number) | {"id": f"{name}{number}"} | row) for number, row in enumerate(rows)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return folder
