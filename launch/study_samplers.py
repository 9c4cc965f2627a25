"""The samplers and the trainings of a study file."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import xxhash
from pydantic import AfterValidator, BeforeValidator, TypeAdapter, ValidationError, WithJsonSchema, create_model

from launch.study_sections import KEYS, Name, Section, Shaped
from launch.yaml_places import YamlFile, in_words, nearest, read_text, refusal, short
from pipeline_steps.errors import InvalidStudy, WinnowError
from pipeline_steps.numerics.priority import MODES
from pipeline_steps.samplers import EMBEDDED, Sampler, of_scorer, table, try_step
from train.arguments import FREE, PretrainArguments
from train.branches import OF_BRANCH
from train.presets import preset
from train.training_plan import TokenBudget


_EMBEDDER = ("embeddings", "model")


@dataclass(frozen=True)
class StudySampler(Sampler):
    """A sampler of a study.

    Attributes:
        row: the name of the table's row that it is made from.
        scores: a score store that exists already, instead of scoring; "" if the study scores.
        asked_mode: how the study says that the scores are cut; "" if it does not say.
        shaping: further arguments of its Cut.
        labels: a label store whose labels are cut each by itself; "" for none.
        exclude: score stores whose worse scores leave a document out.
        foundations: options of the steps that make what the scorer stands on, by foundation.
    """

    row: str = ""
    scores: str = ""
    asked_mode: str = ""
    shaping: Mapping[str, Any] = field(default_factory=dict)
    labels: str = ""
    exclude: tuple[str, ...] = ()
    foundations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class SamplerSettings(Shaped):
    """What a study says about a sampler; everything else comes from the table's row."""

    name: Name
    scorer: str | None = None
    model: str | None = None
    mode: str | None = None
    options: dict[str, Any] = {}
    foundations: dict[str, dict[str, Any]] = {}
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
        options = _options(row.name, row.options_of(), self.options) if self.options else {}
        values |= {"name": self.name, "model": model, "options": {**row.options, **options}}
        asked = "top" if self.copies and not self.mode else self.mode or ""
        values["cut"] = asked or row.cut
        self.checked(self.likely_mode if self.scores and not asked else values["cut"], rate=0.5)
        values |= {"shaping": self.shaping(), "labels": self.labels or "", "exclude": tuple(self.exclude)}
        values["foundations"] = _foundations(row, self.foundations) if self.foundations else {}
        return StudySampler(**values, row=row.name, scores=self.scores or "", asked_mode=asked)


