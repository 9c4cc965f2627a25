"""Evaluation data: from the Hub, or from folders of the same layout.

With a data root, `<root>/<dataset id>/` is what `hf download <dataset id> --repo-type dataset --local-dir ...` leaves:
the files of a configuration's splits are what its README says or, without one, those in a folder of the
configuration's name that have the splits' names. Nothing is downloaded then.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import xxhash
import yaml

from evaluate_suite.registry import Task, registry
from pipeline_steps.errors import CorpusError, InvalidCut


_BUILDERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}
_COMPRESSED = (".gz", ".zst")
_NOT_DATA = ("dataset_info", "dataset_dict", "state.json")  # what `datasets` writes beside its own


def load_split(task: Task, split: str, data_root: str | None) -> Any:
    """The rows of a split, a `datasets.Dataset`.

    Raises:
        CorpusError: the data set, its configuration or the split is not there; says what is and what to do.
    """
    import datasets

    arguments = dataset_arguments(task.dataset, task.config, task.revision, data_root)
    try:
        return datasets.load_dataset(**arguments, split=split, trust_remote_code=False)
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())[:300]
        where = task.dataset if data_root is None else f"{data_root}/{task.dataset}"
        raise CorpusError(
            f"{task.name} needs the split {split} of {where}, configuration {task.config}, which cannot be read "
            f"({reason}): download it again, or give another --data-root"
        ) from error


def dataset_arguments(dataset: str, config: str, revision: str, data_root: str | None) -> dict[str, Any]:
    """Arguments of `datasets.load_dataset` for one configuration.

    Raises:
        CorpusError: it is not under the data root.
    """
    if data_root is None:
        return {"path": dataset, "name": config or None, "revision": revision}
    folder = Path(data_root) / dataset
    if not folder.is_dir():
        raise CorpusError(
            f"{data_root} holds no {dataset}: hf download {dataset} --repo-type dataset --local-dir {folder}"
        )
    files = _by_readme(folder, config) or _by_file_names(folder, config)
    builders = {_builder(file) for some in files.values() for file in some}
    if len(builders) != 1:
        there = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
        raise CorpusError(
            f"{folder} has no README.md that says where {config or 'its data'} is, and no {config or 'data'}/ with a "
            f"file for each split ({', '.join(_BUILDERS)}): it has {there}"
        )
    # Not by the folder's name: `datasets` would take what it has cached of another folder with the same README
    return {"path": builders.pop(), "data_files": files}


def data_digest(task: Task, data_root: str | None) -> str:
    """Of the files a task is measured with, or of the name that the Hub knows them by."""
    if data_root is None:
        return f"{task.dataset}@{task.revision}"
    folder = Path(data_root) / task.dataset
    digest = xxhash.xxh3_64()
    for part in task.parts or (task.config,):
        place = folder / part if (folder / part).is_dir() else folder
        for file in sorted(path for path in place.rglob("*") if path.is_file()):
            digest.update(file.relative_to(folder).as_posix().encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()


def find_tasks(names: Iterable[str]) -> list[Task]:
    """Tasks by their names or those of their suites, in the registry's order.

    Raises:
        InvalidCut: there is no such task; names those that are spelled nearly alike.
    """
    tasks, wanted = registry(), set()
    suites = {task.suite for task in tasks.values()}
    for name in names:
        if name not in tasks and name not in suites:
            near = difflib.get_close_matches(name, [*suites, *tasks], n=3)
            said = f"did you mean {' or '.join(near)}?" if near else "winnow evaluate --list names all 111"
            raise InvalidCut(f"no task or suite {name!r}: {said}")
        wanted |= {task.name for task in tasks.values() if name in (task.name, task.suite)}
    return [task for task in tasks.values() if task.name in wanted]


def _by_readme(folder: Path, config: str) -> dict[str, list[str]]:
    """Files of each split as the README's metadata has them, {} if it does not know the configuration."""
    readme = folder / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.exists() else ""
    front = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    try:
        metadata = (yaml.safe_load(front[1]) if front else None) or {}
    except yaml.YAMLError as error:
        raise CorpusError(f"the metadata of {readme} cannot be read ({error.__class__.__name__}): mend it") from error
    for entry in metadata.get("configs") or []:
        if entry.get("config_name", "default") == (config or "default"):
            given = entry.get("data_files", {})
            pairs = [(one["split"], one["path"]) for one in given] if isinstance(given, list) else [("train", given)]
            patterns = {split: [paths] if isinstance(paths, str) else list(paths) for split, paths in pairs}
            found = {split: sorted(map(str, _glob(folder, some))) for split, some in patterns.items()}
            return {split: files for split, files in found.items() if files}
    return {}


def _by_file_names(folder: Path, config: str) -> dict[str, list[str]]:
    """<config>/<split>.jsonl or <config>/<split>-00000-of-00001.parquet, compressed or not; data/ or the folder itself
    where there is but one configuration. Of a name that ends in train, that is the split."""
    for place in (folder / config, folder / "data", folder):
        splits: dict[str, list[str]] = {}
        for file in _glob(place, ["*.*"]):
            name = re.sub(r"-\d+-of-\d+$", "", file.name.split(".")[0])
            splits.setdefault(re.sub(r"^.*[_-](train)$", r"\1", name), []).append(str(file))
        if splits:
            return splits
    return {}


def _glob(folder: Path, patterns: list[str]) -> list[Path]:
    found = (path for one in patterns for path in folder.glob(one) if not path.name.startswith(_NOT_DATA))
    return sorted(path for path in found if _builder(path.name))


def _builder(name: str) -> str:
    """Of `datasets`, for a file's name; "" if there is none."""
    for suffix in _COMPRESSED:
        name = name.removesuffix(suffix)
    return _BUILDERS.get(Path(name).suffix, "")
