"""The tables of a report that are about the corpus: what selections share, and what they hold of evaluation sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from evaluate_suite.agreement import overlap
from evaluate_suite.registry import EXTRA_SUITES, SUITES, all_tasks
from evaluate_suite.report.table_data import NOTHING, Cell, Column, Table, number
from pipeline_steps.samplers import label, ordered


if TYPE_CHECKING:
    from pipeline_steps.scorers.contamination import Overlaps


def overlap_table(selections: Mapping[str, np.ndarray]) -> Table:
    """Show the documents that two selections share, per document of the smaller; masks bool [N] of one corpus.

    Raises:
        InvalidCut: they are of different corpora, or one is empty.
    """
    names = ordered(selections)
    columns = (Column("Selection"), Column("Kept", "%"), *(Column(label(name), "%") for name in names))
    rows = [
        (
            Cell(label(row)),
            number(100 * float(selections[row].mean())),
            *(
                replace(number(100 * share), shade=0.45 * share)
                for share in (overlap(selections[row], selections[column]) for column in names)
            ),
        )
        for row in names
    ]
    notes = ("Selections that have nothing to do with each other share as much as the larger one keeps.",)
    return Table("Documents that selections share", columns, tuple(rows), notes)


def contamination_table(selections: Mapping[str, np.ndarray], found: Overlaps | None) -> Table:
    """Show how many documents of a corpus and of selections hold questions of evaluation sets, in all and by suite.

    Args:
        selections: bool [N] by name, of one corpus; there may be none if `found` is given.
        found: of the corpus, as `pipeline_steps.scorers.contamination.overlaps` returns it; None if nobody looked.
    """
    size = next(iter(selections.values())).size if found is None else found.some.size
    masks = {"All documents": np.ones(size, dtype=bool)}
    masks |= {label(name): selections[name] for name in ordered(selections)}
    suites = {} if found is None else _by_suite(found.by_set)
    columns = (
        Column("Selection"),
        Column("Documents"),
        Column("Contaminated", "documents"),
        Column("Contaminated", "%", "lower"),
        *(Column((SUITES | EXTRA_SUITES).get(suite, suite), "documents") for suite in suites),
    )
    rows = []
    for name, mask in masks.items():
        cells = [Cell(name), number(int(mask.sum()), 0)]
        if found is None:
            cells += [NOTHING, NOTHING]
        else:
            held = int((found.some & mask).sum())
            cells += [number(held, 0), number(100 * held / max(int(mask.sum()), 1), 3)]
            cells += [number(int((own & mask).sum()), 0) for own in suites.values()]
        rows.append(tuple(cells))
    notes = (
        f"A document counts if it has {found.words} words in a row in common with a question. Of the questions, these "
        f"are long enough to be found: {_findable(found.items)}."
        if found
        else "The corpus was not searched for questions of evaluation sets; a study's section contamination does so."
    )
    return Table("Documents that hold questions of evaluation sets", columns, tuple(rows), (notes,))


def _by_suite(found: Mapping[str, np.ndarray], join: np.ufunc = np.logical_or) -> dict[str, np.ndarray]:
    """Return the arrays of sets joined by suite, in the suites' order; other sets stand for themselves."""
    tasks, masks = all_tasks(), dict[str, np.ndarray]()
    for name, mask in found.items():
        suite = tasks[name].suite if name in tasks else name
        masks[suite] = join(mask, masks[suite]) if suite in masks else mask
    known = [suite for suite in (*SUITES, *EXTRA_SUITES) if suite in masks]
    return {suite: masks[suite] for suite in [*known, *sorted(masks.keys() - set(known))]}


def _findable(items: Mapping[str, tuple[int, int]]) -> str:
    """Say how many questions of each suite are long enough to be found."""
    counts = _by_suite({name: np.array(numbers) for name, numbers in items.items()}, np.add)
    names = SUITES | EXTRA_SUITES
    return ", ".join(f"{names.get(suite, suite)} {long:,} of {all_:,}" for suite, (all_, long) in counts.items())
