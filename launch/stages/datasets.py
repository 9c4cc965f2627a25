"""The chosen documents of a corpus as a dataset, in four stages: the cut, rows by many tasks, Parquet, publication."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from launch.stages.base import Stage, free
from launch.stages.corpora import Files
from launch.stages.scores import GivenScores, Scores
from pipeline_steps.errors import StoreIncomplete


if TYPE_CHECKING:
    from launch.datasets.settings import DatasetSettings
    from launch.study_file import Study, StudySampler
