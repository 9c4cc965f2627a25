"""A study file to a `Study`, checked: mistakes are named by line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from importlib.resources import files
from pathlib import Path
from typing import Any, get_type_hints

from evaluate_suite.registry import registry
from launch.study.reading_samplers import check_name, check_step, read_samplers
from launch.study.schema import ENGINES, MOST_RUNS, MOST_TASKS, RAY, SLURM, TUNED, Engine, Evaluation, Study
from launch.study.yaml_lines import Value, read_text, read_yaml, short, suggestion, unique
from pipeline_steps.credentials import refuse_credentials
from pipeline_steps.errors import CorpusError, InvalidStudy, WinnowError
from pipeline_steps.readers.special_files import refuse_unusable_name
from pipeline_steps.samplers import EMBEDDED


def shipped() -> list[str]:
    """Names of the studies that come with this package."""
    return sorted(
        entry.name for entry in files("launch").joinpath("studies").iterdir() if entry.name.endswith(".yaml")
    )


def open_study(path: str) -> Study:
    """Read a study file, or one that comes with this package.

    Raises:
        InvalidStudy: a mistake, by its line.
    """
    file: Any = Path(path)
    if path in shipped() and not file.exists():
        file = files("launch").joinpath("studies", path)
    try:
        text = read_text(path, file)
    except InvalidStudy as error:
        raise InvalidStudy(f"{error}: give a file, or one of {', '.join(shipped())}") from error
    return parse_study(path, text)


def parse_study(path: str, text: str) -> Study:
    """A study from the text of its file; raises as `open_study`."""
    whole = read_yaml(path, text)
    refuse_credentials(whole.plain, path)  # a study is copied into job scripts, and its values into many files
    given = whole.entries([one.name for one in fields(Study) if one.name != "path"])
    trains = not given.keys().isdisjoint(("models", "references"))
    for name in ("output", "samplers", *(("rates", "models") if trains else ("corpus",))):
        if name not in given:
            raise whole.wrong(f"there is no {name}: say it")

    def plain(name: str, default: Any, *kinds: type) -> Any:
        return given[name].of(*kinds) if name in given and given[name].plain is not None else default

    _check_places(given)
    models = _models(given["models"], {}) if "models" in given else {}
    proxies = _proxies(given["proxies"], models) if "proxies" in given else {}
    study = Study(
        path=path,
        output=plain("output", None, str),
        corpus=plain("corpus", None, str),
        limit=plain("limit", -1, int),
        tokenizer=plain("tokenizer", EMBEDDED, str),
        held_out=_held_out(given.get("held_out")),
        target=plain("target", None, str),
        embedder=plain("embedder", "hashed-ngrams", str),
        samplers=tuple(read_samplers(given["samplers"], list(models))),
        rates=tuple(_rates(given["rates"])) if "rates" in given else (),
        proxies=proxies,
        models=models,
        references=_models(given["references"], models) if "references" in given else {},
        seeds=tuple(_seeds(given["seeds"])) if "seeds" in given else (0,),
        evaluation=_evaluation(given.get("evaluation")),
        engine=_engine(given.get("engine")),
    )
    if study.limit == 0 or study.limit < -1:
        raise given["limit"].wrong(f"limit is {study.limit}: give a number of documents, or leave it out")
    if study.held_out and study.corpus is None:
        raise given["held_out"].wrong("held_out is given and corpus is not: give it, or leave held_out out")
    runs = len(study.samplers) * len(study.rates) * len(study.models) * len(study.seeds)
    if runs > MOST_RUNS:
        raise given["rates"].wrong(
            f"samplers, rates, models and seeds make {runs:,} runs, more than the {MOST_RUNS:,} of the largest study"
        )
    for sampler in study.samplers:
        check_step(given["samplers"], sampler, study)
    needy = [one.name for one in study.samplers if one.scorer in ("dsir", "quality-classifier")]
    if needy and study.corpus is not None and study.target is None:
        raise given["samplers"].wrong(f"{needy[0]} needs a target: the corpus of text it is to find more of")
    return study


def _check_places(given: Mapping[str, Value]) -> None:
    output = given["output"].of(str)
    try:
        refuse_unusable_name(output)
        usable = output and "://" not in output and not Path(output).is_file()
    except (CorpusError, OSError):  # OSError: its name is too long
        usable = False
    if not usable:
        raise given["output"].wrong(f"output {short(output)} must be a folder of a disk that all workers see")
    for name in ("corpus", "target"):
        if name in given and given[name].plain == "":
            raise given[name].wrong(f"{name} is empty: say where it is, or leave it out")


def _seeds(value: Value) -> list[int]:
    found: list[int] = []
    for one in unique(value.items()):
        if one.of(int) < 0:
            raise one.wrong(f"the seed {one.plain} must be 0 or more")
        found.append(one.plain)
    if not found:
        raise value.wrong("seeds is empty: give one, or leave it out")
    return found


def _rates(value: Value) -> list[float]:
    found: dict[str, float] = {}
    for one in unique(value.items()):
        rate = float(one.of(float))
        if not 0 < rate < 1:
            raise one.wrong(f"the rate {rate:g} must be above 0 and below 1: everything is trained on anyway")
        if f"{rate:g}" in found:
            raise one.wrong(f"two runs would be called {rate:g}: round the rates to six digits")
        found[f"{rate:g}"] = rate
    if not found:
        raise value.wrong("rates is empty: give shares of the documents, such as 0.2")
    return list(found.values())


def _models(value: Value, others: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Arguments of train.pretrain by name; checked as train.pretrain would."""
    found: dict[str, dict[str, Any]] = {}
    for name, one in value.entries().items():
        check_name(one, name)
        if name in others:
            raise one.wrong(f"{name} is among the models already: two runs would write one folder")
        arguments = _arguments(name, one)
        for other, its in {**others, **found}.items():
            if its["preset"] == arguments["preset"]:
                raise one.wrong(
                    f"{name} and {other} are both {its['preset']}, by which results are named: make a study of each"
                )
        found[name] = arguments
    if not found and not others:
        raise value.wrong("models is empty: give one, such as t5-small: {config: t5-small-paper.yaml}")
    return found


