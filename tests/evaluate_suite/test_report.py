"""The report must show what it is given, safely, with nothing from the network."""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest

from evaluate_suite.bootstrap import Estimate
from evaluate_suite.report import Example, Report, SamplerResult, ScoreView, overlap, render, terminal_table
from evaluate_suite.results import ResultRow, read_results, write_results


SAMPLERS = ("full", "random", "ask-llm", "density")


def synthetic_report():
    rng = np.random.default_rng(0)
    selections = {name: rng.random(1000) < 0.2 for name in SAMPLERS[1:]}
    results = [
        SamplerResult(
            sampler=name,
            documents=1000 if name == "full" else int(selections[name].sum()),
            tokens=250_000,
            encoder_tokens=2_048_000,
            epochs=0.5 + number,
            perplexity={t: Estimate(200.0 + number, 5, 190.0, 211.0) for t in ("in_distribution", "high_quality")},
            scoring_seconds=30.0 * (number > 1),
            training_seconds=50.0,
        )
        for number, name in enumerate(SAMPLERS)
    ]
    curve = {name: [(4e5 * i, 900 / i + 20 * n) for i in range(1, 6)] for n, name in enumerate(SAMPLERS)}
    texts = ["<script>alert('x')</script> & <b>bold</b>", "two\nlines of text " * 200, "日本語 \x1b[31m text"]
    examples = [Example(-0.5 - i, f"id-{i}", "some/file.py", text) for i, text in enumerate(texts)]
    views = [
        ScoreView(name, "nats", "high = good", sampler, rng.normal(size=1000), selections[sampler], examples, examples)
        for name, sampler in (("Ask-LLM", "ask-llm"), ("Density", "density"))
    ]
    return Report(
        corpus="1,000 documents",
        tasks={"in_distribution": "like the corpus", "high_quality": "written prose"},
        results=results,
        curves={"in_distribution": curve, "high_quality": curve},
        verdicts={"in_distribution": ["full is 3 % lower"], "high_quality": ["no difference"]},
        views=views,
        selections=selections,
        notes=["Made of synthetic numbers."],
        facts={"command": "winnow quickstart", "versions": "all <of> them"},
    )


@pytest.fixture(scope="module")
def page():
    return render(synthetic_report())


def test_documents_are_shown_as_text_never_as_markup(page):
    assert "<script" not in page
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in page


def test_nothing_is_loaded(page):
    assert not re.search(r'(?:src|href)\s*=\s*"(?!#|data:)', page)
    assert not re.search(r"url\(\s*[\"']?(?!#)", page)
    assert "@import" not in page
    assert "http" not in re.sub(r"<pre>.*?</pre>", "", page, flags=re.DOTALL)


def test_every_number_of_the_table_is_there(page):
    for expected in ("2,048,000", "200.0", "190.0 – 211.0", "0.50", "3.50", "full is 3 % lower"):
        assert expected in page


def test_figures_take_the_pages_colours(page):
    figures = re.findall(r"<svg .*?</svg>", page, flags=re.DOTALL)
    assert len(figures) == 4
    for figure in figures:
        assert not re.search(r"#(?:010203|040506|0a0b0\d)", figure)
        assert "var(--series-" in figure
        assert 'role="img" aria-label="' in figure
    ids = re.findall(r'<svg[^>]*>|id="([^"]+)"', page)
    assert ids


def test_the_same_report_has_the_same_bytes(page):
    assert render(synthetic_report()) == page


def test_overlap_is_the_share_of_the_row():
    masks = {"a": np.array([1, 1, 1, 1, 0], bool), "b": np.array([1, 0, 0, 0, 1], bool)}
    assert overlap(masks) == {"a": {"a": 1.0, "b": 0.25}, "b": {"a": 0.5, "b": 1.0}}


def test_terminal_table_has_a_row_per_sampler():
    from rich.console import Console

    console = Console(width=160)
    with console.capture() as captured:
        console.print(terminal_table(synthetic_report()))
    text = captured.get()
    for sampler in SAMPLERS:
        assert re.search(rf"{sampler}\W.*2,048,000.*190.0, 211.0", text)


def test_opens_in_a_browser_without_a_word(page):
    """Every request fails on the way out, and the console stays silent."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if not browser:
        pytest.skip("no Chromium here")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "report.html")
        file.write_text(page)
        shown = subprocess.run(
            [browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--enable-logging=stderr"]
            + ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"]
            + [f"--user-data-dir={folder}/profile", "--dump-dom", file.as_uri()],
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert "Which documents" in shown.stdout
    assert "CONSOLE" not in shown.stderr


def test_results_survive_the_disk_and_come_sorted(tmp_path):
    row = ResultRow("random", 0.2, "t5-tiny", 0, 5, 100, 0.1, "t", "perplexity", 0.1 + 0.2, 1.0, 2.0, 3.0, 4, 0, "v")
    other = ResultRow("full", 1.0, "t5-tiny", 0, 5, 100, 0.1, "t", "perplexity", 7.0, 1.0, 2.0, 3.0, 4, 0, "v")
    write_results(str(tmp_path / "a.jsonl"), [row, other])
    write_results(str(tmp_path / "b.jsonl"), [other, row])
    assert read_results(str(tmp_path / "a.jsonl")) == [other, row]
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
