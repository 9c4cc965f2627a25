"""Gather what a quickstart has written into a Report: everything comes from its files."""

from __future__ import annotations

import gzip
import json
import platform
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np

from evaluate_suite.bootstrap import Estimate
from evaluate_suite.comparison import verdicts
from evaluate_suite.report import Example, Report, SamplerResult, ScoreView, render
from evaluate_suite.results import ResultRow, read_results
from evaluate_suite.units import unit_file
from launch.stages import CORPUS_FILES, SAMPLERS, Run
from pipeline_steps import EMBEDDED_PROXY, ScoreStore, Selection
from pipeline_steps.stores.files import read_json, write_atomically
from train.run_directory import read_rows


TASKS = {"in_distribution": "in-distribution", "high_quality": "HQ (written prose)"}
_EXAMPLES = 10
_CANDIDATES = 2000  # copies would crowd the lists: enough to find ten different texts among them
_SCORING = {"ask-llm": ("ask-llm",), "density": ("embed", "sketch", "merge", "density")}
_LIBRARIES = ("winnow-llm", "datatrove", "torch", "transformers", "accelerate", "tokenizers", "numpy", "pyarrow")


def write_report(run: Run, command: str) -> Report:
    """Build the report of a finished quickstart and write `report.html`."""
    rows = read_results(run.path("results.jsonl"))
    results = [_sampler_result(run, sampler, rows) for sampler in SAMPLERS]
    selections = {s: Selection.load(run.path("selections", f"{s}.safetensors")).mask for s in SAMPLERS if s != "full"}
    report = Report(
        corpus=_corpus(run),
        tasks=TASKS,
        results=results,
        curves={task: {sampler: _curve(rows, sampler, task) for sampler in SAMPLERS} for task in TASKS},
        verdicts={task: verdicts(_final_losses(run, rows, task), "random") for task in TASKS},
        views=_views(run, selections),
        selections=selections,
        notes=_notes(run),
        facts=_facts(run, command),
    )
    write_atomically(run.path("report.html"), render(report).encode())
    return report


def _sampler_result(run: Run, sampler: str, rows: list[ResultRow]) -> SamplerResult:
    resolved = read_json(run.path("training", sampler, "resolved.json"))
    mine = [row for row in rows if row.sampler == sampler]
    last = max(row.step for row in mine)
    final = {row.task: row for row in mine if row.step == last}
    scoring = sum(stage_seconds(run, stage) for stage in _SCORING.get(sampler, ()))
    metrics = read_rows(Path(run.path("training", sampler, "metrics.jsonl")))
    return SamplerResult(
        sampler=sampler,
        documents=resolved["selected_documents"],
        tokens=resolved["selected_tokens"],
        encoder_tokens=final["in_distribution"].encoder_tokens,
        epochs=final["in_distribution"].epoch,
        perplexity={t: Estimate(row.value, row.stderr, row.ci95_low, row.ci95_high) for t, row in final.items()},
        scoring_seconds=scoring,
        training_seconds=sum(row["seconds"] for row in metrics),
    )


def stage_seconds(run: Run, stage: str) -> float:
    """Seconds a stage has taken over all its attempts, times the processes it used."""
    return read_json(run.path("stages", f"{stage}.json"))["process_seconds"]


def _curve(rows: list[ResultRow], sampler: str, task: str) -> list[tuple[float, float]]:
    chosen = sorted((row.step, row) for row in rows if (row.sampler, row.task) == (sampler, task))
    return [(row.encoder_tokens, row.value) for _, row in chosen]


def _final_losses(run: Run, rows: list[ResultRow], task: str) -> dict[str, np.ndarray]:
    last = max(row.step for row in rows)
    files = {s: unit_file(run.folder / "evaluation", s, f"step-{last:08d}", task) for s in SAMPLERS}
    return {sampler: np.array(read_json(str(file))["found"]["nll"]) for sampler, file in files.items()}


