"""The samplers of a study file, checked one by one."""

from __future__ import annotations

import re
from typing import Any

from launch.study.schema import KNOWN_SAMPLERS, MODELS, PAPER_SAMPLERS, SCORERS, Sampler, Study
from launch.study.stages import KEYS
from launch.study.yaml_lines import Value, short, suggestion
from pipeline_steps.numerics.priority import MODES
from pipeline_steps.samplers import FULL, SAMPLERS


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_TAKEN = (FULL, KEYS, "train")
# A prompt is an object of Python, and SemDeDupSimilarities would have to keep the same documents
_NOT_IN_FILES = ("prompt", "keep")


def read_samplers(value: Value, models: list[str]) -> list[Sampler]:
    """Names of the paper's, or mappings of one name to what is to be different."""
    if value.plain == "paper":
        return [_checked(value, sampler, models) for sampler in PAPER_SAMPLERS.values()]
    found: dict[str, Sampler] = {}
    for one in value.items():
        sampler = _sampler(one, models)
        check_name(one, sampler.name)
        if sampler.name in found:
            raise one.wrong(f"two runs would be called {sampler.name}: leave one out, or give it a name of its own")
        found[sampler.name] = sampler
    if not found:
        raise value.wrong("samplers is empty: say paper, or names of samplers")
    return list(found.values())


def _sampler(value: Value, models: list[str]) -> Sampler:
    if isinstance(value.plain, str):
        if value.plain not in KNOWN_SAMPLERS:
            raise value.wrong(f"no sampler {short(value.plain)}: {suggestion(value.plain, KNOWN_SAMPLERS)}")
        return _checked(value, KNOWN_SAMPLERS[value.plain], models)
    ((name, settings),) = value.entries().items() if len(value.entries()) == 1 else _one_name(value)
    base = KNOWN_SAMPLERS.get(name)
    entries = settings.entries(("scorer", "model", "mode", "options"))
    given = {key: one.of(str) for key, one in entries.items() if key != "options"}
    if base is None and "scorer" not in given:
        raise value.wrong(f"no sampler {name!r}, and no scorer for it: {suggestion(name, KNOWN_SAMPLERS)}")
    scorer = given.get("scorer", base.scorer if base else "")
    if scorer not in ("", *SCORERS):
        raise settings.wrong(f"no scorer {scorer!r}: {suggestion(scorer, SCORERS)}")
    usual = next((one for one in PAPER_SAMPLERS.values() if one.scorer == scorer), None)
    mode = given.get("mode", base.mode if base else usual.mode if usual else "random")
    if mode not in MODES:
        raise settings.wrong(f"no mode {mode!r}: {suggestion(mode, MODES)}")
    model = given.get("model", base.model if base else "")
    known = SAMPLERS[scorer or "random"].options_of()
    types = {key: one.annotation for key, one in known.items() if key not in _NOT_IN_FILES}
    options = entries["options"].entries(types) if "options" in entries else {}
    plain = {key: one.typed(types[key]) for key, one in options.items()}
    return _checked(value, Sampler(name, scorer, mode, model, plain), models)


def check_name(value: Value, name: str) -> None:
    """Names become folders, parts of NAME=PATH, and stages."""
    if not _NAME.fullmatch(name) or name in _TAKEN:
        raise value.wrong(
            f"{name!r} cannot be a name here: take letters, digits, - . _ and none of {', '.join(_TAKEN)}"
        )


def _one_name(value: Value) -> Any:
    raise value.wrong(f"a sampler is a name, or one name with its settings, not {short(value.plain)}")


def _checked(value: Value, sampler: Sampler, models: list[str]) -> Sampler:
    if sampler.scorer in MODELS and not sampler.model:
        raise value.wrong(f"{sampler.name} needs a model: Hub id, folder, or MODEL@STEP of this study")
    trained, at, step = sampler.model.partition("@")
    if at and (trained not in models or not (step.isascii() and step.isdecimal())):
        raise value.wrong(
            f"{sampler.name} scores with {sampler.model}, but this study trains no {trained}: its models are "
            f"{', '.join(models) or 'none'}; give another model"
        )
    return sampler


def check_step(value: Value, sampler: Sampler, study: Study) -> None:
    """A checkpoint that scores must be one that is trained. Raises InvalidStudy: it is not."""
    from train.plan import PretrainArguments
    from train.token_budget import TokenBudget

    trained, at, step = sampler.model.partition("@")
    if at:
        said = PretrainArguments(tokens="", run_dir="", **study.models[trained])
        steps = TokenBudget(said.total_tokens, said.batch_size, said.input_length).steps
        if not 0 < int(step) <= steps:
            raise value.wrong(f"{sampler.name} scores with {sampler.model}, but {trained} has {steps:,} steps")
