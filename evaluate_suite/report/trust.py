"""Do the scores agree with the labels? What `winnow trust` found: sentences, tables, figures, JSON and a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from evaluate_suite.bootstrap import Estimate
from evaluate_suite.report.page import environment
from evaluate_suite.report.style import INK, panels, say, series, svg
from evaluate_suite.report.table_data import NOTHING, Cell, Column, Table, minus, number, to_html
from evaluate_suite.trust.agreement import FEWEST, LENGTH, LIKE_LENGTH, Agreement, Agreements
from evaluate_suite.trust.calibration import Calibration, CrossFitted
from evaluate_suite.trust.documents import Matched
from pipeline_steps.paper import RATES


if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NAMED = 10  # strata that a sentence names
MOST_STRATA = 24  # of a table that is read at a glance; JSON has them all
_SMALLEST_CUT = min(RATES)  # if so many documents have the highest score, the paper's smallest cut draws among them


@dataclass(frozen=True)
class Trust:
    """Everything that a report of scores beside labels shows.

    Attributes:
        matched: documents, and what stores hold.
        agreements: of scores with labels; calibrated scores may be among them.
        calibration: the fits, if scores were calibrated.
        held_out: how good calibrated scores are on labels that their fits have not seen.
        calibrated: name of the calibrated scores among the agreements; "" if there are none.
        facts: paths, columns, command: name -> value.
    """

    matched: Matched
    agreements: Agreements
    calibration: Calibration | None = None
    held_out: CrossFitted | None = None
    calibrated: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)


def sentences(found: Trust) -> list[str]:
    """Say what the labels show of each score, and of labels without a document."""
    of = found.agreements
    said, no_length = [_documents(found)], found.matched.documents.length_N is None
    for name, one in of.scores.items():
        said.append(" ".join([_overall(of, name, one), *_beyond_length(of, one, no_length), *_beyond_strata(of, one)]))
        if (saturated := found.matched.saturation.get(name)) and saturated.highest >= _SMALLEST_CUT:
            said.append(
                f"{name} is saturated: {100 * saturated.highest:.0f} % of all its documents have the highest score, "
                f"so that a cut at {100 * _SMALLEST_CUT:g} % draws lots among them."
            )
    if found.calibration is not None and found.held_out is not None:
        said += _of_calibration(found.calibration, found.held_out)
    return said


def _documents(found: Trust) -> str:
    of, matched = found.agreements, found.matched
    counts = " and ".join(f"{count:,} with {label:g}" for label, count in of.labels.items())
    said = f"{of.documents:,} documents have a label and every score{f' ({counts})' if counts else ''}."
    lost = [f"{missing:,} are not in {name}" for name, missing in matched.missing.items() if missing]
    said += f" Of {matched.labels:,} labels, {', '.join(lost)}." if lost else ""
    return f"{said} {matched.unlabelled:,} rows have no label." if matched.unlabelled else said


def _overall(of: Agreements, name: str, one: Agreement) -> str:
    value = f"{name}: {of.measure} {_with_interval(one.overall)}"
    if one.overall.low > of.chance:
        return f"{value}. The score agrees with the labels."
    if one.overall.high < of.chance:
        return (
            f"{value}. The score orders documents against the labels: check which direction of each is the good one."
        )
    return f"{value}. The labels do not show that the score agrees with them ({of.chance:g} is chance)."


def _beyond_length(of: Agreements, one: Agreement, no_length: bool) -> list[str]:
    """Compare a score with length alone, and say what is left of it among documents of like length."""
    if of.length is None or one.above_length is None:
        if no_length:
            return ["The length of documents is not known: length may be all that the score measures."]
        return ["All labelled documents have the same length: length is no part of the agreement."]
    gap = f"the difference is {_with_interval(one.above_length, '+')}"
    alone = f"length alone, {'longer' if of.longer else 'shorter'} documents first, {of.length.overall.value:.2f}"
    if one.above_length.low > 0:
        said = [f"It agrees with the labels better than {alone}: {gap}."]
    elif one.above_length.high < 0:
        said = [f"It agrees with the labels less well than {alone}: {gap}."]
    else:
        said = [f"It is not shown to agree better than {alone}: {gap}."]
    if one.length_fixed is None:
        return said
    fixed = _with_interval(one.length_fixed)
    if one.length_fixed.low > of.chance:
        return [*said, f"Among documents of like length it agrees, {fixed}."]
    if one.length_fixed.high < of.chance:
        return [*said, f"Among documents of like length it orders them against the labels, {fixed}."]
    return [*said, f"Among documents of like length no agreement is shown, {fixed}."]


def _beyond_strata(of: Agreements, one: Agreement) -> list[str]:
    """Say whether a score tells documents of one stratum apart, or strata."""
    if one.within_strata is None or one.between_strata is None:
        return []
    within = _with_interval(one.within_strata)
    if one.within_strata.low > of.chance:
        said = f"Within strata it agrees, {within}"
    elif one.within_strata.high < of.chance:
        said = f"Within strata it orders documents against the labels, {within}"
    else:
        said = f"Within strata no agreement is shown, {within}"
    if one.between_strata.low > 0:
        gap = _with_interval(one.between_strata, "+")
        return [f"{said}; it is lower there by {gap}, since part of the agreement is between strata."]
    return [f"{said}."]


def _of_calibration(fits: Calibration, judged: CrossFitted) -> list[str]:
    said = [
        f"Calibrated scores save {100 * judged.explained.value:.0f} % of the squared error of the mean label "
        f"({100 * judged.explained.low:.0f} to {100 * judged.explained.high:.0f} %), on labels that their fits have "
        f"not seen; their mean is off by {_with_interval(judged.bias, '+', 3)}."
    ]
    if judged.explained.low <= 0:
        said.append("The labels do not show that calibrated scores say more of a document than the mean label does.")
    if fits.too_few:
        few = sorted(fits.too_few.items(), key=lambda one: (-one[1], one[0]))
        named = ", ".join(f"{name} ({labels:,})" for name, labels in few[:_NAMED])
        more = f" and {len(few) - _NAMED:,} more" if len(few) > _NAMED else ""
        said.append(f"Strata with too few labels have the fit of all documents: {named}{more}.")
    if level := [name or "all documents" for name, fit in fits.fits.items() if fit.is_level]:
        said.append(f"The fit is level, since higher scores do not have higher labels: {', '.join(level)}.")
    return [minus(one) for one in said]


def tables(found: Trust) -> list[Table]:
    """Return the tables: agreement, strata, saturation, pairs of scorers and calibrated scores."""
    made = [_agreement_table(found.agreements, found.matched.documents.unit)]
    if found.agreements.strata:
        made.append(_strata_table(found.agreements))
    made.append(_saturation_table(found.matched))
    if found.agreements.pairs:
        made.append(_pairs_table(found.agreements))
    if found.held_out is not None:
        made.append(_held_out_table(found.held_out))
    return made


def _agreement_table(of: Agreements, unit: str) -> Table:
    strata = any(one.within_strata for one in of.scores.values())
    columns = [
        Column("Score"),
        Column(of.measure, direction="higher"),
        *([Column(f"{of.measure} within strata", direction="higher")] if strata else []),
        Column(f"{of.measure} at like length", direction="higher"),
        Column("above length alone"),
    ]
    rows = [(name, one) for name, one in of.scores.items()] + ([(LENGTH, of.length)] if of.length else [])
    cells = [
        [
            Cell(name),
            _cell(one.overall),
            *([_cell(one.within_strata)] if strata else []),
            _cell(one.length_fixed),
            _cell(one.above_length, "+"),
        ]
        for name, one in rows
    ]
    direction = "longer" if of.longer else "shorter"
    notes = [
        f"{of.chance:g} is chance. Intervals are 95 % bootstrap intervals; differences are of the same documents.",
        f"At like length: within groups of {LIKE_LENGTH} or six, next to each other by length.",
        *([f"Length, in {unit}: {direction} documents first, which agrees better here."] if of.length else []),
    ]
    return Table(
        "Agreement with the labels",
        tuple(columns),
        tuple(map(tuple, cells)),
        tuple(notes),
    )


def _strata_table(of: Agreements) -> Table:
    chosen = sorted(of.strata, key=lambda name: (-of.strata[name], name))[:MOST_STRATA]
    alone = {LENGTH: of.length} if of.length else {}
    rows = dict(of.scores) | alone
    columns = [Column("Stratum"), Column("labels"), *(Column(name, of.measure) for name in rows)]
    cells = [
        [Cell(name), number(of.strata[name], 0), *(_cell(one.strata.get(name)) for one in rows.values())]
        for name in chosen
    ]
    more = len(of.strata) - len(chosen)
    notes = [f"A dash: fewer than {FEWEST} labels differ from the stratum's commonest, or all scores are the same."]
    notes += [f"{more} strata with fewer labels are left out; --json has them."] if more else []
    return Table("In each stratum", tuple(columns), tuple(map(tuple, cells)), tuple(notes))


def _saturation_table(matched: Matched) -> Table:
    columns = (
        Column("Score"),
        Column("documents of the store"),
        Column("different scores"),
        Column("at the lowest score", "%"),
        Column("at the highest score", "%"),
        Column("tied", "%"),
        Column("labels without a document"),
    )
    rows = tuple(
        (
            Cell(name),
            number(one.documents, 0),
            number(one.values, 0),
            *(number(100 * share, 2) for share in (one.lowest, one.highest, one.tied)),
            number(matched.missing[name], 0),
        )
        for name, one in matched.saturation.items()
    )
    return Table("How far scores tell documents apart", columns, rows, ("Tied: another document has the same score.",))


def _pairs_table(of: Agreements) -> Table:
    pairs = of.documents * (of.documents - 1) // 2
    columns = (
        Column("Score"),
        Column("and"),
        Column("Spearman"),
        Column("Kendall's τ"),
        Column(f"{of.measure} of the first, minus that of the second"),
    )
    rows = tuple(
        (
            Cell(one.one),
            Cell(one.other),
            _cell(one.spearman),
            NOTHING if one.tau is None else number(one.tau, 2),
            _cell(one.difference, "+"),
        )
        for one in of.pairs
    )
    note = f"On the {of.documents:,} labelled documents, {pairs:,} pairs of them; τ is τ-b, which corrects for ties."
    return Table("How alike the scores order documents", columns, rows, (note,))


def _held_out_table(judged: CrossFitted) -> Table:
    columns = (Column("Tenth by calibrated score"), Column("documents"), Column("calibrated score"), Column("label"))
    rows = tuple(
        (Cell(str(at + 1), at), number(documents, 0), number(score, 3), number(label, 3))
        for at, (documents, score, label) in enumerate(judged.bins)
    )
    note = "Means of documents whose labels the fits have not seen. If scores are calibrated, both are the same."
    return Table("Calibrated scores beside labels", columns, rows, (note,))


def figures(found: Trust) -> list[tuple[str, Figure]]:
    """Draw intervals of every score, and calibrated scores against labels; returns titles and figures."""
    drawn = [("Agreement with the labels", _intervals(found.agreements))]
    if found.held_out is not None:
        drawn.append(("Calibrated scores beside labels", _reliability(found.held_out)))
    return drawn


def _intervals(of: Agreements) -> Figure:
    from evaluate_suite.report.style import legend

    rows = [*of.scores.items(), *([(LENGTH, of.length)] if of.length else [])][::-1]
    kinds = {"all documents": "overall", "within strata": "within_strata", "at like length": "length_fixed"}
    shown = [kind for kind, field in kinds.items() if any(getattr(one, field) for _, one in rows)]
    figure, (axes,) = panels(1, size=(5.6, 1.2 + 0.5 * len(rows)))
    axes.grid(visible=False, axis="y")
    axes.axvline(of.chance, color=INK, linewidth=0.8)
    handles = []
    for at, kind in enumerate(shown):
        look = series(at + 1) | {"linestyle": "none"}
        there = [(y, e) for y, (_, one) in enumerate(rows) if (e := getattr(one, kinds[kind]))]
        y = [row + 0.2 * ((len(shown) - 1) / 2 - at) for row, _ in there]
        values = [one.value for _, one in there]
        ends = [[one.value - one.low for _, one in there], [one.high - one.value for _, one in there]]
        axes.errorbar(values, y, xerr=[[max(end, 0) for end in side] for side in ends], elinewidth=1.4, **look)
        handles += axes.plot([], [], label=kind, **look)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    say(axes, "Agreement with the labels", f"{of.measure}, 95 % intervals; the line is chance", "")
    legend(figure, handles, len(shown))
    return figure


def _reliability(judged: CrossFitted) -> Figure:
    figure, (axes,) = panels(1)
    scores, labels = [one[1] for one in judged.bins], [one[2] for one in judged.bins]
    ends = [min(scores + labels), max(scores + labels)]
    axes.plot(ends, ends, color=INK, linewidth=0.8)
    axes.plot(scores, labels, **(series(1) | {"linestyle": "none"}))
    say(axes, "Calibrated scores beside labels", "mean calibrated score", "mean label")
    return figure


def page(found: Trust) -> str:
    """Return a self-contained HTML page."""
    from markupsafe import Markup

    return (
        environment()
        .get_template("trust.html.jinja")
        .render(
            sentences=sentences(found),
            tables=[Markup(to_html(table)) for table in tables(found)],
            figures=[Markup(svg(figure, title)) for title, figure in figures(found)],
            facts=found.facts,
        )
    )


def record(found: Trust) -> dict[str, Any]:
    """Return everything as JSON types."""
    of, fits, judged = found.agreements, found.calibration, found.held_out
    calibrated = None
    if fits is not None and judged is not None:
        calibrated = {
            "fits": {
                "" if name is None else name: {
                    "labels": fit.labels,
                    "scores": fit.score_K.tolist(),
                    "means": fit.label_K.tolist(),
                }
                for name, fit in fits.fits.items()
            },
            "too_few_labels": dict(fits.too_few),
            "explained": asdict(judged.explained),
            "bias": asdict(judged.bias),
            "tenths": [dict(zip(("documents", "score", "label"), one, strict=True)) for one in judged.bins],
        }
    return {
        "verdict": sentences(found),
        "measure": of.measure,
        "chance": of.chance,
        "documents": of.documents,
        "labels": found.matched.labels,
        "unmatched": dict(found.matched.missing),
        "rows_without_a_label": found.matched.unlabelled,
        "of_each_label": {f"{label:g}": count for label, count in of.labels.items()},
        "length_unit": found.matched.documents.unit or None,
        "longer_is_better": of.longer if of.length else None,
        "scores": {name: asdict(one) for name, one in of.scores.items()},
        "length": asdict(of.length) if of.length else None,
        "strata": dict(of.strata),
        "pairs": [asdict(one) for one in of.pairs],
        "saturation": {name: asdict(one) for name, one in found.matched.saturation.items()},
        "calibration": calibrated,
        "facts": dict(found.facts),
    }


def _with_interval(one: Estimate, sign: str = "", digits: int = 2) -> str:
    ends = f"{one.low:{sign}.{digits}f} to {one.high:{sign}.{digits}f}"
    return minus(f"{one.value:{sign}.{digits}f} ({ends})")


def _cell(one: Estimate | None, sign: str = "") -> Cell:
    if one is None:
        return NOTHING
    return Cell(minus(f"{one.value:{sign}.2f}"), one.value, one.low, one.high, 2)
