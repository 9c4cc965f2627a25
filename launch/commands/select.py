"""`winnow score` and `winnow select`: one scorer over one corpus, and one cut of it as a dataset."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import ArgumentCollection, Group, Parameter

from launch.commands.arguments import (
    CORES,
    CORPUS,
    MODEL,
    NAME,
    NEW_PLACE,
    PLACE,
    SEVERAL,
    NamedPlaces,
    NamedValues,
    Rows,
)
from pipeline_steps.errors import InvalidCut, WinnowError
from pipeline_steps.readers.reading import USUAL
from pipeline_steps.terminal import Terminal


if TYPE_CHECKING:
    from pipeline_steps.filters.cuts import Cut
    from pipeline_steps.stores.score_store import ScoreStore

# As in pipeline_steps.numerics.priority, which imports NumPy
Mode = Literal["top", "bottom", "pareto", "random", "ips", "direct", "poisson"]
Format = Literal["parquet", "jsonl"]


def _one_amount(given: ArgumentCollection) -> None:
    names = [one.name for one in given.filter_by(value_set=True)]
    amounts = [name for name in names if name != "--copies"]
    if len(amounts) > 1 or not names:
        found = f"not {' and '.join(amounts)}" if amounts else "select needs one of them"
        raise ValueError(f"give one of --rate, --k and --token-budget: {found}")


_AMOUNT = Parameter(group=Group("How much to keep, one of", sort_key=2, validator=_one_amount))
_SHAPE = Parameter(group=Group("Copies, soft cuts, mixtures and what is left out", sort_key=3))
_EVALUATIONS = Parameter(group=Group("Of the sampler contamination", sort_key=3))


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Scoring:
    """The flags that `score` and `select` have in common.

    Attributes:
        corpus: file, folder or glob of .jsonl, .csv, .parquet, .arrow or .warc files, local or s3://..., or
            hf://datasets/USER/NAME?config=NAME&split=NAME.
        proxy: Hub id or folder of the model that ask-llm or perplexity asks (ask-llm's default is the embedded one,
            which is for trying out).
        embedder: of density, semdedup and prototypes: Hub id or folder; the default needs no weights.
        target: corpus of the text that dsir or quality-classifier is to find more of.
        limit: the first documents only; -1: all.
        workers: processes at a time, each with files of its own, and of those that run a model one on each GPU;
            changes the speed, nothing else.
    """

    corpus: Annotated[str, CORPUS]
    proxy: Annotated[str | None, MODEL] = None
    embedder: Annotated[str, MODEL] = "hashed-ngrams"
    target: Annotated[str | None, CORPUS] = None
    limit: int = -1
    reading: Rows = USUAL
    workers: int = CORES


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Cutting:
    """The flags that say which documents `select` keeps.

    Attributes:
        rate: share of the documents to keep; with --upsample or --copies, copies per document, such as 1.5.
        k: documents to keep, or copies.
        token_budget: tokens to keep, of a scorer that counts them; copies count.
        copies: how often to keep a document, by its score: 1=1 2=3 9=5 keeps a score of 1 once, of 2 to 8 three
            times, of 9 or more five times, lower ones never. All copies, or those that fit one of the amounts above.
        mode: how the score is cut; if not given, as the paper does.
        seed: of random modes, and among equal scores.
    """

    rate: Annotated[float | None, _AMOUNT] = None
    k: Annotated[int | None, _AMOUNT] = None
    token_budget: Annotated[int | None, _AMOUNT] = None
    copies: Annotated[NamedValues | None, _AMOUNT] = None
    mode: Mode | None = None
    seed: int = 0


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Shaping:
    """The flags of cuts that are not sharp, not of one share of the corpus, or keep documents several times.

    Attributes:
        temperature: what scores are divided by in the modes ips and direct, so that the cut is soft: near 0 the
            lowest (ips) or highest (direct) scores are kept, far above 1 a uniform sample.
        normalize: divide scores by their standard deviation too, so that a temperature of 1 means the same for all.
        upsample: keep the better documents several times (modes top and bottom), along OLMo 3's curve
            C * (x - drop)**power * exp(growth * (x - drop)) of the share x that scores lower: drop=0.4 drops the
            lowest 40 %, cap=7 is the most copies, power=1, growth=1; those not given are as here. The amount sets C.
        mixture: shares of the amount by label, each label cut by its own scores; needs --labels.
        labels: a store of MetadataLabels; without --mixture, each label is cut by itself, with the same amount.
        fill: if a label holds less than its share: refuse (none), or give the rest to the others.
        repeat: write a row for each copy, with ids that end in #2, #3 ..., instead of one row with a column count.
        exclude: score stores of this corpus, DIR or DIR:THRESHOLD (0 unless given); documents whose score is worse
            than the threshold are left out before the cut, and every amount is of what remains. A store of the
            sampler contamination leaves out what holds a question of an evaluation set.
    """

    temperature: Annotated[float, _SHAPE] = 1.0
    normalize: Annotated[bool, _SHAPE] = False
    upsample: Annotated[NamedValues | None, _SHAPE] = None
    mixture: Annotated[NamedValues | None, _SHAPE] = None
    labels: Annotated[str | None, PLACE, _SHAPE] = None
    fill: Annotated[Literal["none", "others"], _SHAPE] = "none"
    repeat: Annotated[bool, _SHAPE] = False
    exclude: Annotated[list[str], SEVERAL, NAME, Parameter(metavar="DIR:THRESHOLD"), _SHAPE] = field(
        default_factory=list
    )


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Writing:
    """The flags that say how `select` writes its dataset.

    Attributes:
        output: a new folder, local, s3://... or of any fsspec protocol, or hf://datasets/USER/NAME.
        format: of its files (parquet, unless the output ends in jsonl); of dates, binary and very large numbers only
            Parquet keeps the types.
        score_column: where scores go; if not given, the scorer's, e.g. ask_llm.
        work: local folder of scores and of what is not finished (default: the output's name with .work; of a remote
            output, here).
        private: make the Hub's repository private if it is new.
    """

    output: Annotated[str, NEW_PLACE]
    format: Format | None = None
    score_column: Annotated[str | None, NAME] = None
    work: Annotated[str | None, NEW_PLACE] = None
    private: bool = False

    def chosen_format(self) -> Format:
        """Return the format that is given, or the one that the output's name says."""
        usual: Format = "jsonl" if self.output.rstrip("/").removesuffix(".gz").endswith("jsonl") else "parquet"
        return self.format or usual

    def work_folder(self) -> str:
        """Return the folder of what is not finished."""
        output = self.output.rstrip("/")
        return self.work or f"{output.rsplit('/', 1)[-1] if '://' in output else output}.work"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Evaluations:
    """The flags of the sampler contamination.

    Attributes:
        evaluations: tasks or suites (winnow evaluate --list) whose questions are looked for.
        evaluation_texts: further sets of questions: files, folders or globs of rows with a text, and an answer if any.
        evaluation_text_key: column of the questions in these files.
        data_root: folder of the tasks' data sets, laid out as on the Hub; if not given, the Hub.
        words: words in a row that a document must share with a question.
    """

    evaluations: Annotated[list[str], SEVERAL, NAME, _EVALUATIONS] = field(default_factory=list)
    evaluation_texts: Annotated[NamedPlaces, Parameter(metavar="NAME=PATH"), _EVALUATIONS] = field(
        default_factory=list
    )
    evaluation_text_key: Annotated[str, NAME, _EVALUATIONS] = "text"
    data_root: Annotated[str | None, PLACE, _EVALUATIONS] = None
    words: Annotated[int, _EVALUATIONS] = 12

    def section(self) -> dict[str, Any]:
        """Return the section of a study file; nothing if no set is named.

        Raises WinnowError if other flags are given without a set.
        """
        texts = dict(self.evaluation_texts)
        if not self.evaluations and not texts:
            if self != Evaluations():
                raise WinnowError(
                    "--data-root, --words and --evaluation-text-key are of evaluation sets: give --evaluations or "
                    "--evaluation-texts, or leave them out"
                )
            return {}
        if not texts and self.evaluation_text_key != "text":
            raise WinnowError("--evaluation-text-key is of --evaluation-texts: give some, or leave it out")
        said = {"tasks": self.evaluations, "texts": texts, "data_root": self.data_root, "words": self.words}
        said["text_key"] = self.evaluation_text_key if self.evaluation_text_key != "text" else None
        return {"contamination": {name: value for name, value in said.items() if value not in ([], {}, None)}}


