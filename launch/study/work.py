"""One task of a stage of a study, in a process of its own: what every engine starts.

    python -m launch.study.work STUDY STAGE [--task I]

Every artefact is whole or absent, so a task that was killed is simply run again. Exit code: 0 done, 2 the input is at
fault, 75 stopped by a signal after writing a checkpoint, 1 anything else.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launch.study.progress import fingerprints, note_done
from launch.study.reading import open_study
from launch.study.schema import FULL, Run, Study
from launch.study.stages import Stage, full_run, splits_of, stages_of
from pipeline_steps.errors import InvalidStudy, WinnowError


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study")
    parser.add_argument("stage")
    parser.add_argument("--task", type=int, default=0)
    args = parser.parse_args(argv)
    try:
        return do(open_study(args.study), args.stage, args.task)
    except WinnowError as error:
        sys.stderr.write(f"{error}\n")
        return 2


def do(study: Study, name: str, task: int) -> int:
    """Run a task, and note that it is done; its exit code."""
    stages = stages_of(study)
    if name not in stages or not 0 <= task < stages[name].tasks:
        raise InvalidStudy(f"{study.path} has no task {task} of a stage {name}: winnow status lists them")
    stage = stages[name]
    code = _DO[stage.kind](study, stage, task)
    if code == 0:
        note_done(study, stage, task, fingerprints(stages)[name])
    return code


def _pipeline(study: Study, stage: Stage, task: int) -> int:
    from launch.executor import ShareExecutor
    from launch.study.pipelines import pipeline_of

    logs = str(Path(study.output) / "logs" / stage.name)
    ShareExecutor(pipeline_of(study, stage.name), stage.tasks, task, stage.tasks, logs).run()
    return 0


def _training(study: Study, stage: Stage, task: int) -> int:
    return subprocess.run(training_command(study, stage)).returncode


def training_command(study: Study, stage: Stage) -> list[str]:
    """Of a run: under accelerate launch if the study says how, else one process."""
    from launch.study.pipelines import selection

    run = run_of(stage)
    given = {key: value for key, value in stage.made.items() if key not in Run.__dataclass_fields__}
    values: dict[str, Any] = given | {"seed": run.seed, "tokens": str(Path(study.output) / "tokens" / "train")}
    values["run_dir"] = run_folder(study, run)
    if run.sampler == FULL:
        values["milestones"] = sorted({*values.get("milestones", []), *_wanted_steps(study, run)})
    else:
        values["selection"] = selection(study, run.sampler, run.rate)
    return [*_launcher(study), "-m", "train.pretrain", *_flags(values)]


def run_of(stage: Stage) -> Run:
    """The run that a training stage trains."""
    return Run(**{name: stage.made[name] for name in Run.__dataclass_fields__})


def run_folder(study: Study, run: Run) -> str:
    """Where a run writes."""
    return str(Path(study.output) / "runs" / run.name)


def _wanted_steps(study: Study, run: Run) -> list[int]:
    """Steps of a run on everything whose checkpoints score perplexity."""
    models = [sampler.model.partition("@") for sampler in study.samplers]
    return [int(step) for model, at, step in models if at and full_run(study, model) == run]


def _measuring(study: Study, stage: Stage, task: int) -> int:
    _, model, run_name, what = stage.name.split("/")
    run = next(one for one in study.runs() if one.name == f"{model}/{run_name}")
    evaluation, output = study.evaluation, Path(study.output)
    command = [sys.executable, "-m", "evaluate_suite"]
    where = ["--runs", f"{run.sampler}={run_folder(study, run)}", "--output", str(output / "results.jsonl")]
    where += ["--cache", str(output / "evaluation" / run.name)]
    data = ["--data-root", evaluation.data_root] if evaluation.data_root else []
    tuning = [
        *data,
        "--budget",
        evaluation.budget,
        *(["--launch", study.engine.launch] if study.engine.launch else []),
    ]
    if what == "perplexity":
        places = {task: ",".join(str(output / one) for one in stores) for task, stores in splits_of(study).items()}
        command += ["perplexity", *where, "--tokens", *(f"{task}={stores}" for task, stores in places.items())]
    elif what == "few-shot":
        tune = ["--instruction-tune"] if evaluation.instruction_tune else []
        command += ["few-shot", *where, *tuning, *tune, "--limit", str(evaluation.limit)]
        command += ["--tasks", *evaluation.few_shot]
    else:
        command += ["fine-tune", *where, *tuning, "--suites", what]
    return subprocess.run(command).returncode


def _report(study: Study, stage: Stage, task: int) -> int:
    from launch.cli import main as winnow

    return winnow(["report", study.output, "--output", str(Path(study.output) / "report.html"), "--partial"])


def _launcher(study: Study) -> list[str]:
    if not study.engine.launch:
        return [sys.executable]
    return [sys.executable, "-m", "accelerate.commands.launch", *shlex.split(study.engine.launch)]


def _flags(values: Mapping[str, Any]) -> list[str]:
    """Of train.pretrain."""
    flags = []
    for name, value in values.items():
        if isinstance(value, list):
            flags += [f"--{name}", *map(str, value)] if value else []
        elif value is not None:
            flags.append(f"--{name}={value}")
    return flags


_DO = {"pipeline": _pipeline, "training": _training, "measuring": _measuring, "report": _report}


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(main())
