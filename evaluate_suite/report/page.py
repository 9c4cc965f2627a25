"""The page of a report: one HTML file that needs no network, or Markdown for a model card."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluate_suite.agreement import kendall_tau
from evaluate_suite.checkpoint import TRAINING_HOURS
from evaluate_suite.report.decision import further_tables, sentences, tables
from evaluate_suite.report.documents import KINDS, Document, ends, titles
from evaluate_suite.report.figures_corpus import oriented
from evaluate_suite.report.gallery import SECTIONS, Named
from evaluate_suite.report.outcomes import Outcomes
from evaluate_suite.report.points import HEADLINES, StudyResults, finals, measures, models, rates
from evaluate_suite.report.style import svg
from evaluate_suite.report.table_data import Table, escaped, joined, time_unit, to_html, to_markdown
from evaluate_suite.report.tables import (
    amounts_table,
    cost_table,
    main_table,
    rank_changes,
    rank_pairs,
    rank_table,
    task_table,
    terms_table,
)
from evaluate_suite.report.tables_corpus import overlap_table
from evaluate_suite.report.verdicts import (
    coverage,
    facts,
    flat,
    intervals_in_words,
    lead,
    methods,
    table_rate,
    verdicts,
)
from pipeline_steps.errors import InvalidCut
from pipeline_steps.samplers import FULL, label, ordered


if TYPE_CHECKING:
    from jinja2 import Environment

_FEW = 3  # measures beside which a table has room for what models were trained on


@dataclass(frozen=True, eq=False)
class Scorers:
    """What is known of the corpus; all of it may be empty.

    Attributes:
        scores: float32 [N] by scorer.
        lower_is_better: scorers whose low scores are the good ones.
        units: of the scores, by scorer.
        selections: bool [N] by name.
        documents: by kind and scorer, of `documents.pick`.
        contamination: what the selections hold of evaluation sets; None without selections.
    """

    scores: Mapping[str, np.ndarray] = field(default_factory=dict)
    lower_is_better: Collection[str] = ()
    units: Mapping[str, str] = field(default_factory=dict)
    selections: Mapping[str, np.ndarray] = field(default_factory=dict)
    documents: Mapping[tuple[str, str], Sequence[Document]] = field(default_factory=dict)
    contamination: Table | None = None


@dataclass(frozen=True)
class Words:
    """What a report says that is not in its numbers.

    Attributes:
        facts: command, versions, settings: name -> value.
        notes: paragraphs on how this was made.
    """

    facts: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()


def render(study: StudyResults, outcomes: Outcomes, figures: Sequence[Named], scorers: Scorers, words: Words) -> str:
    """Return the self-contained HTML page.

    Args:
        study: what was measured.
        outcomes: of `evaluate_suite.report.outcomes.outcomes`.
        figures: of `study_figures`.
        scorers: of the corpus.
        words: further facts and paragraphs.
    """
    from markupsafe import Markup

    page = environment().get_template("report.html.jinja")
    return page.render(
        lead=lead(study),
        coverage=coverage(study),
        models=[_of_model(study, outcomes, model) for model in _compared(study)],
        decision=_decision(study),
        intervals=intervals_in_words(study),
        one_rate=len(rates(study)) == 1,
        figures=_sections(figures),
        cost=Markup(to_html(_costs(study))) if _costs(study).rows else "",
        ranks=[Markup(to_html(table)) for table in _ranks(study)],
        kept=sorted(scorers.scores.keys() & scorers.selections.keys()),
        scored=len(scorers.scores),
        agreement=_agreement(scorers),
        overlap=Markup(to_html(overlap_table(scorers.selections))) if len(scorers.selections) > 1 else "",
        contamination=Markup(to_html(scorers.contamination)) if scorers.contamination else "",
        documents=_documents(scorers),
        methods=[*words.notes, *methods(study)],
        facts=facts(study) | dict(words.facts),
    )


def environment() -> Environment:
    """Return what renders the pages' templates."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("evaluate_suite"),
        autoescape=True,  # documents hold markup of their own, and so may names
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def markdown(study: StudyResults, outcomes: Outcomes, words: Words, contamination: Table | None = None) -> str:
    """Return Table 1, verdicts and methods in Markdown, for a model card."""
    parts = ["## Evaluation\n", f"{lead(study)} {coverage(study)}.\n"]
    for model in _compared(study):
        rate = table_rate(study, model)
        if rate is not None:
            parts.append(to_markdown(main_table(study, outcomes, model, rate)))
            said = flat(verdicts(study, outcomes, model, rate))
            parts.append("".join(f"- {escaped(sentence)}\n" for sentence in said))
    parts.append("### Can this experiment decide?\n")
    parts.append("".join(f"- {escaped(sentence)}\n" for sentence in sentences(study.decisions)))
    parts += [to_markdown(table) for table in tables(study.decisions)]
    if _costs(study).rows:
        parts.append(to_markdown(_costs(study)))
    if contamination is not None:
        parts.append(to_markdown(contamination))
    parts.append("### Methods\n")
    parts += [f"{paragraph}\n" for paragraph in (*words.notes, *methods(study))]
    known = facts(study) | dict(words.facts)
    parts.append("".join(f"- {name}: {escaped(value)}\n" for name, value in known.items()))
    return "\n".join(parts)


