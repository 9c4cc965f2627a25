"""What each stage of a study takes, by arithmetic: operations of an accelerator, seconds of a core, bytes on disk.

Speeds of what needs no accelerator are those of this project's own benchmarks on one core. They give no more than the
order of magnitude for another machine. Models are counted from their configurations, without weights and without the
Hub. Shapes: N documents, d dimensions, K clusters.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatchmethod
from typing import Any

from launch.cost.corpus_size import CorpusSize
from launch.stages.base import Stage, place_of
from launch.stages.corpora import Corpus, Deal, Split, Text, TokenStage
from launch.stages.foundations import (
    HASHED_NGRAMS,
    Assignments,
    Centroids,
    Embeddings,
    NgramStage,
    QualityModel,
    Similarities,
    Sketch,
    SketchParts,
    Target,
)
from launch.stages.joins import Joined, JoinKeysStage
from launch.stages.measurements import BitsPerByte, FewShots, FineTuned, Perplexity, Tuned
from launch.stages.runs import Training
from launch.stages.scores import GivenScores, Proxy, Scores, ScoringCheckpoint, Selected
from launch.study_file import Study
from pipeline_steps.errors import ModelError
from pipeline_steps.paper import C4_TOKENS, SKETCH_BUCKETS, SKETCH_ROWS
from pipeline_steps.samplers import find
from train.arguments import PretrainArguments


C4_GZIP_BYTES = 305e9  # allenai/c4, configuration en: 305 GB, says the data set's card
PROMPT_TOKENS = 80  # of `ASK_LLM`, estimated: 316 characters, some 4 to a token of T5's vocabulary
READ_TOKENS = 512  # tokens that scorers read unless a study says otherwise: their max_tokens
T5_WINDOW = 512  # tokens of a T5's window: `pipeline_steps.engines.likelihoods.T5_WINDOW`
PER_CENTROID, ITERATIONS, MOST_CLUSTERS = 256, 20, 10_000  # of `pipeline_steps.embedding.kmeans`
FITTED = 50_000  # documents of each kind that a quality classifier is fitted to, and
EPOCHS = 5  # how often: `pipeline_steps.scorers.quality_classifier`
_HELD_OUT_WINDOWS = 256  # of a held-out task: `evaluate_suite.perplexity.HeldOut`
DOMAIN_DOCUMENTS = 1_000  # of a domain at most, each of READ_TOKENS: `evaluate_suite.domains.DomainReading`
_ROWS = 32_128  # of the embedding of every published T5: config.json

# Seconds of one core
READ = 6e-6  # to read a document; tests/benchmarks/bench_plumbing.py
PASS = 2e-6  # a scorer's own, for a document, beside its model's; the same
TOKENISE = 1 / 1.2e6  # for a token: a Unigram of 32,000 pieces in `tokenizers`, as T5's
NGRAMS = 1 / 50_000  # to cut a document of 300 words into n-grams; bench_ngrams.py
FIND_QUESTIONS = 1 / 1_300  # to look for questions of evaluation sets in a document of C4; bench_contamination.py
CLASSIFY = 1 / 60_000  # to do the same, and to classify the document
HASH_EMBED = 1 / 5_000  # to embed a document of 380 words by hashed n-grams
SKETCH, LOOK_UP = 2 * 4.2e-6, 2 * 4.4e-6  # to count an embedding, and to look it up, on two cores; bench_density.py
CUT = 0.5 / 40e6  # to cut a score, for each rate; bench_cut.py
FLOP = 1 / 80e9  # of float32 matrix products: 2 x 768 x 1,000 in 9.6 us on two cores; bench_density.py
FLOP64 = 2 * FLOP  # of float64

_SIZES = ("small", "base", "large", "xl")  # Flan-T5 has the shapes of T5 v1.1: google/flan-t5-*/config.json
_XXL = {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64}  # google/t5-v1_1-xxl
_GEMMA_7B = {  # google/gemma-7b-it/config.json
    "model_type": "gemma",
    "vocab_size": 256_000,
    "hidden_size": 3072,
    "intermediate_size": 24_576,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "head_dim": 256,
}
_SENTENCE_T5 = "sentence-transformers/sentence-t5-base"  # the encoder of T5-Base: Ni et al. 2021 (arXiv 2108.08877)
_ENCODED = {_SENTENCE_T5: 256}  # max_seq_length of its sentence_bert_config.json
_USUALLY_ENCODED = 512  # tokens that `pipeline_steps.Embedder` reads with a model that states no limit


@dataclass(frozen=True)
class Work:
    """What a whole stage takes; None where that is not known.

    Attributes:
        flops: floating-point operations of an accelerator.
        core_seconds: seconds of a CPU's core.
        bytes: bytes that stay on disk.
    """

    flops: float | None = None
    core_seconds: float | None = None
    bytes: float | None = None


class Works:
    """What each stage of a study takes that selects from a corpus of this size."""

    def __init__(self, study: Study, size: CorpusSize) -> None:
        self._study, self._size, self._documents = study, size, size.documents
        self._trainings: dict[tuple[str, tuple[int, ...]], tuple[Any, Any]] = {}

    @singledispatchmethod
    def of(self, stage: Stage) -> Work:
        """Return what a stage takes, by its class; nothing is known of the classes that are not among those below."""
        return Work()

    def _is_corpus(self, text: Text) -> bool:
        """Return whether a text is the corpus, the only one whose size is known."""
        if isinstance(text, Split):
            return text.name == "train"
        return (text.path, text.limit) == (self._study.corpus, self._study.limit)

    # -------------------------------------------------------------------------------------------- corpora, foundations

    @of.register
    def _deal(self, stage: Deal) -> Work:
        size = self._size.tokens * C4_GZIP_BYTES / C4_TOKENS
        return Work(core_seconds=self._documents * READ, bytes=size)

    @of.register(Corpus)
    @of.register(GivenScores)
    def _is_there(self, stage: Stage) -> Work:
        return Work(core_seconds=0.0)

    @of.register
    def _tokens(self, stage: TokenStage) -> Work:
        if not self._is_corpus(stage.text):
            return Work()
        seconds = self._documents * READ + self._size.tokens * TOKENISE
        # uint16 ids, offsets and keys: `train.token_store`
        return Work(core_seconds=seconds, bytes=2 * self._size.tokens + 16 * self._documents)

    @of.register
    def _join_keys(self, stage: JoinKeysStage) -> Work:
        return Work(core_seconds=self._documents * (READ + PASS), bytes=40 * self._documents)

    @of.register
    def _joined(self, stage: Joined) -> Work:
        return Work(bytes=16 * self._documents)  # how many annotations there are is not known

    @of.register
    def _embeddings(self, stage: Embeddings) -> Work:
        from train.costs import encoder_flops

        d = _dimension(stage)
        size = None if d is None else self._documents * (8 + 2 * d)  # a key, and a vector in float16
        if stage.embedder == HASHED_NGRAMS:
            return Work(core_seconds=self._documents * (READ + HASH_EMBED), bytes=size)
        usual = _ENCODED.get(stage.embedder, _USUALLY_ENCODED)
        tokens = self._size.read(stage.options.get("max_tokens") or usual)
        return Work(flops=self._every(lambda: encoder_flops(shape_of(stage.embedder), tokens)), bytes=size)

    @of.register
    def _sketch_parts(self, stage: SketchParts) -> Work:
        return Work(core_seconds=self._documents * SKETCH, bytes=stage.tasks * _sketch_bytes(stage))

    @of.register
    def _sketch(self, stage: Sketch) -> Work:
        return Work(bytes=_sketch_bytes(stage.parts))

    @of.register
    def _centroids(self, stage: Centroids) -> Work:
        if (d := _dimension(stage.embeddings)) is None:
            return Work()
        K = self._clusters(stage)
        fit = stage.options.get("iterations", ITERATIONS) * min(PER_CENTROID * K, self._documents) * K * 2 * d
        return Work(core_seconds=fit * FLOP, bytes=4 * K * d)

    @of.register
    def _assignments(self, stage: Assignments) -> Work:
        d, N = _dimension(stage.centroids.embeddings), self._documents
        if d is None:
            return Work()
        # Assignments of 16 bytes, and the embeddings once more with row, cluster and cosine
        return Work(core_seconds=N * self._clusters(stage.centroids) * 2 * d * FLOP, bytes=N * (16 + 16 + 8 + 2 * d))

    @of.register
    def _similarities(self, stage: Similarities) -> Work:
        d, N = _dimension(stage.assignments.centroids.embeddings), self._documents
        if d is None:
            return Work()
        pairs = N * (N / self._clusters(stage.assignments.centroids)) / 2  # of clusters of equal size
        return Work(core_seconds=pairs * 2 * d * FLOP64, bytes=12 * N)

    @of.register
    def _ngrams(self, stage: NgramStage) -> Work:
        text = stage.text.text if isinstance(stage.text, Target) else stage.text
        return Work(core_seconds=self._documents * (READ + NGRAMS)) if self._is_corpus(text) else Work()

    @of.register
    def _quality(self, stage: QualityModel) -> Work:
        return Work(core_seconds=2 * stage.options.get("documents", FITTED) * (READ + EPOCHS * CLASSIFY))

    def _clusters(self, stage: Centroids) -> int:
        return stage.options.get("n_clusters") or clusters_of(self._documents)

    def _every(self, flops: Callable[[], int]) -> int | None:
        """Return the operations for all documents; None for a model that is not there, or neither a T5 nor a Llama."""
        try:
            return self._documents * flops()
        except (AttributeError, ModelError):
            return None

    # ---------------------------------------------------------------------------------------------- scores, selections

    @of.register
    def _scores(self, stage: Scores) -> Work:
        cost = find(stage.row).cost
        # Key, score and tokens are 16 bytes in Parquet, as measured; Ask-LLM keeps log P(no) too
        size = self._documents * (20 if cost == "ask-llm" else 16)
        if cost in ("ask-llm", "perplexity"):
            return Work(flops=self._asked(stage, cost), bytes=size)
        # Similarities and clusters are read beside the documents; only the sketch is asked
        look_up = LOOK_UP if isinstance(stage.stands_on, Sketch) else 0.0
        own = {"read": 0.0, "look-up": look_up, "n-grams": NGRAMS, "words": FIND_QUESTIONS, "classify": CLASSIFY}[cost]
        return Work(core_seconds=self._documents * (READ + PASS + own), bytes=size)

    def _asked(self, stage: Scores, cost: str) -> int | None:
        most = stage.options.get("max_tokens", READ_TOKENS)
        shape, tokens = None if stage.model is None else shape_of(stage.model), self._size.read(most)
        if cost == "ask-llm":
            return self._every(lambda: ask_llm_flops(shape, tokens, most))
        return self._every(lambda: perplexity_flops(shape, tokens, stage.options.get("objective", "span_corruption")))

    @of.register
    def _selected(self, stage: Selected) -> Work:
        return Work(core_seconds=self._documents * CUT, bytes=self._documents / 8)

    # ----------------------------------------------------------------------------------------- trainings, measurements

    @of.register
    def _training(self, stage: Training) -> Work:
        arguments, cost = self._arguments(stage), self._trained(stage)[1]
        share = 1 - arguments.schedule_to(arguments.budget).decay_start / cost.steps if stage.trunk else 1.0
        return Work(flops=share * cost.flops, bytes=cost.checkpoints * cost.checkpoint_bytes)

    def _arguments(self, stage: Training) -> PretrainArguments:
        settings = {**stage.arguments, **stage.others, "milestones": list(stage.milestones)}
        return PretrainArguments(**{**settings, "tokens": "", "run_dir": ""})

    def _trained(self, stage: Training) -> tuple[Any, Any]:
        """Return the configuration of a training's model, and the training's cost."""
        from train.costs import run_cost
        from train.model import model_config
        from train.presets import vocabulary_of

        which = stage.run.model, stage.milestones
        if which not in self._trainings:
            arguments = self._arguments(stage)
            cost = run_cost(arguments, self._size.tokens)
            self._trainings[which] = model_config(arguments.preset, vocabulary_of(arguments.preset)), cost
        return self._trainings[which]

    @of.register
    def _perplexity(self, stage: Perplexity) -> Work:
        _, cost = self._trained(stage.training)
        rows = _HELD_OUT_WINDOWS * len(stage.held_out) * cost.checkpoints
        return Work(flops=rows * self._row(stage.training)[1], bytes=0)

    @of.register
    def _bits_per_byte(self, stage: BitsPerByte) -> Work:
        length, row = self._row(stage.training)
        documents = DOMAIN_DOCUMENTS * len(stage.domains) * max(len(stage.steps), 1)
        return Work(flops=documents * READ_TOKENS / length * row, bytes=0)

    def _row(self, training: Training) -> tuple[int, float]:
        """Return the tokens of a training's row, and the operations of its forward pass."""
        from train.costs import forward_flops

        config, cost = self._trained(training)
        lengths = cost.encoder_tokens // cost.samples, cost.target_tokens // cost.samples
        return lengths[0], forward_flops(config, *lengths)

    @of.register
    def _fine_tuned(self, stage: FineTuned) -> Work:
        return self._tuning(stage, stage.what)

    @of.register
    def _few_shots(self, stage: FewShots) -> Work:
        return self._tuning(stage, "flan") if stage.instruction_tune else Work()

    def _tuning(self, stage: Tuned, suite: str) -> Work:
        """Return what fine-tuning takes at most: each row is taken for full."""
        from evaluate_suite.fine_tune import LENGTHS
        from train.costs import training_flops
        from train.fine_tune import BUDGETS

        config, cost = self._trained(stage.training)
        budget = BUDGETS[stage.budget]
        tunings = max(len(stage.steps), 1)
        rows = budget["steps"] * budget["batch_size"] * tunings
        return Work(flops=rows * training_flops(config, *LENGTHS[suite]), bytes=cost.checkpoint_bytes * tunings)


