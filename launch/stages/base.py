"""What every stage is, and helpers that open outputs.

A stage's inputs are those of its fields that are stages, so two equal stages are one: `made` is the fingerprint of all
that decides its output. Its name is the folder of its output, and is never taken apart.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from pipeline_steps.samplers import EMBEDDED, EMBEDDED_TOKENIZER
from pipeline_steps.stores.files import canonical, digest


if TYPE_CHECKING:
    from datatrove.pipeline.base import PipelineStep

    from launch.stages.corpora import Files
    from pipeline_steps.stores.source_store import SourceStore
    from train.folders import SealedFolder


_AGAIN = "it is made again"


def free(default: Any) -> Any:
    """Return a field that decides nothing about the output, such as the number of tasks."""
    return field(default=default, metadata={"decides": False})


@dataclass(frozen=True, eq=False, kw_only=True)
class Stage:
    """A node of a plan.

    Attributes:
        tasks: how many tasks the stage has, which may run apart from each other.
        devices: accelerators that a task runs on, where there are any; 0 for stages that run no model.
    """

    kind: ClassVar[str]  # what tables show the stage with
    names: ClassVar[str] = ""  # what its stages are called, with their fields in braces; the kind if not given
    groups: ClassVar[str] = ""  # what tables show several of them as, likewise
    home: ClassVar[str] = ""  # the folder of its output, if that is not its name, likewise
    launched: ClassVar[bool] = False  # whether it trains: by engine.launch, on what engine.training asks for
    tasks: int = free(1)
    devices: int = free(0)

    @property
    def name(self) -> str:
        """Return the stage's name, unique in a study: the folder of its output where it has one of its own."""
        return self.names.format(self=self) or self.kind

    @property
    def group(self) -> str:
        """Return what a plan's tables show the stage with."""
        return self.groups.format(self=self) or self.kind

    def title(self, task: int) -> str:
        """Return the name of a task in messages."""
        return self.name if self.tasks == 1 else f"{self.name}, task {task} of {self.tasks}"

    @property
    def note(self) -> str:
        """Return what the user should know before the stage runs; "" if nothing."""
        return ""

    @cached_property
    def inputs(self) -> tuple[Stage, ...]:
        """Return the stages that must be done before."""
        return tuple(dict.fromkeys(one for value in self._values() for one in _parts(value, Stage)))

    @cached_property
    def sources(self) -> tuple[Files, ...]:
        """Return the corpora from outside the study that the stage reads."""
        from launch.stages.corpora import Files

        return tuple(dict.fromkeys(one for value in self._values() for one in _parts(value, Files)))

    def _values(self) -> Iterator[Any]:
        return (getattr(self, one.name) for one in fields(self))

    @property
    def models(self) -> tuple[str, ...]:
        """Return the Hub ids and folders of models that the stage loads from outside the study."""
        return ()

    @property
    def imports(self) -> tuple[str, ...]:
        """Return modules that a task imports and that take seconds, for engines that can import them once."""
        return ()

    @cached_property
    def made(self) -> str:
        """Return the fingerprint of what decides the output: class, settings, and the inputs' fingerprints."""
        return digest(canonical([type(self).__name__, self.name, _deciding(self)]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stage) and self.made == other.made

    def __hash__(self) -> int:
        return hash(self.made)

    def folder(self, output: str) -> str:
        """Return the folder that the stage writes to."""
        return os.path.join(output, self.home.format(self=self) or self.name)

    def check_start(self, output: str) -> None:
        """Refuse, before anything is started, what could only fail at the end. Raises WinnowError."""

    def run_task(self, output: str, task: int) -> None:
        """Run one task; what a killed task has written is continued or written again.

        Raises:
            SystemExit: processes that the task has launched ended with this exit code.
        """
        raise NotImplementedError

    def check_output(self, output: str, whole: bool) -> None:
        """Open the output; `whole` reads every byte.

        Raises:
            WinnowError: the output is incomplete or damaged.
            FileNotFoundError: the output is not there.
        """
        raise NotImplementedError


def _parts(value: Any, kind: type) -> Iterator[Any]:
    """Yield the parts of a field that are of a kind, also inside tuples and plain dataclasses, not inside stages."""
    if isinstance(value, kind):
        yield value
    elif isinstance(value, tuple):
        for one in value:
            yield from _parts(one, kind)
    elif is_dataclass(value) and not isinstance(value, Stage):
        for one in fields(value):
            yield from _parts(getattr(value, one.name), kind)


def _deciding(value: Any) -> Any:
    """Return what of a value goes into a fingerprint; defaults stay out, so that a new setting redoes nothing."""
    own = [one for one in fields(value) if one.metadata.get("decides", True) and not _is_default(value, one)]
    return {one.name: _plain(getattr(value, one.name)) for one in own}


def _is_default(value: Any, one: Field[Any]) -> bool:
    default = one.default if one.default_factory is MISSING else one.default_factory()
    return default is not MISSING and bool(getattr(value, one.name) == default)


def _plain(value: Any) -> Any:
    if isinstance(value, Stage):
        return value.made
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    return {type(value).__name__: _deciding(value)} if is_dataclass(value) else value


@dataclass(frozen=True, eq=False, kw_only=True)
class PipelineStage(Stage):
    """A stage whose tasks are those of a datatrove pipeline, and whose output is a store unless it says otherwise."""

    def pipeline(self, output: str) -> list[PipelineStep]:
        """Return the steps, with the study's folders."""
        raise NotImplementedError

    @override
    def run_task(self, output: str, task: int) -> None:
        from launch.pipelines import run_rank

        run_rank(self.pipeline(output), task, self.tasks, os.path.join(output, "logs", self.name))

    @override
    def check_output(self, output: str, whole: bool) -> None:
        open_store(self.folder(output), whole)


def place_of(model: str) -> str:
    """Return the Hub id or folder of a model or tokenizer that may be this package's own."""
    from pipeline_steps import EMBEDDED_BPE, EMBEDDED_PROXY

    return {EMBEDDED: EMBEDDED_PROXY, EMBEDDED_TOKENIZER: EMBEDDED_BPE}.get(model, model)


def open_store(folder: str, whole: bool) -> SourceStore:
    """Open a store that is complete, and verify every part of it if `whole`."""
    from pipeline_steps.stores.source_store import SourceStore

    store = SourceStore(folder)
    store.check_complete()
    if whole:
        store.verify()
    return store


def open_partials(folder: str, whole: bool) -> None:
    """Open partial sums that are complete, and read them if `whole`."""
    from pipeline_steps.stores.partials import Partials

    partials = Partials(folder)
    partials.check_complete()
    for _ in partials.read() if whole else ():
        pass


def open_sealed(folder: str, name: str, whole: bool) -> SealedFolder:
    """Open a folder whose files a sealed one lists, and verify them if `whole`."""
    from train.folders import SealedFolder
    from train.verified import verify_files

    found = SealedFolder.read(Path(folder), name, _AGAIN)
    if whole:
        verify_files(found.files, _AGAIN)
    return found
