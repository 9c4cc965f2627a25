"""Study files that are not what they should be: those that come with the package, changed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

from .cases import Case, good_lines, write
from .files import damaged, special


_STUDIES = Path(__file__).parents[2] / "launch" / "studies"
_VALUES = r"""
1e9 1000000000 -1 0 99999999999999999999999999 0x7fffffffffffffff 0o17 1_000 1:30:00 .inf -.inf .nan null ~
yes no true '' "" [] {} [[]] [{}] {a: } [1,[2,[3]]] *a &a !!python/object:os.system !!binary !!set !!null <<:
@x `x ? - 2024-01-01 '"' "\ud800" "\x00" 1e400 0.2.3 -0.0 0.999999999 1e-320 paper full random ask-llm@5
t5-tiny@10 t5-tiny@99999999999 ../../x /dev/zero /proc/self/mem a/b .. - s3://b/k hf://x memory://x x::y
${HOME} $(id) ;id langsam ask-llm perplexity dsir density local slurm ray
""".split()


def _lines_changed(text: str, rng: random.Random) -> str:
    lines = text.splitlines(keepends=True)
    at = rng.randrange(len(lines))
    key, colon, _ = lines[at].partition(":")
    lines[at : at + 1] = rng.choice(
        (
            [],
            [lines[at], lines[at]],
            [f"{key}: {rng.choice(_VALUES)}\n"] if colon else [f"- {rng.choice(_VALUES)}\n"],
            [f"{key}: {rng.choice(_VALUES)}\n"] if colon else [f"- {rng.choice(_VALUES)}\n"],
            [f"{key}: {rng.choice(_VALUES)}\n"] if colon else [f"- {rng.choice(_VALUES)}\n"],
            [f"{key[:-1]}x:{lines[at].partition(':')[2]}"] if colon else [lines[at] * 2],
            ["\t" + lines[at]],
            [" " * rng.randint(1, 5) + lines[at]],
            [lines[at].lstrip()],
            [
                lines[at].rstrip("\n")
                + rng.choice(("]", "}", "[", "{", ":", ": :", "'", '"', " #", "|", "&", "*", "%"))
                + "\n"
            ],
            [lines[at][: rng.randrange(len(lines[at]))]],
            [f"new: {rng.choice(_VALUES)}\n", lines[at]],
        )
    )
    return "".join(lines)


def _bomb(rng: random.Random, merge: bool) -> str:
    width, depth = rng.choice((2, 5, 10)), rng.choice((5, 9, 20, 31))
    lines = ["a0: &a0 {k: 1}" if merge else "a0: &a0 [x, y]"]
    for number in range(1, depth):
        aliases = ", ".join([f"*a{number - 1}"] * width)
        lines.append(f"a{number}: &a{number} " + (f"{{<<: [{aliases}], k{number}: 1}}" if merge else f"[{aliases}]"))
    return "\n".join(lines) + "\n"


_WHOLE: dict[str, Callable[[str, random.Random], str]] = {
    "an alias bomb": lambda text, rng: _bomb(rng, False) + text,
    "a merge bomb": lambda text, rng: _bomb(rng, True) + text,
    "an alias bomb for samplers": lambda text, rng: f"{_bomb(rng, False)}output: o\ncorpus: c\nsamplers: *a4\n",
    "many samplers": lambda text, rng: (
        "output: o\ncorpus: c\nsamplers:\n"
        + "".join(f"  - s{i}: {{scorer: ask-llm, model: m}}\n" for i in range(rng.choice((500, 1400, 20_000))))
    ),
    "many rates": lambda text, rng: (
        f"output: o\ncorpus: c\nsamplers: [random]\nrates: {[i / 9000 for i in range(1, rng.choice((2000, 9000)))]}\n"
    ),
    "many runs": lambda text, rng: (
        f"output: o\nsamplers: paper\nrates: {[i / 400 for i in range(1, 399)]}\n"
        f"models: {{t5-small: {{total_tokens: 5242880}}}}\nseeds: {list(range(rng.choice((1, 99, 999))))}\n"
    ),
    "many tasks": lambda text, rng: (
        text + f"\nengine: {{tasks: {rng.choice(('1e9', 10**9, 10_000, 10_001, 10**30, -5, 0))}}}\n"
    ),
    "deep lists": lambda text, rng: text + "x: " + "[" * rng.choice((20, 40, 500, 60_000)),
    "deep mappings": lambda text, rng: "".join(" " * i + "a:\n" for i in range(rng.choice((20, 40, 300)))),
    "deep flow": lambda text, rng: "x: " + "{a: " * rng.choice((20, 40, 10_000)) + "1",
    "a huge number": lambda text, rng: (
        f"output: o\ncorpus: c\nsamplers: [random]\nlimit: {'9' * rng.choice((19, 20, 5000))}\n"
    ),
    "a huge file": lambda text, rng: text + "#" * rng.choice((70_000, 50_000_000)),
    "a huge key": lambda text, rng: text + "k" * rng.choice((1000, 60_000)) + ": 1\n",
    "a huge value": lambda text, rng: text.replace("output: ", "output: " + "v" * rng.choice((300, 5000, 60_000)), 1),
    "several documents": lambda text, rng: f"{text}\n---\n{text}",
    "CRLF": lambda text, rng: text.replace("\n", "\r\n"),
    "tabs": lambda text, rng: text.replace("  ", "\t"),
    "directives": lambda text, rng: f"%YAML 9.9\n---\n{text}",
    "a part of itself": lambda text, rng: "samplers: &a [*a]\noutput: o\ncorpus: c\n",
    "no mapping": lambda text, rng: rng.choice(
        ("- a\n- b\n", "text", "5", "null", "---\n...\n", "", "\n#\n", "[]", "{}")
    ),
    "JSON": lambda text, rng: '{"output": "o", "corpus": "c", "samplers": ["random"], "rates": [0.5, 0.5]}',
}


def _study(number: int) -> Case:
    def make(folder: Path, rng: random.Random) -> Sequence[str]:
        text = (_STUDIES / rng.choice(("micro.yaml", "paper.yaml", "quickstart.yaml"))).read_text()
        if rng.random() < 0.35:
            text = _WHOLE[rng.choice(list(_WHOLE))](text, rng)
        for _ in range(rng.choice((0, 1, 1, 2, 4))):
            text = _lines_changed(text or "\n", rng)
        content = text.encode("utf-8", "surrogatepass")
        form = rng.random()
        if form < 0.08:
            content = damaged(content, rng)
        elif form < 0.12:
            content = text.encode(rng.choice(("utf-16", "utf-32", "utf-8-sig", "cp037")), "replace")
        file = write(folder / "study.yaml", content)
        if form > 0.96:
            special(file, rng)
        write(folder / "c" / "a.jsonl", *good_lines(3))
        return rng.choice(
            (
                ["plan", "study.yaml", "--documents", "1e6"],
                ["plan", "study.yaml", "--json"],
                ["run", "study.yaml", "--dry-run"],
                ["run", "study.yaml", "--dry-run", "--executor", "slurm", "--only", "scores"],
                ["status", "study.yaml"],
                ["status", "study.yaml", "--json"],
            )
        )

    return Case("study files", f"study {number}", make)


def cases(number: int, rng: random.Random) -> Case:
    """The case of a number."""
    return _study(number)
