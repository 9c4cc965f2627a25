"""Where a corpus lies: the files below a path of any file system, or of a data set on the Hub."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl

import fsspec
from fsspec.core import has_magic
from fsspec.implementations.local import LocalFileSystem

from pipeline_steps.errors import CorpusError
from pipeline_steps.readers.special_files import refuse_unusable_name, special_kind
from pipeline_steps.terminal import one_line


Entries = dict[str, dict[str, Any]]
"""What a file system says of each file, by its path in a folder, in order."""

_LOGIN = {
    "s3": ": give AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE, and AWS_ENDPOINT_URL if it is not AWS",
    "hf": ": check the name; if it is private or gated, log in with `hf auth login` or give HF_TOKEN",
    "gs": ": log in with `gcloud auth application-default login`",
}
# What tells a file from an earlier one of its name, by filesystem; see pipeline_steps.stores.corpus_listing
_VERSIONS = ("ETag", "etag", "blob_id", "mtime", "LastModified", "last_modified")
# A data set as a whole, not a folder or a file in it
_HUB_DATASET = re.compile(r"(hf://datasets/[^/@?*]+/[^/@?*]+(?:@[^/?*]+)?)/?(?:\?(.*))?")


def list_files(path: str) -> tuple[str, Entries]:
    """Return a folder, and what its file system says of each file in it, sorted by name.

    Raises:
        CorpusError: nothing is there, or it cannot be listed.
    """
    refuse_unusable_name(path)
    try:
        if hub := _HUB_DATASET.fullmatch(path):
            return hub[1], _hub_files(hub[1], hub[2] or "")
        fs, root = fsspec.core.url_to_fs(path)
        if has_magic(root) and not fs.exists(root):  # a name may hold such signs itself
            found, folder = fs.glob(root, detail=True), root[: root.rindex("/", 0, re.search(r"[*?\[]", root).start())]  # type: ignore[union-attr]
            folders = [one for one, entry in found.items() if entry.get("type") == "directory"]
            if folders and "**" not in root:
                raise CorpusError(f"{path} matches folders, such as {folders[0]}: give {path}/** to read their files")
        elif fs.isdir(root):
            # Elsewhere, nothing is said of a folder that may not be listed, and its documents would be missing
            strict = {"on_error": "raise"} if isinstance(fs, LocalFileSystem) else {}
            if strict:
                _refuse_links_to_folders(root)
            found, folder = fs.find(root, detail=True, **strict), root
        elif fs.exists(root):
            found, folder = {root: fs.info(root)}, root.rsplit("/", 1)[0]
        else:
            raise CorpusError(f"{path} does not exist")
    except CorpusError:
        raise
    except Exception as error:  # whatever the file system behind the protocol raises
        raise CorpusError(f"{path} cannot be listed ({why_not(path, error)}") from error
    entries = {file[len(folder) :].lstrip("/"): entry for file, entry in found.items()}
    return fs.unstrip_protocol(folder), dict(sorted(entries.items()))


def _refuse_links_to_folders(root: str) -> None:
    """Raise CorpusError for a link to a folder, which listing does not follow: its documents would be missing."""
    for parent, folders, _ in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in folders:
            if os.path.islink(f"{parent}/{name}"):
                raise CorpusError(f"{parent}/{name} is a link to a folder, not a file: give its own path")


def _hub_files(repository: str, asked: str) -> Entries:
    """Return the files of a data set of the Hub, in the order that `datasets` reads them.

    Args:
        repository: hf://datasets/USER/NAME, and a revision if one is wanted.
        asked: which of its configurations and splits, as in "config=en&split=train".

    Raises:
        CorpusError: there is no such configuration or split, or there are several and none is asked for.
    """
    from datasets.data_files import get_data_patterns, resolve_pattern, sanitize_patterns
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCard, DatasetCardData

    wanted = dict(parse_qsl(asked, keep_blank_values=True))
    if wanted.keys() - {"config", "split"}:
        raise CorpusError(f"{repository}?{asked}: after the question mark comes config=NAME, split=NAME, or both by &")
    fs, root = fsspec.core.url_to_fs(repository, use_listings_cache=False)
    names = [name.removeprefix(f"{root}/") for name in fs.ls(root, detail=False)]
    card = fs.read_text(f"{root}/README.md") if "README.md" in names else ""
    said_of = DatasetCard(card).data if card.startswith("---") else DatasetCardData()
    configurations = MetadataConfigs.from_dataset_card_data(said_of)
    folder, said = repository, None
    if configurations or "config" in wanted:
        config = _one_of(configurations, wanted.get("config"), repository, "config", "default")
        folder = f"{repository}/{configurations[config].get('data_dir') or ''}".rstrip("/")
        said = configurations[config].get("data_files")
    patterns = {str(name): of for name, of in (sanitize_patterns(said) if said else get_data_patterns(folder)).items()}
    split = _one_of(patterns, wanted.get("split"), repository, "split", "")
    found = dict[str, None]()
    for pattern in patterns[split]:
        with suppress(*([FileNotFoundError] if has_magic(pattern) else [])):  # a split has many patterns by default
            found |= dict.fromkeys(resolve_pattern(pattern, folder))
    inside = [fs._strip_protocol(file) for file in found]
    return {name.removeprefix(f"{root}/"): fs.info(name) for name in inside}


def _one_of(there: Mapping[str, Any], wanted: str | None, repository: str, what: str, usual: str) -> str:
    """Return the name that is wanted, or the usual one, or the only one."""
    if wanted is None:
        wanted = next(iter(there)) if len(there) == 1 else usual
        if wanted not in there:
            names = ", ".join(there)
            raise CorpusError(f"{repository} has the {what}s {names}: add ?{what}=NAME, or &{what}=NAME, to its path")
    if wanted not in there:
        raise CorpusError(f"{repository} has no {what} {wanted!r}: it has {', '.join(there) or 'none by name'}")
    return wanted


def version_of(folder: str, name: str, entry: Mapping[str, Any]) -> str:
    """Return what tells a file from an earlier one of its name; "" where nobody says."""
    if entry.get("islink"):  # fsspec tells when the link was made, not when the file it leads to was written
        with suppress(OSError):
            return str(os.stat(f"{folder}/{name}".removeprefix("file://")).st_mtime)
    return next((str(entry[key]) for key in _VERSIONS if entry.get(key) is not None), "")


def check_file(folder: str, name: str) -> None:
    """Raise CorpusError if a file cannot be read to its end, or if its name cannot stand in a list of files."""
    path = f"{folder}/{name}".removeprefix("file://")
    refuse_unusable_name(path)
    if name.splitlines() != [name] or name != name.strip():
        raise CorpusError(f"{one_line(repr(path))}: a line break or a space at an end of its name: rename it")
    if "://" in path:
        return
    if (kind := special_kind(path)) is not None:
        raise CorpusError(f"{path} is {kind}, which cannot be read to an end: write its content into a file")
    if not os.path.isfile(path):
        why = "a folder" if os.path.isdir(path) else "a link that leads nowhere"
        raise CorpusError(f"{path} is {why}, not a file: rename it, or leave it out")


def why_not(path: str, error: Exception) -> str:
    """Return what a file system says, closing a bracket, and what helps against a missing credential."""
    reason = f"{type(error).__name__}: {(str(error) or 'no reason given').splitlines()[0]}"
    return f"{reason}){_LOGIN.get(path.partition('://')[0], '')}"
