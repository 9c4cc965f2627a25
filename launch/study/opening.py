"""A study file that a command is given: read, and refused if it holds a credential."""

from __future__ import annotations

from dataclasses import asdict

from launch.study import reading
from launch.study.schema import Study
from pipeline_steps.credentials import refuse_credentials


def open_study(path: str) -> Study:
    """Read a study file, or one that comes with this package.

    Raises:
        InvalidStudy: the file has a mistake; the message names the line.
        WinnowError: a value holds a credential; a study is copied into job scripts and its values into many files.
    """
    study = reading.open_study(path)
    refuse_credentials(asdict(study), path)
    return study