def score(
    scoring: Scoring,
    evaluations: Evaluations = Evaluations(),
    *,
    sampler: Annotated[str, NAME],
    output: Annotated[str, NEW_PLACE],
) -> int:
    """Score every document of a corpus with one scorer, on all cores of this machine.

    The score store is DIR/scores/..., of --output DIR. Kill it at any time; the same command goes on where it was.
    Several samplers of one corpus may share --output, and with it embeddings, clusters and n-grams.

    Args:
        sampler: whose scorer is run: a scorer (ask-llm, perplexity, density, semdedup, prototypes, dsir,
            quality-classifier, contamination), random, or one of the paper's with its proxy
            (ask-llm-{small,base,large,xl,xxl,gemma-7b}, perplexity-{small,base,large,xl,xxl}).
        output: local folder; continued if it exists.

    Examples:
      winnow score --corpus crawl/ --sampler ask-llm --proxy google/flan-t5-large --output work
      winnow score --corpus crawl/ --sampler density --output work
      winnow score --corpus s3://bucket/crawl --sampler dsir --target wiki/ --output work --workers 16
      winnow score --corpus crawl/ --sampler contamination --evaluations mmlu qa --data-root evaldata/ --output work
    """
    from launch.small_studies import SmallStudy, refuse_inside, score_values
    from launch.study_samplers import store_of
    from pipeline_steps.stores.score_store import ScoreStore

    values = score_values(output, sampler, scoring, evaluations.section())
    refuse_inside(scoring.corpus, output)
    plan = SmallStudy("winnow score", f"{output}/{sampler}.yaml", values, scoring.workers).run()
    store = f"{output}/scores/{store_of(plan.study.samplers[0])}"
    scores = ScoreStore.open(store)
    said = f"{scores.documents:,} documents scored: {store}"
    if plan.study.contamination:
        said += f"\n{_contaminated(scores)}"
    Terminal().print(said, highlight=False, soft_wrap=True)
    return 0


