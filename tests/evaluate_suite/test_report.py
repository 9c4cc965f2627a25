"""The report of a small study, from its files alone: everything a quickstart shows, safely, with nothing from the
network."""

import itertools
import json
import re
import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from datatrove.pipeline.readers import JsonlReader
from rich.console import Console

from evaluate_suite.bootstrap import perplexity_interval
from evaluate_suite.report import ReportSettings, terminal_table, write_report
from evaluate_suite.report.comparisons import window_losses
from evaluate_suite.report.points import finals
from evaluate_suite.results import ResultRow, read_results, write_results
from evaluate_suite.units import unit_file
from pipeline_steps import Cut, ScoreStore, select
from pipeline_steps.scorers.base import BaseScorer
from pipeline_steps.stores.files import write_json


SAMPLERS = ("full", "random", "density", "ask-llm")
TASKS = ("in_distribution", "high_quality")
STEPS = (100, 200, 300, 400, 500)
DOCUMENTS = 400
EVIL = "<script>alert('x')</script> & <b>bold</b>"
TEXTS = (EVIL, "two\nlines of text " * 200, "日本語 \x1b[31m text")


class HashScorer(BaseScorer):
    """Numbers that have nothing to do with the text."""

    def __init__(self, scores, seed, lower_is_better=False):
        super().__init__(scores, "hash")
        self.seed, self.lower_is_better = seed, lower_is_better

    def fingerprint(self):
        return {"scorer": "HashScorer", "unit": "nats", "seed": self.seed}

    def score(self, docs):
        numbers = [int(doc.id) for doc in docs]
        return [9.0 - n if n < len(TEXTS) else float(np.random.default_rng([self.seed, n]).normal()) for n in numbers]


def losses(sampler, task, step, seed=0):
    """Windows that are hard for all, a sampler's own part, a seed's, and a training's of 0.002.

    Ask-LLM is better than Random, Density is not.
    """
    hard = np.random.default_rng(0).normal(5.5, 0.5, 128)
    own = {"full": 0.05, "random": 0.0, "density": 0.0, "ask-llm": -0.03}[sampler]
    noise = np.random.default_rng([SAMPLERS.index(sampler), TASKS.index(task), step]).normal(0, 0.01, 128)
    training = np.random.default_rng([SAMPLERS.index(sampler), seed, 77]).normal(0, 0.002) if seed else 0.0
    return hard + own + noise + 0.1 * seed + training + 100 / step


def write_measurements(folder, seeds):
    """Write results, costs and the losses of single windows of a run per sampler and seed."""
    results, paid = [], []
    for sampler, seed, step, task in itertools.product(SAMPLERS, seeds, STEPS, TASKS):
        rate, nll_N = 1.0 if sampler == "full" else 0.2, losses(sampler, task, step, seed)
        run = folder / "evaluation" / "t5-tiny" / f"{sampler}-seed{seed}"
        write_json(
            str(unit_file(run, sampler, f"step-{step:08d}", task)), {"made": {}, "found": {"nll": nll_N.tolist()}}
        )
        found = perplexity_interval(nll_N)
        of = (sampler, rate, "t5-tiny", seed, step, 4096 * step, 0.5 / rate)
        ends = found.value, found.stderr, found.low, found.high
        results.append(ResultRow(*of, task, "perplexity", *ends, 128, 0, "v"))
        costs = {"training_accelerator_hours": 0.01, "selected_documents": DOCUMENTS * rate, "selected_tokens": 9e3}
        paid += [ResultRow(*of, "cost", name, value, 0, 0, 0, 128, 0, "v") for name, value in costs.items()]
    write_results(str(folder / "results.jsonl"), results)
    write_results(str(folder / "costs.jsonl"), set(paid))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    (folder / "corpus").mkdir()
    texts = [TEXTS[n] if n < len(TEXTS) else f"document {n} of these" for n in range(DOCUMENTS)]
    lines = [json.dumps({"id": str(n), "text": text, "metadata": {"source": "a.py"}}) for n, text in enumerate(texts)]
    (folder / "corpus" / "a.jsonl").write_text("\n".join(lines))
    for seed, (name, lower) in enumerate({"ask-llm": False, "density": True}.items()):
        list(HashScorer(str(folder / name), seed, lower).run(JsonlReader(str(folder / "corpus")).run()))
    for name, mode in {"random": "random", "ask-llm": "top", "density": "ips"}.items():
        store = ScoreStore.open(str(folder / ("ask-llm" if name == "random" else name)))
        select(store, Cut(mode, rate=0.2)).save(str(folder / f"{name}.safetensors"))
    write_measurements(folder, (0,))
    return ReportSettings(
        runs=[str(folder)],
        output=str(folder / "report.html"),
        scores={name: str(folder / name) for name in ("ask-llm", "density")},
        selections={name: str(folder / f"{name}.safetensors") for name in SAMPLERS[1:]},
        corpus=str(folder / "corpus"),
        scoring_hours={"ask-llm": 0.02, "density": 0.001},
        command="winnow quickstart",
        notes=["Made of synthetic numbers."],
        facts={"corpus": "400 documents of nothing", "model": "all <of> them"},
    )


