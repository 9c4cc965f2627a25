"""A finished dataset to where it belongs: a folder, an object store, or the Hub. Its card goes last.

Its record, winnow.json, is sealed and lists every other file with size and digest.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml
from datatrove.utils.logging import logger

from launch.datasets.card import facts, write_card
from launch.datasets.parts import SUFFIX
from launch.datasets.settings import DatasetSettings
from launch.datasets.unfinished import Unfinished
from pipeline_steps import __version__
from pipeline_steps.errors import StoreDamaged, StoreMismatch, WinnowError
from pipeline_steps.readers.corpus import list_corpus, refuse_changed_files
from pipeline_steps.readers.places import why_not
from pipeline_steps.stores.artefact import refuse_differences
from pipeline_steps.stores.files import (
    is_object_store,
    make_parent,
    open_folder,
    read_json,
    write_atomically,
    write_json,
)
from pipeline_steps.stores.listed_files import damaged, entry
from pipeline_steps.stores.score_store import ScoreStore
from pipeline_steps.stores.selection import Selection
from train.folders import whole_folder


CARD, RECORD, SELECTION = "README.md", "winnow.json", "selection.safetensors"
_OLD_CARD = f"{CARD}.damaged"
_NOTHING_SAYS = "nothing says how the dataset was made, so delete its folder and give the same command again"
_HUB = re.compile(r"hf://datasets/([^/@]+/[^/@]+)(?:/([^@]*))?$")


@dataclass(frozen=True)
class RemoteFolder:
    """A folder of any file system; the record comes first and the card last.

    Attributes:
        path: of the folder.
        reads_back: whether files are read to see whether they are damaged; if not, their sizes say it.
        passed_over: names of files that may be there before.
    """

    path: str
    reads_back: ClassVar[bool] = True
    passed_over: ClassVar[set[str]] = {""}  # what stands for an empty folder in an object store

    def record(self) -> dict[str, Any] | None:
        """Return what a dataset that is there, or was begun, says of itself; None if nothing is there.

        Raises:
            StoreMismatch: something else is there, or there is no such bucket.
            StoreDamaged: the record is not what was written.
        """
        with self._opened() as (fs, root):
            try:
                names = {name.removeprefix(f"{root}/") for name in fs.ls(root, detail=False)}
            except FileNotFoundError:
                names = set()
            if RECORD in names:
                return read_json(f"{self.path}/{RECORD}", _NOTHING_SAYS)
            if names - self.passed_over:
                raise StoreMismatch(
                    f"{self.path} holds other files, which winnow select did not write: give another --output"
                )
            if not names and is_object_store(fs) and not self.path.startswith("hf://"):
                bucket = root.partition("/")[0]
                if not fs.exists(bucket):
                    raise StoreMismatch(f"{self.path}: there is no bucket {bucket}, or none that you may use")
        return None

    def lacking(self, record: Mapping[str, Any]) -> list[str]:
        """Return the names of files of a dataset that are missing, or not what its record says of them.

        Whoever owns the dataset may edit the card, so a card is damaged only if nobody can read it.
        """
        listed = {name: listed for name, listed in record["files"].items() if name != CARD}
        with self._opened() as (fs, root):
            if not self.reads_back:
                fs.find(root)  # one listing, which the file system remembers
            return damaged(self.path, listed, self.reads_back) + ([] if _is_card(fs, f"{root}/{CARD}") else [CARD])

    def put(self, files: Mapping[str, Path], record: Mapping[str, Any]) -> None:
        """Put files, by their names in the dataset, where they belong, unless they are there; the card goes last."""
        with self._opened() as (fs, root):
            for name in self._missing(files, record):
                make_parent(fs, f"{root}/{name}")
                if name == CARD and fs.exists(f"{root}/{name}"):
                    fs.copy(f"{root}/{name}", f"{root}/{_OLD_CARD}")
                fs.put_file(str(files[name]), f"{root}/{name}")

    def _missing(self, files: Mapping[str, Path], record: Mapping[str, Any]) -> list[str]:
        """Return the names of files to put, in their order: the record, the lacking ones, the card."""
        missing = {RECORD, *self.lacking(record)} & files.keys()
        return sorted(missing, key=lambda name: (name != RECORD, name == CARD, name))

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, str]]:
        """Yield the file system, as it is now, and the path in it; its errors are the user's to mend."""
        try:
            fs, root = open_folder(self.path)
            fs.invalidate_cache()
            yield fs, root
        except WinnowError:
            raise
        except Exception as error:  # whatever the file system behind the protocol raises
            raise WinnowError(f"{self.path} cannot be used ({why_not(self.path, error)}") from error


@dataclass(frozen=True)
class LocalFolder(RemoteFolder):
    """A folder of this machine, which appears as a whole."""

    def put(self, files: Mapping[str, Path], record: Mapping[str, Any]) -> None:
        """See RemoteFolder."""
        target = Path(self.path)
        if self.record() is not None:  # all of it was there, and something has been damaged or taken away since
            for name in self._missing(files, record):
                beside = (target / name).with_name(f".{Path(name).name}.tmp")
                beside.unlink(missing_ok=True)
                _link_or_copy(files[name], beside)
                if name == CARD and (target / name).exists():  # its owner may have edited it
                    os.replace(target / name, target / _OLD_CARD)
                os.replace(beside, target / name)
            return
        if target.is_dir():
            target.rmdir()  # empty: `record` has looked
        with whole_folder(target) as folder:
            for name, source in files.items():
                _link_or_copy(source, folder / name)


