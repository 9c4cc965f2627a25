"""YAML whose every value knows its line, so that a mistake in a study file is named by place."""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml

from pipeline_steps.errors import CorpusError, InvalidStudy
from pipeline_steps.readers.special_files import refuse_special_files


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
            raise self.wrong(
                f"{self.name or 'the file'} must be a mapping of names to values, not {short(self.plain)}"
            )
        found: dict[str, Value] = {}
        for key, node in self.node.value:  # what is merged (<<) comes first, and is overruled
            name = str(key.value)
            value = self._child(node, key.start_mark.line + 1, f"{self.name}.{name}".lstrip("."))
            if known and name not in known:
                raise value.wrong(f"no key {short(value.name)}: {suggestion(name, known)}")
            found[name] = value
        return found

    def items(self) -> list[Value]:
        """Values of a list. Raises InvalidStudy: it is none."""
        if not isinstance(self.node, yaml.SequenceNode):
            raise self.wrong(f"{self.name} must be a list, not {short(self.plain)}")
        return [self._child(node, node.start_mark.line + 1, self.name) for node in self.node.value]

    def of(self, *kinds: type) -> Any:
        """The plain value. Raises InvalidStudy: it is of none of these types; whole numbers are numbers."""
        if not any(_is_a(self.plain, kind) for kind in kinds):
            raise self.wrong(f"{self.name} must be {' or '.join(map(_said, kinds))}, not {short(self.plain)}")
        return self.plain

    def typed(self, kind: Any) -> Any:
        """The plain value, of the type of a dataclass's field. Raises InvalidStudy: it is not."""
        if not any(_is_a(self.plain, one) for one in _alternatives(kind)):
            raise self.wrong(f"{self.name} must be {_said(kind)}, not {short(self.plain)}")
        return self.plain

    def _child(self, node: Any, line: int, name: str) -> Value:
        return Value(self.path, line, name, _plain(self.path, node), node)


# The largest file shipped, micro.yaml, has some 2,000 characters and 100 values, nested 5 deep
_LONGEST = 1 << 16  # bytes: PyYAML reads as many in half a second
_MOST = 10_000  # values: ten aliases of ten aliases, and so on, write out billions
_DEEPEST = 32  # Python's stack has room for some hundreds
_LARGEST = (1 << 63) - 1  # of the whole numbers that NumPy and Parquet hold
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
    allowed = (int, float) if kind is float else get_origin(kind) or kind
    return isinstance(plain, allowed) and (kind is bool or not isinstance(plain, bool))


def _said(kind: Any) -> str:
    if len(several := _alternatives(kind)) > 1:
        return " or ".join(_said(one) for one in several if one is not NoneType)
    if get_origin(kind) is Literal:
        return " or ".join(f'"{one}"' for one in get_args(kind))  # YAML reads no, without quotes, as false
    if get_origin(kind) is list:
        return f"a list, each {_said(get_args(kind)[0])}"
    return _WORDS[kind]


def short(plain: Any) -> str:
    """Return a value as it may stand in a message."""
    return reprlib.repr(plain)


class _Loader(yaml.SafeLoader):
    """A loader to which 1e-3 is a number, as in YAML 1.2, and a date is text."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a value, unless it is too deep for Python's stack."""
        self.depth += 1
        if self.depth > _DEEPEST:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, f"values are nested more than {_DEEPEST} deep", mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d[\d_]*(\.[\d_]*)?[eE][-+]?\d+$"), list("-+0123456789")
)


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


def read_yaml(path: str, text: str) -> Value:
    """The whole of a file.

    Raises:
        InvalidStudy: it is no YAML, a key is twice in a mapping, a value is neither text, number, true nor false.
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        why = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
        raise InvalidStudy(f"{path}, line {line}: not YAML: {why}") from error
    if node is None:
        raise InvalidStudy(f"{path} is empty: start from one of launch/studies")
    _check(path, node, {})
    return Value(path, 1, "", _plain(path, node), node)


def _check(path: str, node: Any, sizes: dict[int, int]) -> int:
    """Return how many values a value is made of, aliases written out; `sizes` has those of the values already met.

    Raises:
        InvalidStudy: the value cannot be made, before anything is made of it.
    """
    line = node.start_mark.line + 1
    if id(node) in sizes:
        if not sizes[id(node)]:
            raise InvalidStudy(f"{path}, line {line}: a value cannot be a part of itself")
        return sizes[id(node)]
    sizes[id(node)], size = 0, 1
    if isinstance(node, yaml.ScalarNode):
        _check_scalar(path, node)
    if isinstance(node, yaml.SequenceNode):
        size += sum(_check(path, one, sizes) for one in node.value)
    if isinstance(node, yaml.MappingNode):
        _check_keys(path, node)
        size += sum(_check(path, one, sizes) for _, one in node.value)
    if size > _MOST:
        raise InvalidStudy(f"{path}, line {line}: {size:,} values once aliases are written out: {_MOST:,} are allowed")
    if node.tag not in _TAGS:
        raise InvalidStudy(f"{path}, line {line}: {node.tag} is neither a list nor a mapping")
    sizes[id(node)] = size
    return size


def _check_scalar(path: str, node: Any) -> None:
    where = f"{path}, line {node.start_mark.line + 1}"
    if node.tag not in _TAGS:
        raise InvalidStudy(f"{where}: {node.tag} is neither text nor a number, true nor false")
    if node.tag == _INTEGER and abs(number := _plain(path, node)) > _LARGEST:
        raise InvalidStudy(f"{where}: {short(number)} is larger than the whole numbers of 64 bits")


def _check_keys(path: str, node: Any) -> None:
    seen: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode) or key.tag not in (_MERGE, _TEXT):
            raise InvalidStudy(f"{path}, line {line}: a key must be a name, in quotes if need be")
        if key.value in seen and key.tag != _MERGE:
            raise InvalidStudy(f"{path}, line {line}: {key.value} is there twice, first in line {seen[key.value]}")
        seen[key.value] = line


_MERGE, _TEXT, _INTEGER = (f"tag:yaml.org,2002:{kind}" for kind in ("merge", "str", "int"))
_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "seq", "map")}


def suggestion(name: str, known: Collection[str]) -> str:
    """What a misspelt name may have meant."""
    near = difflib.get_close_matches(name, known, n=2)
    return f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"


def _plain(path: str, node: Any) -> Any:
    loader = _Loader("")
    where = f"{path}, line {node.start_mark.line + 1}"
    try:
        return loader.construct_document(node)
    except (yaml.YAMLError, ValueError) as error:  # a number of 5,000 digits
        why = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise InvalidStudy(f"{where}: {why}") from error
    finally:
        loader.dispose()


def unique(values: list[Value]) -> Iterator[Value]:
    """The values one by one. Raises InvalidStudy at the first that is there twice."""
    seen: dict[Any, Value] = {}
    for value in values:
        key = str(value.plain)
        if key in seen:
            raise value.wrong(f"{value.name}: {short(value.plain)} is there twice, first in line {seen[key].line}")
        seen[key] = value
        yield value