@pytest.fixture(scope="module")
def page(study):
    assert list(write_report(study)) == [f"report   {study.output}"]
    return Path(study.output).read_text()


def test_documents_are_shown_as_text_never_as_markup(page):
    assert page.count("<script") == 1  # the one that sorts
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in page


def test_nothing_is_loaded(page):
    assert not re.search(r'(?:src|href)\s*=\s*"(?!#|data:)', page)
    assert not re.search(r"url\(\s*[\"']?(?!#)", page)
    assert "@import" not in page
    assert "http" not in re.sub(r"<pre>.*?</pre>", "", page, flags=re.DOTALL)


def test_every_number_of_the_table_is_there(page):
    full = perplexity_interval(losses("full", "in_distribution", 500))
    for expected in (
        f">{full.value:.1f}<small>{full.low:,.1f} to",
        "2,048,000",
        "9,000",
        "0.50",
        "2.50",
        ">400<",
        ">80<",
    ):
        assert expected in page, expected
    head = re.search(r"<thead>.*?</thead>", page)[0]
    for column in (
        "Documents",
        "Tokens selected",
        "Tokens trained",
        "Epochs",
        "Scoring, seconds",
        "Training, seconds",
    ):
        assert column in head
    assert ">72.0<" in page  # seconds of scoring with Ask-LLM
    assert "400 documents of nothing. 3 samplers chose 20 % of the documents. t5-tiny was trained on each" in page
    assert "Made of synthetic numbers." in page
    assert "all &lt;of&gt; them" in page


def test_one_seed_of_unknown_noise_is_compared_with_nothing(study, page):
    """The windows' own intervals would call Ask-LLM better, and another training might turn that around."""
    said = re.search(r'<ul class="verdicts">.*?</ul>', page, flags=re.DOTALL)[0]
    assert (
        "One seed of each run, and the noise between trainings of t5-tiny with these settings and tokens is not"
        in said
    )
    assert "no comparison can be made; train with seeds: [0, 1, 2]." in said
    assert "High-quality perplexity, In-distribution perplexity</p>" in page
    assert "<strong>" not in page
    for words in ("Better than Random", "Worse than Random", "% saved"):
        assert words not in page
    assert "over examples only: they say nothing of another training" in page


