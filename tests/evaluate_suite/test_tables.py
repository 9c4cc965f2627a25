"""Tables: what is in a cell, what is best, and both renderings of it."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from synthetic_study import costs, rows

from evaluate_suite.report.outcomes import break_even, outcomes, total_hours
from evaluate_suite.report.points import measurements_of
from evaluate_suite.report.table_data import Cell, Column, Table, number, to_html, to_markdown
from evaluate_suite.report.tables import (
    cost_table,
    main_table,
    rank_changes,
    rank_pairs,
    rank_table,
    task_table,
    terms_table,
)
from evaluate_suite.report.tables_corpus import contamination_table, overlap_table
from pipeline_steps.errors import InvalidCut
from pipeline_steps.scorers.contamination import Overlaps


FEW = ("random", "density", "ask-llm-xl", "a|b<c>")
SCORING = {"ask-llm-xxl": 49.0, "ask-llm-xl": 10.0, "ask-llm-large": 1.7, "ask-llm-base": 0.76, "ask-llm-small": 0.24}
TRAINING = {"t5-large": 24.0, "t5-small": 9.3}  # the extended version's Table 2, accelerator hours


@pytest.fixture(scope="module")
def study():
    return measurements_of(rows(FEW, (0.2, 0.4), steps=(1_000_000,)) + costs(SCORING, TRAINING))


def column(table, header):
    place = next(i for i, one in enumerate(table.columns) if one.header.startswith(header))
    return {row[0].text: row[place] for row in table.rows}


def test_table_1_marks_what_is_better_than_the_baseline_and_says_what_a_hundred_percent_is(study):
    seeds = measurements_of(rows(FEW, (0.4,), steps=(1_000_000,), seeds=(0, 1, 2), jitter=0.02, error=0.001))
    table = main_table(seeds, outcomes(seeds), "t5-small", 0.4)
    assert [row[0].text for row in table.rows] == ["Full data", "Random", "Density", "Ask-LLM (XL)", "a|b<c>"]
    assert len(table.columns) == 13
    for header in ("Over-scaling", "Effective", "C4", "MMLU"):
        best = [name for name, cell in column(table, header).items() if cell.best]
        assert "Ask-LLM (XL)" in best, header
        assert "Random" not in best, header
    assert any(
        note.startswith("Bold: better than Random (over-scaling and effective size: than ev") for note in table.notes
    )
    assert any("3 seeds of each run; the noise between trainings is" in note for note in table.notes)
    assert column(table, "Over-scaling")["Full data"].value == 0
    assert column(table, "Over-scaling")["Full data"].interval == ""
    assert column(table, "Effective")["Random"].low < column(table, "Effective")["Random"].value
    assert any("100 % is t5-base" in note for note in table.notes)


def test_with_one_seed_nothing_is_bold_but_what_a_level_tells(study):
    """The noise of T5's baseline is known for SQuAD, not for MMLU: an interval over questions makes nothing bold."""
    table = main_table(study, outcomes(study), "t5-small", 0.4)
    for header in ("Over-scaling", "Effective", "C4", "MMLU"):
        assert not any(cell.best for cell in column(table, header).values()), header
    assert column(table, "Over-scaling")["Random"].interval == ""
    (note,) = [note for note in table.notes if "intervals over examples only; the noise between trainings" in note]
    assert note.startswith("C4 perplexity, High-quality perplexity, MMLU, ")
    assert "SQuAD" not in note


def test_what_is_left_out_or_not_measured_is_a_footnote():
    study = measurements_of(rows(FEW[:2], (0.4,), tasks=("c4", "squad", "cnn_dailymail"), steps=(1_000_000,)))
    table = main_table(study, outcomes(study), "t5-xl", 0.4)
    assert any("Not measured: High-quality perplexity, GLUE" in note for note in table.notes)
    same = [r for r in rows(FEW[:2], (0.4,), tasks=("c4", "squad"), references=("t5-base",), steps=(1_000_000,))]
    flat = [r if r.task == "c4" else type(r)(**(vars(r) | {"value": 50.0})) for r in same]
    flat = measurements_of(flat)
    assert any("leaves out SQuAD: " in n for n in main_table(flat, outcomes(flat), "t5-small", 0.4).notes)


