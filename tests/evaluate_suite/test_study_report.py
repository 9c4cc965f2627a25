"""The page of a study: complete, safe, from nowhere but itself; and its Markdown."""

import re
import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic_study import costs, rows
from test_tables import check_well_formed

from evaluate_suite.report.documents import pick
from evaluate_suite.report.gallery import study_figures
from evaluate_suite.report.outcomes import outcomes
from evaluate_suite.report.page import Scorers, Words, markdown, render
from evaluate_suite.report.points import measurements_of
from evaluate_suite.report.tables import main_table
from evaluate_suite.report.tables_corpus import contamination_table
from evaluate_suite.report.verdicts import coverage, flat, methods, table_rate, verdicts
from pipeline_steps.scorers.contamination import Overlaps


EVIL = "<script>alert('x')</script>"
NAMES = ("random", "ask-llm-small", "ask-llm-xl", EVIL)


@pytest.fixture(scope="module")
def study():
    made = rows(NAMES, (0.2, 0.4), steps=(500_000, 1_000_000))
    return measurements_of([*made, *costs({"ask-llm-xl": 10.0}, {"t5-large": 24.0})])


@pytest.fixture(scope="module")
def seeded():
    """Three suites under two seeds each: the deals of more would take a minute."""
    few = {"tasks": ("c4", "squad", "cnn_dailymail"), "steps": (1_000_000,), "seeds": (0, 1), "jitter": 0.02}
    return measurements_of(rows(NAMES, (0.2, 0.4), **few))


@pytest.fixture(scope="module")
def page(study):
    rng = np.random.default_rng(0)
    scores = {name: rng.random(300).astype(np.float32) for name in NAMES}
    texts = ((row, f"id-{row}", f"{EVIL} & <b>{row}</b>") for row in range(300))
    documents = pick(scores, texts, 4, "ask-llm-small", "ask-llm-xl")
    scorers = Scorers(scores, [EVIL], {}, {name: rng.random(300) < 0.3 for name in NAMES}, documents)
    few = [*rows(NAMES, (0.4,), tasks=("c4",), steps=(1_000_000,)), *costs({"ask-llm-xl": 10.0}, {"t5-large": 24.0})]
    drawn = measurements_of(few)  # a figure takes a tenth of a second
    figures = list(study_figures(drawn, outcomes(drawn), scores, [EVIL]))
    return render(study, outcomes(study), figures, scorers, Words({"command": EVIL}))


def test_the_page_is_well_formed_and_shows_markup_as_text(page):
    check_well_formed(page)
    assert page.count("<script") == 1  # the one that sorts
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in page


def test_nothing_is_loaded(page):
    assert not re.search(r'(?:src|href)\s*=\s*"(?!#|data:)', page)
    assert not re.search(r"url\(\s*[\"']?(?!#)", page)
    assert "@import" not in page
    assert "http" not in page


def test_every_section_is_there(page):
    for section in ("outcome", "figures", "cost", "ranks", "scorers", "documents", "tasks", "methods"):
        assert f'<h2 id="{section}">' in page
    assert "111 tasks registered, 109 of them scored, 109 measured here" in page
    assert "Held-out is not held-out" in page
    assert "winnow-llm test" in page
    assert "41.7" in page


def test_the_page_says_what_selections_hold_of_evaluation_sets(study):
    selections = {EVIL: np.arange(10) < 4}
    found = Overlaps(np.arange(10) < 1, {EVIL: np.arange(10) < 1}, {EVIL: (2, 1)}, 12)
    scorers = Scorers(selections=selections, contamination=contamination_table(selections, found))
    page = render(study, outcomes(study), [], scorers, Words())
    check_well_formed(page)
    assert "Documents that hold questions of evaluation sets" in page
    assert 'data-value="25"' in page


def test_ids_are_given_once_and_figures_are_drawn(page):
    sections = re.findall(r'<h2 id="([^"]+)"', page)
    assert len(sections) == len(set(sections))
    figures = re.findall(r"<svg .*?</svg>", page, flags=re.DOTALL)
    assert len(figures) > 10
    assert all('role="img" aria-label="' in figure for figure in figures)
    assert "#22252b" not in "".join(figures)


def test_the_same_study_has_the_same_bytes(study):
    found = outcomes(study)
    texts = {render(study, found, [], Scorers(), Words()) for _ in range(2)}
    assert len(texts) == 1
    assert '<h2 id="documents">' not in texts.pop()


def test_verdicts_say_what_the_intervals_say(seeded):
    said = flat(verdicts(seeded, outcomes(seeded), "t5-small", 0.4))
    assert re.search(r"Worse than everything, 2 of 4: .*Random −\d+\.\d % \(95 % CI −\d+\.\d to −\d+\.\d\)", said[-2])
    assert said[-1] == "Over-scaling. 2 seeds of each run; intervals hold the noise between them."
    assert said[0].startswith("Over-scaling. Better than everything, 2 of 4: Ask-LLM (XL) ")
    assert table_rate(seeded, "t5-small") == 0.4


