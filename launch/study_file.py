"""Study files: what they may say, as pydantic models, and how a mistake in one is named by line and column.

A study is frozen: `model_copy(update=...)` makes another. `winnow schema` prints the JSON schema for editors.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_type_hints

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    create_model,
    model_validator,
)

from evaluate_suite.registry import registry
from launch.stages.runs import Run
from launch.yaml_places import YamlFile, in_words, nearest, read_text, refusal, short
from pipeline_steps.credentials import refuse_credentials
from pipeline_steps.errors import CorpusError, InvalidStudy, WinnowError
from pipeline_steps.numerics.priority import MODES
from pipeline_steps.readers.special_files import refuse_unusable_name
from pipeline_steps.samplers import EMBEDDED, FULL, SAMPLERS, Sampler, table
from train.arguments import PretrainArguments
from train.presets import preset
from train.training_plan import TokenBudget


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


# ------------------------------------------------------------------------------------------------------- samplers


@dataclass(frozen=True)
class StudySampler(Sampler):
    """A sampler of a study.

    Attributes:
        row: the name of the table's row that it is made from.
        scores: a score store that exists already, instead of scoring; "" if the study scores.
    """

    row: str = ""
    scores: str = ""

    @property
    def scored_by(self) -> tuple[Any, ...]:
        """Return what decides its scores: samplers of the same share a store."""
        return self.scorer, self.model, dict(self.options), self.scores


class SamplerSettings(Section):
    """What a study says about a sampler; everything else comes from the table's row."""

    name: Name
    scorer: str | None = None
    model: str | None = None
    mode: str | None = None
    options: dict[str, Any] = {}
    scores: str | None = None

    def chosen(self) -> StudySampler:
        """Return the sampler, with its settings over the row of the table."""
        known = table()
        row = known.get(self.scorer or self.name)
        if row is None and self.scores and not self.scorer:
            row = replace(known["random"], cut="top")  # its scorer is not run
        if row is None:
            what, given = ("scorer", self.scorer) if self.scorer else ("sampler", self.name)
            raise refusal(f"no {what} {given!r}: {nearest(given, known)}", given=given)
        if self.mode is not None and self.mode not in MODES:
            raise refusal(f"no mode {self.mode!r}: {nearest(self.mode, MODES)}", given=self.mode)
        if row.model is None and self.model:
            raise refusal(f"{self.name} asks no model: leave {self.model} out", given=self.model)
        model = row.model if self.model is None else self.model
        if row.model is not None and not model and not self.scores:
            raise refusal(f"{self.name} needs a model: Hub id, folder, or MODEL@STEP of this study", given=self.name)
        values = {field.name: getattr(row, field.name) for field in fields(Sampler)}
        values |= {"name": self.name, "model": model, "options": {**row.options, **_options(row, self.options)}}
        values["cut"] = self.mode or row.cut
        return StudySampler(**values, row=row.name, scores=self.scores or "")


