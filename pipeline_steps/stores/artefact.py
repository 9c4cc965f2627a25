"""Artefact: a folder that is made once, by any number of tasks, and opens only when it is whole.

    <path>/artefact.json                    format, kind, and the settings it is made with
    <path>/announced/000001.json            the runs over it, in order: the name and the input of each
    <path>/parts/<source>                   its parts, each whole or absent, named by what they are of
    <path>/runs/<run>/<tasks>/<rank>.json   what one task of a run covers: {source: entry}
    <path>/manifest.json                    the run that finished last, and exactly its parts

A *run* is named by the digest of its settings and of its input: the listing of a corpus, or the fingerprints of other
artefacts. Before a task writes anything, its run is announced by exclusive creation under the next number; from then
on, no other run's manifest is the answer. A task's record belongs to one run and one number of tasks, so records of
another corpus, other settings or another split of the work never complete a manifest.

Killed anywhere: every write is whole, and a task that is run again writes the same. The last tasks of a run may race:
each puts its record before it looks for the others', and the manifest is a pure function of the records, so any
reader can derive one that was never written. `tests/pipeline_steps/test_artefact_protocol.py` runs every
interleaving of the operations of small runs, with kills before each of them.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from typing import Any

import xxhash
from datatrove.utils.logging import logger

from pipeline_steps.errors import CorpusError, StoreDamaged, StoreIncomplete, StoreMismatch
from pipeline_steps.stores.files import (
    AGAIN,
    DELETE,
    canonical,
    create,
    digest,
    names_in,
    open_folder,
    read_json,
    seal,
    sweep,
    write_atomically,
    write_json,
)


FORMAT = 1
Entries = Mapping[str, Mapping[str, Any]]
"""What a manifest or a record says of each source."""


def part_name(source: str) -> str:
    """Return the file name of a source's part, without suffix: readable, unique, and free of separators."""
    name = source.rstrip("/").rsplit("/", 1)[-1][-48:]  # in any alphabet short of the 255 bytes a name may have
    return f"{name}-{xxhash.xxh3_64_hexdigest(source.encode('utf-8', 'surrogatepass'))}"


def refuse_differences(found: Mapping[str, Any], wanted: Mapping[str, Any], where: str) -> None:
    """Raise StoreMismatch naming every setting of `where` that is not the wanted one, with both values."""
    differing = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    if differing:
        said = "; ".join(f"{name}: {found.get(name)!r} there, {wanted.get(name)!r} now" for name in differing)
        raise StoreMismatch(f"{where} was made with other settings ({said}): use another folder, or the same settings")


def claim(path: str, made: Mapping[str, Any], where: str, newer: Mapping[str, Any] | None = None) -> None:
    """Write a file of settings; if there is one with others, raise StoreMismatch naming each, with both values.

    `newer` are settings that older files do not name, and what they were then.
    """
    wanted: dict[str, Any] = json_types(made)
    if not create(path, seal(wanted)):
        unnamed = {name: value for name, value in json_types(newer or {}).items() if name in wanted}
        refuse_differences(unnamed | read_json(path, DELETE), wanted, where)


