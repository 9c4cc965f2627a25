"""`winnow trust`: whether scores agree with labels that people, or a better judge, gave to some documents."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from launch.commands.arguments import CORPUS, LABEL_SCORES, NAME, NEW_PLACE, PLACE
from pipeline_steps.errors import InvalidCut, InvalidScore, WinnowError
from pipeline_steps.terminal import Terminal, print_json, wide


if TYPE_CHECKING:
    from evaluate_suite.report.trust import Trust
    from evaluate_suite.trust.labels import LabelColumns


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Labelling:
    """The flags that say what the labels are.

    Attributes:
        labels: file, folder or glob of .jsonl, .csv, .parquet or .arrow files, one row a document.
        column: the label: a number, higher is better; two different ones, or more.
        grades: the number of each label that is a word, such as keep=1,drop=0.
        on: match documents by their ids, or by keys, of a column "key" or else of id and text.
        id_key: the column of the id.
        text_key: the column of the text, whose characters count as length if no store counts tokens.
        stratum: the column of the stratum of each label, such as source or domain.
        strata: label store of the corpus (MetadataLabels) that says the stratum of every document; --calibrated needs
            it to treat strata apart.
        length: the column of the length, or that of the text, whose characters then count; by default, tokens of the
            first store that counts them.
    """

    labels: Annotated[str, CORPUS]
    column: Annotated[str, NAME] = "label"
    grades: Annotated[dict[str, float] | None, LABEL_SCORES] = None
    on: Literal["id", "key"] = "id"
    id_key: Annotated[str, NAME] = "id"
    text_key: Annotated[str, NAME] = "text"
    stratum: Annotated[str | None, NAME] = None
    strata: Annotated[str | None, PLACE] = None
    length: Annotated[str | None, NAME] = None

    def columns(self) -> LabelColumns:
        """Return how the rows are read."""
        from evaluate_suite.trust.labels import LabelColumns

        return LabelColumns(
            column=self.column,
            grades=self.grades or {},
            on=self.on,
            id_key=self.id_key,
            text_key=self.text_key,
            stratum=self.stratum,
            length=self.length,
        )


def trust(
    *scores: Annotated[str, PLACE],
    labelling: Labelling,
    calibrated: Annotated[str | None, NEW_PLACE] = None,
    min_labels: int = 100,
    html: Annotated[str | None, NEW_PLACE] = None,
    json: bool = False,
) -> int:
    """Say whether scores agree with labels that people, or a better judge, gave to some hundred documents.

    Of two different labels, the agreement is the AUC: the probability that a document of the better label has the
    higher score, 0.5 by chance. Of more, it is Spearman's rank correlation, 0 by chance. Intervals are 95 % bootstrap
    intervals; those of differences are of the same documents.

    Most labels reward length, and most scores follow it. So every score is compared with length alone, and among
    documents of like length. With strata, it is compared within each, too: a score may know nothing but the domain.

    --calibrated writes a new score store: the mean label of documents of such a score, by isotonic regression, for
    each stratum apart, so that scores of different strata compare. winnow select --scores and the filters take it.

    What the numbers mean, and what they do not: docs/trust.md.

    Args:
        scores: folders of score stores of one corpus.
        calibrated: folder of the calibrated scores of the whole corpus; of one store only.
        min_labels: labels that a stratum needs for a fit of its own; others have the fit of all labels.
        html: also write a page with tables and figures.
        json: print one JSON object instead.

    Examples:
      winnow trust work/scores/ask-llm work/scores/density --labels labels.jsonl
      winnow trust work/scores/ask-llm --labels labels.csv --column verdict --grades keep=1,drop=0 --stratum domain \\
          --html trust.html
      winnow trust work/scores/ask-llm --labels labels.jsonl --strata work/domains --calibrated work/scores/calibrated
      winnow select --corpus crawl/ --scores work/scores/calibrated --rate 0.2 --output kept
    """
    from pipeline_steps.engines.models import require

    if not scores:
        raise InvalidScore("trust needs SCORES: folders of score stores (see winnow trust --help)")
    if calibrated is not None and len(scores) > 1:
        raise InvalidCut(f"--calibrated is of one score store, and {len(scores)} are given: give the one to calibrate")
    if labelling.stratum is not None and labelling.strata is not None:
        raise InvalidCut("--stratum and --strata both say what the strata are: give one of them")
    if labelling.stratum is not None and calibrated is not None:
        raise InvalidCut(
            "--stratum knows the strata of labelled documents only, and --calibrated writes scores of all documents: "
            "store the strata of the corpus with MetadataLabels and give --strata, or leave --stratum out"
        )
    for module, extra in (("scipy", "eval"), ("sklearn", "eval")):
        require(module, extra)
    for module in ("matplotlib", "jinja2") if html else ():
        require(module, "report")
    found = _compare(scores, labelling, calibrated, min_labels)
    _show(found, html, json)
    if calibrated is not None and not json:
        Terminal().print(f"calibrated scores: {calibrated}", highlight=False, soft_wrap=True)
    return 0


def _compare(scores: Sequence[str], labelling: Labelling, calibrated: str | None, min_labels: int) -> Trust:
    """Compare stores with labels, and write the calibrated store if one is wanted."""
    from dataclasses import replace

    from evaluate_suite.report.trust import Trust
    from evaluate_suite.trust.agreement import agreements
    from evaluate_suite.trust.calibration import calibrate, held_out
    from evaluate_suite.trust.documents import match
    from evaluate_suite.trust.labels import digest_of, read_labels
    from evaluate_suite.trust.store import write_calibrated
    from pipeline_steps.scorers.metadata import LabelStore
    from pipeline_steps.stores.score_store import ScoreStore

    stores = {name: ScoreStore.open(path) for name, path in _named(scores).items()}
    strata = None if labelling.strata is None else LabelStore.open(labelling.strata)
    labels = read_labels(labelling.labels, labelling.columns())
    matched = match(labels, stores, strata)
    facts = {name: store.path for name, store in stores.items()}
    facts |= {"labels": f"{labels.path}, column {labelling.column}", "command": " ".join(["winnow", *sys.argv[1:]])}
    docs = matched.documents
    if calibrated is None:
        return Trust(matched, agreements(docs), facts=facts)
    ((name, store),) = stores.items()
    names = set().union(*(strata.categories(source, "label")[0] for source in strata.sources)) if strata else set()
    fits, judged = calibrate(docs, name, min_labels, names), held_out(docs, name, min_labels)
    both = f"{name}, calibrated"
    found = agreements(replace(docs, scores={**docs.scores, both: judged.score_N}))
    about = {
        "column": labelling.column,
        "documents": docs.label_N.size,
        "digest": digest_of(docs.key_N, docs.label_N),
        "min_labels": min_labels,
    }
    write_calibrated(calibrated, store, fits, about, strata)
    return Trust(matched, found, fits, judged, both, facts)


def _named(paths: Sequence[str]) -> dict[str, str]:
    """Return the paths by the last name of each, or by the whole path where several end alike."""
    ends = [os.path.basename(path.rstrip("/")) for path in paths]
    if len({path.rstrip("/") for path in paths}) < len(paths):
        raise WinnowError("a score store is given twice: give each once")
    return {end if ends.count(end) == 1 else path: path for end, path in zip(ends, paths, strict=True)}


def _show(found: Trust, html: str | None, json: bool) -> None:
    """Print what was found, and write the page."""
    from evaluate_suite.report.table_data import to_terminal
    from evaluate_suite.report.trust import page, record, sentences, tables
    from pipeline_steps.stores.files import write_atomically

    if html is not None:
        write_atomically(html, page(found).encode())
    if json:
        print_json(record(found))
        return
    console = wide()
    for sentence in sentences(found):
        console.print(sentence, highlight=False)
    for table in tables(found):
        console.print(to_terminal(table))
    if html is not None:
        console.print(f"page: {html}", highlight=False, soft_wrap=True)
