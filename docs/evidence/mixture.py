"""Mix real text as a crawl mixes it: mostly raw pages and reviews, a few per cent of edited prose.

    python docs/evidence/mixture.py DATA OUTPUT

DATA holds NAME/dev.jsonl.gz of the sources in DOMAINS, rows with `id`, `text` and, where
documents belong together, `group`. OUTPUT receives corpus/*.jsonl (one file per source), held-out/*.jsonl (one file
per domain) and target.jsonl (edited prose that DSIR and the quality classifier find more of). A document's hash, and
no random number, decides where it goes; documents of one group stay on one side.
"""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import xxhash


# Domain -> sources with the most documents that the corpus takes of each
DOMAINS = {
    "web": {"uci_crawl": 16_000, "c4_full": 300, "webmix_small": 200, "pile_toy": 800},
    "c4": {"c4_trunc": 1_200, "c4_news": 400},
    "reviews": {"imdb_reviews": 15_000},
    "instructions": {"instruct": 5_000},
    "mail": {"ling_spam": 2_300},
    "chat": {"irc_ubuntu": 500},
    "ocr": {"bln600_ocr": 900},
    "readers": {"clear_readability": 1_000, "onestop_english": 300},
    "novels": {"novels_100": 600},
    "encyclopedia": {"wikipedia": 60},
    "brown": {"brown": 150},
}
TARGET = ("wikipedia", "brown")  # a third of both is neither in the corpus nor held out
_HELD_OUT = 0.1  # share of the groups
_DOCUMENTS = 200  # held-out documents of a source
_CHARACTERS = 4_000  # of a held-out document: a few long ones would be most of a domain


def main(data: Path, output: Path) -> None:
    """Write the corpus, the held-out texts and the target."""
    for folder in ("corpus", "held-out"):
        (output / folder).mkdir(parents=True, exist_ok=True)
    target: list[dict[str, str]] = []
    for domain, sources in DOMAINS.items():
        held_out: list[dict[str, str]] = []
        for source, most in sources.items():
            sides: dict[str, list[dict[str, str]]] = {"corpus": [], "held-out": [], "target": []}
            for row in sorted(_rows(data / source / "dev.jsonl.gz"), key=lambda row: _share(row["id"])):
                sides[_side(source, row)].append({"id": row["id"], "text": row["text"]})
            _write(output / "corpus" / f"{source}.jsonl", sides["corpus"][:most])
            held_out += [{**row, "text": row["text"][:_CHARACTERS]} for row in sides["held-out"][:_DOCUMENTS]]
            target += sides["target"]
        _write(output / "held-out" / f"{domain}.jsonl", held_out)
    _write(output / "target.jsonl", target)


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            # Of the pairs in these sources, the corpus has the raw half
            if row.get("label") != "clean":
                yield row


def _side(source: str, row: dict[str, Any]) -> str:
    share = _share(f"group {_group(row)}")
    if share < _HELD_OUT:
        return "held-out"
    return "target" if source in TARGET and share < _HELD_OUT + 1 / 3 else "corpus"


def _group(row: dict[str, Any]) -> str:
    """Return what documents that belong together share: a work, an author, or the first folder of a web host."""
    if "url" in row and "host" in row:
        return f"{row['host']}/{urlsplit(row['url']).path.strip('/').partition('/')[0]}"
    if row["id"].startswith("novels_100/"):
        return str(row["label"])
    return str(row.get("group") or row["id"])


def _share(text: str) -> float:
    """Return a number from 0 to 1 that depends on the text alone."""
    return xxhash.xxh3_64_intdigest(text.encode()) / 2**64


def _write(file: Path, rows: list[dict[str, str]]) -> None:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    print(f"{file}: {len(rows):,} documents, {sum(len(row['text']) for row in rows):,} characters")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
