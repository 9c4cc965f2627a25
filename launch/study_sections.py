"""The sections of study files that stand for themselves: evaluation, datasets, engines; and what every section is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from evaluate_suite.registry import EXTRA_SUITES, SUITES, all_tasks, tasks_with_questions
from evaluate_suite.results import MACRO
from launch.yaml_places import nearest, refusal, short
from pipeline_steps.errors import InvalidCut
from pipeline_steps.filters.cut_settings import Cut, Exclusion
from pipeline_steps.numerics.priority import MODES
from pipeline_steps.samplers import FULL


# What a study may ask for at most. `winnow status` looks at every task, some 20,000 a second
MOST_RUNS = 10_000  # the paper has 22 samplers x 5 rates x 2 models
MOST_TASKS = 10_000  # of each stage: more would wait for a scheduler longer than they work
KEYS = "keys"  # the store that chance draws from
_TAKEN = (FULL, KEYS, "train")  # names of folders that samplers, models and held-out texts would share
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def _name(value: str) -> str:
    if not _NAME.fullmatch(value) or value in _TAKEN:
        raise refusal(
            f"{value!r} cannot be a name here: take letters, digits, - . _ and none of {', '.join(_TAKEN)}",
            given=value,
        )
    return value


Name = Annotated[str, AfterValidator(_name)]
Count = Annotated[int, Field(ge=0)]


class Section(BaseModel):
    """A mapping of a study file: it knows its keys, and takes no others."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)
    inner: ClassVar[frozenset[str]] = frozenset()  # fields that no file sets

    @model_validator(mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        known = [name for name in cls.model_fields if name not in cls.inner]
        for key in value if isinstance(value, dict) else ():
            if key not in known:
                raise refusal(f"no key {key!r}: {nearest(key, known)}", given=key)
        return value


def _few_shot(names: list[str]) -> list[str]:
    known = {one.name for one in all_tasks().values() if one.protocol == "few_shot"}
    known |= {one.suite for one in all_tasks().values() if one.protocol == "few_shot"}
    for name in names:
        if name not in known:
            raise refusal(f"no few-shot task or suite {name!r}: {nearest(name, sorted(known))}", given=name)
    return names


def _domains(paths: dict[str, str] | str) -> dict[str, str] | str:
    if MACRO in paths:  # of a dict, or of "held_out", in which it is not
        raise refusal(f"a domain cannot be called {MACRO}, which is the mean over domains: choose another name", MACRO)
    return paths


FineTunedSuite = Literal["glue", "superglue", "cnn_dailymail", "squad"]
Measure = Literal[FineTunedSuite, "few_shot", "domains", "all"]
_Nth = Annotated[int, Field(ge=1)]
Every = Annotated[
    dict[Measure, _Nth],
    BeforeValidator(
        lambda given: given if isinstance(given, dict) else {"all": given},
        json_schema_input_type=_Nth | dict[Measure, _Nth],
    ),
]


class Evaluation(Section):
    """What is measured of every run, beside the perplexity of held-out text."""

    suites: list[FineTunedSuite] = []
    """Fine-tuned suites, of T5s."""
    few_shot: Annotated[list[str], AfterValidator(_few_shot)] = []
    """Few-shot tasks or suites."""
    domains: Annotated[dict[Name, str] | Literal["held_out"], AfterValidator(_domains)] = {}
    """Corpora by name, to measure bits per byte on (of a T5, per masked byte), or held_out: the held-out texts."""
    instruction_tune: bool = True
    """Tune T5s on FLAN before few-shot tasks are asked; decoders are asked as they are."""
    budget: Literal["paper", "small", "smoke"] = "paper"
    """How long fine-tuning lasts: as in the paper, an hour or a minute."""
    data_root: str | None = None
    """Data sets laid out as on the Hub; if not given, the Hub."""
    limit: Count = 0
    """Questions of each few-shot task; 0: all."""
    every: Every = {}
    """Measure every so many-th of a model's evenly spaced checkpoints, counted from the last, not only the last: one
    number for all measures, or one for each, such as {glue: 4}. Models of `references` are measured at the last."""

    @model_validator(mode="after")
    def _every(self) -> Evaluation:
        given = {"few_shot": self.few_shot, "domains": self.domains}
        there = [*self.suites, *(name for name, asked in given.items() if asked)]
        if self.every and not there:
            raise refusal("every is given and only perplexity is measured, which is so at each checkpoint", "every")
        for name in self.every:
            if name not in ("all", *there):
                raise refusal(f"every names {name}, which is not measured: add it to evaluation", "every", given=name)
        return self

    def every_of(self, measure: str) -> int:
        """Return n, where every n-th checkpoint is to be measured; 0 for the last alone."""
        asked: Mapping[str, int] = dict(self.every)  # type: ignore[arg-type]
        return asked.get(measure, asked.get("all", 0))


def _with_questions(names: list[str]) -> list[str]:
    for name in names:
        try:
            tasks_with_questions([name])
        except InvalidCut as error:
            raise refusal(str(error), given=name) from error
    return names


class Contamination(Section):
    """The questions of evaluation sets, which are looked for in the corpus; the report says what selections hold."""

    tasks: Annotated[list[str], AfterValidator(_with_questions)] = []
    """Tasks or suites, as `winnow evaluate --list` names them."""
    texts: dict[Name, str] = {}
    """Further evaluation sets by name: corpora whose texts are questions, with answers in a column `answer` if any."""
    text_key: Annotated[str, Field(min_length=1)] = "text"
    """Column of the questions in `texts`."""
    data_root: str | None = None
    """Data sets laid out as on the Hub; default: the evaluation's, or the Hub."""
    words: Annotated[int, Field(ge=1, le=100)] = 12
    """The words in a row that a document must share with a question."""
    exclude: Annotated[float, Field(ge=0)] | None = None
    """Leave documents that share more such runs than this out of all selections; if not given, count them only."""

    @model_validator(mode="after")
    def _something(self) -> Contamination:
        if not self.tasks and not self.texts:
            raise refusal("contamination needs tasks or texts, to look for their questions: add one", "tasks")
        if taken := self.texts.keys() & (all_tasks().keys() | SUITES.keys() | EXTRA_SUITES.keys()):
            raise refusal(f"{min(taken)} is a task or suite of the registry: give the set another name", "texts")
        return self


class SlurmJob(Section):
    """Options of Slurm jobs; `sbatch_args` takes any others of sbatch, by their long names."""

    partition: str | None = None
    qos: str | None = None
    time: str = "24:00:00"
    """As sbatch takes it, e.g. 24:00:00."""
    cpus_per_task: Annotated[int, Field(ge=1)] = 1
    mem_per_cpu_gb: float = 2
    gpus_per_task: Count = 0
    """GPUs of each task that runs a model."""
    workers: Count = 0
    """How many tasks of a stage run at a time; 0: all."""
    env_command: str | None = None
    """Shell commands that make `python` the one with winnow."""
    venv_path: str | None = None
    """An activate script that makes `python` the one with winnow."""
    condaenv: str | None = None
    """A conda environment whose `python` is the one with winnow."""
    max_array_size: Annotated[int, Field(ge=1)] = 1001
    """The cluster's MaxArraySize."""
    sbatch_args: dict[str, Any] = {}
    """Further options of sbatch: {account: a, mem: 64G}."""
    srun_args: dict[str, Any] = {}
    """Further options of srun."""


class RayCluster(Section):
    """Where the Ray cluster is, and what each task asks it for."""

    address: str | None = None
    """Default: RAY_ADDRESS, or a cluster started here."""
    cpus_per_task: Annotated[int, Field(ge=1)] = 1
    gpus_per_task: Count = 0
    ray_remote_kwargs: dict[str, Any] = {}
    """Further options of ray.remote, such as resources and memory."""


class EngineSettings(Section):
    """What runs the stages."""

    kind: Literal["local", "slurm", "ray"] = "local"
    workers: Annotated[int, Field(ge=1, le=MOST_TASKS)] = 1
    """Processes at a time, of one machine."""
    tasks: Annotated[int, Field(ge=1, le=MOST_TASKS)] = 1
    """Tasks of each stage over a corpus."""
    slurm: SlurmJob = SlurmJob()
    cpu: dict[str, Any] = {}
    """What of `slurm` is different for stages that run no model."""
    ray: RayCluster = RayCluster()
    launch: str = ""
    """Arguments of accelerate launch, for trainings; see docs/slurm.md."""
    training: dict[str, Any] = {}
    """What a training asks for: of sbatch {gpus-per-node: 8}, or of Ray {num_gpus: 8}."""

    @model_validator(mode="after")
    def _options(self) -> EngineSettings:
        for option in ("nodes", "gpus-per-node"):
            value = self.training.get(option, 1)
            if not str(value).rpartition(":")[2].isdecimal():
                raise refusal(f"engine.training.{option} must be a number, or h100:8, not {short(value)}", "training")
        if self.cpu:
            try:
                SlurmJob.model_validate({**self.slurm.model_dump(exclude_unset=True), **self.cpu})
            except ValidationError as error:
                (first, *_) = error.errors()
                raise refusal(f"engine.cpu: {first['msg']}", "cpu", given=first.get("ctx", {}).get("given")) from error
        return self


def _exclusions(given: list[str]) -> list[str]:
    for one in given:
        try:
            Exclusion.of(one)
        except InvalidCut as error:
            raise refusal(str(error), given=one) from error
    return given


class Shaped(Section):
    """The settings of a sampler's or a dataset's cut beside mode and amount."""

    temperature: float = 1.0
    """The number that scores are divided by in the modes ips and direct."""
    normalize: bool = False
    """Divide scores by their standard deviation too."""
    upsample: dict[str, Any] | None = None
    """Keep the better documents several times: drop, cap, power, growth and dither of the curve."""
    copies: dict[str, int] | None = None
    """The copies of a document, by its score: {"1": 1, "2": 3} keeps scores from 1 once, from 2 three times."""
    mixture: dict[str, float] | None = None
    """Shares of the amount by label, of `labels`."""
    labels: str | None = None
    """A label store: each label is cut by itself."""
    exclude: Annotated[list[str], AfterValidator(_exclusions)] = []
    """Score stores, FOLDER or FOLDER:THRESHOLD, whose worse scores leave a document out; amounts are of the rest."""
    fill: Literal["none", "others"] = "none"
    """none refuses a label that holds less than its share; others gives the rest to the other labels."""

    @model_validator(mode="after")
    def _labelled(self) -> Shaped:
        if self.mixture and not self.labels:
            raise refusal("a mixture is of labels: add labels, a store of MetadataLabels", "mixture")
        return self

    def shaping(self) -> dict[str, Any]:
        """Return the settings that are given, as arguments of Cut."""
        stores = ("labels", "exclude")
        fields = {name: field for name, field in Shaped.model_fields.items() if name not in stores}
        return {name: getattr(self, name) for name, field in fields.items() if getattr(self, name) != field.default}

    def checked(self, mode: str, **amount: Any) -> Cut:
        """Return the cut, or refuse settings that do not go together."""
        try:
            return Cut(mode, **amount, **self.shaping())  # type: ignore[arg-type]
        except InvalidCut as error:
            raise refusal(str(error)) from error

    @property
    def likely_mode(self) -> str:
        """Return a mode that the settings go with, where only the scores say which it is."""
        return "direct" if (self.temperature != 1 or self.normalize) and not self.copies else "top"


class AskedDataset(Shaped):
    """A dataset of the documents that a sampler keeps, as `winnow select` writes it; shaped as the sampler's own cut
    unless it says something of its shape."""

    output: str
    """A new folder: local, s3://..., or hf://datasets/USER/NAME."""
    sampler: str | None = None
    """The sampler whose documents are written; a study of one sampler need not say it."""
    rate: Annotated[float, Field(gt=0)] | None = None
    k: Annotated[int, Field(ge=1)] | None = None
    token_budget: Annotated[int, Field(ge=1)] | None = None
    mode: str | None = None
    """How the scores are cut; default: as the sampler does."""
    seed: Count = 0
    format: Literal["parquet", "jsonl"] = "parquet"
    score_column: str | None = None
    """The column that scores go to; default: the scorer's."""
    private: bool = False
    repeat: bool = False
    """A row for each copy, instead of a column `count`."""

    @model_validator(mode="after")
    def _one_amount(self) -> AskedDataset:
        if self.mode is not None and self.mode not in MODES:
            raise refusal(f"no mode {self.mode!r}: {nearest(self.mode, MODES)}", given=self.mode)
        given = sum(one is not None for one in (self.rate, self.k, self.token_budget))
        if given != 1 and not (given == 0 and self.copies):
            raise refusal("a dataset needs one of rate, k and token_budget", given="output")
        if self.shaping() or self.rate is None or self.rate <= 1:  # the sampler's shape may allow more
            self.checked(self.mode or self.likely_mode, **self.amount)
        return self

    @property
    def amount(self) -> dict[str, Any]:
        """Return the amount and the seed, as arguments of Cut."""
        return {"k": self.k, "rate": self.rate, "token_budget": self.token_budget, "seed": self.seed}


class JoinSettings(Section):
    """A score store of published annotations, as `winnow join` writes it."""

    annotations: str
    """File, folder or glob of Parquet files; s3://... and hf://datasets/... too."""
    column: str
    """The annotations' column of numbers, or of labels."""
    on: Literal["id", "text"] = "id"
    """The property that documents and annotations are matched by: id, or text."""
    key_column: str | None = None
    """The annotations' column of ids or texts; default: id or text."""
    labels: dict[str, float] = {}
    """The score of each label; leave it out for a column of numbers."""
    default: float | None = None
    """Score of documents without an annotation; default: they are an error."""
    duplicates: Literal["error", "max", "first"] = "error"
    """The value of a document whose annotations differ: error refuses it, max or first chooses."""
    lower_is_better: bool = False
    """true if low scores are the good ones."""
    memory: str = "1.5GB"
    """DuckDB's limit; the process takes some 100 MB more."""


class TokenStoreSettings(Section):
    """A token store of the corpus, as `winnow tokenize` writes it."""

    append_eos: bool = False
    """End every document in EOS: for decoders, which need it to end a text and for mask_documents."""