def _contaminated(store: ScoreStore) -> str:
    """Say how many documents hold questions of evaluation sets, of which, and how many could be found at all."""
    from pipeline_steps.scorers.contamination import overlaps

    found = overlaps(store)
    counts = {name: int(own_N.sum()) for name, own_N in found.by_set.items()}
    most = sorted((name for name in counts if counts[name]), key=lambda name: (-counts[name], name))
    said = ", ".join(f"{name} {counts[name]:,}" for name in most)
    items, long = (sum(counts) for counts in zip(*found.items.values(), strict=True))
    none = ", ".join(name for name, (_, findable) in found.items.items() if not findable)
    return (
        f"{int(found.some.sum()):,} hold questions of evaluation sets{f': {said}' if said else ''}\n"
        f"{long:,} of {items:,} questions are long enough to be found{f', and none of {none}' if none else ''}"
    )


def select(
    scoring: Scoring,
    writing: Writing,
    cutting: Cutting = Cutting(),
    shaping: Shaping = Shaping(),
    *,
    sampler: Annotated[str | None, NAME] = None,
    scores: Annotated[str | None, PLACE] = None,
) -> int:
    """Score a corpus, keep exactly so many of its documents, and write them as a dataset.

    The documents stay in their order and keep all their columns; datasets.load_dataset reads them. The dataset is
    complete once its README.md is there, which is written last; a folder on this disk appears as a whole. Kill it at
    any time; the same command goes on where it was, and the files are the same to the byte for any --workers.
    Credentials come from the environment (AWS_..., HF_TOKEN or `hf auth login`), never from a path.

    A document that is kept several times has one row, whose column `count` says how often: the dataset stays small,
    and its ids are the corpus's. Give --repeat for a trainer that reads no counts.

    Args:
        sampler: as of winnow score; says how the score is cut, too.
        scores: a finished score store of this corpus, instead of scoring.

    Examples:
      winnow select --corpus crawl/ --sampler ask-llm --proxy google/flan-t5-large --rate 0.2 --output kept
      winnow select --corpus crawl/ --sampler density --k 100000 --seed 1 --output s3://bucket/kept
      winnow select --corpus crawl/ --scores work/scores/ask-llm --token-budget 1000000000 --output kept --format jsonl
      winnow select --corpus crawl/ --scores work/scores/ask-llm --token-budget 5000000000 --upsample cap=7 \\
          --output upsampled
      winnow select --corpus crawl/ --scores work/scores/ask-llm --token-budget 5000000000 --labels labels/ \\
          --mixture web=0.6 wiki=0.4 --output mixed
      winnow select --corpus crawl/ --scores scores/ask-llm --rate 0.2 --exclude scores/contamination --output clean
      winnow select --corpus hf://datasets/allenai/c4/en/c4-train.00000-of-01024.json.gz --sampler random --rate 0.1 \\
          --output hf://datasets/USER/c4-tenth --private
    """
    from launch.plan import Plan
    from launch.small_studies import SmallStudy, refuse_inside
    from launch.stages.datasets import Dataset

    start, work = time.monotonic(), writing.work_folder()
    values = _values(scoring, writing, cutting, shaping, sampler, scores)
    refuse_inside(scoring.corpus, writing.output, work)
    small = SmallStudy("winnow select", f"{work}/{sampler or 'scores'}.yaml", values, scoring.workers, ("datasets",))
    stages = Plan.of(small.study()).stages.values()
    (dataset,) = (stage for stage in stages if isinstance(stage, Dataset))
    if (record := dataset.published()) is None:
        if cutting.k and not scores and not shaping.upsample and not cutting.copies:
            _refuse_more_than_there_are(cutting.k, scoring)
        small.run()
        record = dataset.record(work)
    before, after = record["documents"]
    Terminal().print(
        f"{after:,} of {before:,} documents"
        + (f" in {record['copies']:,} copies" if "copies" in record else "")
        + f", {time.monotonic() - start:,.1f} s: {writing.output}"
        + (f"\nscores   {scores or f'{work}/scores'}" if scores or os.path.isdir(f"{work}/scores") else ""),
        highlight=False,
        soft_wrap=True,
    )
    return 0