def _foundations(row: Sampler, given: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return options of what a scorer stands on as the steps take them, or refuse the first that they do not take."""
    known, taken = row.foundation_options(), dict[str, dict[str, Any]]()
    for name, options in given.items():
        if name not in known:
            stands = f"stands on {', '.join(known)}" if known else "stands on nothing that has options"
            raise refusal(f"{row.name} {stands}: there is no {name!r} to set", given=name)
        checked = _options(f"the foundation {name} of {row.name}", known[name], options)
        try:
            try_step(name, checked)
        except (ValueError, WinnowError) as error:
            raise refusal(f"the foundation {name} of {row.name}: {error}", given=name) from error
        # Defaults stay out, so that who spells one out shares what others have made; the study has its own embedder
        usual = {option: one.default for option, one in known[name].items() if (name, option) != _EMBEDDER}
        if own := {option: value for option, value in checked.items() if (option, value) not in usual.items()}:
            taken[name] = own
    return taken


def _options(of: str, known: Mapping[str, inspect.Parameter], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as a constructor takes them, or refuse the first that it does not take."""
    taken: dict[str, Any] = {}
    for name, value in given.items():
        if name not in known:
            raise refusal(f"no option {name!r} of {of}: {nearest(name, known)}", given=name)
        try:
            kind = TypeAdapter(known[name].annotation)
            taken[name] = kind.validate_python(value, strict=not isinstance(value, dict))
        except ValidationError as error:
            said = error.errors()[0]
            where = ".".join([name, *(str(part) for part in said["loc"] if isinstance(part, int))])
            raise refusal(
                f"{where} of {of} must be {in_words(said['msg'])}, not {short(value)}",
                "options",
                given=_written(value, name),
            ) from error
    return taken


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


def all_of_paper(value: Any) -> Any:
    """Write out the word paper: the names of the paper's 22 samplers."""
    return [one.name for one in table().values() if one.paper] if value == "paper" else value


def sampler_schema() -> dict[str, Any]:
    """Return the JSON schema of a sampler: a name of the table, or one name with its settings."""
    known = list(table())
    settings = SamplerSettings.model_json_schema()["properties"]
    del settings["name"]
    settings |= {"scorer": {"enum": known}, "mode": {"enum": list(MODES)}}
    own = {"type": "object", "additionalProperties": False, "properties": settings}
    return {"anyOf": [{"enum": known}, {"type": "object", "maxProperties": 1, "additionalProperties": own}]}


if TYPE_CHECKING:
    SamplerOf = StudySampler
else:
    SamplerOf = Annotated[
        SamplerSettings,
        BeforeValidator(_one_shape),
        AfterValidator(SamplerSettings.chosen),
        WithJsonSchema({}),  # `sampler_schema` says it, once all samplers are known
    ]


def store_of(sampler: StudySampler) -> str:
    """Return the name of the score store that a sampler cuts.

    The name follows from what decides the scores, so that samplers of the same scorer and model share a store, and
    others can come to a study or go. Chance has a store of keys: its draw must not depend on who scores beside it.
    A store from outside the study has the sampler's name.
    """
    plainest = None if sampler.scores else of_scorer(sampler.scorer)
    if plainest is None:
        return sampler.name
    if plainest.name == "random":
        return KEYS
    own = [sampler.model, dict(sampler.options), *([sampler.foundations] if sampler.foundations else [])]
    if own in ([None, {}], [EMBEDDED, {}]):
        return plainest.name
    for row in table().values():
        if row.model and row.scorer == sampler.scorer and [row.model, dict(row.options)] == own:
            return row.name
    model = re.sub(r"[^A-Za-z0-9.]+", "-", (sampler.model or "").rpartition("/")[2])
    decides = json.dumps(own, sort_keys=True, default=asdict).encode()
    return "-".join(filter(None, [plainest.name, model, xxhash.xxh3_64_hexdigest(decides)[:8]]))


# Arguments of train.pretrain that a study sets; branches are models of their own
_FIXED = ("tokens", "run_dir", "selection", "held_out", "seed", "model_name", "decay_at")
_HINTS = get_type_hints(PretrainArguments)
_TRAINING: dict[str, Any] = {
    one.name: (_HINTS[one.name] | None, None) for one in fields(PretrainArguments) if one.name not in _FIXED
}
TrainingSettings: Any = create_model("TrainingSettings", __base__=Section, config=(str | None, None), **_TRAINING)


def _trainings(given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return arguments of train.pretrain by name, checked as train.pretrain would check them."""
    found: dict[str, dict[str, Any]] = {}
    for name, settings in given.items():
        arguments = _arguments(name, settings, given)
        try:
            checked = PretrainArguments(tokens="", run_dir="", **arguments)
            preset(checked.preset)
            TokenBudget(checked.total_tokens, checked.batch_size, checked.input_length)
        except (WinnowError, TypeError) as error:
            why = str(error).rpartition("__init__() ")[2]
            raise refusal(f"{name}: {why}", given=name) from error
        found[name] = arguments
    return found


def _arguments(name: str, settings: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a model; a branch has those of the model that it is branched from, but for its own."""
    own: dict[str, Any] = settings.model_dump(exclude_unset=True)
    if (config := own.pop("config", None)) is not None:
        own = _config(name, config) | own
    trunk = own.get("branch_from")
    before: dict[str, Any] = {"preset": name}
    if trunk is not None:
        if trunk not in given or given[trunk].branch_from is not None:
            known = [one for one in given if given[one].branch_from is None]
            raise refusal(f"{name} cannot branch from {trunk}: {nearest(trunk, known)}", given=trunk)
        before = _arguments(trunk, given[trunk], given)
        if other := sorted(own.keys() - {"branch_from", *OF_BRANCH, *FREE}):
            raise refusal(f"{name} has {other[0]} from {trunk}, from which it branches: leave it out", given=other[0])
    return {key: value for key, value in {**before, **own}.items() if value is not None}


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
