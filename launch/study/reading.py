"""A study file to a `Study`, checked: mistakes are named by line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from importlib.resources import files
from pathlib import Path
from typing import Any

from evaluate_suite.registry import registry
from launch.study.samplers import MODELS, PAPER_SAMPLERS, SCORERS, Sampler
from launch.study.schema import ENGINES, FULL, TUNED, Engine, Evaluation, Study
from launch.study.yaml_lines import Value, read_yaml, suggestion, unique
from pipeline_steps.errors import WinnowError
from pipeline_steps.models import EMBEDDED_PROXY
from pipeline_steps.numerics.priority import MODES


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
    if not file.exists() and path in shipped():
        file = files("launch").joinpath("studies", path)
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise read_yaml(path, "{}").wrong(
            f"it cannot be read ({error.strerror}): give a file, or one of {', '.join(shipped())}"
        ) from error
    return parse_study(path, text)


def parse_study(path: str, text: str) -> Study:
    """A study from the text of its file; raises as `open_study`."""
    whole = read_yaml(path, text)
    given = whole.entries([one.name for one in fields(Study) if one.name != "path"])
    for name in ("output", "samplers", "rates", "models"):
        if name not in given:
            raise whole.wrong(f"there is no {name}: say it")

    def plain(name: str, default: Any, *kinds: type) -> Any:
        return given[name].of(*kinds) if name in given and given[name].plain is not None else default

    models = _models(given["models"], {})
    study = Study(
        path=path,
        output=plain("output", None, str),
        corpus=plain("corpus", None, str),
        limit=plain("limit", -1, int),
        tokenizer=plain("tokenizer", EMBEDDED_PROXY, str),
        held_out=_held_out(given.get("held_out")),
        target=plain("target", None, str),
        embedder=plain("embedder", "hashed-ngrams", str),
        samplers=tuple(_samplers(given["samplers"], list(models))),
        rates=tuple(_rates(given["rates"])),
        models=models,
        references=_models(given["references"], models) if "references" in given else {},
        seeds=tuple(one.of(int) for one in unique(given["seeds"].items())) if "seeds" in given else (0,),
        evaluation=_evaluation(given.get("evaluation")),
        engine=_engine(given.get("engine")),
    )
    needy = [one.name for one in study.samplers if one.scorer in ("dsir", "quality-classifier")]
    if needy and study.corpus is not None and study.target is None:
        raise given["samplers"].wrong(f"{needy[0]} needs a target: the corpus of text it is to find more of")
    return study


def _samplers(value: Value, models: list[str]) -> list[Sampler]:
    """Names of the paper's, or mappings of one name to what is to be different."""
    if value.plain == "paper":
        return list(PAPER_SAMPLERS.values())
    found: dict[str, Sampler] = {}
    for one in value.items():
        sampler = _sampler(one, models)
        if sampler.name in found or sampler.name == FULL:
            raise one.wrong(f"two runs would be called {sampler.name}: leave one out, or give it a name of its own")
        found[sampler.name] = sampler
    if not found:
        raise value.wrong("samplers is empty: say paper, or names of samplers")
    return list(found.values())


def _sampler(value: Value, models: list[str]) -> Sampler:
    if isinstance(value.plain, str):
        if value.plain not in PAPER_SAMPLERS:
            raise value.wrong(f"no sampler {value.plain!r}: {suggestion(value.plain, PAPER_SAMPLERS)}")
        return _checked(value, PAPER_SAMPLERS[value.plain], models)
    ((name, settings),) = value.entries().items() if len(value.entries()) == 1 else _one_name(value)
    base = PAPER_SAMPLERS.get(name)
    given = {key: one.of(str) for key, one in settings.entries(("scorer", "model", "mode")).items()}
    if base is None and "scorer" not in given:
        raise value.wrong(f"no sampler {name!r}, and no scorer for it: {suggestion(name, PAPER_SAMPLERS)}")
    scorer = given.get("scorer", base.scorer if base else "")
    if scorer not in ("", *SCORERS):
        raise settings.wrong(f"no scorer {scorer!r}: {suggestion(scorer, SCORERS)}")
    usual = next((one for one in PAPER_SAMPLERS.values() if one.scorer == scorer), None)
    mode = given.get("mode", base.mode if base else usual.mode if usual else "random")
    if mode not in MODES:
        raise settings.wrong(f"no mode {mode!r}: {suggestion(mode, MODES)}")
    model = given.get("model", base.model if base else "")
    return _checked(value, Sampler(name, scorer, mode, model), models)


