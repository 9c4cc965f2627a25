"""Run the fault campaign and print its table; exit status 1 if anything is there that must not be.

python -m tests.faults --kills 1000 --seed 0
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from datatrove.utils.logging import logger

from . import malformed
from .damage import damage
from .disk import full_disk
from .isolated import warm_up
from .kills import adopt_orphans, campaign
from .kinds import STORES, make_stores
from .kinds_of_commands import COMMAND_KINDS, make_commands
from .kinds_of_training import EVALUATION_KINDS, TRAINING_KINDS, make_training
from .storage import failing_store
from .workloads import COMMANDS, PIPELINES, TRAINING


@dataclass
class Inputs:
    """A row of the table."""

    name: str
    trials: int
    traceback: int
    hang: int
    unreadable: int
    notes: list[str]

    @property
    def bad(self) -> bool:
        """Whether anything is there that must not be."""
        return bool(self.notes)


def main(argv: list[str] | None = None) -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="in all, most of them of pipelines (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of moments, operations, bits and malformed input")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="instead of all")
    args = parser.parse_args(argv)
    logger.remove()
    warm_up()
    adopt_orphans()
    bad = []
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        for name in args.parts:
            start = time.monotonic()
            for row in PARTS[name](args.kills, args.seed, Path(folder)):
                seconds, start = time.monotonic() - start, time.monotonic()
                print(f"{show(row)}  {seconds:,.0f} s", flush=True)
                bad += [f"{row.name}: {note}" for note in row.notes] if row.bad else []
    print("\n".join(bad) or "nothing is there that must not be")
    return int(bool(bad))


def show(row: object) -> str:
    """A row of the table: name, then every count."""
    found = asdict(row)  # type: ignore[call-overload]
    counts = [f"{count:>5} {name}" for name, count in found.items() if isinstance(count, int)]
    return f"{found['name']:<36}" + " ".join(counts)


def _kills(kills: int, seed: int, folder: Path) -> Iterator[object]:
    # A life of the first takes a second, of the second five, of a command ten, of a study a minute
    workloads = [*PIPELINES, *TRAINING, *COMMANDS]
    for workload, share in zip(workloads, (0.7, 0.15, 0.05, 0.05, 0.04, 0.01), strict=True):
        yield campaign(workload, max(2, round(share * kills)), seed, folder)


def _damage(kills: int, seed: int, folder: Path) -> Iterator[object]:
    parts = {
        "kinds": (make_stores, STORES),
        "kinds-of-training": (make_training, TRAINING_KINDS + EVALUATION_KINDS),
        "kinds-of-commands": (make_commands, COMMAND_KINDS),
    }
    for name, (make, kinds) in parts.items():
        make(folder / name)
        for kind in kinds:
            yield damage(kind, folder / name, seed)


def _storage(kills: int, seed: int, folder: Path) -> Iterator[object]:
    yield failing_store(max(1, kills // 100), seed, folder)


def _disk(kills: int, seed: int, folder: Path) -> Iterator[object]:
    yield full_disk(max(5, kills // 20), seed, folder)


def _malformed(kills: int, seed: int, folder: Path) -> Iterator[object]:
    outcomes = malformed.run(max(100, kills), seed)
    print(malformed.table(outcomes))
    wrong = [one for one in outcomes if one.verdict in malformed.FAULTS]
    counts = {verdict.lower(): sum(one.verdict == verdict for one in outcomes) for verdict in malformed.FAULTS}
    notes = [f"{one.verdict}: winnow {one.command}: {one.said[-300:]}" for one in wrong]
    yield Inputs("malformed input", len(outcomes), **counts, notes=notes)


PARTS: dict[str, Callable[[int, int, Path], Iterator[object]]] = {
    "kills": _kills,
    "damage": _damage,
    "storage": _storage,
    "disk": _disk,
    "malformed": _malformed,
}


if __name__ == "__main__":
    sys.exit(main())