class Artefact:
    """A folder on any fsspec path.

    Args:
        path: the folder.
        suffix: of the names of its parts.
        disposable: whether parts that the last run does not name are deleted by that run. If not, they are kept,
            and refused by name until somebody has decided about them: they may have cost GPU-days.
    """

    def __init__(self, path: str, suffix: str, disposable: bool = False) -> None:
        self.path = path.rstrip("/")
        self.suffix, self.disposable = suffix, disposable
        self.fs, self.root = open_folder(self.path)
        self._run: dict[str, Any] = {}
        self._number, self._announced = 0, False

    # Making

    def begin(self, kind: str, made: Mapping[str, Any], inputs: Mapping[str, Any] | None) -> None:
        """Start or join a run: whoever creates artefact.json decides the settings, all others must have the same.

        Args:
            kind: what the artefact is, e.g. "scores".
            made: every setting that decides its content. StoreMismatch names those that differ, with both values.
            inputs: fingerprint of everything it is made from. None if that is unknown, which only a run of one task
                may say: such a run is one of its own, and none goes on with it.
        """
        made = json_types(made)
        self._refuse_old_format()
        created = create(f"{self.path}/artefact.json", seal({"format": FORMAT, "kind": kind, "made": made}))
        if not created:
            found = self._about()
            if found["kind"] != kind:
                raise StoreMismatch(f"{self.path} holds {found['kind']}, not {kind}: use another folder")
            refuse_differences(found["made"], made, self.path)
        inputs = json_types({"unlisted": uuid.uuid4().hex} if inputs is None else inputs)
        self._run = {"run": digest(canonical([made, inputs]))[:16], "inputs": inputs}
        self._number, last = self._last_run(strict=False)
        self._announced = last == self._run["run"]

    def part(self, source: str) -> str:
        """Return the path of a source's part."""
        return f"{self.path}/parts/{part_name(source)}{self.suffix}"

    def announce(self) -> None:
        """Make this run the one whose manifest is the answer; called before anything else is written.

        It raises StoreMismatch if a run over other input was announced since `begin`.
        """
        if not self._announced:
            name = f"{self.path}/announced/{self._number + 1:06d}.json"
            if not create(name, seal(self._run)) and read_json(name)["run"] != self._run["run"]:
                raise self._overtaken()
        self._announced = True

    def publish(self, source: str, blob: bytes, is_kept: Callable[[], bool]) -> None:
        """Put the bytes of a source's part where they belong.

        If a part is there already, `is_kept` says whether that one stays. It does if it is whole and made of the same:
        a model's last bits differ between two devices, and the first to come decides.
        """
        self.announce()
        if not create(self.part(source), blob) and not is_kept():
            write_atomically(self.part(source), blob)

    def finish(self, rank: int, tasks: int, entries: Entries) -> None:
        """Record what a task covers; whoever finds the records of all tasks of its run publishes the manifest.

        The manifest holds the tasks' `entries`: what is known of each source they have covered, as JSON types.

        Raises:
            CorpusError: two tasks covered different documents of one source.
            StoreMismatch: a run over other input was announced since.
        """
        entries = json_types(entries)
        if not self._announced and tasks == 1 and self._published_parts() == entries:
            return  # everything was made already: the run that made it remains the last
        self.announce()
        write_json(f"{self.path}/runs/{self._run['run']}/{tasks}/{rank:05d}.json", {"covers": entries})
        try:
            parts = self._assemble(self._run["run"])
        except StoreDamaged as error:  # of another task, which has to be run again
            logger.warning(str(error))
            return
        if parts is None:
            return
        if (parts := self._gathered(parts)) is None:
            return
        strange = self._names("parts") - set(map(self._file, parts))  # listed before the look
        if self._last_run()[1] != self._run["run"]:
            raise self._overtaken()
        if self.disposable:
            for name in sorted(strange):
                self._remove(f"parts/{name}")
        write_json(f"{self.path}/manifest.json", {"run": self._run["run"], "parts": parts})
        self._tidy(parts)
        sweep(self.root)

    def _gathered(self, parts: dict[str, Any]) -> dict[str, Any] | None:
        """Return the parts that the manifest names, given what all tasks have covered: the same, unless overridden.

        None means that some of it is gone.
        """
        return parts

    def _derived(self, parts: dict[str, Any] | None) -> dict[str, Any] | None:
        """Return the parts of a run whose manifest is lost, given what its tasks have covered; None if it has none."""
        return parts

    def _disposes(self, parts: Mapping[str, Any]) -> bool:
        """Return whether parts beside those that a manifest names may go."""
        return self.disposable

    def _tidy(self, parts: Mapping[str, Any]) -> None:
        """Remove what is not needed any more once a manifest names these parts: nothing, unless overridden."""

    # Reading

    @property
    def exists(self) -> bool:
        """Return whether somebody has begun to make the artefact."""
        return bool(self.fs.exists(f"{self.root}/artefact.json"))

    @cached_property
    def kind(self) -> str:
        """The kind of what is in the folder."""
        return str(self._about()["kind"])

    @cached_property
    def made(self) -> dict[str, Any]:
        """The settings it was made with."""
        return dict(self._about()["made"])

    @cached_property
    def made_digest(self) -> str:
        """Digest of the settings, for parts to say of themselves."""
        return digest(canonical(self.made))

    @cached_property
    def manifest(self) -> dict[str, dict[str, Any]]:
        """The entry of each source, sorted by source.

        Raises:
            StoreIncomplete: no run over all its tasks has finished since the input changed, or a part is lost.
            StoreMismatch: there are parts that the last run did not read.
            StoreDamaged: a file of the protocol is not what was written.
        """
        self._about()
        _, run = self._last_run()
        found = self._finished(run)
        if found is None:
            raise StoreIncomplete(f"{self.path} is {self.state()}: run its step to the end")
        there, expected = self._names("parts"), {self._file(source): source for source in found}
        if lost := sorted(expected.keys() - there):
            raise StoreIncomplete(f"{self.path} has lost parts/{lost[0]} of {expected[lost[0]]}: {AGAIN}")
        if (strange := sorted(there - expected.keys())) and not self._disposes(found):
            raise StoreMismatch(
                f"{self.path} holds {len(strange)} files that its last finished run did not read, first "
                f"parts/{strange[0]}: delete them if they were taken out of the corpus, or keep one store per corpus"
            )
        return dict(sorted(found.items()))

    @property
    def inputs(self) -> dict[str, Any]:
        """Return the inputs of the run that was announced last; {} before the first."""
        number, _ = self._last_run()
        return dict(read_json(f"{self.path}/announced/{number:06d}.json")["inputs"]) if number else {}

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the settings and of what the manifest says of every part: as an input, what identifies it."""
        return digest(canonical([self.kind, self.made, self.manifest]))

    @property
    def is_complete(self) -> bool:
        """Return whether `manifest` can be read."""
        try:
            return self.manifest is not None
        except (StoreIncomplete, StoreDamaged, StoreMismatch):
            return False

    def check_complete(self) -> None:
        """Raise what `manifest` raises."""
        _ = self.manifest

    def state(self) -> str:
        """Say how far an unfinished artefact is, and what may keep it from its end."""
        number, run = self._last_run()
        done = self._records(run) if run else {}
        if not done:
            return "incomplete (no task has finished)"
        tasks = "; ".join(f"{len(ranks)} of {size} tasks" for size, ranks in sorted(done.items()))
        others = (
            f"; {number} runs over different input have been announced: if nodes see other times of the same files, "
            "set the step's attribute `corpus` to a name of the corpus"
        )
        return (
            f"incomplete ({tasks} have read this input; if datatrove skips the others because its logging_dir says "
            f"that they are done, give another logging_dir or skip_completed=False{others if number > 1 else ''})"
        )

    def _about(self) -> dict[str, Any]:
        try:
            found = read_json(f"{self.path}/artefact.json", DELETE)
        except FileNotFoundError:
            self._refuse_old_format()
            raise StoreIncomplete(f"{self.path} holds nothing yet: run the step that makes it first") from None
        if found.get("format") != FORMAT:
            raise StoreMismatch(f"{self.path} was written by a later version of winnow: read it with that version")
        return found

    def _refuse_old_format(self) -> None:
        if self.fs.exists(f"{self.root}/config.json") and not self.exists:
            raise StoreMismatch(
                f"{self.path} was written by winnow 0.1, whose files cannot be verified: make it again in another "
                "folder"
            )

    def _published_parts(self) -> dict[str, Any] | None:
        try:
            return self._finished(self._last_run()[1])
        except StoreDamaged:
            return None

    def _finished(self, run: str | None) -> dict[str, Any] | None:
        """Return the parts of a run: from the manifest, or derived again if it was never written, or damaged."""
        if run is None:
            return None
        try:
            manifest = read_json(f"{self.path}/manifest.json")
            if manifest["run"] == run:
                return dict(manifest["parts"])
        except FileNotFoundError:
            pass
        except StoreDamaged as error:
            logger.warning(f"{error} (derived again now, from the records of its tasks)")
        return self._derived(self._assemble(run))

    def _last_run(self, strict: bool = True) -> tuple[int, str | None]:
        """Return the number and name of the run that was announced last; 0 and None before the first.

        If its announcement is damaged, it is nobody's run: StoreDamaged, or without `strict` a name of None.
        """
        names = self._names("announced")
        if not names:
            return 0, None
        last = max(names)
        number = int(last.removesuffix(".json"))
        try:
            return number, read_json(f"{self.path}/announced/{last}")["run"]
        except StoreDamaged:
            if strict:
                raise StoreDamaged(
                    f"{self.path}/announced/{last} is damaged, so nothing says which input was read last: {AGAIN}, "
                    "all of its tasks"
                ) from None
            return number, None

    def _runs(self) -> Iterator[tuple[int, str]]:
        """Yield the number and name of every run that was announced, as far as that can be read."""
        for name in sorted(self._names("announced")):
            with suppress(StoreDamaged, FileNotFoundError):
                yield int(name.removesuffix(".json")), read_json(f"{self.path}/announced/{name}")["run"]

    def _records(self, run: str) -> dict[int, list[int]]:
        """Return the ranks that have left a record, by the number of tasks."""
        sizes = sorted(self._names(f"runs/{run}"), key=int)
        names = {int(size): self._names(f"runs/{run}/{size}") for size in sizes}
        return {size: sorted(int(name.removesuffix(".json")) for name in found) for size, found in names.items()}

    def _assemble(self, run: str) -> dict[str, Any] | None:
        """Return the parts that the records of a run name; None while no number of tasks is complete.

        Raises:
            StoreDamaged: a record of the only complete ones is not what was written.
            CorpusError: two tasks covered different documents of one source.
        """
        damaged: StoreDamaged | None = None
        for tasks, ranks in self._records(run).items():
            if len(ranks) == tasks:
                names = [f"{self.path}/runs/{run}/{tasks}/{rank:05d}.json" for rank in range(tasks)]
                try:
                    return _merged([read_json(name)["covers"] for name in names])
                except StoreDamaged as error:
                    damaged = error
        if damaged is not None:
            raise damaged
        return None

    def _file(self, source: str) -> str:
        return f"{part_name(source)}{self.suffix}"

    def _names(self, folder: str) -> set[str]:
        names = names_in(self.fs, f"{self.root}/{folder}")
        return {name for name in names if not name.startswith(".") and not name.endswith(".claims")}

    def _remove(self, name: str) -> None:
        with suppress(FileNotFoundError):  # another last task was faster
            self.fs.rm(f"{self.root}/{name}", recursive=True)

    def _overtaken(self) -> StoreMismatch:
        return StoreMismatch(
            f"{self.path}: a run over other input has begun since this one: its corpus or another input was changed "
            "while it was read; run the step again over what is there now"
        )


def _merged(records: Iterable[Entries]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for source, entry in (item for record in records for item in record.items()):
        if merged.setdefault(source, entry) != entry:
            raise CorpusError(
                f"two tasks have read different documents of {source}: the corpus was rewritten into other files "
                "after it was read from that one; write it without 'file_path', or read the original"
            )
    return dict(sorted(merged.items()))


def json_types(value: Any) -> Any:
    """Return a value as JSON gives it back: tuples as lists, keys as strings."""
    return json.loads(json.dumps(value, allow_nan=False))
