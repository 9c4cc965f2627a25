"""Flip bits and cut ends of every kind of file that is written and read back; nothing may change silently.

For each kind: 30 flips and 10 truncations. What reads the file must refuse it by name, or read what it read before
(white space of JSON, or a file that is derived again with a warning).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline_steps.errors import WinnowError


FLIPS, TRUNCATIONS = 30, 10


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        name: in the table.
        files: glob pattern of its files in the folder.
        read: what its reader makes of it: anything that can be compared.
        mend: runs the step that wrote it again; None if a person has to decide.
    """

    name: str
    files: str
    read: Callable[[Path], Any]
    mend: Callable[[Path], Any] | None = None


@dataclass
class Damage:
    """A row of the table."""

    name: str
    trials: int = 0
    named: int = 0
    harmless: int = 0
    silent: int = 0
    raw: int = 0
    unmended: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def bad(self) -> bool:
        """Whether anything is there that must not be."""
        return bool(self.silent or self.raw or self.unmended or not self.trials)


def damage(kind: Kind, folder: Path, seed: int, flips: int = FLIPS, truncations: int = TRUNCATIONS) -> Damage:
    """Damage the files of a kind, one at a time, and put them back."""
    chance, row = random.Random(f"{seed} {kind.name}"), Damage(kind.name)
    files = sorted(path for path in folder.glob(kind.files) if path.is_file() and path.stat().st_size)
    if not files:
        row.notes.append(f"no file is like {kind.files}")
        return row
    whole = kind.read(folder)
    for trial in range(flips + truncations):
        path = chance.choice(files)
        blob = path.read_bytes()
        if trial < flips:
            bit = chance.randrange(8 * len(blob))
            changed, what = bytearray(blob), f"{path.name}, bit {bit}"
            changed[bit // 8] ^= 1 << bit % 8
        else:
            size = chance.randrange(len(blob))
            changed, what = bytearray(blob[:size]), f"{path.name}, cut to {size} bytes"
        path.write_bytes(changed)
        row.trials += 1
        noticed = True
        try:
            if kind.read(folder) == whole:
                noticed = False
                row.harmless += 1
            else:
                row.silent += 1
                row.notes.append(f"{what}: it was read as something else")
        except WinnowError as error:
            named = path.name in str(error) or path.parent.name in str(error)
            row.named += named
            row.raw += not named
            if not named:
                row.notes.append(f"{what}: not named in {error}")
        except Exception as error:
            row.raw += 1
            row.notes.append(f"{what}: {type(error).__name__}: {error}")
        if noticed and kind.mend is not None and trial % 5 == 0:
            kind.mend(folder)
            if path.read_bytes() != blob:
                row.unmended += 1
                row.notes.append(f"{what}: its step does not make it again")
        path.write_bytes(blob)
    return row