def test_samplers_are_compared_seed_by_seed_and_window_by_window(study, tmp_path):
    """Seeds spread perplexities by 10 % and hard windows by 4 %; pairs differ by 0.3 % from training to training."""
    write_measurements(tmp_path, (0, 1, 2))
    seeds = replace(study, runs=[str(tmp_path)], output=str(tmp_path / "report.html"))
    list(write_report(seeds))
    page = Path(seeds.output).read_text()
    better = r"Better than Random, 1 of 3: Ask-LLM −[23]\.\d % \(95 % CI −[3-9]\.\d to −\d\.\d\)\."
    assert re.search(rf"(?s)In-distribution perplexity</p>.*?{better}", page)
    assert re.search(r"(?s)High-quality perplexity</p>.*?Cannot be told from Random, 1 of 3: Density", page)
    assert re.search(r"(?s)High-quality perplexity</p>.*?Worse than Random, 1 of 3: Full data \+[45]\.\d %", page)
    assert re.search(
        r"3 seeds of each run; the noise between trainings is a standard deviation of 0\.\d % of the", page
    )
    found = window_losses(seeds.measurements, "t5-tiny", 0.2, "hq_perplexity")
    assert set(found) == set(SAMPLERS)
    expected = np.mean([losses("random", "high_quality", 500, seed) for seed in (0, 1, 2)], axis=0)
    assert found["random"] == pytest.approx(expected, rel=1e-12)
    apart = replace(seeds.measurements, evaluations=("nowhere",))
    assert window_losses(apart, "t5-tiny", 0.2, "hq_perplexity") == {}
    bold = re.findall(r"<strong>([^<]+)</strong>", page)
    assert len(bold) == 2  # Ask-LLM, in both splits


def test_without_the_losses_seeds_are_compared_on_these_windows(study, tmp_path):
    write_measurements(tmp_path, (0, 1, 2))
    apart = tmp_path / "elsewhere"
    card = replace(
        study, runs=[str(tmp_path)], evaluation=str(apart), output=str(apart / "card.md"), format="markdown"
    )
    apart.mkdir()
    list(write_report(card))
    text = Path(card.output).read_text()
    assert re.search(r"perplexity. Better than Random, 1 of 3: Ask-LLM −\d\.\d %", text)
    assert "for other trainings on these examples" in text


def test_figures_take_the_pages_colours_and_none_is_nearly_empty(page):
    figures = re.findall(r"<svg .*?</svg>", page, flags=re.DOTALL)
    titles = [re.search('aria-label="([^"]+)"', figure)[1] for figure in figures]
    assert len(figures) == len(set(titles)) == 7  # two of perplexity, two of learning, costs, two of scores
    for figure in figures:
        assert not re.search(r"#(?:010203|040506|0a0b0\d)", figure)
        assert "var(--series-" in figure
        assert 'role="img" aria-label="' in figure
    assert not any("each rate" in title or "repetitions" in title or "mean over rates" in title for title in titles)
    assert "111 tasks registered" not in page.partition("</header>")[0]


def test_scores_are_shown_with_what_is_kept_and_with_documents(page):
    assert "in colour: what the sampler keeps" in page
    assert ">−nats<" in page  # density: low is good
    assert page.count("Liked most") == page.count("Liked least") == 2
    assert "Ask-LLM likes them, Density does not" in page
    assert page.count("<details><summary>") == 80  # ten of each: two kinds of each scorer, four of both
    assert "Kendall's tau-b" in page or "Kendall&#39;s tau-b" in page
    assert page.count("· a.py") == 80


def test_overlap_is_shaded(page):
    assert re.search(r'<td data-value="100" style="--tint: 45%">100\.0</td>', page)


def test_the_same_report_has_the_same_bytes(study, page, tmp_path):
    list(write_report(replace(study, output=str(tmp_path / "again.html"))))
    assert (tmp_path / "again.html").read_text() == page


def test_terminal_table_has_a_row_per_sampler(study):
    console = Console(width=180)
    with console.capture() as captured:
        console.print(terminal_table(study))
    text = captured.get()
    for sampler in SAMPLERS:
        found = perplexity_interval(losses(sampler, "in_distribution", 500))
        assert re.search(rf"{sampler}\W.*2,048,000.*{found.low:.1f}, {found.high:.1f}", text)
    assert "no comparison can be made; train with seeds: [0, 1, 2]" in re.sub(r"\s+", " ", text)
    assert "over examples only: they say nothing of another training" in text
    assert "in-distribution ppl" in text


def test_direction_comes_from_the_store(study, page):
    assert {point.sampler for point in finals(study.measurements)} == set(SAMPLERS)
    assert ScoreStore.open(study.scores["density"]).lower_is_better
    assert "Scores are turned so that higher is better" in page


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