# -------------------------------------------------------------------------------------------- operations of a document


def ask_llm_flops(config: Any, tokens: int, most: int) -> int:
    """Return the operations for a document of so many tokens, cut so that it and the question are `most` at most."""
    from train.costs import first_token_flops

    return first_token_flops(config, min(tokens + PROMPT_TOKENS, most))


def perplexity_flops(config: Any, tokens: int, objective: str = "span_corruption") -> int:
    """Return the operations for a document: a T5 passes each window once for each mask.

    See `pipeline_steps.engines.likelihoods`.
    """
    import numpy as np

    from pipeline_steps.engines.likelihoods import mask_out, partition_masks
    from train.costs import forward_flops

    if objective == "causal":
        return forward_flops(config, tokens, tokens)
    windows = max(-(-tokens // T5_WINDOW), 1)
    length = max(tokens // windows, 1)
    if objective == "prefix_lm":
        return windows * forward_flops(config, length // 2 + 1, length - length // 2)
    masks = partition_masks(length, 0)
    chosen = np.unique(masks)[: 1 if objective == "single_mask" else None]
    examples = [mask_out(np.arange(length), masks == mask, 0, 0) for mask in chosen]
    return windows * sum(forward_flops(config, len(inputs), len(targets)) for inputs, targets in examples)


def _sketch_bytes(stage: SketchParts) -> int:
    """Return the bytes of a sketch: int32 counters."""
    return 4 * int(stage.options.get("rows", SKETCH_ROWS) * stage.options.get("buckets", SKETCH_BUCKETS))


def clusters_of(documents: int) -> int:
    """Return K as `pipeline_steps.embedding.kmeans` chooses it."""
    return max(1, min(round(documents**0.5), MOST_CLUSTERS))


# ---------------------------------------------------------------------------------------------------- shapes of models


def shape_of(model: str | Proxy | ScoringCheckpoint) -> Any | None:
    """Return the configuration of a model that scores or embeds; None if neither this package nor the disk has it."""
    from transformers import AutoConfig

    from pipeline_steps.engines.models import load_config

    if isinstance(model, ScoringCheckpoint):
        from train.model import model_config  # which imports whole models
        from train.presets import vocabulary_of

        preset = model.training.arguments["preset"]
        return model_config(preset, vocabulary_of(preset))
    try:
        if isinstance(model, Proxy):  # its vocabulary is that of the study's tokenizer, and is taken for T5's
            settings = {name: value for name, value in model.config.items() if name != "seed"}
            return AutoConfig.for_model(**{"vocab_size": _ROWS, **settings})
        if known := _published(model):
            return AutoConfig.for_model(**known)
        place = place_of(model)
        return load_config(place, local_files_only=not os.path.isdir(place))
    except (OSError, ValueError, TypeError, AttributeError):  # a proxy may say anything, until it is built
        return None


def _published(model: str) -> dict[str, Any] | None:
    from train.presets import PRESETS

    t5 = {"model_type": "t5", "vocab_size": _ROWS}
    family, _, size = model.rpartition("-")
    if family in ("google/flan-t5", "google/t5-v1_1"):
        if size == "xxl":
            return t5 | PRESETS["t5-v1_1-xl"] | _XXL
        return t5 | PRESETS[f"t5-v1_1-{size}"] if size in _SIZES else None
    return {_SENTENCE_T5: t5 | PRESETS["t5-base"], "google/gemma-7b-it": _GEMMA_7B}.get(model)


def _dimension(stage: Embeddings) -> int | None:
    """Return d, the dimensions of an embedding; None if the embedder is not known."""
    if stage.embedder == HASHED_NGRAMS:
        from pipeline_steps import Embedder

        return int(Embedder("", model=HASHED_NGRAMS).schema.field("embedding").type.byte_width // 2)
    shape = shape_of(stage.embedder)
    return None if shape is None else int(shape.hidden_size)
