"""Study files: what they may say, as pydantic models, and how a mistake in one is named by line and column.

A study is frozen: `model_copy(update=...)` makes another. `winnow schema` prints the JSON schema for editors.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from launch.stages.runs import Run
from launch.study_samplers import SamplerOf, StudySampler, Trainings, all_of_paper, sampler_schema
from launch.study_sections import (
    MOST_RUNS,
    AskedDataset,
    Contamination,
    Count,
    EngineSettings,
    Evaluation,
    JoinSettings,
    Name,
    Section,
    TokenStoreSettings,
)
from launch.yaml_places import YamlFile, nearest, read_text, refusal, short
from pipeline_steps.credentials import refuse_credentials
from pipeline_steps.errors import CorpusError, InvalidStudy
from pipeline_steps.readers.reading import USUAL, OnBadRow, Reading
from pipeline_steps.readers.special_files import refuse_unusable_name
from pipeline_steps.samplers import EMBEDDED, EMBEDDED_TOKENIZER, FULL, table, try_step
from train.arguments import PretrainArguments
from train.presets import is_causal


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
Key = Annotated[str, Field(min_length=1)]


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
    text_key: Key = USUAL.text_key
    """Column of the text: of the corpus, of target and of held_out."""
    id_key: Key = USUAL.id_key
    """Column of the id, likewise."""
    glob: str = USUAL.glob
    """Pattern of the corpus's files that are read: of their names, or of their paths in it if it has a slash."""
    on_bad_row: OnBadRow = USUAL.on_bad_row
    """error stops the run at a row that is no document, of any of these corpora; skip leaves it out and counts it."""
    tokenizer: str = EMBEDDED
    """Hub id or folder."""
    decoder_tokenizer: Place = None
    """Hub id or folder for decoder-only models; default: `tokenizer`, or the embedded one for them."""
    held_out: Annotated[dict[Name, dict[Name, str]], BeforeValidator(_sources)] = {}
    """Corpora by task, or by task and source, to measure perplexity on; default: parts of the corpus."""
    target: Place = None
    """Corpus that DSIR and the quality classifier take for good."""
    embedder: str = "hashed-ngrams"
    """Hub id or folder of the embedder that Density, SemDeDup and Prototypes stand on."""
    samplers: Annotated[list[SamplerOf], BeforeValidator(all_of_paper), AfterValidator(_some)] = []
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
    contamination: Contamination | None = None
    datasets: list[AskedDataset] = []
    """Datasets to write of what samplers keep."""
    token_store: TokenStoreSettings | None = None
    """Write the corpus as a token store, into the output itself."""
    join: JoinSettings | None = None
    """Write published annotations as a score store of the corpus, into the output itself."""
    engine: EngineSettings = EngineSettings()

    @model_validator(mode="after")
    def _together(self) -> Study:
        """Refuse what cannot go together."""
        self._check_corpus()
        if self.join and (self.token_store or self.samplers or self.corpus is None):
            raise refusal("join needs a corpus, and goes with neither samplers nor token_store", "join")
        if not self.samplers and self.token_store is None and self.join is None:
            raise refusal("samplers are missing: add them")
        if (self.models or self.references) and not self.models:
            raise refusal("references need models beside them: add models", "references")
        if self.models and not self.rates:
            raise refusal("there are models and no rates: give shares of the documents, such as 0.2", "models")
        if not self.models and self.corpus is None:
            raise refusal("there is neither a corpus nor models: add one of them")
        if self.datasets and (self.corpus is None or (self.models and not self.held_out)):
            raise refusal(
                "datasets are written from the files of a corpus: give corpus, and held_out if models are trained",
                "datasets",
            )
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

    def _check_corpus(self) -> None:
        if self.limit == 0:
            raise refusal("limit is 0: give a number of documents, or leave it out", "limit")
        if self.held_out and self.corpus is None:
            raise refusal("held_out is given and corpus is not: give it, or leave held_out out", "held_out")
        for key in self.reading.changed if self.corpus is None else ():
            raise refusal(f"{key} is given and corpus is not: give it, or leave {key} out", key)

    def _check_models(self) -> None:
        for name in self.references:
            if name in self.models:
                raise refusal(f"{name} is among the models already: two runs would write one folder", "references")
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
        outputs = [dataset.output.rstrip("/") for dataset in self.datasets]
        for at, output in enumerate(outputs):
            if output in outputs[:at]:
                raise refusal(f"two datasets would be written to {output}: give one of them another", "datasets", at)
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
            shape = (
                dataset.shaping() or next(one for one in self.samplers if dataset.sampler in (None, one.name)).shaping
            )
            if (dataset.rate or 0) > 1 and not {"upsample", "copies"} & shape.keys():
                raise refusal(
                    f"the rate {dataset.rate:g} must be at most 1 unless upsample or copies are given", "datasets", at
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
            self._check_checkpoint(sampler, model, int(step), at)
        if sampler.stands_on == "evaluations" and not sampler.scores and self.contamination is None:
            raise refusal(
                f"{sampler.name} needs evaluation sets: add contamination, with tasks or texts", "samplers", at
            )
        is_targeted = sampler.stands_on in ("dsir", "quality-classifier") and not sampler.scores
        if is_targeted and self.corpus is not None and self.target is None:
            raise refusal(f"{sampler.name} needs a target: the corpus of text it is to find more of", "samplers", at)
        if asked := sampler.foundations.get("embeddings"):
            try:
                try_step("embeddings", {"model": self.embedder, **asked})
            except ValueError as error:
                raise refusal(f"the foundation embeddings of {sampler.name}: {error}", "samplers", at) from error

    def _check_checkpoint(self, sampler: StudySampler, model: str, step: int, at: int) -> None:
        said = PretrainArguments(tokens="", run_dir="", **self.models[model])
        scores = f"{sampler.name} scores with {sampler.model}, but {model}"
        if not 0 < step <= said.budget.steps:
            raise refusal(f"{scores} has {said.budget.steps:,} steps", "samplers", at)
        trunk, own = said.branch_from, said.schedule_to(said.budget).decay_start
        if trunk and step <= own:
            raise refusal(f"{scores} branches from {trunk} after step {own:,}: give {trunk}@{step}", "samplers", at)
        is_decoder, objective = is_causal(said.preset), sampler.options.get("objective", "")
        if table()[sampler.row].cost == "perplexity" and is_decoder != (objective == "causal"):
            kind, change = ("a decoder", "add") if is_decoder else ("a T5", "leave out")
            raise refusal(f"{scores} is {kind}: {change} options: {{objective: causal}}", "samplers", at)

    @property
    def reading(self) -> Reading:
        """Return how rows are read."""
        return Reading(text_key=self.text_key, id_key=self.id_key, glob=self.glob, on_bad_row=self.on_bad_row)

    def tokenizer_of(self, is_decoder: bool) -> str:
        """Return the tokenizer of a kind of model."""
        if not is_decoder:
            return self.tokenizer
        return self.decoder_tokenizer or (EMBEDDED_TOKENIZER if self.tokenizer == EMBEDDED else self.tokenizer)

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


def schema() -> dict[str, Any]:
    """Return the JSON schema of study files."""
    made = Study.model_json_schema()
    made["properties"].pop("path", None)
    made["properties"]["samplers"]["items"] = sampler_schema()
    made["properties"]["samplers"] = {"anyOf": [{"const": "paper"}, made["properties"]["samplers"]]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "winnow study"} | made
