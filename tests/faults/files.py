"""Files that are not what they should be: damaged, special, or named so that tools stumble; corpora and artefacts."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import random
import shutil
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from pipeline_steps import EMBEDDED_PROXY

from .cases import Case, good_lines, reading_command, write
from .isolated import be_nobody, empty_folder, in_a_child
from .kinds_of_training import results_row
from .rows import good_warc


TEMPLATES = Path()  # set by `malformed`: what `make_templates` has made


def make_templates(root: Path) -> Path:
    """Make one good artefact of each kind, to be damaged; in a child, for pyarrow's threads do not survive a fork."""
    folder = root / "templates"
    empty_folder(folder)

    def work(notes: dict[str, str]) -> int:
        from launch.cli import main
        from pipeline_steps import Cut, ScoreStore, select

        write(folder / "corpus" / "a.jsonl", *good_lines(20))
        write(folder / "corpus" / "b.jsonl", *good_lines(5))
        corpus = ["--corpus", "corpus", "--workers", "1"]
        status = main(["score", *corpus, "--sampler", "random", "--output", "work"])
        status |= main(["tokenize", *corpus, "--tokenizer", EMBEDDED_PROXY, "--output", "tokens"])
        status |= main(["select", *corpus, "--scores", "work/scores/keys", "--rate", "0.5", "--output", "kept"])
        select(ScoreStore.open("work/scores/keys"), Cut("top", k=7)).save("cut.safetensors")
        shutil.copytree(EMBEDDED_PROXY, "model")
        _write_results(folder / "report" / "results.jsonl")
        return status

    ended = in_a_child(work, folder)
    if ended.status != 0:
        raise RuntimeError(f"the templates cannot be made: {ended.error}{ended.out}")
    return folder


def _write_results(path: Path) -> None:
    from evaluate_suite.results import write_results

    row = replace(results_row(), model="t5-small", step=10)
    path.parent.mkdir(parents=True)
    half = replace(row, sampler="random", rate=0.5, value=21.0)
    write_results(str(path), [row, half, replace(half, sampler="$\\frac{$", value=20.0)])


def _contents(rng: random.Random) -> tuple[str, bytes]:
    """A good file of some format: the endings of its name, and its bytes."""
    lines = b"".join(good_lines(rng.randint(1, 200)))
    form = rng.choice(
        (".jsonl", ".jsonl.gz", ".jsonl.bz2", ".jsonl.xz", ".jsonl.zst", ".parquet", ".warc.gz", ".warc")
    )
    if form == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        sink = pa.BufferOutputStream()
        ids = [f"d{number}" for number in range(50)]
        pq.write_table(pa.table({"id": ids, "text": [f"{id} and words" for id in ids]}), sink)
        return form, sink.getvalue().to_pybytes()
    if form.startswith(".warc"):
        return form, good_warc(rng, packed=form.endswith("gz"))
    if form.endswith("zst"):
        import zstandard

        return form, zstandard.compress(lines)
    pack = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}.get(form.rpartition(".")[2])
    return form, pack(lines) if pack else lines


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Bytes that a disk, a network or an editor has done something to."""
    at = rng.randrange(len(content) + 1)
    how = rng.choice(("cut", "cut", "flip", "flip", "flips", "empty", "hole", "more", "twice", "swap", "front"))
    if how in ("flip", "flips") and content:
        found = bytearray(content)
        for _ in range(1 if how == "flip" else 20):
            found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
        return bytes(found)
    return {
        "cut": content[:at],
        "empty": b"",
        "hole": content[:at] + bytes(64) + content[at + 64 :],
        "more": content + rng.randbytes(rng.randint(1, 50)),
        "twice": content + content,
        "swap": content[at:] + content[:at],
        "front": b"\xef\xbb\xbf" + content,
    }.get(how, content)


def _damaged_corpus(number: int) -> Case:
    def make(folder: Path, rng: random.Random) -> Sequence[str]:
        ending, content = _contents(rng)
        if rng.random() < 0.15:  # of another format, or another compression, than it says
            ending = rng.choice(
                (".jsonl", ".jsonl.gz", ".jsonl.bz2", ".jsonl.xz", ".jsonl.zst", ".parquet", ".warc.gz")
            )
        else:
            content = damaged(content, rng)
        write(folder / "corpus" / f"b{ending}", content)
        return reading_command(rng, rng.choice(("corpus", f"corpus/b{ending}")), EMBEDDED_PROXY)

    return Case("damaged corpus files", f"damaged {number}", make)


def special(path: Path, rng: random.Random) -> None:
    """Put something that is no ordinary file where one is expected."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    kind = rng.choice(
        (
            "fifo",
            "fifo",
            "link to fifo",
            "zero",
            "null",
            "full",
            "stdin",
            "socket",
            "loop",
            "nowhere",
            "folder",
            "root",
        )
    )
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link to fifo":
        os.mkfifo(f"{path}.pipe")
        path.symlink_to(f"{path}.pipe")
    elif kind in ("zero", "null", "full", "stdin"):
        path.symlink_to(f"/dev/{kind}")
    elif kind == "socket":
        here = os.open(".", os.O_RDONLY)
        os.chdir(path.parent)  # the name of a socket may have 107 bytes
        socket.socket(socket.AF_UNIX).bind(path.name)
        os.chdir(here)
    elif kind == "folder":
        (path / "x").mkdir(parents=True)
    else:
        path.symlink_to({"loop": path.name, "nowhere": "/nowhere/at/all", "root": "/proc/self"}[kind])


