"""What of a study is done: a small file for each task of a stage, written when it has ended well.

<output>/stages/<stage>/<task>-of-<tasks>.json   with a fingerprint of all that decides the stage
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import xxhash

from launch.study.schema import Study
from launch.study.stages import Stage
from pipeline_steps.errors import StoreDamaged
from pipeline_steps.files import read_json, write_json


def fingerprints(stages: Mapping[str, Stage]) -> dict[str, str]:
    """Of each stage: what decides it, and the fingerprints of those it needs. The number of tasks decides nothing."""
    found: dict[str, str] = {}
    for name, stage in stages.items():
        decides = [name, stage.kind, dict(stage.made), [found[need] for need in stage.needs]]
        found[name] = xxhash.xxh3_64_hexdigest(json.dumps(decides, sort_keys=True).encode())
    return found


def marker(study: Study, stage: Stage, task: int) -> Path:
    """File that says that a task is done."""
    return Path(study.output) / "stages" / stage.name / f"{task}-of-{stage.tasks}.json"


def note_done(study: Study, stage: Stage, task: int, fingerprint: str) -> None:
    """Write it."""
    write_json(str(marker(study, stage, task)), {"fingerprint": fingerprint})


def is_done(study: Study, stage: Stage, task: int, fingerprint: str) -> bool:
    """Whether a task has ended well, of the same study."""
    try:
        return read_json(str(marker(study, stage, task)))["fingerprint"] == fingerprint
    except (FileNotFoundError, KeyError, StoreDamaged):
        return False


def tasks_left(study: Study, stage: Stage, fingerprint: str) -> list[int]:
    """Tasks of a stage that are still to be done."""
    return [task for task in range(stage.tasks) if not is_done(study, stage, task, fingerprint)]
