"""What a study file says, as typed dataclasses; `reading` makes and checks them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline_steps.numerics.priority import Mode
from pipeline_steps.samplers import FULL, SAMPLERS
from pipeline_steps.samplers import Sampler as Row


ENGINES = ("local", "slurm", "ray")
# What a study may ask for at most. `winnow status` looks at every task, some 20,000 a second
MOST_RUNS = 10_000  # the paper has 22 samplers x 5 rates x 2 models
MOST_TASKS = 10_000  # of each stage: more would wait for a scheduler longer than they work
_JOBS: dict[str, Any] = {
    "workers": int,
    "time": str,  # 24:00:00 without quotes is the number 86400 to YAML, and minutes to Slurm
    "cpus_per_task": int,
    "mem_per_cpu_gb": float,
    "gpus_per_task": int,
    "tasks_per_job": int,
    "randomize_start_duration": int,
}
# Arguments of datatrove's SlurmPipelineExecutor that a study may set, and their types: the others it sets itself
SLURM = _JOBS | dict.fromkeys("partition qos env_command condaenv venv_path mail_type mail_user".split(), str)
SLURM |= {"max_array_size": int, "sbatch_args": dict, "srun_args": dict}
# The same of its RayPipelineExecutor, and where the cluster is
RAY = _JOBS | {"address": str, "nodes_per_task": int, "ray_remote_kwargs": dict}
TUNED = ("glue", "superglue", "cnn_dailymail", "squad")


@dataclass(frozen=True)
class Sampler:
    """How a study chooses documents.

    Attributes:
        name: unique in the study.
        scorer: one of `SCORERS`, the rows of the table that are scorers themselves; "" for a random choice.
        mode: how the score is cut, as for `pipeline_steps.Cut`.
        model: of a scorer that asks one: Hub id, folder, "embedded", one of the study's proxies, or a checkpoint of a
            run on everything, "<model of the study>@<step>".
        options: further arguments of the scorer, e.g. {"max_tokens": 256}.
    """

    name: str
    scorer: str
    mode: Mode
    model: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def scored_by(self) -> tuple[Any, ...]:
        """Return what decides the scores: samplers for which it is equal share a store."""
        return self.scorer, self.model, dict(self.options)


_PLAIN = {row.scorer: row.name for row in SAMPLERS.values() if not row.model}


def of_table(row: Row) -> Sampler:
    """Return a row of the table of samplers as a study states it."""
    return Sampler(row.name, _PLAIN[row.scorer].replace("random", ""), row.cut, row.model or "", row.options)


SCORERS = tuple(name for name in _PLAIN.values() if name != "random")
MODELS = {row.name for row in SAMPLERS.values() if row.model == ""}  # scorers that ask a model
KNOWN_SAMPLERS = {row.name: of_table(row) for row in SAMPLERS.values()}
PAPER_SAMPLERS = {name: sampler for name, sampler in KNOWN_SAMPLERS.items() if SAMPLERS[name].paper}


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        sampler: name, or "full".
        rate: share of the documents; 1 for everything.
        model: name in the study.
        seed: of order and masks.
    """

    sampler: str
    rate: float
    model: str
    seed: int

    @property
    def name(self) -> str:
        """Unique in the study, a folder under runs/."""
        return f"{self.model}/{self.sampler}-{self.rate:g}-seed{self.seed}"


@dataclass(frozen=True)
class Evaluation:
    """What is measured of every run, beside the perplexity of held-out text.

    Attributes:
        suites: that are fine-tuned.
        few_shot: tasks or suites that are asked.
        instruction_tune: on FLAN before they are.
        budget: of fine-tuning.
        data_root: see `evaluate_suite.data`.
        limit: questions of each few-shot task; 0: all.
    """

    suites: tuple[str, ...] = ()
    few_shot: tuple[str, ...] = ()
    instruction_tune: bool = True
    budget: str = "paper"
    data_root: str | None = None
    limit: int = 0


@dataclass(frozen=True)
class Engine:
    """What runs the stages.

    Attributes:
        kind: one of `ENGINES`.
        workers: processes at a time, of one machine; of those that run a model, one on each GPU.
        tasks: of each scoring stage.
        ray: arguments of datatrove's RayPipelineExecutor, and `address` of the cluster if not RAY_ADDRESS.
        slurm: arguments of datatrove's SlurmPipelineExecutor: partition, time, cpus_per_task, gpus_per_task, ...
        cpu: what of `slurm` is different for stages that run no model: {"partition": "cpu"}.
        launch: arguments of accelerate launch; on Slurm with $MASTER_ADDR and others, see docs/slurm.md.
        training: what a training asks for: of sbatch, {"gpus-per-node": 8, "time": "48:00:00"}, or of Ray,
            {"num_gpus": 8}.
    """

    kind: str = "local"
    workers: int = 1
    tasks: int = 1
    ray: Mapping[str, Any] = field(default_factory=dict)
    slurm: Mapping[str, Any] = field(default_factory=dict)
    cpu: Mapping[str, Any] = field(default_factory=dict)
    launch: str = ""
    training: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """Everything a study file says.

    Attributes:
        path: of the file.
        output: folder of all it makes.
        corpus: what is selected from, as `pipeline_steps.readers.corpus` takes it; None: the documentation of
            installed packages.
        limit: documents of it; -1 for all.
        tokenizer: Hub id or folder, or "embedded".
        held_out: corpora by task and source whose perplexity is measured; empty: parts of the corpus.
        target: corpus that DSIR and the quality classifier take for good.
        embedder: of density, SemDeDup and prototypes.
        samplers: in the file's order.
        rates: shares of the documents; empty: nothing is selected.
        proxies: models of random weights that are built from these configurations, by name: stand-ins.
        models: arguments of train.pretrain by name; empty: nothing is trained, and no text of the corpus held out.
        references: models that are trained on everything only, for over-scaling and effective size.
        seeds: of order and masks in training; initial weights and draws of samplers are the same for all.
        evaluation: what is measured.
        engine: what runs it.
    """

    path: str
    output: str
    corpus: str | None
    limit: int
    tokenizer: str
    held_out: Mapping[str, Mapping[str, str]]
    target: str | None
    embedder: str
    samplers: tuple[Sampler, ...]
    rates: tuple[float, ...]
    proxies: Mapping[str, Mapping[str, Any]]
    models: Mapping[str, Mapping[str, Any]]
    references: Mapping[str, Mapping[str, Any]]
    seeds: tuple[int, ...]
    evaluation: Evaluation
    engine: Engine

    def runs(self) -> list[Run]:
        """All trainings: on everything first, of references too."""
        full = [Run(FULL, 1.0, model, seed) for model in [*self.models, *self.references] for seed in self.seeds]
        selected = [
            Run(sampler.name, rate, model, seed)
            for model in self.models
            for sampler in self.samplers
            for rate in self.rates
            for seed in self.seeds
        ]
        return [*full, *selected]