def _refuse_more_than_there_are(k: int, scoring: Scoring) -> None:
    """Raise InvalidCut, before anything is scored, if a small corpus has fewer documents than are to be kept."""
    from launch.cost.corpus_size import counted_documents

    documents = counted_documents(scoring.corpus, scoring.limit, scoring.reading)
    if documents is not None and k > documents:
        raise InvalidCut(
            f"--k asks for {k:,} documents, and {scoring.corpus} has {documents:,}: give a smaller amount"
        )


def _values(
    scoring: Scoring, writing: Writing, cutting: Cutting, shaping: Shaping, sampler: str | None, scores: str | None
) -> dict[str, Any]:
    from launch.datasets.settings import check_scores, usual_mode
    from launch.small_studies import given_scores_values, score_values
    from pipeline_steps.samplers import find

    if sampler is None and scores is None:
        raise WinnowError("say what chooses: --sampler NAME, or --scores DIR of an existing score store")
    if scores and sampler:
        check_scores(scores, sampler)
    work = writing.work_folder()
    values = given_scores_values(work, scores, scoring) if scores else score_values(work, sampler or "", scoring)
    mode = cutting.mode or ("top" if cutting.copies else usual_mode(scores) if scores else None)
    cut = _cut(cutting, shaping, mode or find(sampler or "").cut)
    if cut.mixture is not None and shaping.labels is None:
        raise InvalidCut("--mixture is of labels: give --labels, the folder of a store of MetadataLabels")
    if cutting.k == 0:
        raise InvalidCut("--k 0 keeps none of the documents: give a larger amount")
    dataset = {
        "output": writing.output.rstrip("/"),
        **cut.made(),
        "mode": mode,
        "labels": shaping.labels,
        "repeat": shaping.repeat or None,
        "exclude": [_spelled_exclusion(one) for one in shaping.exclude] or None,
        "format": writing.chosen_format(),
        "score_column": writing.score_column,
        "private": writing.private,
    }
    return values | {"datasets": [{name: value for name, value in dataset.items() if value is not None}]}


def _spelled_exclusion(text: str) -> str:
    """Return the one spelling of an exclusion that is noted. Raises InvalidCut if it names no folder."""
    from pipeline_steps.filters.cut_settings import Exclusion

    found = Exclusion.of(text)
    return f"{found.scores}:{repr(found.threshold + 0.0).removesuffix('.0')}"


def _cut(cutting: Cutting, shaping: Shaping, mode: str) -> Cut:
    """Return the cut that the flags say. Raises InvalidCut if no corpus can give it."""
    from pipeline_steps.filters.cuts import Cut

    given = {**vars(cutting), **vars(shaping), "mode": mode}
    given |= {name: dict(given[name]) if given[name] else None for name in ("upsample", "copies", "mixture")}
    return Cut(**{field.name: given[field.name] for field in fields(Cut)})
