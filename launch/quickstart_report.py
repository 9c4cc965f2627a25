"""Say what the report of a quickstart is made from."""

from __future__ import annotations

from evaluate_suite.report import ReportSettings, write_report
from launch.stages import CORPUS_FILES, SAMPLERS, Run
from pipeline_steps import EMBEDDED_PROXY
from pipeline_steps.stores.files import read_json


_SCORING = {"ask-llm": ("ask-llm",), "density": ("embed", "sketch", "merge", "density")}


def write_quickstart_report(run: Run, command: str) -> ReportSettings:
    """Write `report.html` of a finished quickstart, and return what it was made from."""
    settings = ReportSettings(
        runs=[run.path("results.jsonl"), run.path("evaluation", "costs.jsonl")],
        output=run.path("report.html"),
        scores={name: run.path("scores", name) for name in _SCORING},
        selections={s: run.path("selections", f"{s}.safetensors") for s in SAMPLERS if s != "full"},
        corpus=run.path("corpus", "train"),
        scoring_hours={name: _seconds(run, stages) / 3600 for name, stages in _SCORING.items()},
        command=command,
        notes=_notes(run),
        facts=_facts(run),
        lower_is_better=("density",),
        evaluation=run.path("evaluation"),
    )
    list(write_report(settings))
    return settings


def _seconds(run: Run, stages: tuple[str, ...]) -> float:
    """Add up the seconds that stages have taken over all their attempts, times the processes they used."""
    return sum(read_json(run.path("stages", f"{stage}.json"))["process_seconds"] for stage in stages)


def _notes(run: Run) -> list[str]:
    documents = read_json(run.path("corpus", CORPUS_FILES))["documents"]
    notes = [
        f"Held-out text. In-distribution is a random 5 % of the documents ({documents['in_distribution']:,}); high "
        f"quality (HQ) are {documents['high_quality']:,} documents of another 10 % that pass a fixed rule over words, "
        "punctuation and layout (pipeline_steps/readers/splits.py), which knows nothing of any scorer. Both are drawn "
        "by a hash of a document's first 20 words, so copies that open alike are not trained on. Other near-copies "
        "may be.",
        f"Selections. Each keeps {run.settings.rate:.0%} of the documents. random: uniform; ask-llm: those with the "
        "highest scores; density: sampled in proportion to one over the density; full: everything.",
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


def _facts(run: Run) -> dict[str, str]:
    documents = read_json(run.path("corpus", CORPUS_FILES))["documents"]
    resolved = read_json(run.path("training", "full", "resolved.json"))
    source = run.settings.corpus or "the documentation of the installed Python packages"
    return {
        "corpus": f"{documents['train']:,} documents ({resolved['corpus_tokens']:,} tokens) of {source}",
        "model": f"{resolved['preset']}, {resolved['steps']:,} steps of {resolved['batch_size']} x "
        f"{resolved['input_length']} tokens, learning rate 1/sqrt(max(step, {resolved['warmup_steps']:,}))",
        "random": f"selection, order and masks: seed {run.settings.seed}; initial weights: {resolved['init_seed']}",
    }