def _views(run: Run, selections: dict[str, np.ndarray]) -> list[ScoreView]:
    said = {
        "ask-llm": ("Ask-LLM", "log P(yes), nats", "high = the proxy finds it worth training on"),
        "density": ("Density", "log density", "high = many documents like it; sampling prefers the low ones"),
    }
    picked = {}
    for sampler in said:
        scores = ScoreStore.open(run.path("scores", sampler)).scores
        order = np.argsort(scores, kind="stable")
        picked[sampler] = (scores, order)
    wanted = {int(row) for _, order in picked.values() for row in np.r_[order[:_CANDIDATES], order[-_CANDIDATES:]]}
    documents = {row: doc for row, doc in enumerate(_documents(run)) if row in wanted}
    views = []
    for sampler, (name, unit, meaning) in said.items():
        scores, order = picked[sampler]
        highest = _examples(order[::-1][:_CANDIDATES], scores, documents)
        lowest = _examples(order[:_CANDIDATES], scores, documents)
        views.append(ScoreView(name, unit, meaning, sampler, scores, selections[sampler], highest, lowest))
    return views


def _examples(order: np.ndarray, scores: np.ndarray, documents: dict[int, dict[str, str]]) -> list[Example]:
    shown: dict[str, Example] = {}
    for row in order.tolist():
        doc = documents[row]
        shown.setdefault(doc["text"], Example(float(scores[row]), doc["id"], doc["source"], doc["text"]))
        if len(shown) == _EXAMPLES:
            break
    return list(shown.values())


def _documents(run: Run) -> Iterator[dict[str, str]]:
    """Training documents in corpus order."""
    for file in sorted((run.folder / "corpus" / "train").glob("*.jsonl.gz")):
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                yield {"id": row["id"], "text": row["text"], "source": row.get("metadata", {}).get("source", "")}


def _corpus(run: Run) -> str:
    documents = read_json(run.path("corpus", CORPUS_FILES))["documents"]
    source = run.settings.corpus or "the documentation of the installed Python packages"
    tokens = read_json(run.path("training", "full", "resolved.json"))["corpus_tokens"]
    return f"{documents['train']:,} documents ({tokens:,} tokens) of {source}"


def _notes(run: Run) -> list[str]:
    documents = read_json(run.path("corpus", CORPUS_FILES))["documents"]
    rate = run.settings.rate
    notes = [
        f"Held-out text. In-distribution is a random 5 % of the documents ({documents['in_distribution']:,}); high "
        f"quality (HQ) are {documents['high_quality']:,} documents of another 10 % that pass a fixed rule over words, "
        "punctuation and layout (pipeline_steps/readers/splits.py), which knows nothing of any scorer. Both are drawn "
        "by a hash of a document's first 20 words, so copies that open alike are not trained on. Other near-copies "
        "may be.",
        f"Selections. Each keeps {rate:.0%} of the documents. random: uniform; ask-llm: those with the highest "
        "scores; density: sampled in proportion to one over the density; full: everything.",
        "Perplexity is that of the training objective, span corruption, with the same masks for every model. The "
        "models are tiny and the training short: which sampler wins here says nothing about a large model on a crawl.",
    ]
    if run.settings.proxy == EMBEDDED_PROXY:
        notes.append(
            "The embedded Ask-LLM proxy was trained to prefer prose over damaged prose and over the furniture of web "
            "pages, on documentation like that of the embedded corpus. What it calls good and what the rule for high "
            "quality calls good are related by that; its model card says what it cannot do."
        )
    return notes


def _facts(run: Run, command: str) -> dict[str, str]:
    resolved = read_json(run.path("training", "full", "resolved.json"))
    scores = {name: ScoreStore(run.path("scores", name)).made for name in ("ask-llm", "density")}
    return {
        "command": command,
        "Ask-LLM proxy": json.dumps(scores["ask-llm"]["proxy"]),
        "embedder": json.dumps(scores["density"]["embedded"]["embedder"]),
        "density sketch": json.dumps(scores["density"]["hash"]),
        "model": f"{resolved['preset']}, {resolved['steps']:,} steps of {resolved['batch_size']} x "
        f"{resolved['input_length']} tokens, learning rate 1/sqrt(max(step, {resolved['warmup_steps']:,}))",
        "seeds": f"selection, order and masks {run.settings.seed}; initial weights {resolved['init_seed']}",
        "versions": ", ".join(f"{name} {version(name)}" for name in _LIBRARIES),
        "machine": f"Python {platform.python_version()}, {platform.system()} {platform.machine()}",
    }
