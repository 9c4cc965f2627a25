"""`winnow coverage`: selections side by side, by what they cover and how good they are."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline_steps import Selection, coverage


def compare(
    selections: list[str], clusters: str, embeddings: str, density: str, quality: str | None = None
) -> list[dict[str, Any]]:
    """Coverage of each selection, as JSON types. Raises what `pipeline_steps.coverage` raises."""
    return [
        {"selection": path, **asdict(coverage(Selection.load(path), clusters, embeddings, density, quality))}
        for path in selections
    ]


def show_coverage(rows: list[dict[str, Any]], console: Console) -> None:
    """Print what `compare` found."""
    table = Table(box=None)
    table.add_column("selection", overflow="fold")
    counted = any(row["copies"] != row["documents"] for row in rows)
    columns = ["documents", *(["copies"] if counted else []), "clusters", "evenness", "to corpus", "to uniform"]
    for name in [*columns, *(["quality"] if rows[0]["quality"] is not None else [])]:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        evenness = row["entropy"] / row["attainable"] if row["attainable"] else 1.0
        cells = [f"{row['documents']:,}", *([f"{row['copies']:,}"] if counted else [])]
        cells += [f"{row['clusters']:,}", f"{evenness:.3f}"]
        cells += [f"{row['to_corpus']:.4f}", f"{row['to_uniform']:.4f}"]
        table.add_row(row["selection"], *cells, *([] if row["quality"] is None else [f"{row['quality']:.4g}"]))
    console.print(table)
    console.print(
        "evenness: entropy over the clusters, of the largest attainable. To corpus, to uniform: kernel discrepancy to "
        "the corpus as it is, and weighted by 1 / density; a random selection shows what chance alone gives.",
        style="dim",
    )
    if rows[0]["corpus_quality"] is not None:
        console.print(f"mean quality of the whole corpus: {rows[0]['corpus_quality']:.4g}", style="dim")
