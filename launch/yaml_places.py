"""YAML whose every value can be found again by line and column, within limits that no real study comes near."""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError

from pipeline_steps.errors import CorpusError, InvalidStudy
from pipeline_steps.readers.special_files import refuse_special_files


Model = TypeVar("Model", bound=BaseModel)
# The largest file shipped, micro.yaml, has some 2,000 characters and 100 values, nested 5 deep
_LONGEST = 1 << 16  # bytes
_MOST = 10_000  # values: ten aliases of ten aliases, and so on, write out billions
_DEEPEST = 32  # Python's stack has room for some hundreds
_LARGEST = (1 << 63) - 1  # of the whole numbers that NumPy and Parquet hold
_SHOWN = 16  # names that a message lists
_WORDS = {
    "a valid string": "text",
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid boolean": "true or false",
    "a valid list": "a list",
    "a valid dictionary": "a mapping",
}
_TEXT, _MERGE, _INTEGER = (f"tag:yaml.org,2002:{kind}" for kind in ("str", "merge", "int"))
_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "seq", "map")}


class _Loader(yaml.CSafeLoader):
    """YAML 1.2: no, 24:00:00 and 2026-01-01 are text, and 1e-3 is a number."""

    yaml_implicit_resolvers: dict[str, Any] = {}


for _tag, _form, _first in (
    ("bool", r"true|false", list("tf")),
    ("null", r"null|~|", ["n", "~", ""]),
    ("merge", r"<<", ["<"]),
    ("int", r"[-+]?(0|[1-9][\d_]*)", list("-+0123456789")),
    ("float", r"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?", list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_form})\Z"), _first)


def refusal(why: str, *at: str | int, given: object = None) -> PydanticCustomError:
    """Return the error of a validator, placed below the value it validates.

    Args:
        why: a sentence.
        at: keys and numbers of items that lead to the value at fault.
        given: a word that stands in the file there, which the line and column are those of.
    """
    return PydanticCustomError("refusal", "{why}", {"why": why, "at": at, "given": given})


def nearest(name: object, known: Collection[str]) -> str:
    """Return what a misspelt name may have meant, or all that there is."""
    near = difflib.get_close_matches(str(name), known, n=2)
    if near:
        return f"did you mean {' or '.join(near)}?"
    shown = [*known][:_SHOWN]
    return f"there are {', '.join(shown)}" + (f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else "")


def short(plain: object) -> str:
    """Return a value as it may stand in a message."""
    return reprlib.repr(plain)


