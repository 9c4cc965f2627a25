"""Command lines that are not what they should be."""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from pathlib import Path

from . import files
from .cases import Case


# Good words of each command; None stands for a value that is to be made wrong sometimes
_COMMANDS: dict[str, dict[str, str]] = {
    "score": {"--corpus": "corpus", "--sampler": "random", "--output": "out", "--limit": "5", "--workers": "1"},
    "select": {
        "--corpus": "corpus",
        "--scores": "work/scores/keys",
        "--rate": "0.5",
        "--output": "out",
        "--seed": "0",
        "--workers": "1",
        "--format": "parquet",
        "--mode": "random",
    },
    "tokenize": {"--corpus": "corpus", "--tokenizer": "model", "--output": "out", "--limit": "5", "--workers": "1"},
    "join": {"": "kept", "--corpus": "corpus", "--column": "score", "--output": "out", "--workers": "1"},
    "materialise": {"--tokens": "tokens", "--selection": "cut.safetensors", "--output": "out", "--format": "mds"},
    "compare": {"": "kept", " ": "work/scores/keys", "--rate": "0.2", "--documents": "2"},
    "inspect": {"": "work/scores/keys"},
    "coverage": {"": "cut.safetensors", "--clusters": "work", "--embeddings": "work", "--density": "work/scores/keys"},
    "plan": {
        "": "micro.yaml",
        "--documents": "1e6",
        "--corpus-tokens": "1e9",
        "--accelerator": "H100",
        "--accelerators": "1",
        "--mfu": "0.3",
    },
    "run": {"": "micro.yaml", "--only": "scores", "--executor": "local", "--dry-run": ""},
    "status": {"": "micro.yaml"},
    "report": {"": "report", "--output": "r.md", "--format": "markdown", "--scores": "random=work/scores/keys"},
    "evaluate": {"": "perplexity", "--runs": "a=work", "--tokens": "c4=tokens", "--output": "r.jsonl"},
    "quickstart": {"--output": "out", "--rate": "2", "--train-tokens": "5", "--seed": "0", "--workers": "1"},
    "verify-resume": {"--tokens": "work", "--output": "out", "--processes": "0"},
}
_WORDS = (
    "", " ", "-", "--", "-1", "0", "1", "1.5", "nan", "inf", "-inf", "1e9", "1e999", "9" * 30, "9" * 5000,
    "0x10", "1_0", "٣", "x", "é", "語", "\udcff", "a\nb", "a\x00b", "\x1b[31m", "\u202e", "..", "/", "/dev/zero",
    "/dev/null", "/proc/self/mem", "/proc/self", "/nowhere/at/all", "~", "*", "[", "**/*", "a::b", "::",
    "file://", "file:///", "foo://bar", "memory://none", "file:///dev/zero", "zip://a::b.zip", "data:,x",
    "http:", "hf://", "hf://datasets", "x" * 300, "x/" * 3000, "=", "a=", "=b", "a=b=c", "$HOME", "$(id)",
    "cap=7", "drop=nan", "1=2", "web=1",
    "--help", "--json", "corpus", "corpus/a.jsonl", "corpus/*.jsonl", "work", "tokens", "kept", "model",
    "model/config.json", "cut.safetensors", "micro.yaml", "nope/nope", "random", "ask-llm", "density", "dsir",
    "paper",
)  # fmt: skip


def _command(number: int) -> Case:
    def make(folder: Path, rng: random.Random) -> Sequence[str]:
        shutil.copytree(files.TEMPLATES, folder, dirs_exist_ok=True)
        name = rng.choice(list(_COMMANDS))
        given = list(_COMMANDS[name].items())
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            _spoil(given, rng)
        words = [word for flag, value in given for word in (flag.strip(), value) if word or flag == "?"]
        if rng.random() < 0.06:
            words = [rng.choice(_WORDS) for _ in range(rng.randint(0, 4))]
        return [rng.choice(_WORDS) if rng.random() < 0.03 else name, *words]

    return Case("command lines", f"command {number}", make)


def _spoil(given: list[tuple[str, str]], rng: random.Random) -> None:
    at = rng.randrange(len(given)) if given else 0
    how = rng.choice(("value", "value", "value", "value", "gone", "flag", "twice", "new", "bare"))
    if how == "new" or not given:
        flags = [flag for known in _COMMANDS.values() for flag in known if flag.strip()]
        more = "--proxy --target --embedder --k --work --labels --temperature --upsample --mixture --copies --fill"
        given.insert(at, (rng.choice((*flags, *more.split())), rng.choice(_WORDS)))
    elif how == "value":
        given[at] = (given[at][0], rng.choice(_WORDS))
    elif how == "gone":
        del given[at]
    elif how == "flag":
        given[at] = (given[at][0] + rng.choice(("x", "=", "=x", "\n")), given[at][1])
    elif how == "twice":
        given.append((given[at][0], rng.choice(_WORDS)))
    else:
        given[at] = (given[at][0], "")


def cases(number: int, rng: random.Random) -> Case:
    """The case of a number."""
    return _command(number)