def _special_corpus(number: int) -> Case:
    def make(folder: Path, rng: random.Random) -> Sequence[str]:
        name = rng.choice(("b.jsonl", "b.jsonl.gz", "b.parquet", "b.warc.gz"))
        if rng.random() < 0.5:
            write(folder / "corpus" / "a.jsonl", *good_lines(3))
        special(folder / "corpus" / name, rng)
        command = reading_command(rng, rng.choice(("corpus", f"corpus/{name}", "corpus/*")), EMBEDDED_PROXY)
        if command[0] == "tokenize" and rng.random() < 0.3:
            place = folder / "corpus" / name
            beside = place if place.is_dir() and not place.is_symlink() else folder / "c"
            write(beside / "a.jsonl", *good_lines(2))
        return command

    return Case("special files", f"corpus {number}", make)


_NAMES: tuple[Callable[[random.Random], bytes], ...] = (
    lambda rng: b"a::b.jsonl",
    lambda rng: b"zip::x.jsonl",
    lambda rng: b"\xff\xfe.jsonl",
    lambda rng: b"a\nb.jsonl",
    lambda rng: b"a\rb.jsonl",
    lambda rng: "a\u2028b.jsonl".encode(),
    lambda rng: b" a.jsonl",
    lambda rng: b"-x.jsonl",
    lambda rng: b"--help.jsonl",
    lambda rng: b"x" * rng.choice((200, 240, 249)) + b".jsonl",
    lambda rng: "é".encode() * 124 + b".jsonl",
    lambda rng: "語".encode() * 80 + b".jsonl",
    lambda rng: b"[a].jsonl",
    lambda rng: b"*.jsonl",
    lambda rng: b"a?b.jsonl",
    lambda rng: b"{a,b}.jsonl",
    lambda rng: b"%20%2F.jsonl",
    lambda rng: b"#a.jsonl",
    lambda rng: b"$(touch x).jsonl",
    lambda rng: b"'\".jsonl",
    lambda rng: b"\\.jsonl",
    lambda rng: b"\x1b[31m.jsonl",
    lambda rng: b"a:b@c.jsonl",
    lambda rng: b"~.jsonl",
    lambda rng: b"=.jsonl",
    lambda rng: "\u202ea.jsonl".encode(),
    lambda rng: b"s3:.jsonl",
    lambda rng: b"${rank}.jsonl",
)


