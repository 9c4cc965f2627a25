"""YAML whose every value knows its line, so that a mistake in a study file is named by place."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

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
            InvalidStudy: it is none, a key is twice there, or is not known.
        """
        if not isinstance(self.node, yaml.MappingNode):
            raise self.wrong(f"{self.name or 'the file'} must be a mapping of names to values, not {self.plain!r}")
        found: dict[str, Value] = {}
        for key, node in self.node.value:
            name = str(key.value)
            value = self._child(node, key.start_mark.line + 1, f"{self.name}.{name}".lstrip("."))
            if name in found:
                raise value.wrong(f"{value.name} is there twice, first in line {found[name].line}")
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
        allowed = (*kinds, int) if float in kinds else kinds
        if not isinstance(self.plain, allowed) or (isinstance(self.plain, bool) and bool not in kinds):
            wanted = " or ".join(_WORDS.get(kind, kind.__name__) for kind in kinds)
            raise self.wrong(f"{self.name} must be {wanted}, not {self.plain!r}")
        return self.plain

    def _child(self, node: Any, line: int, name: str) -> Value:
        return Value(self.path, line, name, _plain(node), node)


_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def read_yaml(path: str, text: str) -> Value:
    """The whole of a file. Raises InvalidStudy: it is no YAML."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        raise InvalidStudy(f"{path}, line {line}: not YAML: {getattr(error, 'problem', error)}") from error
    if node is None:
        raise InvalidStudy(f"{path} is empty: start from one of launch/studies")
    return Value(path, 1, "", _plain(node), node)


def suggestion(name: str, known: Collection[str]) -> str:
    """What a misspelt name may have meant."""
    near = difflib.get_close_matches(name, known, n=2)
    return f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"


def _plain(node: Any) -> Any:
    """As `yaml.safe_load`, but 1e-3 is a number, as in YAML 1.2."""
    loader = yaml.SafeLoader("")
    try:
        value = loader.construct_document(node)
    finally:
        loader.dispose()
    return _numbers(value)


def _numbers(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return float(value) if value[:1].isdigit() and "e" in value.lower() else value
        except ValueError:
            return value
    if isinstance(value, list):
        return [_numbers(one) for one in value]
    if isinstance(value, dict):
        return {key: _numbers(one) for key, one in value.items()}
    return value


def unique(values: list[Value]) -> Iterator[Value]:
    """The values one by one. Raises InvalidStudy at the first that is there twice."""
    seen: dict[Any, Value] = {}
    for value in values:
        key = str(value.plain)
        if key in seen:
            raise value.wrong(f"{value.name}: {value.plain!r} is there twice, first in line {seen[key].line}")
        seen[key] = value
        yield value
