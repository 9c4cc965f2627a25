"""Malformed input by the thousand: every case must be refused in one sentence, or succeed with what can be read back.

    python -m tests.faults.malformed --trials 1000 --seed 0

Each case writes its input into an empty folder and gives the real command line there, in a forked child. A case is

    refused     exit status 2, a sentence of three lines at most, no traceback
    succeeded   and what it has written can be read: by datasets, pyarrow, or the store's own open
    TRACEBACK   anything else that ended
    HANG        it took more than twenty seconds
    UNREADABLE  it succeeded, and what it has written cannot be read

The exit status is 1 if there is one of the last three.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import shutil
import stat
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from . import commands, files, rows, studies
from .cases import Case
from .isolated import Ended, empty_folder, in_a_child, warm_up
from .read_back import unreadable


REFUSED, SUCCEEDED = "refused", "succeeded"
FAULTS = ("TRACEBACK", "HANG", "UNREADABLE")
_PARTS = {rows: 45, files: 25, studies: 15, commands: 15}  # of a hundred cases
_LINES = 3  # a sentence may be wrapped


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Attributes:
        kind: of the case.
        name: of the case.
        command: what was given.
        verdict: "refused", "succeeded", or one of `FAULTS`.
        said: the end of what it said.
        seconds: what it took.
        digest: of its input.
    """

    kind: str
    name: str
    command: str
    verdict: str
    said: str
    seconds: float
    digest: str


def run(trials: int, seed: int, only: Sequence[int] = ()) -> list[Outcome]:
    """Run so many cases; the same seed makes the same ones.

    Args:
        trials: how many.
        seed: of the cases.
        only: numbers of cases, to run these instead of all.
    """
    warm_up()
    with tempfile.TemporaryDirectory(prefix="malformed-") as root:
        Path(root).chmod(0o755)
        templates = files.make_templates(Path(root))
        one = partial(_outcome, Path(root), templates, seed)
        return list(map(one, only or range(trials)))


def case_of(number: int, seed: int) -> Case:
    """The case of a number."""
    rng = random.Random(f"{seed}/{number}")
    return rng.choices(list(_PARTS), list(_PARTS.values()))[0].cases(number, rng)


def _outcome(root: Path, templates: Path, seed: int, number: int) -> Outcome:
    case, folder = case_of(number, seed), root / f"case-{number}"
    empty_folder(folder)

    def work(notes: dict[str, str]) -> int:
        from launch.cli import main

        command = list(case.make(folder, random.Random(f"{seed}/{number}/make")))
        notes["digest"] = _digest(folder, command)
        notes["command"] = " ".join(map(repr, command))
        status = main(command)
        if status == 0 and (why := unreadable(command, folder)):
            notes["fault"] = why
        return status

    files.TEMPLATES = templates
    ended = in_a_child(work, folder)
    for left in root.glob(f"case-{number}*"):
        shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink()
    verdict, said = _verdict(ended)
    return Outcome(case.kind, f"{number}: {case.name}", ended.command, verdict, said, ended.seconds, ended.digest)


def _verdict(ended: Ended) -> tuple[str, str]:
    said = ended.error.strip() or ended.out.strip()[-300:]
    if ended.status is None:
        return "HANG", said
    if "Traceback" in ended.error + ended.out:
        return "TRACEBACK", said
    sentence = said.rpartition("/bad-rows\n")[2]  # below the table of rows that were left out
    if ended.status == 2 and 0 < len(sentence.splitlines()) <= _LINES:
        return REFUSED, said
    if ended.status in (0, 3):  # 3: winnow status, of a study that is not done
        return ("UNREADABLE", ended.fault) if ended.fault else (SUCCEEDED, said)
    return "TRACEBACK", f"exit status {ended.status}: {said}"


def _digest(folder: Path, command: list[str]) -> str:
    digest = hashlib.sha256("\0".join(command).encode("utf-8", "surrogateescape"))
    for path in sorted(folder.rglob("*")):
        digest.update(str(path.relative_to(folder)).encode("utf-8", "surrogateescape"))
        with suppress(OSError):  # forbidden, or no file
            if stat.S_ISREG(path.lstat().st_mode):
                digest.update(path.read_bytes())
    return digest.hexdigest()


def table(outcomes: Sequence[Outcome]) -> str:
    """Counts by kind and verdict."""
    verdicts = (REFUSED, SUCCEEDED, *FAULTS)
    counts = Counter((one.kind, one.verdict) for one in outcomes)
    kinds = [*sorted({one.kind for one in outcomes}), "all"]
    counts.update({("all", verdict): sum(one.verdict == verdict for one in outcomes) for verdict in verdicts})
    lines = [f"{'kind of case':<24}{'cases':>8}" + "".join(f"{verdict:>12}" for verdict in verdicts)]
    for kind in kinds:
        numbers = [counts[kind, verdict] for verdict in verdicts]
        lines.append(f"{kind:<24}{sum(numbers):>8}" + "".join(f"{number:>12}" for number in numbers))
    slowest = max(outcomes, key=lambda one: one.seconds)
    different = len({one.digest for one in outcomes if one.digest})
    lines.append(f"{different} of these inputs differ; the slowest took {slowest.seconds:.1f} s ({slowest.name})")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run cases and print what became of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", type=int, nargs="+", default=[], metavar="NUMBER", help="cases to run, with their words"
    )
    args = parser.parse_args(argv)
    outcomes = run(args.trials, args.seed, args.only)
    for one in outcomes:
        if args.only or one.verdict in FAULTS:
            print(
                f"{one.verdict}: {one.kind}, {one.name}: winnow {one.command}\n    "
                + one.said[-1500:].replace("\n", "\n    ")
            )
    print(table(outcomes))
    return int(any(one.verdict in FAULTS for one in outcomes))


if __name__ == "__main__":
    sys.exit(main())