def _compared(study: StudyResults) -> list[str]:
    """Return the models that were trained on selections; others are references."""
    trained = {point.model for point in finals(study) if point.sampler != FULL}
    return [model for model in models(study) if model in trained or not trained]


def _of_model(study: StudyResults, outcomes: Outcomes, model: str) -> dict[str, Any]:
    from markupsafe import Markup

    rate = table_rate(study, model)
    chosen = 1.0 if rate is None else rate
    terms = [terms_table(outcomes, model, chosen, name) for name in HEADLINES]
    table = main_table(study, outcomes, model, chosen)
    amounts = amounts_table(study, model, chosen, study.scoring_hours)
    few = len(measures(study, model)) <= _FEW
    others = [main_table(study, outcomes, model, other) for other in rates(study, model) if other != chosen]
    return {
        "name": model,
        "verdicts": {} if rate is None else verdicts(study, outcomes, model, chosen),
        "table": Markup(to_html(joined(table, amounts) if few else table)),
        "amounts": "" if few else Markup(to_html(amounts)),
        "others": [Markup(to_html(one)) for one in others],
        "terms": [Markup(to_html(one)) for one in terms if one.rows],
        "bars": _bars(study, model, chosen),
        "tasks": Markup(to_html(task_table(study, model, chosen), intervals=False)),
    }


def _decision(study: StudyResults) -> dict[str, Any]:
    """Return sentences, the tables to show, and the table to fold away, on what the study can decide."""
    from markupsafe import Markup

    return {
        "sentences": sentences(study.decisions),
        "tables": [Markup(to_html(table)) for table in tables(study.decisions)],
        "more": [Markup(to_html(table)) for table in further_tables(study.decisions)],
    }


def _bars(study: StudyResults, model: str, rate: float) -> list[dict[str, Any]]:
    """Return a bar per sampler: what its scores and one training took, in percent of the longest and in words."""
    hours = study.costs(TRAINING_HOURS)
    spent = {
        point.sampler: (study.scoring_hours.get(point.sampler, 0.0), hours[point.run])
        for point in finals(study, model, rate)
        if point.run in hours
    }
    if len(spent) < 2:
        return []
    most = max(max(map(sum, spent.values())), 1e-9)
    unit, per_hour = time_unit(sum(one) for one in spent.values())
    short = {"hours": "h", "minutes": "min", "seconds": "s"}
    return [
        {
            "name": label(name),
            "scoring": 100 * spent[name][0] / most,
            "training": 100 * spent[name][1] / most,
            "text": f"{per_hour * spent[name][0]:,.1f} + {per_hour * spent[name][1]:,.1f} {short[unit]}",
        }
        for name in ordered(spent)
    ]


def _costs(study: StudyResults) -> Table:
    return cost_table(study.scoring_hours, study.training_hours if study.scoring_hours else {})


def _ranks(study: StudyResults) -> list[Table]:
    tables = []
    for smaller, larger in rank_pairs(study):
        try:
            tables.append(rank_table(rank_changes(study, smaller, larger), smaller, larger))
        except InvalidCut:
            continue
    return tables


def _sections(figures: Sequence[Named]) -> dict[str, dict[str, dict[str, list[dict[str, Any]]]]]:
    """Return the figures by section, heading, and "small" or "wide": title and SVG of each."""
    from markupsafe import Markup

    found: dict[str, dict[str, dict[str, list[dict[str, Any]]]]] = {section: {} for section in SECTIONS}
    for one in figures:
        group = found[one.section].setdefault(one.group, {"small": [], "wide": []})
        drawn = {"title": one.title, "svg": Markup(svg(one.figure, one.title))}
        group["wide" if one.wide else "small"].append(drawn)
    return found


def _agreement(scorers: Scorers) -> str:
    """Say how alike two scorers order documents; the figure says it of more."""
    if len(scorers.scores) != 2:
        return ""
    (one, one_N), (other, other_N) = oriented(scorers.scores, scorers.lower_is_better).items()
    try:
        tau = kendall_tau(one_N, other_N)
    except InvalidCut:
        return ""
    said = f"{label(one)} and {label(other)} order documents with a Kendall's tau-b of {tau:.2f}".replace("-0", "−0")
    return f"{said}: 1 is the same order, 0 no relation, −1 the opposite order."


def _documents(scorers: Scorers) -> list[dict[str, Any]]:
    """Return the lists of documents of each scorer, and those of several scorers last."""
    found = scorers.documents
    heads = titles(*ends(scorers.scores))
    pairs = [
        (label(name), _unit(scorers, name), [("Liked most", ("highest", name)), ("Liked least", ("lowest", name))])
        for name in ordered(scorers.scores)
    ]
    several = [(heads[kind], (kind, "")) for kind in KINDS]
    pairs += [("Agreement", "", several[:2]), ("Disagreement", "", several[2:])]
    return [
        {"title": title, "unit": unit, "lists": [{"title": h, "documents": _shown(found[key])} for h, key in there]}
        for title, unit, lists in pairs
        if (there := [(h, key) for h, key in lists if found.get(key)])
    ]


def _unit(scorers: Scorers, name: str) -> str:
    unit = scorers.units.get(name, "score")
    return f"−{unit}" if name in scorers.lower_is_better else unit


def _shown(documents: Sequence[Document]) -> list[dict[str, Any]]:
    return [
        {"id": d.id, "text": d.text, "score": d.score, "percentiles": {label(n): p for n, p in d.percentiles.items()}}
        for d in documents
    ]