def _options(row: Sampler, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of a scorer as its constructor takes them, or refuse the first that it does not take."""
    if not given:
        return {}
    known: Mapping[str, inspect.Parameter] = row.options_of()
    for name, value in given.items():
        if name not in known:
            raise refusal(f"no option {name!r} of {row.name}: {nearest(name, known)}", given=name)
        try:
            TypeAdapter(known[name].annotation).validate_python(value, strict=not isinstance(value, dict))
        except ValidationError as error:
            said = error.errors()[0]
            where = ".".join([name, *(str(part) for part in said["loc"] if isinstance(part, int))])
            raise refusal(
                f"{where} of {row.name} must be {in_words(said['msg'])}, not {short(value)}",
                "options",
                given=_written(value, name),
            ) from error
    return dict(given)


def _written(value: Any, otherwise: str) -> str:
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else otherwise


def _one_shape(value: Any) -> Any:
    """Bring NAME and {NAME: settings} to one form."""
    if isinstance(value, str):
        return {"name": value}
    if isinstance(value, dict) and len(value) == 1:
        ((name, settings),) = value.items()
        if isinstance(settings, dict) and "name" not in settings:
            return {"name": name, **settings}
    raise refusal(f"a sampler is a name, or one name with its settings, not {short(value)}")


def _all_of_paper(value: Any) -> Any:
    return [one.name for one in table().values() if one.paper] if value == "paper" else value


if TYPE_CHECKING:
    SamplerOf = StudySampler
else:
    SamplerOf = Annotated[
        SamplerSettings,
        BeforeValidator(_one_shape),
        AfterValidator(SamplerSettings.chosen),
        WithJsonSchema(
            {
                "anyOf": [
                    {"enum": list(SAMPLERS)},
                    {
                        "type": "object",
                        "maxProperties": 1,
                        "additionalProperties": {
                            "type": "object",
                            "additionalProperties": False,
                            "properties": {
                                "scorer": {"enum": list(SAMPLERS)},
                                "model": {"type": "string"},
                                "mode": {"enum": list(MODES)},
                                "options": {"type": "object"},
                                "scores": {"type": "string"},
                            },
                        },
                    },
                ]
            }
        ),
    ]


# ------------------------------------------------------------------------------------------------------- trainings

_FIXED = ("tokens", "run_dir", "selection", "held_out", "seed")  # arguments of train.pretrain that a study sets
_HINTS = get_type_hints(PretrainArguments)
_TRAINING: dict[str, Any] = {
    one.name: (_HINTS[one.name] | None, None) for one in fields(PretrainArguments) if one.name not in _FIXED
}
TrainingSettings: Any = create_model("TrainingSettings", __base__=Section, config=(str | None, None), **_TRAINING)


def _trainings(given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return arguments of train.pretrain by name, checked as train.pretrain would check them."""
    found: dict[str, dict[str, Any]] = {}
    for name, settings in given.items():
        own = settings.model_dump(exclude_unset=True)
        config = own.pop("config", None)
        arguments = {"preset": name} | (_config(name, config) if config is not None else {}) | own
        arguments = {key: value for key, value in arguments.items() if value is not None}
        try:
            checked = PretrainArguments(tokens="", run_dir="", **arguments)
            preset(checked.preset)
            TokenBudget(checked.total_tokens, checked.batch_size, checked.input_length)
        except (WinnowError, TypeError) as error:
            why = str(error).rpartition("__init__() ")[2]
            raise refusal(f"{name}: {why}", given=name) from error
        for other, its in found.items():
            if its["preset"] == arguments["preset"]:
                raise refusal(
                    f"{name} and {other} are both {its['preset']}, by which results are named: make a study of each",
                    given=name,
                )
        found[name] = arguments
    return found


def _config(name: str, config: str) -> dict[str, Any]:
    """Return what a file of train.pretrain's arguments says."""
    file: Any = Path(config)
    if not file.exists():
        file = files("train").joinpath("configs", config)
    try:
        text = read_text(config, file)
    except InvalidStudy as error:
        raise refusal(f"{error}: give a file of train.pretrain's arguments", name, given=config) from error
    return dict(YamlFile.read(config, text).validated(TrainingSettings).model_dump(exclude_unset=True))


if TYPE_CHECKING:
    Trainings = Mapping[str, Mapping[str, Any]]
else:
    Trainings = Annotated[dict[Name, TrainingSettings], AfterValidator(_trainings)]


# ------------------------------------------------------------------------------------------ evaluation, engine, study


def _few_shot(names: list[str]) -> list[str]:
    known = {one.name for one in registry().values() if one.protocol == "few_shot"}
    known |= {one.suite for one in registry().values() if one.protocol == "few_shot"}
    for name in names:
        if name not in known:
            raise refusal(f"no few-shot task or suite {name!r}: {nearest(name, sorted(known))}", given=name)
    return names


class Evaluation(Section):
    """What is measured of every run, beside the perplexity of held-out text."""

    suites: list[Literal["glue", "superglue", "cnn_dailymail", "squad"]] = []
    """Fine-tuned suites."""
    few_shot: Annotated[list[str], AfterValidator(_few_shot)] = []
    """Few-shot tasks or suites."""
    instruction_tune: bool = True
    """Tune on FLAN before few-shot tasks are asked."""
    budget: Literal["paper", "small", "smoke"] = "paper"
    """Of fine-tuning."""
    data_root: str | None = None
    """Data sets laid out as on the Hub; if not given, the Hub."""
    limit: Count = 0
    """Questions of each few-shot task; 0: all."""


class SlurmJob(Section):
    """Options of Slurm jobs; `sbatch_args` takes any others of sbatch, by their long names."""

    partition: str | None = None
    qos: str | None = None
    time: str = "24:00:00"
    """As sbatch takes it, e.g. 24:00:00."""
    cpus_per_task: Annotated[int, Field(ge=1)] = 1
    mem_per_cpu_gb: float = 2
    gpus_per_task: Count = 0
    """Of tasks that run a model."""
    workers: Count = 0
    """Tasks of a stage that run at a time; 0: all."""
    env_command: str | None = None
    """Shell commands that make `python` the one with winnow."""
    venv_path: str | None = None
    """An activate script that does."""
    condaenv: str | None = None
    """A conda environment that does."""
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
    """Of ray.remote: resources, memory, ."""


class Engine(Section):
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
    def _options(self) -> Engine:
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


class DatasetSettings(Section):
    """A dataset of the documents that a sampler keeps, as `winnow select` writes it."""

    output: str
    """A new folder: local, s3://..., or hf://datasets/USER/NAME."""
    sampler: str | None = None
    """Whose; not needed if the study has one."""
    rate: Annotated[float, Field(gt=0, le=1)] | None = None
    k: Annotated[int, Field(ge=1)] | None = None
    token_budget: Annotated[int, Field(ge=1)] | None = None
    mode: str | None = None
    """How the scores are cut; default: as the sampler does."""
    seed: Count = 0
    format: Literal["parquet", "jsonl"] = "parquet"
    score_column: str | None = None
    """Where scores go; default: the scorer's."""
    private: bool = False

    @model_validator(mode="after")
    def _one_amount(self) -> DatasetSettings:
        if self.mode is not None and self.mode not in MODES:
            raise refusal(f"no mode {self.mode!r}: {nearest(self.mode, MODES)}", given=self.mode)
        if sum(one is not None for one in (self.rate, self.k, self.token_budget)) != 1:
            raise refusal("a dataset needs one of rate, k and token_budget", given="output")
        return self


def _rates(rates: list[float]) -> list[float]:
    seen: dict[str, float] = {}
    for at, rate in enumerate(rates):
        if not 0 < rate < 1:
            raise refusal(f"the rate {rate:g} must be above 0 and below 1: everything is trained on anyway", at)
        if rate in seen.values():
            raise refusal(f"the rate {rate:g} is there twice", at)
        if f"{rate:g}" in seen:
            raise refusal(f"two runs would be called {rate:g}: round the rates to six digits", at)
        seen[f"{rate:g}"] = rate
    return rates


def _some(samplers: list[Any]) -> list[Any]:
    if not samplers:
        raise refusal("samplers is empty: say paper, or names of samplers")
    return samplers


def _seeds(seeds: list[int]) -> list[int]:
    if not seeds:
        raise refusal("seeds is empty: give one, or leave it out")
    for at, seed in enumerate(seeds):
        if seed < 0:
            raise refusal(f"the seed {seed} must be 0 or more", at)
        if seed in seeds[:at]:
            raise refusal(f"the seed {seed} is there twice", at)
    return seeds


def _output(path: str) -> str:
    try:
        refuse_unusable_name(path)
        usable = path and "://" not in path and not Path(path).is_file()
    except (CorpusError, OSError):  # OSError: its name is too long
        usable = False
    if not usable:
        raise refusal(f"output {short(path)} must be a folder of a disk that all workers see")
    return path


def _filled(path: str | None) -> str | None:
    if path == "":
        raise refusal("the path is empty: say where it is, or leave it out")
    return path


def _sources(value: Any) -> Any:
    """Give the only source of a held-out text the text's name."""
    if not isinstance(value, dict):
        return value
    return {task: {task: one} if isinstance(one, str) else one for task, one in value.items()}


Place = Annotated[str | None, AfterValidator(_filled)]


class TokenStoreSettings(Section):
    """A token store of the corpus, as `winnow tokenize` writes it."""

    append_eos: bool = False


class Study(Section):
    """Everything a study file says."""

    inner = frozenset({"path"})

    path: str = Field(default="", exclude=True)
    output: Annotated[str, AfterValidator(_output)]
    """Folder of all that the study makes."""
    corpus: Place = None
    """What is selected from; default: documentation of installed packages."""
    limit: Annotated[int, Field(ge=-1)] = -1
    """Documents of the corpus that are read; -1: all."""
    tokenizer: str = EMBEDDED
    """Hub id or folder."""
    held_out: Annotated[dict[Name, dict[Name, str]], BeforeValidator(_sources)] = {}
    """Corpora by task, or by task and source, to measure perplexity on; default: parts of the corpus."""
    target: Place = None
    """Corpus that DSIR and the quality classifier take for good."""
    embedder: str = "hashed-ngrams"
    """Hub id or folder of the embedder that Density, SemDeDup and Prototypes stand on."""
    samplers: Annotated[list[SamplerOf], BeforeValidator(_all_of_paper), AfterValidator(_some)] = []
    """The word paper, or a list of names of samplers, or of one name with its settings each."""
    rates: Annotated[list[float], AfterValidator(_rates)] = []
    """Shares of the documents to keep."""
    selection_seed: Count = 0
    """Seed of draws by samplers, and of the order among equal scores."""
    proxies: dict[Name, dict[str, Any]] = {}
    """Stand-ins of random weights, by configuration."""
    models: Trainings = {}
    """Arguments of train.pretrain by name."""
    references: Trainings = {}
    """Models trained on everything only, for over-scaling."""
    seeds: Annotated[list[int], AfterValidator(_seeds)] = [0]
    """Seeds of order and masks in training; initial weights are the same for all."""
    evaluation: Evaluation = Evaluation()
    datasets: list[DatasetSettings] = []
    """Datasets to write of what samplers keep."""
    token_store: TokenStoreSettings | None = None
    """Write the corpus as a token store, into the output itself."""
    engine: Engine = Engine()

    @model_validator(mode="after")
    def _together(self) -> Study:
        """Refuse what cannot go together."""
        if self.limit == 0:
            raise refusal("limit is 0: give a number of documents, or leave it out", "limit")
        if not self.samplers and self.token_store is None:
            raise refusal("there is no samplers: say it")
        if (self.models or self.references) and not self.models:
            raise refusal("there is no models: say it", "references")
        if self.models and not self.rates:
            raise refusal("there are models and no rates: give shares of the documents, such as 0.2", "models")
        if not self.models and self.corpus is None:
            raise refusal("there is neither a corpus nor models: say one of them")
        if self.datasets and (self.corpus is None or (self.models and not self.held_out)):
            raise refusal(
                "datasets are written from the files of a corpus: give corpus, and held_out if models are trained",
                "datasets",
            )
        if self.held_out and self.corpus is None:
            raise refusal("held_out is given and corpus is not: give it, or leave held_out out", "held_out")
        runs = len(self.samplers) * len(self.rates) * len(self.models) * len(self.seeds)
        if runs > MOST_RUNS:
            raise refusal(
                f"samplers, rates, models and seeds make {runs:,} runs, more than the {MOST_RUNS:,} of the largest "
                "study",
                "rates",
            )
        self._check_models()
        self._check_samplers()
        return self

    def _check_models(self) -> None:
        for name in self.references:
            if name in self.models:
                raise refusal(f"{name} is among the models already: two runs would write one folder", "references")
            if self.references[name]["preset"] in {its["preset"] for its in self.models.values()}:
                raise refusal(f"{name} is a preset of the models already: results are named by it", "references")
        for name, config in self.proxies.items():
            if name in self.models:
                raise refusal(f"{name} is among the models already: give the proxy another name", "proxies", name)
            if not isinstance(config.get("model_type"), str):
                raise refusal(f"{name} needs a model_type of transformers, such as t5 or gemma", "proxies", name)

    def _check_samplers(self) -> None:
        names = [sampler.name for sampler in self.samplers]
        for at, name in enumerate(names):
            if name in names[:at]:
                raise refusal(
                    f"two runs would be called {name}: leave one out, or give it a name of its own", "samplers", at
                )
        for at, dataset in enumerate(self.datasets):
            if dataset.sampler is None and len(names) > 1:
                raise refusal(f"a dataset of which sampler? There are {', '.join(names)}", "datasets", at)
            if dataset.sampler not in (None, *names):
                raise refusal(
                    f"no sampler {dataset.sampler!r} in this study: {nearest(dataset.sampler, names)}",
                    "datasets",
                    at,
                    given=dataset.sampler,
                )
        for at, sampler in enumerate(self.samplers):
            self._check_sampler(sampler, at)

    def _check_sampler(self, sampler: StudySampler, at: int) -> None:
        model, is_checkpoint, step = (sampler.model or "").partition("@")
        if is_checkpoint and (model not in self.models or not (step.isascii() and step.isdecimal())):
            raise refusal(
                f"{sampler.name} scores with {sampler.model}, but this study trains no {model}: its models are "
                f"{', '.join(self.models) or 'none'}; give another model",
                "samplers",
                at,
            )
        if is_checkpoint:
            said = PretrainArguments(tokens="", run_dir="", **self.models[model])
            steps = TokenBudget(said.total_tokens, said.batch_size, said.input_length).steps
            if not 0 < int(step) <= steps:
                raise refusal(
                    f"{sampler.name} scores with {sampler.model}, but {model} has {steps:,} steps", "samplers", at
                )
        if sampler.stands_on in ("dsir", "quality-classifier") and self.corpus is not None and self.target is None:
            raise refusal(f"{sampler.name} needs a target: the corpus of text it is to find more of", "samplers", at)

    def runs(self) -> list[Run]:
        """Return all trainings: on everything first, of references too."""
        full = [Run(FULL, 1.0, model, seed) for model in [*self.models, *self.references] for seed in self.seeds]
        selected = [
            Run(sampler.name, rate, model, seed)
            for model in self.models
            for sampler in self.samplers
            for rate in self.rates
            for seed in self.seeds
        ]
        return [*full, *selected]


def shipped() -> list[str]:
    """Return the names of the studies that come with this package."""
    studies = files("launch").joinpath("studies").iterdir()
    return sorted(entry.name for entry in studies if entry.name.endswith(".yaml"))


def open_study(path: str) -> Study:
    """Read a study file, or one that comes with this package.

    Raises:
        InvalidStudy: a mistake, with its line and column.
    """
    return parse_study(path, study_text(path))


def study_text(path: str) -> str:
    """Return the text of a study file, or of one that comes with this package; raises as `open_study`."""
    file: Any = Path(path)
    if path in shipped() and not file.exists():
        file = files("launch").joinpath("studies", path)
    try:
        return read_text(path, file)
    except InvalidStudy as error:
        raise InvalidStudy(f"{error}: give a file, or one of {', '.join(shipped())}") from error


def parse_study(path: str, text: str) -> Study:
    """Read a study from the text of its file; raises as `open_study`."""
    file = YamlFile.read(path, text)
    refuse_credentials(file.plain, path)  # a study is copied into job scripts, and its values into many files
    return file.validated(Study).model_copy(update={"path": path})


def write_study(values: Mapping[str, Any], about: str) -> str:
    """Return the text of a study file that says these values, under a comment."""
    return f"# {about}\n{yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)}"


def schema() -> dict[str, Any]:
    """Return the JSON schema of study files."""
    made = Study.model_json_schema()
    made["properties"].pop("path", None)
    made["properties"]["samplers"] = {"anyOf": [{"const": "paper"}, made["properties"]["samplers"]]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "winnow study"} | made