@dataclass(frozen=True)
class HubDataset(RemoteFolder):
    """A repository of the Hub, or a folder in one; everything comes with one commit.

    The Hub names files by their content and shows a commit whole, so their sizes are enough to know them by.

    Attributes:
        private: whether the repository is made private if it has to be made.
    """

    private: bool = False
    reads_back: ClassVar[bool] = False
    passed_over: ClassVar[set[str]] = {"", ".gitattributes"}

    def record(self) -> dict[str, Any] | None:
        """See RemoteFolder."""
        from huggingface_hub import HfApi

        with self._opened():
            HfApi().whoami()  # so a missing token is found before anything is scored
        return super().record()

    def put(self, files: Mapping[str, Path], record: Mapping[str, Any]) -> None:
        """See RemoteFolder."""
        from huggingface_hub import HfApi

        staged = files[CARD].parent / "staged"  # links: the Hub's client uploads folders
        shutil.rmtree(staged, ignore_errors=True)
        for name, source in files.items():
            _link_or_copy(source, staged / name)
        repo, folder = _HUB.match(self.path).groups()  # type: ignore[union-attr]  # `destination` has looked
        message = "Documents chosen by winnow"
        with self._opened():
            HfApi().create_repo(repo, repo_type="dataset", private=self.private or None, exist_ok=True)
            HfApi().upload_folder(
                repo_id=repo, folder_path=staged, path_in_repo=folder, repo_type="dataset", commit_message=message
            )


def destination(path: str, private: bool = False) -> RemoteFolder:
    """Return where a path leads: local, hf://datasets/user/name[/folder], or any other that fsspec knows.

    Raises:
        WinnowError: it is on the Hub, but no dataset's.
    """
    path = path.rstrip("/") or "/"
    if path.startswith("hf://") and not path.startswith("hf://buckets/"):
        if _HUB.match(path) is None:
            raise WinnowError(f"{path} is no dataset on the Hub, without a revision: give hf://datasets/USER/NAME")
        return HubDataset(path, private)
    return RemoteFolder(path) if "://" in path else LocalFolder(path)


def is_published(settings: DatasetSettings, note: Callable[[str], None] = logger.warning) -> dict[str, Any] | None:
    """Return the record of a dataset that is whole where it belongs; else None.

    If only some of its files are there, `note` gets a sentence that names those that are missing or damaged.

    Raises:
        StoreMismatch: another dataset, or something else, is there.
    """
    place = destination(settings.output, settings.private)
    if (there := place.record()) is None:
        return None
    made_from = settings.made_from(list_corpus(settings.corpus, settings.reading.glob))
    refuse_changed_files(there["made_from"], made_from, settings.output)
    refuse_differences(there["made_from"], made_from, settings.output)
    if lacking := place.lacking(there):
        note(f"{settings.output}: {', '.join(lacking)} not there, or damaged: written again")
        return None
    return there


def publish(work: Path) -> dict[str, Any]:
    """Name the files of an unfinished dataset, describe them, put them where they belong, and return the record.

    Raises:
        StoreIncomplete: `write_files` has left something.
        StoreDamaged: a file is not what was written; `begin` drops it.
        WinnowError: the corpus does not hold what the cut keeps, or the destination cannot be used.
    """
    with Unfinished.opened(work) as dataset:
        parts = dataset.files
    settings, suffix, files, listed = dataset.settings, SUFFIX[dataset.settings.format], {}, {}
    for number, (path, part) in enumerate(parts.items()):
        if damaged(path.parent, {path.name: part.entry}):
            raise StoreDamaged(f"{path} is damaged: give the same command again, which writes that file again")
        name = f"data/train-{number:05d}-of-{len(parts):05d}{suffix}"
        files[name], listed[name] = path, part.entry
    record = {"made_from": dataset.made_from, "winnow": __version__}
    record |= facts(ScoreStore.open(dataset.scores), Selection.load(f"{work}/{SELECTION}"), settings.cut)
    # Of JSON lines, a reader would guess the columns from the first
    columns = dataset.columns if settings.format == "jsonl" else None
    card = write_card(record, settings.command(settings.output), f"data/train-*{suffix}", columns)
    write_atomically(f"{work}/{CARD}", card.encode())
    for name in (SELECTION, CARD):
        files[name], listed[name] = work / name, entry(work / name)
    record["files"] = listed
    write_json(f"{work}/{RECORD}", record)
    place = destination(settings.output, settings.private)
    if (there := place.record()) is not None:  # it may have come since the rows were begun
        refuse_differences(there["made_from"], dataset.made_from, settings.output)
    place.put(files | {RECORD: work / RECORD}, record)
    return record


def _is_card(fs: Any, path: str) -> bool:
    """Return whether a card is there whose front matter `load_dataset` can read: without, it refuses the dataset."""
    try:
        lines = fs.cat_file(path).decode().splitlines()
        front = lines[1 : lines.index("---", 1)] if lines[:1] == ["---"] else []
        return isinstance(yaml.safe_load("\n".join(front)), dict | None)
    except (FileNotFoundError, ValueError, yaml.YAMLError):
        return False


def _link_or_copy(source: Path, target: Path) -> None:
    """Put a file at another place: the same one if the disk is."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
