"""Partial results of a distributed sum: an Artefact with one part for each task of a run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from pipeline_steps.errors import StoreDamaged, StoreMismatch
from pipeline_steps.stores.artefact import Artefact
from pipeline_steps.stores.files import AGAIN, Tensors, load_tensors, save_tensors


class Partials(Artefact):
    """A folder of files of tensors to be added up. Those of a run with another number of tasks are not kept."""

    def __init__(self, path: str) -> None:
        super().__init__(path, ".safetensors", disposable=True)

    def write(self, rank: int, tasks: int, tensors: dict[str, np.ndarray], header: dict[str, Any]) -> None:
        """Publish a task's part and finish the task."""
        self.announce()
        name = f"{rank:05d}-of-{tasks:05d}"
        self.finish(rank, tasks, {name: {"digest": save_tensors(self.part(name), tensors, header)}})

    def read(self) -> Iterator[tuple[str, Tensors]]:
        """Yield the path and content of each part of the last finished run. Raises what `manifest` raises."""
        for name, entry in self.manifest.items():
            path = self.part(name)
            part = load_tensors(path)
            if part.digest != entry["digest"]:
                raise StoreDamaged(f"{path} is not the file the manifest speaks of: {AGAIN}")
            yield path, part

    def check_inputs(self, inputs: dict[str, Any], step: str) -> None:
        """Raise StoreMismatch unless the last run was made from these inputs; `step` is what makes it again."""
        _ = self.made
        if self.inputs != inputs:
            raise StoreMismatch(f"{self.path} was made from other inputs than there are now: run {step} again")