def _names(number: int) -> Case:
    def make(folder: Path, rng: random.Random) -> Sequence[str]:
        name = os.fsdecode(rng.choice(_NAMES)(rng))
        where = folder / "corpus"
        if rng.random() < 0.3:
            where /= name.removesuffix(".jsonl")
            name = "a.jsonl"
        write(where / name, *good_lines(4))
        path = str((where / name).relative_to(folder)) if rng.random() < 0.5 else str(where.relative_to(folder))
        command = reading_command(rng, path, EMBEDDED_PROXY)
        if rng.random() < 0.3:  # of what is written, too
            command = [*command, "--output", f"o{os.fsdecode(rng.choice(_NAMES)(rng))}"]
        return command

    return Case("names of files", f"name {number}", make)


def _forbidden(number: int) -> Case:
    def make(folder: Path, rng: random.Random) -> Sequence[str]:
        ending, content = _contents(rng)
        file = write(folder / "corpus" / f"b{ending}", content)
        write(folder / "corpus" / f"a{ending}", content)
        rng.choice((file, file.parent)).chmod(rng.choice((0, 0o444, 0o111, 0o333)))
        be_nobody(may_read=False)
        return reading_command(rng, "corpus", EMBEDDED_PROXY)

    return Case("forbidden files", f"forbidden {number}", make)


_ON_ARTEFACTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "work": (
        ("inspect", "work/scores/keys"),
        ("inspect", "work/scores/keys", "--json"),
        ("select", "--corpus", "corpus", "--scores", "work/scores/keys", "--k", "7", "--output", "out"),
        ("score", "--corpus", "corpus", "--sampler", "random", "--output", "work"),
        ("compare", "work/scores/keys", "cut.safetensors", "--json"),
        ("coverage", "cut.safetensors", "--clusters", "work", "--embeddings", "work", "--density", "work/scores/keys"),
        ("report", "report", "--output", "r.md", "--format", "markdown", "--scores", "random=work/scores/keys"),
        ("status", "work/random.yaml"),
    ),
    "tokens": (
        ("materialise", "--tokens", "tokens", "--output", "out"),
        ("materialise", "--tokens", "tokens", "--selection", "cut.safetensors", "--output", "out"),
        ("tokenize", "--corpus", "corpus", "--tokenizer", "model", "--output", "tokens"),
    ),
    "cut.safetensors": (
        ("compare", "cut.safetensors", "cut.safetensors", "--corpus", "corpus"),
        ("materialise", "--tokens", "tokens", "--selection", "cut.safetensors", "--output", "out"),
    ),
    "kept": (
        ("compare", "kept", "work/scores/keys"),
        ("select", "--corpus", "corpus", "--scores", "work/scores/keys", "--rate", "0.5", "--output", "kept"),
    ),
    "model": (("tokenize", "--corpus", "corpus", "--tokenizer", "model", "--output", "out"),),
    "report": (("report", "report", "--output", "r.md", "--format", "markdown"),),
    "corpus": (("select", "--corpus", "corpus", "--scores", "work/scores/keys", "--rate", "0.5", "--output", "out"),),
}


def _artefact(number: int) -> Case:
    def make(folder: Path, rng: random.Random) -> Sequence[str]:
        shutil.copytree(TEMPLATES, folder, dirs_exist_ok=True)
        hurt = rng.choice(list(_ON_ARTEFACTS))
        there = sorted(path for path in (folder / hurt).rglob("*") if path.is_file() and "logs" not in path.parts)
        file = rng.choice(there) if there else folder / hurt
        how = rng.choice(("damage", "damage", "damage", "special", "gone", "other"))
        if how == "damage":
            file.write_bytes(damaged(file.read_bytes(), rng))
        elif how == "special":
            special(file, rng)
        elif how == "gone":
            file.unlink()
        else:
            shutil.copyfile(rng.choice([one for one in there or [file] if one.exists()]), f"{file}.new")
            os.replace(f"{file}.new", file)
        command = rng.choice(_ON_ARTEFACTS[hurt])
        workers = ["--workers", "1"] if command[0] in ("select", "score", "tokenize") else []
        return [*command, *workers]

    return Case("damaged artefacts", f"artefact {number}", make)


def cases(number: int, rng: random.Random) -> Case:
    """The case of a number."""
    return rng.choices((_damaged_corpus, _special_corpus, _names, _forbidden, _artefact), (6, 5, 4, 1, 8))[0](number)
