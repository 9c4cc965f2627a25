"""What `winnow report` is given for a study: its results, stores, selections, corpus and what scoring has cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from launch.study.progress import fingerprints, task_state
from launch.study.schema import Study
from launch.study.stages import Stage, is_dealt, selection, stages_of, store_of
from pipeline_steps.stores.score_store import ScoreStore


_READ_AGAIN = 1_000_000  # documents of a corpus that is read once more, to show some: minutes


def report_arguments(study: Study) -> list[str]:
    """Of `winnow report`."""
    scored = {one.name: one for one in study.samplers if one.scorer}
    stores = {name: f"{study.output}/{store_of(one)}" for name, one in scored.items()}
    selections = {one.name: selection(study, one.name, min(study.rates)) for one in study.samplers}
    stages = stages_of(study)
    hours = {name: _scoring_seconds(study, stages, store_of(one)) / 3600 for name, one in scored.items()}
    arguments = [study.output, "--output", str(Path(study.output) / "report.html"), "--partial"]
    arguments += _pairs("--scores", stores)
    arguments += _pairs("--selections", selections)
    arguments += _pairs("--scoring-hours", {name: f"{value:.6g}" for name, value in hours.items()})
    return arguments + list(_corpus(study, stores))


def _corpus(study: Study, stores: Mapping[str, str]) -> Iterator[str]:
    # Scores of the first documents only are not the corpus's
    corpus = f"{study.output}/corpus/train" if is_dealt(study) else study.corpus if study.limit < 0 else None
    if stores and corpus and len(ScoreStore.open(next(iter(stores.values()))).scores) <= _READ_AGAIN:
        yield from ("--corpus", corpus)


def _scoring_seconds(study: Study, stages: Mapping[str, Stage], store: str) -> float:
    """Of all tasks of a store and of what it alone stands on: not of the corpus, nor of a training it scores with."""
    made = fingerprints(stages)
    wanted, seconds = [store], 0.0
    for name in wanted:  # grows
        stage = stages[name]
        seconds += sum(task_state(study, stage, task, made[name]).seconds for task in range(stage.tasks))
        wanted += [need for need in stage.needs if need not in wanted and not need.startswith(("corpus", "runs/"))]
    return seconds


def _pairs(flag: str, named: Mapping[str, str]) -> list[str]:
    return [flag, *(f"{name}={value}" for name, value in named.items())] if named else []