def test_one_seed_is_compared_where_the_noise_is_known_and_nowhere_else(study):
    """T5's own trainings tell of GLUE, SuperGLUE, CNN/DailyMail and SQuAD; over-scaling takes all suites."""
    said = verdicts(study, outcomes(study), "t5-small", 0.4)
    others = "C4 perplexity, High-quality perplexity, MMLU, BIG-Bench Hard, Reasoning, Question answering"
    assert set(said) == {"GLUE", "SuperGLUE", "CNN/DailyMail", "SQuAD", others}
    assert len(said[others]) == 1
    assert said[others][0].endswith("is not known: no comparison can be made; train with seeds: [0, 1, 2].")
    assert "the noise between trainings, taken from 10 earlier trainings of T5's baseline" in said["SQuAD"][-1]
    assert re.search(r"than Random|told from Random", said["SQuAD"][0])


def test_without_references_perplexities_are_compared():
    few = {"models": ("t5-small",), "references": (), "tasks": ("c4",), "steps": (1_000_000,), "seeds": (0, 1, 2)}
    study = measurements_of(rows(NAMES[1:3], (0.4,), **few, jitter=2.0))
    (said, noise) = flat(verdicts(study, outcomes(study), "t5-small", 0.4))
    assert said.startswith("C4 perplexity. Cannot be told from everything, 2 of 2: ")
    assert noise.startswith("C4 perplexity. 3 seeds of each run; the noise between trainings is")
    lonely = measurements_of([row for row in study.rows if row.sampler != "full"])
    assert "nothing to compare" in flat(verdicts(lonely, outcomes(lonely), "t5-small", 0.4))[0]
    assert render(lonely, outcomes(lonely), [], Scorers(), Words())
    alone = measurements_of([row for row in study.rows if row.sampler == "full"])
    assert render(alone, outcomes(alone), [], Scorers(), Words())


def test_a_partial_study_says_what_it_has():
    study = measurements_of(rows(NAMES[:2], (0.4,), tasks=("c4", "gsm8k"), steps=(1_000_000,)), partial=True)
    assert coverage(study).endswith("2 measured here")
    assert any("Reasoning 1 of 4" in paragraph for paragraph in methods(study))
    assert "Reasoning (1/4)" in markdown(study, outcomes(study), Words())


def test_markdown_has_the_table_the_verdicts_and_the_methods(study, seeded):
    assert "- Over-scaling. Better than everything" in markdown(seeded, outcomes(seeded), Words())
    text = markdown(study, outcomes(study), Words({"command": "winnow report runs"}))
    assert text.count("**t5-small, 40 % of the documents**") == 1
    assert "**t5-large, 40 % of the documents**" in text
    assert "t5-xl, 40 %" not in text  # a reference
    assert "no comparison can be made" in text
    assert "### Methods" in text
    assert "<script" not in text
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_opens_in_a_browser_without_a_word_and_sorts(page):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if not browser:
        pytest.skip("no Chromium here")
    clicks = "document.querySelectorAll('table.sortable')[0].tHead.rows[0].cells[1].firstChild.click();"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "report.html")
        file.write_text(page.replace("</body>", f"<script>{clicks}</script></body>"))
        shown = subprocess.run(
            [browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--enable-logging=stderr"]
            + ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"]
            + [f"--user-data-dir={folder}/profile", "--dump-dom", file.as_uri()],
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert "CONSOLE" not in shown.stderr
    table = re.search(r'<table class="sortable">.*?</table>', shown.stdout, flags=re.DOTALL)[0]
    assert 'aria-sort="descending"' in table
    values = [float(value) for value in re.findall(r'<tr><th[^>]*>.*?<td data-value="([^"]+)"', table)]
    assert values == sorted(values, reverse=True)
    assert len(values) == 5


def test_over_scaling_of_a_run_that_ended_early_is_not_compared(seeded):
    """At a rate of 0.4 it would be better than everything, had it not been trained on other amounts."""
    early = [replace(r, step=900_000) if (r.sampler, r.model) == (NAMES[2], "t5-small") else r for r in seeded.rows]
    for study, compared in ((seeded, True), (measurements_of(early), False)):
        (said,) = verdicts(study, outcomes(study), "t5-small", 0.4).values()
        sentence = "Not compared: Ask-LLM (XL), which ends at step 900,000 of 1,000,000."
        assert (sentence in said) is not compared
        assert any(one.startswith(("Better", "Cannot", "Worse")) and "(XL)" in one for one in said) is compared
        lines = main_table(study, outcomes(study), "t5-small", 0.4).rows
        (line,) = (line for line in lines if line[0].text == "Ask-LLM (XL)")
        assert compared or not any(cell.best for cell in line)