def test_a_run_with_fewer_suites_says_so():
    made = [r for r in rows(FEW[:2], (0.4,), steps=(1_000_000,)) if not (r.sampler == "random" and r.task == "squad")]
    study = measurements_of(made)
    names = [row[0].text for row in main_table(study, outcomes(study), "t5-small", 0.4).rows]
    assert "Random (9 of 10 suites)" in names
    assert "Density" in names


def test_partial_suites_are_marked_in_the_header():
    made = [row for row in rows(FEW[:2], (0.4,), steps=(1_000_000,)) if row.task != "mrpc"]
    study = measurements_of(made, partial=True)
    assert any(
        one.header == "GLUE (8/9)" for one in main_table(study, outcomes(study), "t5-small", 0.4).columns
    )  # fmt: skip


def test_bits_of_causal_models_and_of_t5s_are_two_measures():
    """Their ranks say nothing of each other; domains are in the table of every task, their mean in Table 1."""
    made, metric = rows(FEW, (0.4,), tasks=("c4",), steps=(1_000_000,)), {"t5-small": "bits_per_byte"}
    bits = [replace(row, metric=metric.get(row.model, "bits_per_masked_byte"), value=300 / row.value) for row in made]
    means = [replace(row, task="domain/macro", ci95_low=float("nan"), stderr=float("nan")) for row in bits]
    study = measurements_of([*made, *means, *(replace(row, task="domain/news") for row in bits)])
    table = main_table(study, outcomes(study), "t5-small", 0.4)
    cells = column(table, "Bits per byte, mean over domains")
    (value,) = [row.value for row in means if (row.sampler, row.model) == ("density", "t5-small")]
    assert cells["Density"].text == f"{value:.3f}"
    assert not any(one.header.startswith("Bits per masked byte") for one in table.columns)
    every = task_table(study, "t5-large", 0.4)
    kinds = {row[0].text: (row[1].text, row[2].text) for row in every.rows}
    assert kinds["domain/news"] == ("Held-out text by domain", "bits_per_masked_byte")
    assert "nan to" not in to_markdown(table)
    assert rank_changes(study, "t5-small", "t5-large") == rank_changes(measurements_of(made), "t5-small", "t5-large")


def test_terms_are_what_the_mean_is_of(study):
    table = terms_table(outcomes(study), "t5-small", 0.4, "over_scaling")
    for row in table.rows:
        assert np.mean([cell.value for cell in row[1:-1]]) == pytest.approx(row[-1].value)
    sizes = terms_table(outcomes(study), "t5-small", 0.4, "effective_size")
    for row in sizes.rows:
        assert np.exp(np.mean(np.log([cell.value for cell in row[1:-1]]))) == pytest.approx(row[-1].value)


def test_the_papers_break_even():
    assert break_even(10.0, 24.0) == pytest.approx(0.417, abs=5e-4)
    assert total_hours(0.44, 10.0, 24.0) == pytest.approx(23.44)
    assert total_hours(break_even(10.0, 24.0), 10.0, 24.0) == pytest.approx(24.0)
    table = cost_table(SCORING, TRAINING)
    assert [one.header for one in table.columns].index("break-even, 1 run") == 3
    large = {row[0].text: row[7].text for row in table.rows}
    assert large["Ask-LLM (XL)"] == "41.7"
    assert {row[0].text: row[8].text for row in table.rows}["Ask-LLM (XL)"] == "4.2"
    assert float(large["Ask-LLM (XXL)"]) > 100  # never pays for one run


def test_ranks_change_where_the_order_does():
    made = rows(("random", "density", "ask-llm-xl"), (0.4,), tasks=("squad", "rte"), steps=(1_000_000,))
    turned = [
        type(r)(**(vars(r) | {"value": 100 - r.value if r.model == "t5-large" else r.value})) for r in made
    ]  # fmt: skip
    study = measurements_of([row for row in turned if row.task == "squad"])
    changes = rank_changes(study, "t5-small", "t5-large")
    assert changes == {"random": 2, "density": 0, "ask-llm-xl": -2}
    assert rank_table(changes, "t5-small", "t5-large").rows[0][0].text == "Random"
    with pytest.raises(InvalidCut):
        rank_changes(study, "t5-small", "t5-xl")
    both = [replace(row, model=f"llama-{row.model.removeprefix('t5-')}") for row in study.rows]
    pairs = [("t5-small", "t5-large"), ("llama-small", "llama-large")]
    sizes = [replace(r, task="cost", metric="parameters", value=1e6 * (1 + ("large" in r.model))) for r in both]
    assert sorted(rank_pairs(measurements_of([*study.rows, *both, *sizes]))) == sorted(pairs)


