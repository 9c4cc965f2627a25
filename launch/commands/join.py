"""`winnow join`: published annotations as the score store of a corpus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from cyclopts import Parameter, Token

from launch.commands.arguments import CORES, CORPUS, LABEL_SCORES, NAME, NEW_PLACE
from pipeline_steps.terminal import Terminal


def _unmatched(kind: Any, words: Sequence[Token]) -> float | None:
    """Return the default of default=SCORE; None for error."""
    text = words[0].value
    if text == "error":
        return None
    if text == "skip":
        raise ValueError(
            "a score store covers every document of its corpus, and filters refuse documents without a score: give "
            "default=SCORE, of a score that the cut drops"
        )
    name, _, score = text.partition("=")
    try:
        if name != "default":
            raise ValueError
        return float(score)
    except ValueError:
        raise ValueError(f"{text!r} is neither error nor default=SCORE") from None


_UNMATCHED = Parameter(converter=_unmatched, n_tokens=1, metavar="error|default=SCORE", show_default=False)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Joining:
    """The flags that decide a join.

    Attributes:
        column: the annotations' column of numbers, or of labels.
        on: match ids as they stand, or texts by a hash of 128 bits.
        id_key: the annotations' column of ids.
        text_key: the annotations' column of texts, of --on text.
        labels: the score of each label, such as good=1,bad=0.
        unmatched: documents without an annotation are an error (the default), or get a score, such as default=0.
        duplicates: documents whose annotations differ are an error, or get the largest, or the first by file name
            and row.
        lower_is_better: record that low scores are the good ones, as of perplexities.
        memory: limit of the join's tables; the process takes some 100 MB more.
    """

    column: Annotated[str, NAME]
    on: Literal["id", "text"] = "id"
    id_key: Annotated[str, NAME] = "id"
    text_key: Annotated[str, NAME] = "text"
    labels: Annotated[dict[str, float] | None, LABEL_SCORES] = None
    unmatched: Annotated[float | None, _UNMATCHED] = None
    duplicates: Literal["error", "max", "first"] = "error"
    lower_is_better: bool = False
    memory: Annotated[str, NAME] = "1.5GB"

    def section(self, annotations: str) -> dict[str, Any]:
        """Return the section of a study file; defaults that are empty stay out."""
        key = self.id_key if self.on == "id" else self.text_key
        said = {
            "annotations": annotations,
            "column": self.column,
            "on": self.on,
            "key_column": None if key == self.on else key,
            "labels": self.labels or None,
            "default": self.unmatched,
            "duplicates": self.duplicates,
            "lower_is_better": self.lower_is_better,
            "memory": self.memory,
        }
        return {name: value for name, value in said.items() if value is not None}


def join(
    annotations: Annotated[str, CORPUS],
    /,
    joining: Joining,
    *,
    corpus: Annotated[str, CORPUS],
    output: Annotated[str, NEW_PLACE],
    limit: int = -1,
    workers: int = CORES,
) -> int:
    """Make a score store of a corpus from annotations that somebody has published.

    Annotations are Parquet files with an id or a text, and a number or a label, in each row. The store is what winnow
    score would have made: winnow select --scores, winnow inspect and the filters take it. The corpus is read once, by
    --workers processes; the join takes a bounded amount of memory, and spills into --output. Kill it at any time; the
    same command ends with the same files. If it refuses documents or annotations, give the flag that it names.

    Annotations of no document are ignored, and those of several documents of one id or text are given to each. Null
    annotations and those of labels without a score count as none. Equal annotations of one document are one.

    Args:
        annotations: file, folder or glob of .parquet files, local, s3:// or hf://datasets/...
        corpus: file, folder or glob of .jsonl, .parquet or .warc files, local, s3:// or hf://datasets/...
        output: local folder of the score store; continued if it exists.
        limit: the first documents of the corpus only; -1: all.
        workers: processes that read the corpus; changes the speed, nothing else.

    Examples:
      winnow join hf://datasets/USER/edu-scores --corpus crawl/ --column score --output scores
      winnow join "labels/*.parquet" --corpus s3://bucket/crawl --column label --labels good=1,bad=0 --on text \\
          --unmatched default=0 --output scores
      winnow select --corpus crawl/ --scores scores --rate 0.2 --output kept
    """
    from launch.small_studies import SmallStudy, corpus_values, refuse_inside, spelled

    annotations = spelled(annotations)
    refuse_inside(corpus, output)
    refuse_inside(annotations, output)
    values = corpus_values(output, corpus, limit) | {"join": joining.section(annotations)}
    _refuse_changed(annotations, output)
    # What the join decides is noted in the store itself, once nothing has been refused
    SmallStudy("winnow join", f"{output}/join.yaml", values, workers, free=("join",)).run()
    _show(output, joining)
    return 0


def _refuse_changed(annotations: str, output: str) -> None:
    """Raise StoreMismatch if a finished store is of annotations whose files have changed since."""
    from pipeline_steps.readers.corpus import list_corpus, refuse_changed_files
    from pipeline_steps.stores.score_store import ScoreStore

    if (store := ScoreStore(output)).exists:
        there = {"corpus": store.made.get("annotations"), "files": store.made.get("files")}
        refuse_changed_files(there, {"corpus": annotations, "files": list_corpus(annotations).listing}, output)


def _show(output: str, joining: Joining) -> None:
    from pipeline_steps.joins.scores import COUNTS, Counted
    from pipeline_steps.stores.files import read_json

    found = read_json(f"{output}/join/{COUNTS}")
    counted = Counted(**{name: found[name] for name in Counted._fields})
    matched = counted.documents - counted.unmatched
    said = f"{matched:,} of {counted.documents:,} documents have an annotation: {output}"
    if counted.unmatched:
        said += f"\n{counted.unmatched:,} got {joining.unmatched:g}"
        said += f", {counted.unknown:,} of them with null or unknown labels only" if counted.unknown else ""
    if counted.conflicting:
        chosen = "largest" if joining.duplicates == "max" else "first"
        said += f"\n{counted.conflicting:,} had annotations that differ, and got the {chosen}"
    Terminal().print(said, highlight=False, soft_wrap=True)