def read_text(path: str, file: Any) -> str:
    """Return the text of a YAML file, a Path or a resource, that messages call `path`.

    Raises:
        InvalidStudy: the file cannot be read, is not UTF-8, or is larger than a study can be.
    """
    try:
        if isinstance(file, Path):
            refuse_special_files(str(file))
        with file.open("rb") as opened:
            blob = opened.read(_LONGEST + 1)
        if len(blob) > _LONGEST:
            raise InvalidStudy(f"{path} cannot be read (it has more than the {_LONGEST:,} bytes of the largest study)")
        return str(blob.decode("utf-8"))
    except CorpusError as error:
        raise InvalidStudy(f"{path} cannot be read ({error})") from error
    except OSError as error:
        raise InvalidStudy(f"{path} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        line = blob[: error.start].count(b"\n") + 1
        raise InvalidStudy(f"{path}, line {line}, cannot be read (it is not UTF-8)") from error


@dataclass(frozen=True)
class YamlFile:
    """A YAML file and its values.

    Attributes:
        path: what messages call it.
        root: PyYAML's node of the whole file.
        plain: its values as Python's types.
    """

    path: str
    root: yaml.Node
    plain: Any

    @classmethod
    def read(cls, path: str, text: str) -> YamlFile:
        """Read a text.

        Raises:
            InvalidStudy: the text is not YAML, a key is twice in a mapping, or a value is too large or not plain.
        """
        try:
            _check_depth(path, text)  # first: libyaml composes without a limit, to the end of the stack
            root = yaml.compose(text, Loader=_Loader)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            why = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
            raise InvalidStudy(f"{path}, line {mark.line + 1 if mark else 1}: not YAML: {why}") from error
        if root is None:
            raise InvalidStudy(f"{path} is empty: start from one of launch/studies")
        _size(path, root, {})
        loader = _Loader("")
        try:
            return cls(path, root, loader.construct_document(root))
        except (yaml.YAMLError, ValueError) as error:
            why = getattr(error, "problem", None) or str(error).splitlines()[0]
            raise InvalidStudy(f"{path}: {why}") from error

    def validated(self, model: type[Model]) -> Model:
        """Return the values as a model.

        Raises:
            InvalidStudy: the first mistake in the file, with its line, column and the nearest right name.
        """
        try:
            return model.model_validate(self.plain)
        except ValidationError as error:
            found = [self._placed(one) for one in error.errors(include_url=False)]
        (line, column), why = min(found)
        raise InvalidStudy(f"{self.path}, line {line}, column {column}: {why}")

    def _placed(self, error: Any) -> tuple[tuple[int, int], str]:
        context = error.get("ctx", {})
        node, names = self._follow((*error["loc"], *context.get("at", ())))
        given = context.get("given")
        if given is not None:
            node = next((one for one in _walk(node) if getattr(one, "value", None) == str(given)), node)
        return (node.start_mark.line + 1, node.start_mark.column + 1), _sentence(error, names)

    def _follow(self, location: tuple[str | int, ...]) -> tuple[Any, str]:
        """Return the node at a location and its name; what the file does not spell out, such as tags of unions, is
        passed over, and so is the NAME of a sampler's {NAME: settings}."""
        node, names = self.root, ""
        for step in location:
            if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
                node = node.value[step]
                continue
            pairs = _pairs(node)
            if names and len(pairs) == 1 and step in [key.value for key, _ in _pairs(pairs[0][1])]:
                pairs = _pairs(pairs[0][1])  # the settings of {NAME: settings}
            for key, value in pairs:
                if key.value == step:
                    names = f"{names}.{step}".lstrip(".")
                    node = key if location[-2:] == (step, "[key]") else value
        return node, names


def _sentence(error: Any, name: str) -> str:
    """Return what is wrong, in our words where pydantic's would not help."""
    said, context = error["msg"], error.get("ctx", {})
    if error["type"] == "refusal":
        return str(context["why"])
    if error["type"] == "value_error" and isinstance(context.get("error"), InvalidStudy):
        return str(context["error"])  # in a file that this one names
    if error["type"] == "missing":
        return f"{error['loc'][-1]} is missing: add it"
    if error["type"] == "literal_error":
        expected = context["expected"]
        choice = nearest(error["input"], re.findall(r"'([^']*)'", expected))
        return f"{name} must be {expected}, not {short(error['input'])}: {choice}"
    return f"{name or 'the file'} must be {in_words(said)}, not {short(error['input'])}"


def in_words(said: str) -> str:
    """Return what pydantic says a value should be, in the words of our messages."""
    said = said.removeprefix("Input should be ")
    return _WORDS.get(said, said)


def _pairs(node: Any) -> list[tuple[Any, Any]]:
    return node.value if isinstance(node, yaml.MappingNode) else []


def _walk(node: Any) -> Iterator[Any]:
    """Yield a node and all below it in the file's order."""
    todo = [node]
    while todo:
        yield (one := todo.pop())
        if isinstance(one, yaml.MappingNode):
            todo += [part for pair in reversed(one.value) for part in reversed(pair)]
        elif isinstance(one, yaml.SequenceNode):
            todo += reversed(one.value)


def _check_depth(path: str, text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _DEEPEST:
            mark: Any = event.start_mark
            raise InvalidStudy(f"{path}, line {mark.line + 1}: values are nested more than {_DEEPEST} deep")


def _size(path: str, node: Any, sizes: dict[int, int]) -> int:
    """Return how many values a value is made of, aliases written out; `sizes` has those of the values already met.

    Raises:
        InvalidStudy: the value cannot be made, before anything is made of it.
    """
    where = f"{path}, line {node.start_mark.line + 1}"
    if id(node) in sizes:
        if not sizes[id(node)]:
            raise InvalidStudy(f"{where}: a value cannot be a part of itself")
        return sizes[id(node)]
    sizes[id(node)] = 0
    if node.tag not in _TAGS:
        raise InvalidStudy(f"{where}: {node.tag} is neither text, a number, true, false, a list nor a mapping")
    if node.tag == _INTEGER and (len(node.value) > 20 or abs(int(node.value.replace("_", ""))) > _LARGEST):
        raise InvalidStudy(f"{where}: {short(node.value)} is larger than the whole numbers of 64 bits")
    below = [value for _, value in _pairs(node)]
    if isinstance(node, yaml.MappingNode):
        _check_keys(path, node)
    elif isinstance(node, yaml.SequenceNode):
        below = node.value
    size = 1 + sum(_size(path, one, sizes) for one in below)
    if size > _MOST:
        raise InvalidStudy(f"{where}: {size:,} values once aliases are written out: {_MOST:,} are allowed")
    sizes[id(node)] = size
    return size


def _check_keys(path: str, node: Any) -> None:
    seen: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode) or key.tag not in (_MERGE, _TEXT):
            raise InvalidStudy(f"{path}, line {line}: a key must be a name, in quotes if need be")
        if key.value in seen and key.tag != _MERGE:
            raise InvalidStudy(f"{path}, line {line}: {key.value} is there twice, first in line {seen[key.value]}")
        seen[key.value] = line
