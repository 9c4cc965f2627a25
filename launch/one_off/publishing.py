"""A finished dataset to where it belongs: a folder, an object store, or the Hub. Its card goes last.

Its record, winnow.json, is sealed and lists every other file with size and digest."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import yaml

from pipeline_steps.errors import StoreDamaged, StoreMismatch, WinnowError
from pipeline_steps.readers.corpus import why_not
from pipeline_steps.stores.files import is_object_store, make_parent, open_folder, read_json
from pipeline_steps.stores.listed_files import damaged
from train.folders import whole_folder


CARD, RECORD = "README.md", "winnow.json"
_OLD_CARD = f"{CARD}.damaged"
_HUB = re.compile(r"hf://datasets/([^/@]+/[^/@]+)(?:/([^@]*))?$")


class Destination(Protocol):
    """Where a dataset goes."""

    def record(self) -> dict[str, Any] | None:
        """What a dataset that is there, or was begun, says of itself; None if nothing is there.

        Raises:
            StoreMismatch: something else is.
            StoreDamaged: the record is not what was written.
        """

    def damaged(self, record: Mapping[str, Any]) -> list[str]:
        """Names of files of a dataset that are missing, or not what its record says of them.

        Whoever owns the dataset may edit the card, so a card is damaged only if nobody can read it.
        """

    def publish(self, files: Mapping[str, Path], record: Mapping[str, Any]) -> None:
        """Put files, by their names in the dataset, where they belong, unless they are there; the card goes last."""


def destination(path: str, private: bool = False) -> Destination:
    """Of a path: local, hf://datasets/user/name[/folder], or any other that fsspec knows.

    Args:
        path: the path.
        private: whether a repository that is made on the Hub is.

    Raises:
        WinnowError: it is on the Hub, but no dataset's.
    """
    if path.startswith("hf://") and not path.startswith("hf://buckets/"):
        found = _HUB.match(path.rstrip("/"))
        if found is None:
            raise WinnowError(f"{path} is no dataset on the Hub, without a revision: give hf://datasets/USER/NAME")
        repo, folder = found.groups()
        return HubDataset(repo, folder or "", private)
    if "://" in path:
        return RemoteFolder(path.rstrip("/"))
    return LocalFolder(Path(path))


@dataclass(frozen=True)
class LocalFolder:
    """A folder, which appears as a whole."""

    path: Path

    def record(self) -> dict[str, Any] | None:
        """See Destination."""
        if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
            return None
        if not (self.path / RECORD).is_file():
            raise _foreign(str(self.path))
        return _read(str(self.path))

    def damaged(self, record: Mapping[str, Any]) -> list[str]:
        """See Destination."""
        return _damaged(str(self.path), record)

    def publish(self, files: Mapping[str, Path], record: Mapping[str, Any]) -> None:
        """See Destination."""
        if self.record() is not None:  # all of it was there, and something has been damaged or taken away since
            for name in _missing(files, self.damaged(record)):
                beside = (self.path / name).with_name(f".{Path(name).name}.tmp")
                beside.unlink(missing_ok=True)
                link_or_copy(files[name], beside)
                if name == CARD and (self.path / name).exists():  # its owner may have edited it
                    os.replace(self.path / name, self.path / _OLD_CARD)
                os.replace(beside, self.path / name)
            return
        if self.path.is_dir():
            self.path.rmdir()  # empty: `record` has looked
        with whole_folder(self.path) as folder:
            for name, source in files.items():
                link_or_copy(source, folder / name)


@dataclass(frozen=True)
class RemoteFolder:
    """A folder of any file system; the record comes first and the card last."""

    path: str

    def record(self) -> dict[str, Any] | None:
        """See Destination."""
        with self._opened() as (fs, root):
            if fs.exists(f"{root}/{RECORD}"):
                return _read(self.path)
            if fs.exists(root) and fs.find(root):
                raise _foreign(self.path)
            bucket = root.partition("/")[0]
            if is_object_store(fs) and not fs.exists(bucket):
                raise StoreMismatch(f"{self.path}: there is no bucket {bucket}, or none that you may use")
        return None

    def damaged(self, record: Mapping[str, Any]) -> list[str]:
        """See Destination. All of them are read back: a size proves nothing."""
        with self._opened():
            return _damaged(self.path, record)

    def publish(self, files: Mapping[str, Path], record: Mapping[str, Any]) -> None:
        """See Destination. The record goes first: it says whose the folder is."""
        with self._opened() as (fs, root):
            for name in _missing(files, self.damaged(record)):
                make_parent(fs, f"{root}/{name}")
                if name == CARD and fs.exists(f"{root}/{name}"):
                    fs.copy(f"{root}/{name}", f"{root}/{_OLD_CARD}")
                fs.put_file(str(files[name]), f"{root}/{name}")

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, str]]:
        """The file system and the path in it, whose errors are the user's to mend."""
        try:
            yield open_folder(self.path)
        except WinnowError:
            raise
        except Exception as error:  # whatever the file system behind the protocol raises
            raise WinnowError(f"{self.path} cannot be used ({why_not(self.path, error)}") from error


