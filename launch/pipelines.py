"""datatrove pipelines of a study: one rank of one in this process, and the few steps that are a study's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datatrove.data import DocumentsPipeline
from datatrove.executor.base import DistributedEnvVars, PipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.filters import LambdaFilter
from datatrove.pipeline.writers import JsonlWriter

from pipeline_steps.readers.splits import DealDocuments, as_row, is_written_prose


class _OneRank(PipelineExecutor):
    """Runs one task of a pipeline in this process.

    datatrove's LocalPipelineExecutor hangs for good when a worker of its pool is killed; an engine notices at once
    that a process of its own has died.
    """

    def __init__(self, pipeline: Sequence[PipelineStep], world_size: int, logging_dir: str) -> None:
        super().__init__(list(pipeline), logging_dir, skip_completed=False)
        self._world_size = world_size

    def run(self) -> None:
        """Nobody calls this: `run_rank` runs a single task."""
        raise NotImplementedError

    @property
    def world_size(self) -> int:
        """Return the tasks of the whole pipeline."""
        return self._world_size

    def get_distributed_env(self, node_rank: int = -1) -> DistributedEnvVars:
        """Return what datatrove exports to its steps on one machine."""
        return DistributedEnvVars(
            datatrove_node_ips="localhost",
            datatrove_cpus_per_task="-1",
            datatrove_mem_per_cpu="-1",
            datatrove_gpus_on_node="-1",
            datatrove_executor="LOCAL",
        )


def run_rank(pipeline: Sequence[PipelineStep], rank: int, world_size: int, logging_dir: str) -> None:
    """Run one task of a pipeline; raises what a step raises."""
    _OneRank(pipeline, world_size, logging_dir)._run_for_rank(rank)


def deal(folder: str, shards: int) -> list[PipelineStep]:
    """Return the steps that deal documents into splits, each in `shards` files."""
    return [DealDocuments(shards), JsonlWriter(folder, "${split}/${shard}.jsonl.gz", adapter=as_row)]


def prose() -> PipelineStep:
    """Return the filter that keeps written prose."""
    return LambdaFilter(_is_prose)


def _is_prose(document: Any) -> bool:
    return is_written_prose(document.text)


class Together(PipelineStep):
    """Several steps as one reader."""

    type = "📋 - STUDY"
    name = "🔗 Together"

    def __init__(self, steps: Sequence[PipelineStep]) -> None:
        super().__init__()
        self.steps = steps

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Yield what the last of the steps yields."""
        for step in self.steps:
            data = step.run(data, rank, world_size)
        yield from data or ()
