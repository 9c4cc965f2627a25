"""A study measures downstream tasks along training, and its report shows them as curves."""

from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from prose import write_prose
from tiny_data import write_tiny_data

from evaluate_suite.results import read_results
from launch.plan import Plan
from launch.records import tasks_left
from launch.study_file import parse_study
from launch.worker import run_task
from pipeline_steps.errors import StoreIncomplete, WinnowError


TEXT = """\
output: {folder}/out
corpus: {folder}/corpus.jsonl
held_out: {{high_quality: {folder}/held.jsonl}}
samplers: [prototypes, {{ask-llm: {{model: embedded}}}}]
rates: [0.3, 0.6]
models:
  t5-tiny: {{total_tokens: 512, batch_size: 2, input_length: 64, checkpoints: 2, compile: false, report_to: none}}
evaluation:
  suites: [squad]
  few_shot: [arc_easy]
  instruction_tune: false
  budget: smoke
  data_root: {folder}/data
  domains: held_out
  every: 1
"""


def run_all(plan, *beginnings):
    for name, stage in plan.stages.items():
        AcceleratorState._reset_state(reset_partial_state=True)
        for task in tasks_left(plan.output, stage) if name.startswith(beginnings) else ():
            assert run_task(plan, name, task) == 0, name


@pytest.fixture
def plan(tmp_path):
    for seed, name in enumerate(("corpus", "held")):
        write_prose(tmp_path / f"{name}.jsonl", 60, seed)
    write_tiny_data(tmp_path / "data")
    return Plan.of(parse_study("s.yaml", TEXT.format(folder=tmp_path)))


def test_a_checkpoint_is_a_task(plan):
    full = "t5-tiny/full-1-seed0"
    run_all(plan, "tokens", f"runs/{full}")
    stage = plan.stages[f"measured/{full}/bits-per-byte"]
    assert (stage.steps, stage.tasks) == ((2, 4), 2)
    results = Path(plan.output, "results.jsonl")
    for task, steps in enumerate(({2}, {2, 4})):
        with pytest.raises((WinnowError, FileNotFoundError)):
            stage.check_output(plan.output, whole=False)
        assert run_task(plan, stage.name, task) == 0
        assert {row.step for row in read_results(str(results)) if row.task == "domain/high_quality"} == steps
    stage.check_output(plan.output, whole=True)
    next(Path(plan.output, "evaluation").rglob("step-00000002/domain-*.json")).unlink()
    with pytest.raises(FileNotFoundError):
        stage.check_output(plan.output, whole=False)
    Path(plan.output, "runs", full, "checkpoints", "step-00000002").rename(Path(plan.output, "gone"))
    with pytest.raises(StoreIncomplete, match="has no checkpoint of step 2: it has 4"):
        stage.check_output(plan.output, whole=False)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_curves_of_downstream_measures_are_in_the_report(plan):
    run_all(plan, "")
    assert not [name for name, stage in plan.stages.items() if tasks_left(plan.output, stage)]
    rows = read_results(f"{plan.output}/results.jsonl")
    runs = {(row.sampler, row.rate) for row in rows}
    assert len(runs) == 5
    for task in ("squad", "arc_easy", "high_quality"):
        assert {(row.sampler, row.rate, row.step) for row in rows if row.task == task} == {
            (*run, step) for run in runs for step in (2, 4)
        }
    page = Path(plan.output, "report.html").read_text()
    for title in (
        "SQuAD against tokens: t5-tiny, mean over rates",
        "SQuAD against tokens: t5-tiny, each rate",
        "Question answering against tokens: t5-tiny, mean over rates",
        "High-quality perplexity against tokens: t5-tiny, repetitions",
        "Samplers between coverage and quality",
        "Epochs of one token budget: t5-tiny",
    ):
        assert f'aria-label="{title}"' in page, title
