"""A datatrove executor for one process: runs its share of the tasks one after the other.

datatrove's LocalPipelineExecutor hangs for good when a worker of its pool is killed, and leaves helpers behind when it
is killed itself. Whoever starts several of these as processes of its own notices a death at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from datatrove.executor.base import DistributedEnvVars, PipelineExecutor
from datatrove.pipeline.base import PipelineStep


class ShareExecutor(PipelineExecutor):
    """Runs tasks `part`, `part + parts`, ... of a pipeline in this process.

    Args:
        pipeline: steps; they are run for one task after another, as Slurm jobs do with `tasks_per_job`.
        tasks: of the whole pipeline, over all parts.
        part: this process, from 0.
        parts: processes that share the tasks.
        logging_dir: logs and statistics, one per task.
        skip_completed: leave out tasks that an earlier run has finished.
    """

    def __init__(
        self,
        pipeline: Sequence[PipelineStep | Callable[..., object]],
        tasks: int,
        part: int,
        parts: int,
        logging_dir: str,
        skip_completed: bool = False,
    ) -> None:
        super().__init__(list(pipeline), logging_dir, skip_completed)
        self.tasks, self.part, self.parts = tasks, part, parts

    def run(self) -> None:
        """Run the tasks; raises what a step raises."""
        for rank in range(self.part, self.tasks, self.parts):
            self._run_for_rank(rank)

    @property
    def world_size(self) -> int:
        """Tasks of the whole pipeline."""
        return self.tasks

    def get_distributed_env(self, node_rank: int = -1) -> DistributedEnvVars:
        """What datatrove exports to its steps on one machine."""
        return DistributedEnvVars(
            datatrove_node_ips="localhost",
            datatrove_cpus_per_task="-1",
            datatrove_mem_per_cpu="-1",
            datatrove_gpus_on_node="-1",
            datatrove_executor="LOCAL",
        )
