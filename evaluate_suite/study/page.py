"""The report of a study: one HTML file that needs no network, and Markdown for a model card."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evaluate_suite.figures.quality import Outcomes
from evaluate_suite.figures.style import svg
from evaluate_suite.study.documents import KINDS, Document
from evaluate_suite.study.gallery import SECTIONS, Named
from evaluate_suite.study.outcomes import HEADLINES
from evaluate_suite.study.points import Study, finals, models
from evaluate_suite.study.table_data import Table, escaped, to_html, to_markdown
from evaluate_suite.study.tables import (
    cost_table,
    main_table,
    overlap_table,
    rank_changes,
    rank_table,
    task_table,
    terms_table,
)
from evaluate_suite.study.verdicts import coverage, facts, methods, table_rate, verdicts
from pipeline_steps.errors import InvalidCut
from pipeline_steps.samplers import FULL, label


@dataclass(frozen=True, eq=False)
class Scorers:
    """What is known of the corpus; all of it may be empty.

    Attributes:
        scores: float32 [N] by scorer.
        lower_is_better: scorers whose low scores are the good ones.
        selections: bool [N] by name.
        documents: of each kind of `documents.KINDS`.
    """

    scores: Mapping[str, np.ndarray] = field(default_factory=dict)
    lower_is_better: Collection[str] = ()
    selections: Mapping[str, np.ndarray] = field(default_factory=dict)
    documents: Mapping[str, Sequence[Document]] = field(default_factory=dict)


def render(
    study: Study, outcomes: Outcomes, figures: Sequence[Named], scorers: Scorers, versions: Mapping[str, str]
) -> str:
    """The self-contained HTML page.

    Args:
        study: what was measured.
        outcomes: of `evaluate_suite.study.outcomes.outcomes`.
        figures: of `study_figures`.
        scorers: of the corpus.
        versions: command and libraries: name -> value.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("evaluate_suite"),
        autoescape=True,  # documents hold markup of their own, and so may names
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("study.html.jinja").render(
        coverage=coverage(study),
        models=[_of_model(study, outcomes, model) for model in _compared(study)],
        figures=_sections(figures),
        cost=Markup(to_html(_costs(study))) if _costs(study).rows else "",
        ranks=[Markup(to_html(table)) for table in _ranks(study)],
        scored={name: score_N.size for name, score_N in scorers.scores.items()},
        overlap=Markup(to_html(overlap_table(scorers.selections))) if len(scorers.selections) > 1 else "",
        documents=_documents(scorers),
        methods=methods(study),
        facts=facts(study) | dict(versions),
    )


def markdown(study: Study, outcomes: Outcomes, versions: Mapping[str, str]) -> str:
    """Table 1, verdicts and methods, for a model card."""
    parts = ["## Evaluation\n", f"{coverage(study)}.\n"]
    for model in _compared(study):
        rate = table_rate(study, model)
        if rate is not None:
            parts.append(to_markdown(main_table(study, outcomes, model, rate)))
            parts.append("".join(f"- {escaped(sentence)}\n" for sentence in verdicts(study, outcomes, model, rate)))
    if _costs(study).rows:
        parts.append(to_markdown(_costs(study)))
    parts.append("### Methods\n")
    parts += [f"{paragraph}\n" for paragraph in methods(study)]
    parts.append("".join(f"- {name}: {escaped(value)}\n" for name, value in (facts(study) | dict(versions)).items()))
    return "\n".join(parts)


def _compared(study: Study) -> list[str]:
    """Models that were trained on selections; others are references."""
    trained = {point.model for point in finals(study) if point.sampler != FULL}
    return [model for model in models(study) if model in trained or not trained]


def _of_model(study: Study, outcomes: Outcomes, model: str) -> dict[str, Any]:
    from markupsafe import Markup

    rate = table_rate(study, model)
    chosen = 1.0 if rate is None else rate
    others = sorted({point.rate for point in finals(study, model) if point.sampler != FULL} - {chosen})
    terms = [terms_table(outcomes, model, chosen, name) for name in HEADLINES]
    return {
        "name": model,
        "verdicts": verdicts(study, outcomes, model, chosen) if rate is not None else [],
        "table": Markup(to_html(main_table(study, outcomes, model, chosen))),
        "others": [Markup(to_html(main_table(study, outcomes, model, other))) for other in others],
        "terms": [Markup(to_html(table)) for table in terms if table.rows],
        "tasks": Markup(to_html(task_table(study, model, chosen), intervals=False)),
    }


def _costs(study: Study) -> Table:
    return cost_table(study.scoring_hours, study.training_hours if study.scoring_hours else {})


def _ranks(study: Study) -> list[Table]:
    tables, compared = [], _compared(study)
    for smaller, larger in zip(compared, compared[1:], strict=False):
        try:
            tables.append(rank_table(rank_changes(study, smaller, larger), smaller, larger))
        except InvalidCut:
            continue
    return tables


def _sections(figures: Sequence[Named]) -> dict[str, dict[str, dict[str, list[dict[str, Any]]]]]:
    """Section -> heading -> "small" and "wide" -> title and SVG."""
    from markupsafe import Markup

    found: dict[str, dict[str, dict[str, list[dict[str, Any]]]]] = {section: {} for section in SECTIONS}
    for one in figures:
        group = found[one.section].setdefault(one.group, {"small": [], "wide": []})
        drawn = {"title": one.title, "svg": Markup(svg(one.figure, one.title))}
        group["wide" if one.wide else "small"].append(drawn)
    return found


def _documents(scorers: Scorers) -> list[dict[str, Any]]:
    """Kinds that have documents, with percentiles by the name that is read."""
    return [
        {
            "title": title,
            "documents": [
                {"id": d.id, "text": d.text, "percentiles": {label(n): p for n, p in d.percentiles.items()}}
                for d in scorers.documents[kind]
            ],
        }
        for kind, title in KINDS.items()
        if scorers.documents.get(kind)
    ]
