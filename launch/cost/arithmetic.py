"""What the stages of a study take, as arithmetic: operations, core seconds, bytes. No files, no models.

Speeds of what needs no accelerator are those of this project's own benchmarks, of one core of the machine they ran on,
and say no more than the order of magnitude of another. Shapes: N documents, d dimensions, K clusters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pipeline_steps.paper import C4_TOKENS, SKETCH_BYTES


C4_DOCUMENTS = 364_868_892  # allenai/c4, configuration en, split train: the data set's card
C4_GZIP_BYTES = 305e9  # the same card: 305 GB
PROMPT_TOKENS = 80  # of `ASK_LLM`, estimated: 316 characters, some 4 to a token of T5's vocabulary
WINDOW = 512  # tokens of a T5's window: `pipeline_steps.engines.likelihoods.T5_WINDOW`
PER_CENTROID, ITERATIONS, MOST_CLUSTERS = 256, 20, 10_000  # of `pipeline_steps.embedding.kmeans`
FITTED = 50_000  # documents of a kind, and
EPOCHS = 5  # over them: `pipeline_steps.scorers.quality_classifier`

# Seconds of one core
READ = 6e-6  # a document is read; tests/benchmarks/bench_plumbing.py
PASS = 2e-6  # a scorer's own, beside its model's; the same
TOKENISE = 1 / 1.2e6  # a token: a Unigram of 32,000 pieces in `tokenizers`, as T5's
NGRAMS = 1 / 50_000  # a document of 300 words is cut into n-grams; bench_ngrams.py
CLASSIFY = 1 / 60_000  # the same, and classified
HASH_EMBED = 1 / 5_000  # a document of 380 words is embedded by hashed n-grams
SKETCH, LOOK_UP = 2 * 4.2e-6, 2 * 4.4e-6  # an embedding is counted, and looked up, on two cores; bench_density.py
CUT = 0.5 / 40e6  # a score, for each rate; bench_cut.py
FLOP = 1 / 80e9  # of float32 matrix products: 2 x 768 x 1,000 in 9.6 us on two cores; bench_density.py
FLOP64 = 2 * FLOP  # float64

Origin = Literal["measured", "FLOPs", "assumed", "unknown"]


@dataclass(frozen=True)
class Corpus:
    """What is selected from.

    Attributes:
        documents: N.
        tokens: of the study's tokenizer.
        known_from: where the two numbers come from, for humans.
    """

    documents: int
    tokens: int
    known_from: str

    def read(self, most: int | None) -> int:
        """Tokens of a document that a model reads: all of the mean document, or `most`.

        More than the mean of what is read, since long documents are cut and short ones not filled up: an estimate
        from above.
        """
        mean = round(self.tokens / self.documents)
        return mean if most is None else min(mean, most)


@dataclass(frozen=True)
class Work:
    """What a whole stage takes; None where it cannot be told.

    Attributes:
        flops: floating-point operations of an accelerator.
        core_seconds: of a CPU.
        bytes: on disk.
    """

    flops: float | None = None
    core_seconds: float | None = None
    bytes: float | None = None


@dataclass(frozen=True)
class Spent:
    """What was measured of a stage.

    Attributes:
        hours: device hours of its tasks that are done.
        usual: device hours of a whole task of this kind: the mean of those that are done; None without one.
        left: tasks that are not done; of one that is half done, a half.
    """

    hours: float
    usual: float | None
    left: float


@dataclass(frozen=True)
class StageCost:
    """A stage and its price.

    Attributes:
        stage: its name.
        group: of stages that are shown together.
        accelerator: whether hours are an accelerator's, or a core's.
        tasks: of it.
        done: of those.
        hours: of the whole stage, what is done included.
        hours_left: of what is not done.
        origin: of the hours.
        flops: of the whole stage, by arithmetic.
        bytes: of what it leaves on disk.
    """

    stage: str
    group: str
    accelerator: bool
    tasks: int
    done: int
    hours: float | None
    hours_left: float | None
    origin: Origin
    flops: float | None
    bytes: float | None


def priced(
    stage: str, group: str, accelerator: bool, tasks: tuple[int, int], work: Work, spent: Spent, speed: float
) -> StageCost:
    """The price of a stage: measured if a task of its kind has been done, else by its operations or core seconds.

    Args:
        stage: its name.
        group: it is shown in.
        accelerator: whether it runs on one.
        tasks: how many there are, how many are done.
        work: by arithmetic.
        spent: as measured.
        speed: operations per second of an accelerator, as reached.
    """
    every, done = tasks
    hours, origin = _reckoned(accelerator, work, speed)
    left = None if hours is None else hours * spent.left / every
    if spent.usual is not None or done == every:
        usual = spent.usual or 0.0
        hours, left, origin = spent.hours + usual * (every - done), usual * spent.left, "measured"
    return StageCost(stage, group, accelerator, every, done, hours, left, origin, work.flops, work.bytes)


def _reckoned(accelerator: bool, work: Work, speed: float) -> tuple[float | None, Origin]:
    if accelerator and work.flops is not None:
        return work.flops / speed / 3600, "FLOPs"
    if not accelerator and work.core_seconds is not None:
        return work.core_seconds / 3600, "assumed"
    return None, "unknown"


def ask_llm_flops(config: Any, tokens: int, most: int) -> int:
    """Of one document of so many tokens, cut so that it and the question are `most` at most."""
    from train.flops import first_token_flops

    return first_token_flops(config, min(tokens + PROMPT_TOKENS, most))


def perplexity_flops(config: Any, tokens: int, objective: str = "span_corruption") -> int:
    """Of one document: of a T5, a pass for each mask of each window (`pipeline_steps.engines.likelihoods`)."""
    import numpy as np
    from train.flops import forward_flops

    from pipeline_steps.engines.likelihoods import mask_out, partition_masks

    if objective == "causal":
        return forward_flops(config, tokens, tokens)
    windows = max(-(-tokens // WINDOW), 1)
    length = max(tokens // windows, 1)
    if objective == "prefix_lm":
        return windows * forward_flops(config, length // 2 + 1, length - length // 2)
    masks = partition_masks(length, 0)
    chosen = np.unique(masks)[: 1 if objective == "single_mask" else None]
    examples = [mask_out(np.arange(length), masks == mask, 0, 0) for mask in chosen]
    return windows * sum(forward_flops(config, len(inputs), len(targets)) for inputs, targets in examples)


def clusters_of(documents: int) -> int:
    """K, as `pipeline_steps.embedding.kmeans` chooses it."""
    return max(1, min(round(documents**0.5), MOST_CLUSTERS))


def shared_work(corpus: Corpus, dimension: int | None, tasks: int) -> dict[str, Work]:
    """Of stages that scorers stand on, by name; embeddings by hashed n-grams.

    Args:
        corpus: that is selected from.
        dimension: of an embedding, d; None if it is not known.
        tasks: of a stage.
    """
    N, K = corpus.documents, clusters_of(corpus.documents)
    text = corpus.tokens * C4_GZIP_BYTES / C4_TOKENS
    found = {
        "corpus/deal": Work(core_seconds=N * READ, bytes=text),
        "corpus": Work(core_seconds=0.0),
        # uint16 ids, offsets and keys: `train.token_store`
        "tokens/train": Work(core_seconds=N * READ + corpus.tokens * TOKENISE, bytes=2 * corpus.tokens + 16 * N),
        "density/sketch": Work(core_seconds=N * SKETCH, bytes=tasks * SKETCH_BYTES),
        "density/merge": Work(bytes=SKETCH_BYTES),
        "ngrams/raw": Work(core_seconds=N * (READ + NGRAMS)),
        "quality": Work(core_seconds=2 * FITTED * (READ + EPOCHS * CLASSIFY)),
    }
    if dimension is not None:
        d = dimension
        vectors = N * (8 + 2 * d)  # key and float16
        found["embeddings"] = Work(core_seconds=N * (READ + HASH_EMBED), bytes=vectors)
        fit = ITERATIONS * min(PER_CENTROID * K, N) * K * 2 * d
        found["clusters/fit"] = Work(core_seconds=fit * FLOP, bytes=4 * K * d)
        # Assignments of 16 bytes, and the embeddings once more with row, cluster and cosine
        found["clusters/assign"] = Work(core_seconds=N * K * 2 * d * FLOP, bytes=N * (16 + 16) + vectors)
        pairs = N * (N / K) / 2  # clusters of equal size
        found["clusters/similarities"] = Work(core_seconds=pairs * 2 * d * FLOP64, bytes=12 * N)
    return found


def scoring_work(scorer: str, documents: int, flops: int | None) -> Work:
    """Of a store of one scorer; `flops` of a document, of a scorer that asks a model."""
    N = documents
    own = {"density": LOOK_UP, "dsir": NGRAMS, "quality-classifier": CLASSIFY}
    # Key, score and tokens are 16 bytes in Parquet, as measured; Ask-LLM keeps log P(no) too
    size = N * (20 if scorer == "ask-llm" else 16)
    if scorer in ("ask-llm", "perplexity"):
        return Work(flops=None if flops is None else N * flops, bytes=size)
    return Work(core_seconds=N * (READ + PASS + own.get(scorer, 0.0)), bytes=size)


def selecting_work(documents: int) -> Work:
    """Of a selection: a bitmap."""
    return Work(core_seconds=documents * CUT, bytes=documents / 8)


@dataclass(frozen=True)
class BreakEven:
    """What scores cost beside the trainings that use them.

    Attributes:
        scores: name of the store's stage.
        hours: accelerator hours of it and of what only scorers stand on; None if unknown.
        runs: that are trained on its selections.
        one: share of a run on everything that one run must save to pay for the scores, by model.
        shared: the same, if all `runs` pay alike.
    """

    scores: str
    hours: float | None
    runs: int
    one: Mapping[str, float | None]
    shared: Mapping[str, float | None]


def breaks_even(scores: str, hours: float | None, runs: int, training: Mapping[str, float | None]) -> BreakEven:
    """When scores pay, by model: the extended version's Table 2.

    There, T5-XL scores C4 in 10 hours and T5-Large trains in 24; a training stopped at 56 % pays, as 0.56 x 24 + 10 =
    23.44 < 24. The exact bound is 1 - 10 / 24 = 58.3 %, a saving of 41.7 %, which is what is said here.

    Args:
        scores: name of the store's stage.
        hours: accelerator hours of scoring.
        runs: that share the scores.
        training: accelerator hours of one run, by model.
    """
    from evaluate_suite.report.outcomes import break_even

    def shares(among: int) -> dict[str, float | None]:
        return {
            model: break_even(hours, whole, among) if hours is not None and whole and among else None
            for model, whole in training.items()
        }

    return BreakEven(scores, hours, runs, shares(1), shares(runs))