def _proxies(value: Value, models: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Configurations of transformers by name."""
    found = {}
    for name, one in value.entries().items():
        if name in models:
            raise one.wrong(f"{name} is among the models already: give the proxy another name")
        check_name(one, name)
        given = one.entries()
        if "model_type" not in given:
            raise one.wrong(f"{one.name} needs a model_type of transformers, such as t5 or gemma")
        given["model_type"].of(str)
        found[name] = {key: setting.plain for key, setting in given.items()}
    return found


def _arguments(name: str, value: Value) -> dict[str, Any]:
    from train.plan import PretrainArguments

    types = get_type_hints(PretrainArguments)
    fixed = ("tokens", "run_dir", "selection", "held_out", "seed")
    known = [one for one in types if one not in fixed]
    given = value.entries(["config", *known])
    config = _config(given.pop("config"), known) if "config" in given else {}
    merged = {"preset": name} | {key: one.typed(types[key]) for key, one in {**config, **given}.items()}
    try:
        _check_training(PretrainArguments(tokens="", run_dir="", **merged))
    except (WinnowError, TypeError) as error:
        raise value.wrong(f"{value.name}: {error}") from error
    return merged


def _check_training(arguments: Any) -> None:
    from train.presets import preset
    from train.token_budget import TokenBudget

    preset(arguments.preset)
    TokenBudget(arguments.total_tokens, arguments.batch_size, arguments.input_length)


def _config(value: Value, known: list[str]) -> dict[str, Value]:
    """What a file of train.pretrain's arguments says."""
    name = value.of(str)
    file: Any = Path(name)
    if not file.exists():
        file = files("train").joinpath("configs", name)
    try:
        text = read_text(name, file)
    except InvalidStudy as error:
        raise value.wrong(f"{error}: give a file of train.pretrain's arguments") from error
    return read_yaml(name, text).entries(known)


def _held_out(value: Value | None) -> dict[str, dict[str, str]]:
    """Corpora by task and source; a task of one source needs no name for it."""
    if value is None or value.plain is None:
        return {}
    found: dict[str, dict[str, str]] = {}
    for task, one in value.entries().items():
        check_name(one, task)
        if isinstance(one.plain, str):
            found[task] = {task: one.plain}
        else:
            for source in one.entries():
                check_name(one, source)
            found[task] = {source: corpus.of(str) for source, corpus in one.entries().items()}
    return found


def _evaluation(value: Value | None) -> Evaluation:
    if value is None or value.plain is None:
        return Evaluation()
    given = value.entries([one.name for one in fields(Evaluation)])
    few_shot = {task.suite for task in registry().values() if task.protocol == "few_shot"}
    few_shot |= {task.name for task in registry().values() if task.protocol == "few_shot"}
    lists = {"suites": TUNED, "few_shot": sorted(few_shot)}
    plain: dict[str, Any] = {name: one.plain for name, one in given.items()}
    for name, known in lists.items():
        for one in given[name].items() if name in given else []:
            if one.plain not in known:
                raise one.wrong(f"no {name} {short(one.plain)}: {suggestion(str(one.plain), known)}")
        plain[name] = tuple(plain.get(name, ()))
    for name, kind in {"data_root": str, "instruction_tune": bool, "limit": int}.items():
        if name in given:
            given[name].of(kind)
    if plain.get("limit", 0) < 0:
        raise given["limit"].wrong(f"limit is {plain['limit']}: give a number of questions, or 0 for all")
    if plain.get("budget", "paper") not in ("paper", "small", "smoke"):
        raise given["budget"].wrong(f"no budget {plain['budget']!r}: there are paper, small, smoke")
    return Evaluation(**plain)


# Types of options of sbatch and of Ray that are more than one value, or are reckoned with
_TRAINING = {"time": (str,), "nodes": (int,), "resources": (dict,), "label_selector": (dict,)}


def _engine(value: Value | None) -> Engine:
    if value is None or value.plain is None:
        return Engine()
    given = value.entries([one.name for one in fields(Engine)])
    for name in ("workers", "tasks"):
        if name in given and not 1 <= given[name].of(int) <= MOST_TASKS:
            raise given[name].wrong(f"{name} must be from 1 to {MOST_TASKS:,}, not {given[name].plain}")
    for name, types in {"slurm": SLURM, "cpu": SLURM, "ray": RAY}.items():
        for option, one in given[name].entries(types).items() if name in given else ():
            one.of(types[option])
            if types[option] is int and one.plain < (-1 if option == "workers" else 0):
                raise one.wrong(f"{one.name} must be 0 or more, not {one.plain}")
    if "training" in given:
        _check_job(given["training"])
    if "launch" in given:
        given["launch"].of(str)
    engine = Engine(**{name: one.plain for name, one in given.items()})
    if engine.kind not in ENGINES:
        raise given["kind"].wrong(f"no engine {engine.kind!r}: {suggestion(str(engine.kind), ENGINES)}")
    return engine


def _check_job(value: Value) -> None:
    """Of a training."""
    for option, one in value.entries().items():
        one.of(*_TRAINING.get(option, (str, int, float, bool)))
        if option == "gpus-per-node" and not str(one.plain).rpartition(":")[2].isdecimal():
            raise one.wrong(f"{one.name} must be a number of GPUs, or h100:8, not {short(one.plain)}")
