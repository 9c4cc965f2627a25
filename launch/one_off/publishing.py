"""A finished dataset to where it belongs: a folder, an object store, or the Hub. Its card goes last."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import fsspec
import yaml

from launch.corpus import why_not
from pipeline_steps.errors import StoreDamaged, StoreMismatch, WinnowError
from pipeline_steps.files import is_object_store, make_parent, read_json
from train.folders import checksum, whole_folder


CARD, RECORD = "README.md", "winnow.json"
_HUB = re.compile(r"hf://datasets/([^/@]+/[^/@]+)(?:/([^@]*))?$")


class Destination(Protocol):
    """Where a dataset goes."""

    def record(self) -> dict[str, Any] | None:
        """What a dataset that is there, or was begun, says of itself; None if nothing is there.

        Raises:
            StoreMismatch: something else is.
        """

    def complete(self) -> bool:
        """Whether a dataset is there, card and all."""

    def check(self, sizes: Mapping[str, list[Any]]) -> None:
        """Raise StoreDamaged if a file of a complete dataset is not what `described` said of it.

        Of files that are not on this machine, nothing is read.
        """

    def publish(self, files: Mapping[str, Path]) -> None:
        """Put files, by their names in the dataset, where they belong; the last of them is the card."""


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
        return dict(read_json(str(self.path / RECORD)))

    def complete(self) -> bool:
        """See Destination."""
        return (self.path / CARD).is_file()

    def check(self, sizes: Mapping[str, list[Any]]) -> None:
        """See Destination."""
        if not _is_card(self.path / CARD):  # which may have been edited
            raise _damaged(str(self.path / CARD))
        for name, (size, digest) in sizes.items():
            file = self.path / name
            if not file.is_file() or file.stat().st_size != size or checksum(file) != digest:
                raise _damaged(str(file))

    def publish(self, files: Mapping[str, Path]) -> None:
        """See Destination."""
        if self.record() is not None:  # all of it was there, and something has been taken away since
            for name in [name for name in files if not (self.path / name).exists()]:
                link_or_copy(files[name], self.path / name)
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
                return dict(read_json(f"{self.path}/{RECORD}"))
            if fs.exists(root) and fs.find(root):
                raise _foreign(self.path)
            bucket = root.partition("/")[0]
            if is_object_store(fs) and not fs.exists(bucket):
                raise StoreMismatch(f"{self.path}: there is no bucket {bucket}, or none that you may use")
        return None

    def complete(self) -> bool:
        """See Destination."""
        with self._opened() as (fs, root):
            return bool(fs.exists(f"{root}/{CARD}"))

    def check(self, sizes: Mapping[str, list[Any]]) -> None:
        """See Destination."""
        with self._opened() as (fs, root):
            for name, (size, _) in sizes.items():
                if not fs.exists(f"{root}/{name}") or fs.info(f"{root}/{name}")["size"] != size:
                    raise _damaged(f"{self.path}/{name}")

    def publish(self, files: Mapping[str, Path]) -> None:
        """See Destination. A file that is there in its size was put there by this command before."""
        with self._opened() as (fs, root):
            for name in sorted(files, key=lambda name: (name != RECORD, name == CARD)):
                source, target = files[name], f"{root}/{name}"
                if not fs.exists(target) or fs.info(target)["size"] != source.stat().st_size:
                    make_parent(fs, target)
                    fs.put_file(str(source), target)

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, str]]:
        """The file system and the path in it, whose errors are the user's to mend."""
        try:
            yield fsspec.core.url_to_fs(self.path, use_listings_cache=False)
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
            return dict(read_json(f"hf://datasets/{self.repo}/{self._name(RECORD)}"))
        if any(name != ".gitattributes" for name in ours):
            raise _foreign(f"hf://datasets/{self.repo}")
        return None

    def complete(self) -> bool:
        """See Destination: what is there came with one commit."""
        return self.record() is not None

    def check(self, sizes: Mapping[str, list[Any]]) -> None:
        """See Destination: what is there came with one commit."""

    def publish(self, files: Mapping[str, Path]) -> None:
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


def described(files: Mapping[str, Path]) -> dict[str, list[Any]]:
    """Return the size and the checksum of files, by their names in the dataset."""
    return {name: [file.stat().st_size, checksum(file)] for name, file in files.items()}


def link_or_copy(source: Path, target: Path) -> None:
    """A file at another place: the same one if the disk is."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _is_card(path: Path) -> bool:
    """Return whether a card still says which files are the dataset's."""
    try:
        front = yaml.safe_load(path.read_text(encoding="utf-8").split("---\n")[1])
    except (OSError, UnicodeDecodeError, IndexError, yaml.YAMLError):
        return False
    return isinstance(front, dict) and "configs" in front


def _damaged(path: str) -> StoreDamaged:
    return StoreDamaged(
        f"{path} is not what winnow select has written: delete that dataset, and give the same command"
    )


def _foreign(path: str) -> StoreMismatch:
    return StoreMismatch(f"{path} holds other files, which winnow select did not write: give another --output")
