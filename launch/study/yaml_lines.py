"""YAML whose every value knows its line, so that a mistake in a study file is named by place."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml

from pipeline_steps.errors import InvalidStudy


@dataclass(frozen=True)
class Value:
    """A value of a YAML file.

    Attributes:
        path: of the file.
        line: from 1.
        name: of the value, for messages: "rates", "models.t5-small".
        plain: as Python types.
        node: of PyYAML.
    """

    path: str
    line: int
    name: str
    plain: Any
    node: Any

    def wrong(self, why: str) -> InvalidStudy:
        """An error that says where."""
        return InvalidStudy(f"{self.path}, line {self.line}: {why}")

    def entries(self, known: Collection[str] = ()) -> dict[str, Value]:
        """Values of a mapping by key.

        Args:
            known: keys there may be; any if empty.

        Raises:
            InvalidStudy: it is none, or a key is not known.
        """
        if not isinstance(self.node, yaml.MappingNode):
            raise self.wrong(f"{self.name or 'the file'} must be a mapping of names to values, not {self.plain!r}")
        found: dict[str, Value] = {}
        for key, node in self.node.value:  # what is merged (<<) comes first, and is overruled
            name = str(key.value)
            value = self._child(node, key.start_mark.line + 1, f"{self.name}.{name}".lstrip("."))
            if known and name not in known:
                raise value.wrong(f"no key {value.name!r}: {suggestion(name, known)}")
            found[name] = value
        return found

    def items(self) -> list[Value]:
        """Values of a list. Raises InvalidStudy: it is none."""
        if not isinstance(self.node, yaml.SequenceNode):
            raise self.wrong(f"{self.name} must be a list, not {self.plain!r}")
        return [self._child(node, node.start_mark.line + 1, self.name) for node in self.node.value]

    def of(self, *kinds: type) -> Any:
        """The plain value. Raises InvalidStudy: it is of none of these types; whole numbers are numbers."""
        if not any(_is_a(self.plain, kind) for kind in kinds):
            raise self.wrong(f"{self.name} must be {' or '.join(map(_said, kinds))}, not {self.plain!r}")
        return self.plain

    def typed(self, kind: Any) -> Any:
        """The plain value, of the type of a dataclass's field. Raises InvalidStudy: it is not."""
        if not any(_is_a(self.plain, one) for one in _alternatives(kind)):
            raise self.wrong(f"{self.name} must be {_said(kind)}, not {self.plain!r}")
        return self.plain

    def _child(self, node: Any, line: int, name: str) -> Value:
        return Value(self.path, line, name, _plain(node), node)


_WORDS = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "a mapping",
    NoneType: "nothing",
}


def _alternatives(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _is_a(plain: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return any(plain == one and type(plain) is type(one) for one in get_args(kind))
    if get_origin(kind) is list:
        return isinstance(plain, list) and all(_is_a(one, get_args(kind)[0]) for one in plain)
    allowed = (int, float) if kind is float else kind
    return isinstance(plain, allowed) and (kind is bool or not isinstance(plain, bool))


def _said(kind: Any) -> str:
    if len(several := _alternatives(kind)) > 1:
        return " or ".join(_said(one) for one in several if one is not NoneType)
    if get_origin(kind) is Literal:
        return " or ".join(f'"{one}"' for one in get_args(kind))  # YAML reads no, without quotes, as false
    if get_origin(kind) is list:
        return f"a list, each {_said(get_args(kind)[0])}"
    return _WORDS[kind]


class _Loader(yaml.SafeLoader):
    """1e-3 is a number, as in YAML 1.2, and a date is text."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d[\d_]*(\.[\d_]*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_yaml(path: str, text: str) -> Value:
    """The whole of a file.

    Raises:
        InvalidStudy: it is no YAML, a key is twice in a mapping, or a value is neither text, number, true nor false.
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        raise InvalidStudy(f"{path}, line {line}: not YAML: {getattr(error, 'problem', error)}") from error
    except RecursionError as error:
        raise InvalidStudy(f"{path} is nested too deeply") from error
    if node is None:
        raise InvalidStudy(f"{path} is empty: start from one of launch/studies")
    _check(path, node, ())
    return Value(path, 1, "", _plain(node), node)


def _check(path: str, node: Any, above: tuple[Any, ...]) -> None:
    """Before anything is made of it."""
    line = node.start_mark.line + 1
    if node in above:
        raise InvalidStudy(f"{path}, line {line}: a value cannot be a part of itself")
    if isinstance(node, yaml.ScalarNode) and node.tag not in _TAGS:
        raise InvalidStudy(f"{path}, line {line}: {node.tag} is neither text nor a number, true nor false")
    if isinstance(node, yaml.SequenceNode):
        for one in node.value:
            _check(path, one, (*above, node))
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag not in (_MERGE, _TEXT):
                raise InvalidStudy(
                    f"{path}, line {key.start_mark.line + 1}: a key must be a name, in quotes if need be"
                )
            if key.value in seen and key.tag != _MERGE:
                raise InvalidStudy(
                    f"{path}, line {key.start_mark.line + 1}: {key.value} is there twice, first in line "
                    f"{seen[key.value]}"
                )
            seen[key.value] = key.start_mark.line + 1
            _check(path, value, (*above, node))
    if not isinstance(node, yaml.ScalarNode) and node.tag not in _TAGS:
        raise InvalidStudy(f"{path}, line {line}: {node.tag} is neither a list nor a mapping")


_MERGE, _TEXT = "tag:yaml.org,2002:merge", "tag:yaml.org,2002:str"
_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "seq", "map")}


def suggestion(name: str, known: Collection[str]) -> str:
    """What a misspelt name may have meant."""
    near = difflib.get_close_matches(name, known, n=2)
    return f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"


def _plain(node: Any) -> Any:
    loader = _Loader("")
    try:
        return loader.construct_document(node)
    except (yaml.YAMLError, ValueError) as error:  # a number of 5,000 digits
        raise InvalidStudy(f"line {node.start_mark.line + 1}: {str(error).splitlines()[0]}") from error
    finally:
        loader.dispose()


def unique(values: list[Value]) -> Iterator[Value]:
    """The values one by one. Raises InvalidStudy at the first that is there twice."""
    seen: dict[Any, Value] = {}
    for value in values:
        key = str(value.plain)
        if key in seen:
            raise value.wrong(f"{value.name}: {value.plain!r} is there twice, first in line {seen[key].line}")
        seen[key] = value
        yield value