def _one_name(value: Value) -> Any:
    raise value.wrong(f"a sampler is a name, or one name with its settings, not {value.plain!r}")


def _checked(value: Value, sampler: Sampler, models: list[str]) -> Sampler:
    if sampler.scorer in MODELS and not sampler.model:
        raise value.wrong(f"{sampler.name} needs a model: Hub id, folder, or MODEL@STEP of this study")
    trained, at, step = sampler.model.partition("@")
    if at and (trained not in models or not step.isdigit()):
        raise value.wrong(
            f"{sampler.name} scores with {sampler.model}, but this study trains no {trained}: its models are "
            f"{', '.join(models)}; give another model"
        )
    return sampler


def _rates(value: Value) -> list[float]:
    found = []
    for one in unique(value.items()):
        rate = float(one.of(float))
        if not 0 < rate < 1:
            raise one.wrong(f"the rate {rate:g} must be above 0 and below 1: everything is trained on anyway")
        found.append(rate)
    if not found:
        raise value.wrong("rates is empty: give shares of the documents, such as 0.2")
    return found


def _models(value: Value, others: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Arguments of train.pretrain by name; checked as train.pretrain would."""
    found = {}
    for name, one in value.entries().items():
        if name in others:
            raise one.wrong(f"{name} is among the models already: two runs would write one folder")
        found[name] = _arguments(name, one)
    if not found and not others:
        raise value.wrong("models is empty: give one, such as t5-small: {config: t5-small-paper.yaml}")
    return found


def _arguments(name: str, value: Value) -> dict[str, Any]:
    from train.plan import PretrainArguments

    known = [one.name for one in fields(PretrainArguments)]
    fixed = ("tokens", "run_dir", "selection", "held_out")
    given = value.entries(["config", *(one for one in known if one not in fixed)])
    arguments = {key: one.plain for key, one in given.items()}
    config = _config(given["config"]) if "config" in given else {}
    merged = {"preset": name} | config | arguments
    merged.pop("config", None)
    try:
        parsed = PretrainArguments(tokens="", run_dir="", **merged)
        _check_training(parsed)
    except (WinnowError, TypeError) as error:
        raise value.wrong(f"{value.name}: {error}") from error
    return merged


def _check_training(arguments: Any) -> None:
    from train.model import PRESETS, model_config
    from train.token_budget import TokenBudget

    if arguments.preset not in PRESETS:
        model_config(arguments.preset, 1)  # says which there are
    TokenBudget(arguments.total_tokens, arguments.batch_size, arguments.input_length)


def _config(value: Value) -> dict[str, Any]:
    name = value.of(str)
    file: Any = Path(name)
    if not file.exists():
        file = files("train").joinpath("configs", name)
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise value.wrong(
            f"{name} cannot be read ({error.strerror}): give a file of train.pretrain's arguments"
        ) from error
    plain: dict[str, Any] = read_yaml(name, text).plain
    return plain


def _held_out(value: Value | None) -> dict[str, dict[str, str]]:
    """Corpora by task and source; a task of one source needs no name for it."""
    if value is None or value.plain is None:
        return {}
    found: dict[str, dict[str, str]] = {}
    for task, one in value.entries().items():
        if isinstance(one.plain, str):
            found[task] = {task: one.plain}
        else:
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
                raise one.wrong(f"no {name} {one.plain!r}: {suggestion(str(one.plain), known)}")
        plain[name] = tuple(plain.get(name, ()))
    if plain.get("budget", "paper") not in ("paper", "small", "smoke"):
        raise given["budget"].wrong(f"no budget {plain['budget']!r}: there are paper, small, smoke")
    return Evaluation(**plain)


def _engine(value: Value | None) -> Engine:
    if value is None or value.plain is None:
        return Engine()
    given = value.entries([one.name for one in fields(Engine)])
    for name in ("workers", "tasks"):
        if name in given and given[name].of(int) < 1:
            raise given[name].wrong(f"{name} must be at least 1, not {given[name].plain}")
    engine = Engine(**{name: one.plain for name, one in given.items()})
    if engine.kind not in ENGINES:
        raise given["kind"].wrong(f"no engine {engine.kind!r}: {suggestion(str(engine.kind), ENGINES)}")
    return engine
