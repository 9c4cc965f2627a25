"""Domains in a study file: bits per byte of each run, in the results and in the report."""

import pytest
from accelerate.state import AcceleratorState
from prose import write_prose

from evaluate_suite.results import read_results
from launch.plan import Plan
from launch.records import tasks_left
from launch.study_file import parse_study
from launch.worker import run_task
from pipeline_steps.errors import InvalidStudy


TEXT = """\
output: {folder}/out
corpus: {folder}/corpus.jsonl
held_out: {{held: {folder}/held.jsonl}}
samplers: [random]
rates: [0.5]
models:
  t5-tiny: {{total_tokens: 512, batch_size: 2, input_length: 64, compile: false}}
evaluation: {{domains: {{news: {folder}/news.jsonl, web: {folder}/web.jsonl}}}}
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_study_measures_its_domains(tmp_path):
    for seed, name in enumerate(("corpus", "held", "news", "web")):
        write_prose(tmp_path / f"{name}.jsonl", 40, seed)
    text = TEXT.format(folder=tmp_path)
    plan = Plan.of(parse_study("s.yaml", text))
    for name, stage in plan.stages.items():
        AcceleratorState._reset_state(reset_partial_state=True)
        for task in tasks_left(plan.output, stage):
            assert run_task(plan, name, task) == 0
    assert not [name for name, stage in plan.stages.items() if tasks_left(plan.output, stage)]
    rows = [row for row in read_results(f"{plan.output}/results.jsonl") if row.task.startswith("domain/")]
    found = {(row.sampler, row.task) for row in rows if row.metric == "bits_per_masked_byte"}
    assert found == {(s, f"domain/{d}") for s in ("full", "random") for d in ("news", "web", "macro")}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Bits per masked byte, mean over domains" in page
    assert page.count("domain/news") == 3  # a row of each metric
    stage = plan.stages["measured/t5-tiny/full-1-seed0/bits-per-byte"]
    next((tmp_path / "out" / "evaluation").rglob("full/*/domain-web.json")).unlink()
    with pytest.raises(FileNotFoundError):
        stage.check_output(plan.output, whole=False)
    without = Plan.of(parse_study("s.yaml", text[: text.index("evaluation")]))
    assert {name: stage.made for name, stage in without.stages.items() if name != "report"}.items() <= {
        name: stage.made for name, stage in plan.stages.items()
    }.items()


def test_the_mean_is_no_domain(tmp_path):
    text = TEXT.format(folder=tmp_path).replace("news:", "macro:")
    with pytest.raises(InvalidStudy, match="a domain cannot be called macro"):
        parse_study("s.yaml", text)
