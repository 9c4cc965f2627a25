"""What each stage of a study takes, by arithmetic: `costs` with the study's own models, corpus and settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from launch.study.costs import (
    Corpus,
    Work,
    ask_llm_flops,
    perplexity_flops,
    scoring_work,
    selecting_work,
    shared_work,
)
from launch.study.schema import MODELS, Sampler, Study
from launch.study.shapes import encoded_tokens, shape_of
from launch.study.stages import Stage, splits_of, store_of
from pipeline_steps.embedding.embeddings import HASHED_NGRAMS, Embedder


_READ = 512  # tokens that scorers read unless told otherwise: their max_tokens
_WINDOWS = 256  # of a held-out task: `evaluate_suite.perplexity.HeldOut`
_VOCABULARY = 32_100  # ids of every published T5: t5/data/utils.py


class Works:
    """What each stage of a study takes, by arithmetic.

    Args:
        study: the study.
        corpus: what is selected from.
    """

    def __init__(self, study: Study, corpus: Corpus) -> None:
        self.study, self.corpus = study, corpus
        self._models = {**study.models, **study.references}
        self._trained: dict[str, tuple[Any, Any]] = {}
        self._embedder = None if study.embedder == HASHED_NGRAMS else shape_of(study, study.embedder)
        self._shared = shared_work(corpus, self._dimension(), study.engine.tasks)
        self._kinds: dict[str, Callable[[Stage], Work]] = {
            "scores": self._scores,
            "selections": lambda stage: selecting_work(corpus.documents),
            "runs": self._run,
            "measured": self._measured,
            "embeddings": self._embeddings,
        }

    def of(self, stage: Stage) -> Work:
        """Of one stage; of held-out and target text, whose size is not known, nothing."""
        if stage.name == "ngrams/target" and self.study.target is None:  # part of the corpus, all of which is read
            return self._shared["ngrams/raw"]
        kind = stage.name.partition("/")[0]
        return self._kinds[kind](stage) if kind in self._kinds else self._shared.get(stage.name, Work())

    def _dimension(self) -> int | None:
        if self.study.embedder == HASHED_NGRAMS:
            return int(Embedder("", model=HASHED_NGRAMS).schema.field("embedding").type.byte_width // 2)
        shape = self._embedder
        return None if shape is None else int(shape.hidden_size)

    def _embeddings(self, stage: Stage) -> Work:
        work = self._shared.get("embeddings", Work())
        if self.study.embedder == HASHED_NGRAMS:
            return work
        from train.costs import encoder_flops

        tokens = self.corpus.read(encoded_tokens(self.study.embedder))
        flops = _counted(lambda: encoder_flops(self._embedder, tokens))
        return Work(flops=None if flops is None else self.corpus.documents * flops, bytes=work.bytes)

    def _scores(self, stage: Stage) -> Work:
        sampler = _sampler(self.study, stage.name)
        if sampler is None or sampler.scorer not in MODELS:
            return scoring_work(sampler.scorer if sampler else "", self.corpus.documents, None)
        shape, most = shape_of(self.study, sampler.model), sampler.options.get("max_tokens", _READ)
        if sampler.scorer == "ask-llm":
            flops = _counted(lambda: ask_llm_flops(shape, self.corpus.read(most), most))
        else:
            objective = sampler.options.get("objective", "span_corruption")
            flops = _counted(lambda: perplexity_flops(shape, self.corpus.read(most), objective))
        return scoring_work(sampler.scorer, self.corpus.documents, flops)

    def trained(self, model: str) -> tuple[Any, Any]:
        """Configuration of a model that is trained, and the cost of one training."""
        if model not in self._trained:
            from train.arguments import PretrainArguments
            from train.costs import run_cost
            from train.model import model_config

            arguments = PretrainArguments(tokens="", run_dir="", **self._models[model])
            cost = run_cost(arguments, self.corpus.tokens)
            self._trained[model] = model_config(arguments.preset, _VOCABULARY), cost
        return self._trained[model]

    def _run(self, stage: Stage) -> Work:
        _, cost = self.trained(stage.made["model"])
        return Work(flops=cost.flops, bytes=cost.checkpoints * cost.checkpoint_bytes)

    def _measured(self, stage: Stage) -> Work:
        """At most: rows of fine-tuning are taken for full. The questions of few-shot tasks are not counted."""
        from evaluate_suite.fine_tune import LENGTHS
        from train.costs import forward_flops, training_flops
        from train.fine_tune import BUDGETS

        _, model, _, what = stage.name.split("/")
        config, cost = self.trained(model)
        evaluation = self.study.evaluation
        if what == "perplexity":
            length = cost.encoder_tokens // cost.samples
            rows = _WINDOWS * len(splits_of(self.study)) * cost.checkpoints
            return Work(flops=rows * forward_flops(config, length, cost.target_tokens // cost.samples), bytes=0)
        if what == "few-shot" and not evaluation.instruction_tune:
            return Work()
        budget, lengths = BUDGETS[evaluation.budget], LENGTHS["flan" if what == "few-shot" else what]
        rows = budget["steps"] * budget["batch_size"]
        return Work(flops=rows * training_flops(config, *lengths), bytes=cost.checkpoint_bytes)


def _counted(flops: Callable[[], int]) -> int | None:
    """Operations, or None of a model that is not there or is neither a T5 nor like a Llama."""
    try:
        return flops()
    except AttributeError:
        return None


def _sampler(study: Study, store: str) -> Sampler | None:
    return next((one for one in study.samplers if one.scorer and store_of(one) == store), None)