@dataclass(frozen=True)
class HubDataset:
    """A repository of the Hub; everything comes with one commit.

    Attributes:
        repo: user/name.
        folder: in it; "" for its root.
        private: whether it is made private if it has to be made.
    """

    repo: str
    folder: str
    private: bool

    def record(self) -> dict[str, Any] | None:
        """See Destination."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import RepositoryNotFoundError

        api = HfApi()
        try:
            api.whoami()  # a missing token is told of before anything is scored
            names = api.list_repo_files(self.repo, repo_type="dataset")
        except RepositoryNotFoundError:
            return None
        except Exception as error:  # whatever the network raises
            raise self._failed(error) from error
        ours = [name for name in names if not self.folder or name.startswith(f"{self.folder}/")]
        if self._name(RECORD) in ours:
            return _read(f"hf://datasets/{self.repo}/{self.folder}".rstrip("/"))
        if any(name != ".gitattributes" for name in ours):
            raise _foreign(f"hf://datasets/{self.repo}")
        return None

    def damaged(self, record: Mapping[str, Any]) -> list[str]:
        """See Destination. The Hub names files by their content and shows a commit whole: sizes are enough here."""
        from huggingface_hub import HfApi
        from huggingface_hub.hf_api import RepoFile

        try:
            found = list(HfApi().list_repo_tree(self.repo, self.folder or None, recursive=True, repo_type="dataset"))
        except Exception as error:  # whatever the network raises
            raise self._failed(error) from error
        sizes = {one.path: one.size for one in found if isinstance(one, RepoFile)}
        return [
            name
            for name, listed in record["files"].items()
            if (size := sizes.get(self._name(name))) is None or (name != CARD and size != listed["bytes"])
        ]

    def publish(self, files: Mapping[str, Path], record: Mapping[str, Any]) -> None:
        """See Destination."""
        from huggingface_hub import HfApi

        staged = files[CARD].parent / "staged"  # links: the Hub's client uploads folders
        shutil.rmtree(staged, ignore_errors=True)
        for name, source in files.items():
            link_or_copy(source, staged / name)
        api = HfApi()
        try:
            api.create_repo(self.repo, repo_type="dataset", private=self.private or None, exist_ok=True)
            api.upload_folder(
                repo_id=self.repo,
                folder_path=staged,
                path_in_repo=self.folder,
                repo_type="dataset",
                commit_message="Documents chosen by winnow",
            )
        except Exception as error:  # whatever the network raises
            raise self._failed(error) from error
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def _name(self, name: str) -> str:
        return f"{self.folder}/{name}" if self.folder else name

    def _failed(self, error: Exception) -> WinnowError:
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        return WinnowError(
            f"hf://datasets/{self.repo} cannot be used ({why}): check its name, the network and `hf auth login`; the "
            "same command goes on from there"
        )


def _read(folder: str) -> dict[str, Any]:
    try:
        return dict(read_json(f"{folder}/{RECORD}"))
    except StoreDamaged as error:
        raise StoreDamaged(
            f"{folder}/{RECORD} is damaged, or an earlier version wrote it, so nothing says how {folder} was made: "
            "delete that folder and give the same command again"
        ) from error


def _damaged(folder: str, record: Mapping[str, Any]) -> list[str]:
    listed = dict(record["files"])
    del listed[CARD]
    return damaged(folder, listed) + ([] if _is_card(folder) else [CARD])


def _is_card(folder: str) -> bool:
    """Return whether a card is there whose front matter `load_dataset` can read: without, it refuses the dataset."""
    fs, root = open_folder(folder)
    try:
        lines = fs.cat_file(f"{root}/{CARD}").decode().splitlines()
        front = lines[1 : lines.index("---", 1)] if lines[:1] == ["---"] else []
        return isinstance(yaml.safe_load("\n".join(front)), dict | None)
    except (FileNotFoundError, ValueError, yaml.YAMLError):
        return False


def _missing(files: Mapping[str, Path], lacking: list[str]) -> list[str]:
    """Names of files to put, in their order: the record, the lacking ones, the card."""
    return sorted({RECORD, *lacking} & files.keys(), key=lambda name: (name != RECORD, name == CARD, name))


def link_or_copy(source: Path, target: Path) -> None:
    """A file at another place: the same one if the disk is."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _foreign(path: str) -> StoreMismatch:
    return StoreMismatch(f"{path} holds other files, which winnow select did not write: give another --output")
