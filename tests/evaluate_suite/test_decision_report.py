"""The section "Can this experiment decide?": what is said of studies that can, that cannot, and that lack seeds."""

import json
import re
from dataclasses import replace

import pytest
from test_decide import ROWS, bits, study
from test_paper_figures import check
from test_tables import check_well_formed

from evaluate_suite.__main__ import main
from evaluate_suite.registry import extra_suites
from evaluate_suite.report.decision import further_tables, main_readings, sentences, tables
from evaluate_suite.report.gallery import study_figures
from evaluate_suite.report.outcomes import outcomes
from evaluate_suite.report.page import Scorers, Words, markdown, render
from evaluate_suite.report.points import measurements_of
from evaluate_suite.report.table_data import to_html
from evaluate_suite.report.verdicts import methods
from evaluate_suite.results import write_results
from pipeline_steps.errors import StoreIncomplete


MODELS = {"small": "llama-60m", "large": "llama-130m"}


def named(rows):
    """Rows of models whose size is known."""
    return measurements_of([type(r)(**(vars(r) | {"model": MODELS[r.model]})) for r in rows], partial=True)


@pytest.fixture(scope="module")
def several():
    return named(ROWS)


def test_the_page_says_what_can_be_told_and_what_not(several):
    found = outcomes(several)
    figures = list(study_figures(several, found, {}))
    check(next(one.figure for one in figures if one.section == "decide"))
    page = render(several, found, figures, Scorers(), Words())
    section = re.search(r'<h2 id="decide">.*?</section>', page, flags=re.DOTALL)[0]
    check_well_formed(page)
    assert (
        "llama-60m: in 3 of 6 tasks and means recipes differ by more than noise: "
        "arc_easy; Question answering, mean; reversed." in section
    )
    assert "no recipe is better than guessing, 25" in section
    assert re.search(
        r"puts in the order of llama-130m: \d\d %, mean over 5 tasks \(from reversed 0 % to arc_easy 100 %\)",
        section,
    )
    assert section.count("<svg") == 1
    assert "Every task and metric" in section
    assert "one seed" not in section


def test_tables_are_of_the_metric_stated_beforehand(several):
    shown = tables(several.decisions)
    assert [table.title for table in shown][:2] == [f"What each task tells: {model}" for model in MODELS.values()]
    for table in shown:
        assert [row[1].text for row in table.rows if row[0].text == "arc_easy"] == ["bits per byte"]
        check_well_formed(to_html(table))
    verdicts = {row[0].text: row[2].text for row in shown[0].rows}
    assert verdicts == {
        "arc_easy": "signal",
        "Question answering, mean": "signal",
        "reversed": "signal",
        "arc_challenge": "no signal",
        "squad": "no signal",
        "made": "no signal",
    }
    assert len(further_tables(several.decisions)[0].rows) == 7  # the accuracy of arc_easy too
    transfers = {row[0].text: row for row in shown[2].rows}
    assert transfers["reversed"][4].text == "0"
    assert transfers["arc_easy"][4].interval == "100 to 100"
    assert "**Do smaller models order the recipes as the largest does?**" in markdown(several, {}, Words())


def test_one_seed_and_one_size_are_a_short_sentence():
    rows = study("arc_easy", "bits_per_byte", bits, 0.002, models=("small",), seeds=(0,))
    alone = named(rows)
    said = " ".join(sentences(alone.decisions))
    assert said.startswith("Every run has one seed and one model size.")
    assert "nothing here says whether larger models" in said
    assert len(said.split()) < 90
    assert not tables(alone.decisions)
    assert said.split(".")[0] in render(alone, outcomes(alone), [], Scorers(), Words())
    steps = named(study("arc_easy", "bits_per_byte", bits, 0.002, ("small",), (0,), steps=(100, 200, 300, 400, 500)))
    (table,) = further_tables(steps.decisions)
    assert "checkpoints only" in table.rows[0][8].text
    nothing = named([row for row in rows if row.sampler == "full"])
    assert "no two recipes" in sentences(nothing.decisions)[0]


def test_the_command_prints_tables_and_writes_numbers(several, tmp_path, capsys):
    write_results(str(tmp_path / "results.jsonl"), several.rows)
    numbers = tmp_path / "decisions.json"
    assert main(["decide", "--results", str(tmp_path), "--extrapolate", "--output", str(numbers)]) == 0
    said = capsys.readouterr().out
    assert "in 3 of 6 tasks and means recipes differ by more than noise" in said
    assert re.search(r"arc_easy +│ bits per byte │ +signal", said)
    found = json.loads(numbers.read_text())
    assert len(found["readings"]) == len(several.decisions.readings)
    assert {one["larger"] for one in found["transfers"]} == {"llama-130m"}
    assert main(["decide", "--results", str(tmp_path), "--checkpoints", "0"]) == 2
    assert "give 1 or more" in capsys.readouterr().err


def test_suites_stand_for_many_tasks():
    names = ["anatomy", "virology", "astronomy", "nutrition", "prehistory", "philosophy", "sociology", "marketing"]
    names += ["management", "econometrics", "jurisprudence", "machine_learning", "logical_fallacies"]
    rows = [r for name in names for r in study(name, "accuracy", lambda number, model: 40 + number, 0.3, stderr=0.5)]
    found = named(rows).decisions
    assert {one.task for one in main_readings(found)} == {"mmlu"}
    assert "MMLU, mean" in sentences(found)[0]


def test_a_further_suite_alone_is_no_part_of_the_papers():
    """It shares two of the four tasks of question answering, and says how many seeds there are without a score."""
    early = [task.name for task in extra_suites()["early_signal"]]
    rows = [r for task in [*early, "early_signal"] for r in study(task, "bits_per_byte", bits, 0.002, ("large",))]
    rows += [replace(r, metric="accuracy", value=40 + r.value) for r in rows if r.task in early]
    for partial in (False, True):
        found = measurements_of(rows, partial)
        assert not any(point.scores for point in found.checkpoints)
        assert {one.task for one in found.decisions.readings} == {*early, "early_signal"}
        assert not any("one seed" in paragraph for paragraph in methods(found))
    others = [replace(r, task="qa_boolq") for r in rows if r.task == "piqa"]
    with pytest.raises(StoreIncomplete, match="Question answering: 3 of 4 tasks were measured"):
        measurements_of([*rows, *others])
    assert measurements_of([*rows, *others], partial=True).partial == {"qa": (3, 4)}


def test_means_stand_for_many_tasks_and_are_not_counted_beside_them():
    domains = [f"domain/web/en-{number}" for number in range(25)] + ["domain/macro"]
    early = [task.name for task in extra_suites()["early_signal"]] + ["early_signal"]
    core = [task.name for task in extra_suites()["core_v2"]] + ["core_v2"]
    rows = [r for task in [*domains, *early, *core] for r in study(task, "bits_per_byte", bits, 0.002, seeds=(0, 1))]
    rows += study("core_v1", "centred_accuracy", lambda number, model: 5 + number, 0.1)
    many = named(rows).decisions
    assert {one.task for one in main_readings(many)} == {"domain/macro", "early_signal", "core_v2"}
    assert "Held-out text by domain, mean" in sentences(many)[0]
    assert "core_v1" not in {one.task for one in many.readings}
    few = sentences(named([r for r in rows if r.task in early]).decisions)
    assert "in 10 of 10 tasks and means recipes differ" in few[0]
    assert "mean over 9 tasks" in few[2]
