"""What datatrove's executors have in common when they run a stage of a study."""

from __future__ import annotations

from typing import Any

from datatrove.executor.base import PipelineExecutor
from datatrove.utils.stats import PipelineStats

from launch.study.pipelines import pipeline_of
from launch.study.progress import Watched, check_ready, fingerprints, is_done, tasks_left
from launch.study.schema import Study
from launch.study.stages import Stage, stages_of


class OfStudy(PipelineExecutor):
    """An executor whose tasks are done when the study says so, and whose pipelines are built where they run: the node
    lists the corpus, with its own credentials.

    To stand before one of datatrove's executors among the bases.

    Args:
        study: the study.
        stage: one of its pipelines.
        made: its fingerprint.
        options: of datatrove's executor.
    """

    def __init__(self, study: Study, stage: Stage, made: str, **options: Any) -> None:
        self.study, self.stage, self.made = study, stage, made
        super().__init__([], stage.tasks, **options)

    def begin(self, rank: int) -> str:
        """Called in the process that does a task, before it does; file that the task logs to."""
        raise NotImplementedError

    def get_incomplete_ranks(self, ranks: Any = None, skip_completed: bool | None = None) -> list[int]:
        """Tasks that are to be done."""
        return tasks_left(self.study, self.stage, self.made)

    def is_rank_completed(self, rank: int) -> bool:
        """Whether a task is done."""
        return is_done(self.study, self.stage, rank, self.made)

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> PipelineStats:
        """One task, which notes how it goes."""
        log = self.begin(rank)
        if self.is_rank_completed(rank):
            return PipelineStats()
        stages = stages_of(self.study)
        check_ready(self.study, stages, fingerprints(stages), self.stage.name)
        watched = Watched(self.study, self.stage, rank, self.made, log)
        try:
            self.pipeline = pipeline_of(self.study, self.stage.name)
            stats = super()._run_for_rank(rank, local_rank, node_rank)
        except (SystemExit, KeyboardInterrupt):  # it was asked to stop, and is to go on later
            watched.stop()
            raise
        except BaseException as error:
            watched.stop(f"{type(error).__name__}: {error}".splitlines()[0])
            raise
        watched.done()
        return stats
