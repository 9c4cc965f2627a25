"""How the rows of a corpus are read: under which keys, from which files, and what becomes of bad ones."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal


OnBadRow = Literal["error", "skip"]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How the rows of a corpus are read.

    Attributes:
        text_key: the column of the text.
        id_key: the column of the id; without "id", a row is named by its file and place.
        glob: pattern of the files that are read: of their names or, if it has a slash, of their paths in the folder,
            where ** stands for any number of folders; "" for all.
        on_bad_row: whether a row that is no document is an error, or is left out and counted.
    """

    text_key: str = "text"
    id_key: str = "id"
    glob: str = ""
    on_bad_row: OnBadRow = "error"

    @property
    def changed(self) -> dict[str, Any]:
        """Return what is not as usual, by name; records hold no more, so that a new setting refuses no old one."""
        return {one.name: value for one in fields(self) if (value := getattr(self, one.name)) != one.default}

    @classmethod
    def of(cls, record: dict[str, Any]) -> Reading:
        """Return the reading that a record tells of, which holds other things beside."""
        return cls(**{name: record[name] for name in asdict(cls()) if name in record})

    def takes(self, name: str) -> bool:
        """Return whether a file is read, by its path in the folder."""
        from fsspec.utils import glob_translate

        pattern = self.glob if "/" in self.glob else f"**/{self.glob}"
        return not self.glob or re.match(glob_translate(pattern), name) is not None


USUAL = Reading()
"""How rows are read unless something else is said."""
