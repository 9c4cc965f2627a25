"""The one place that refuses credentials: paths and options are written into files, logs and scripts.

Credentials belong in the environment (AWS_..., HF_TOKEN, `hf auth login`), where nothing of this project writes them.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NoReturn
from urllib.parse import unquote

from pipeline_steps.errors import WinnowError


_WORD = (
    r"(?:pass(?:word|wd|phrase)|pwd|secret|credentials?|signature|api[-_]?key|(?:access|account|private)[-_]?key(?:[-_]?id)?"
    r"|secret[-_]?key|connection[-_]?string)"
)
# A tokenizer's tokens have names like these, and are no secrets
_OF_TEXT = "".join(f"(?<!{name})" for name in "pad eos bos unk sep cls mask image audio video".split())
_TOKEN = rf"(?:^|{_OF_TEXT}[-_.])token"
_SECRET_NAME = re.compile(rf"(?:{_WORD}|{_TOKEN}|(?:^|[-_.])sig|^authorization)$", re.IGNORECASE)
_QUERY = re.compile(r"[?&;#]([\w.%-]+)=(?=[^&;#\s])")
_QUERY_ONLY = {"key", "auth", "policy", "sig"}  # names that are harmless outside the query of an address
# user:password@ of any scheme, but not host:port/...@; a user alone is a token where there are no accounts. A
# pathlib.Path of an address has one slash
_LOGIN = re.compile(r":/{1,2}[^\s/?#:@]*:(?!\d+/)[^\s@]*@|\bhttps?:/{1,2}[^\s/?#@]+@", re.IGNORECASE)
_ASSIGNED = re.compile(r"(?:^|[\s;,'\"(])-{0,2}([A-Za-z][\w.-]*)=(?!\s|$|[\"']?\$)")
_SHAPES = re.compile(  # of widely used credentials, wherever they stand
    r"\bhf_[A-Za-z0-9]{30,}|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bsk-[A-Za-z0-9_-]{20,}|\bgh[opsu]_[A-Za-z0-9]{30,}"
    r"|\bgithub_pat_\w{30,}|\bxox[abps]-[\w-]{10,}|\bAIza[\w-]{35}|\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.|PRIVATE KEY-----"
)
_SHORTEST = 12  # characters of a secret in the environment that is looked for in other texts


class NoCredentials:
    """Base of the steps whose constructor refuses credentials in its arguments, those of subclasses included.

    It stands before datatrove's class among the bases.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> NoCredentials:
        """Raise WinnowError if an argument holds a credential."""
        refuse_credentials(_by_name(cls, args, kwargs), cls.__name__)
        return super().__new__(cls, *args, **kwargs)


def refuse_credentials(given: Any, where: str) -> None:
    """Raise WinnowError, without repeating it, if a text, or a text inside of mappings and lists, holds a credential.

    Args:
        given: texts, paths, mappings, lists; anything else is not looked at.
        where: what the message calls the whole, e.g. "--corpus", "AskLLMScorer" or a study's path.
    """
    for place, why in _found(given, "", _secrets_of_environment()):
        _refuse(f"{where}: {place}" if place else where, why)


def refuse_credentials_in_command(arguments: Iterable[str]) -> None:
    """Raise WinnowError if a command line holds a credential; the message names the flag, or the argument's number."""
    flag, secrets = "", _secrets_of_environment()
    for number, argument in enumerate(map(str, arguments), start=1):
        is_flag = re.fullmatch(r"(--?[A-Za-z][\w-]*)(?:=(.*))?", argument, re.DOTALL)
        name, value = (is_flag[1], is_flag[2]) if is_flag else (flag, argument)
        for _, why in _found({name: value} if name else argument, "", secrets):
            _refuse(f"the value of {name}" if name else f"argument {number}", why)
        flag = name if is_flag and value is None else ""


def _refuse(place: str, why: str) -> NoReturn:
    raise WinnowError(
        f"{place} holds a credential ({why}), which would be written into files and logs: give it through the "
        "environment (AWS_ACCESS_KEY_ID, HF_TOKEN, ...) or the service's own configuration file instead"
    )


def _found(given: Any, place: str, secrets: frozenset[str]) -> Iterator[tuple[str, str]]:
    """Yield places of credentials, in words such as engine.slurm.env_command, and how each was recognised."""
    if isinstance(given, os.PathLike):
        given = os.fspath(given)
    if isinstance(given, str):
        if why := _why(given, secrets):
            yield place, why
    elif isinstance(given, Mapping):
        for key, value in given.items():
            if why := _why(str(key), secrets):
                yield f"a name in {place}" if place else "a name", why
                continue
            inside = f"{place}.{key}" if place else str(key)
            if isinstance(value, str) and value and _SECRET_NAME.search(str(key)) and value[0] != "$":
                yield inside, "by its name"
            yield from _found(value, inside, secrets)
    elif isinstance(given, list | tuple | set | frozenset):
        for one in given:
            yield from _found(one, place, secrets)


def _why(text: str, secrets: frozenset[str]) -> str:
    """Return what kind of credential a text holds; "" if it holds none."""
    for form in {text, unquote(text)}:
        if _LOGIN.search(form):
            return "user and password before an @"
        for name in _QUERY.findall(form):
            if _SECRET_NAME.search(name) or name.lower() in _QUERY_ONLY:
                return "a signed or secret parameter of an address"
        if any(_SECRET_NAME.search(name) for name in _ASSIGNED.findall(form)):
            return "a secret that is set by name"
        if _SHAPES.search(form):
            return "it has the form of one"
        if any(secret in form for secret in secrets):
            return "a secret of the environment"
    return ""


def _secrets_of_environment() -> frozenset[str]:
    """Return values of the environment's secrets, which a shell may have put into an option."""
    return frozenset(
        value
        for name, value in os.environ.items()
        if len(value) >= _SHORTEST and not value.startswith("/") and _SECRET_NAME.search(name)
    )


def _by_name(kind: type, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return dict(inspect.signature(kind.__init__).bind_partial(None, *args, **kwargs).arguments)  # type: ignore[misc]
    except (TypeError, ValueError):  # the constructor will say what is wrong with them
        return {"arguments": [*args], **kwargs}