def test_overlap_is_symmetric_and_all_with_itself():
    rng = np.random.default_rng(0)
    table = overlap_table({name: rng.random(2000) < 0.3 for name in ("density", "random")})
    assert [row[0].text for row in table.rows] == ["Random", "Density"]
    values = np.array([[cell.value for cell in row[2:]] for row in table.rows])
    assert np.allclose(np.diag(values), 100)
    assert values[0, 1] == values[1, 0]
    assert abs(values[0, 1] - 30) < 6


def test_contaminated_documents_are_counted_once_in_a_suite():
    def mask(*rows):
        return np.isin(np.arange(10), rows)

    by_set = {"mine": mask(5), "arc_easy": mask(0, 1), "qa_boolq": mask(1), "anatomy": mask()}
    items = {"mine": (3, 2), "arc_easy": (2_000, 1_500), "qa_boolq": (500, 0), "anatomy": (9, 9)}
    found = Overlaps(mask(0, 1, 5), by_set, items, 13)
    selections = {"density": mask(1, 2, 5, 6), "random": mask(7)}
    table = contamination_table(selections, found)
    assert [one.text for one in table.columns[4:]] == [
        "MMLU, documents",
        "Question answering, documents",
        "mine, documents",
    ]
    assert [[cell.value for cell in row[1:]] for row in table.rows] == [
        [10, 3, 30.0, 0, 2, 1],
        [1, 0, 0.0, 0, 0, 0],
        [4, 2, 50.0, 0, 1, 1],
    ]
    assert [row[0].text for row in table.rows] == ["All documents", "Random", "Density"]
    assert "has 13 words in a row in common" in table.notes[0]
    assert table.notes[0].endswith(" found: MMLU 9 of 9, Question answering 1,500 of 2,500, mine 2 of 3.")
    alone = contamination_table({}, found)
    assert [[cell.value for cell in row[1:]] for row in alone.rows] == [[10, 3, 30.0, 0, 2, 1]]
    unknown = contamination_table(selections, None)
    assert [[cell.text for cell in row[1:]] for row in unknown.rows] == [[n, "–", "–"] for n in ("10", "1", "4")]
    assert "not searched" in unknown.notes[0]


def test_every_task_is_there_with_error_chance_and_number(study):
    table = task_table(study, "t5-small", 0.4)
    mrpc = [row for row in table.rows if row[0].text == "mrpc"]
    assert [row[2].text for row in mrpc] == ["accuracy", "f1"]
    assert [mrpc[0][i].text for i in (1, 3, 5)] == ["GLUE", "1,000", "50.0"]
    assert re.fullmatch(r"[\d.]+ ± 0.80°", mrpc[0][6].text)  # 30 points where guessing makes 50
    assert len({row[0].text for row in table.rows}) == 109


def test_markdown_columns_line_up_and_names_cannot_break_out(study):
    for table in (main_table(study, outcomes(study), "t5-small", 0.4), cost_table(SCORING, TRAINING)):
        text = to_markdown(table)
        lines = [line for line in text.splitlines() if line.startswith("|")]
        assert len(lines) == len(table.rows) + 2
        assert len({len(line) for line in lines}) == 1
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert r"a\|b&lt;c>" in to_markdown(main_table(study, outcomes(study), "t5-small", 0.4))
    plain = to_markdown(main_table(study, outcomes(study), "t5-small", 0.4), intervals=False)
    assert " to " not in plain.split("\n\n")[1]


def test_html_is_well_formed_escaped_and_sortable(study):
    text = to_html(main_table(study, outcomes(study), "t5-small", 0.4))
    assert "a|b&lt;c&gt;" in text
    assert "<c>" not in text
    assert text.count("data-value") >= 5 * 12
    check_well_formed(text)
    assert "<small>" not in to_html(main_table(study, outcomes(study), "t5-small", 0.4), intervals=False)


def test_numbers_in_words():
    columns = (Column("a"), Column("b", "%", "lower"), Column("c"))
    assert columns[1].text == "b, % ↓"
    assert "−1.0" in to_markdown(Table("t", columns, ((Cell("x"), number(-1), Cell("–")),)))


class _Balance(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in {"meta", "link", "br", "img", "input", "hr"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def check_well_formed(text):
    parser = _Balance()
    parser.feed(text)
    parser.close()
    assert not parser.open
