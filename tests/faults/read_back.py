"""Read what a command has written, as its user would next."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline_steps.stores.files import file_digest


if TYPE_CHECKING:
    import datasets


def unreadable(command: Sequence[str], folder: Path) -> str:
    """Return what is wrong with a success; "" if nothing is."""
    read, words = _READ.get(command[0]), pairwise(command)
    output = [word for flag, word in words if flag == "--output"][-1:]  # the last one counts
    try:
        if read is not None and output:
            read(folder / output[0], command)
    except BaseException as error:  # whatever a reader raises is what the user would see
        return f"{type(error).__name__}: {error}"
    return ""


def _scores(out: Path, command: Sequence[str]) -> None:
    import numpy as np
    import pyarrow.parquet as pq

    from pipeline_steps import ScoreStore

    (path,) = (out / "scores").iterdir()
    store = ScoreStore.open(str(path))
    assert store.documents == len(store.scores) > 0
    assert np.isfinite(store.scores).all()
    assert (parts := list(path.glob("parts/*.parquet")))
    assert sum(pq.read_table(part).num_rows for part in parts) >= store.documents


def _dataset(out: Path, command: Sequence[str]) -> None:
    import datasets
    import pyarrow.parquet as pq

    from pipeline_steps import Selection

    wanted = json.loads((out / "winnow.json").read_text())["documents"][1]
    assert Selection.load(str(out / "selection.safetensors")).documents == wanted > 0
    found = 0
    for file in out.glob("data/*.parquet"):
        table = pq.read_table(file)
        table.validate(full=True)
        found += table.num_rows
        if any(_unknown_to_datasets(kind) for kind in table.schema.types):
            return
    datasets.disable_progress_bars()
    loaded = _load(out)
    assert loaded.num_rows == wanted
    assert found in (0, wanted)
    assert all(row["text"] for row in loaded)


def _load(out: Path) -> datasets.Dataset:
    """Load a dataset; one whose card is another's, as its owner may edit it, without that card."""
    import datasets

    card = json.loads((out / "winnow.json").read_text())["files"]["README.md"]
    if file_digest(out / "README.md") == card["xxh3"]:
        return datasets.load_dataset(str(out), cache_dir=f"{out}.cache", split="train")
    files = sorted(map(str, out.glob("data/*")))
    kind = "parquet" if files[0].endswith(".parquet") else "json"
    return datasets.load_dataset(kind, data_files=files, cache_dir=f"{out}.cache", split="train")


def _unknown_to_datasets(kind: object) -> bool:
    """Maps and UUIDs are Parquet's, and pyarrow's, but not datasets'."""
    import pyarrow as pa

    own = pa.types.is_map(kind) or isinstance(kind, pa.BaseExtensionType)
    return own or any(_unknown_to_datasets(kind.field(number).type) for number in range(kind.num_fields))


def _tokens(out: Path, command: Sequence[str]) -> None:
    from train.token_store import TokenStore

    store = TokenStore.open(str(out))
    store.verify()
    assert store.documents > 0
    assert len(store.keys()) == store.documents


def _report(out: Path, command: Sequence[str]) -> None:
    assert out.stat().st_size > 0


_READ: dict[str, Callable[[Path, Sequence[str]], None]] = {
    "score": _scores,
    "select": _dataset,
    "tokenize": _tokens,
    "report": _report,
}
