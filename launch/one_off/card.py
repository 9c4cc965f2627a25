"""The card of a dataset that `winnow select` wrote: how it was chosen, in numbers and words. No time, no machine."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from pipeline_steps import __version__
from pipeline_steps.samplers import of_scorer
from pipeline_steps.stores.score_store import ScoreStore
from pipeline_steps.stores.selection import Selection


QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
_LARGER = ((10**8, "10M<n<100M"), (10**9, "100M<n<1B"), (10**10, "1B<n<10B"), (10**11, "10B<n<100B"))
_PAPER = """\
@article{sachdeva2024train,
  title   = {How to Train Data-Efficient LLMs},
  author  = {Sachdeva, Noveen and Coleman, Benjamin and Kang, Wang-Cheng and Ni, Jianmo and Hong, Lichan and Chi, Ed H.
             and Caverlee, James and McAuley, Julian and Cheng, Derek Zhiyuan},
  journal = {arXiv preprint arXiv:2402.09668},
  year    = {2024}
}"""
_MODES = {
    "top": "the highest scores",
    "bottom": "the lowest scores",
    "pareto": "the highest of noisy probabilities",
    "random": "drawn by chance",
    "ips": "drawn without replacement, each in proportion to exp(-score)",
    "direct": "drawn without replacement, each in proportion to exp(score)",
    "poisson": "each by itself, with probability min(1, c exp(-score))",
}


@dataclass(frozen=True)
class Facts:
    """What was chosen, in numbers.

    Attributes:
        documents: before and after.
        tokens: before and after; zeros where the scorer counts none.
        quantiles: of the scores at `QUANTILES`, before and after; empty where chance chose.
        threshold: score of the last document kept, by top or bottom; else None.
        scores: configuration of the score store.
        digests: of the corpus and of the score store.
    """

    documents: tuple[int, int]
    tokens: tuple[int, int]
    quantiles: tuple[list[float], list[float]]
    threshold: float | None
    scores: dict[str, Any]
    digests: tuple[str, str]


def facts(store: ScoreStore, selection: Selection, mode: str) -> Facts:
    """Of a selection from a score store."""
    score_N, token_N, mask_N = store.scores, store.tokens, selection.mask
    kept_K = score_N[mask_N]
    row = of_scorer(store.made.get("scorer"))
    by_chance = row is not None and row.cut == "random"
    threshold = {"top": kept_K.min, "bottom": kept_K.max}.get(mode)
    return Facts(
        documents=(mask_N.size, selection.documents),
        tokens=(int(token_N.sum(dtype=np.int64)), int(token_N[mask_N].sum(dtype=np.int64))),
        quantiles=([], []) if by_chance else (_quantiles(score_N), _quantiles(kept_K)),
        threshold=None if threshold is None else float(threshold()),
        scores=store.made,
        digests=(selection.corpus_digest, store.fingerprint),
    )


def write_card(
    made_from: Mapping[str, Any],
    found: Facts,
    command: str,
    pattern: str,
    columns: tuple[pa.Schema, Collection[str]] | None,
) -> str:
    """README.md of the dataset.

    Args:
        made_from: what decides it.
        found: numbers.
        command: that makes it.
        pattern: of its files.
        columns: of JSON lines: their schema, and those of no one type.
    """
    sampler = made_from["sampler"] or found.scores["scorer"]
    share = found.documents[1] / found.documents[0]
    head = yaml.safe_dump(_front(made_from, found, sampler, pattern, columns), sort_keys=False, allow_unicode=True)
    sections = [
        f"---\n{head}---\n\n# {_title(made_from, sampler)}",
        f"{found.documents[1]:,} of {found.documents[0]:,} documents ({share:.2%}) of `{made_from['corpus']}`, in the "
        f"corpus's order: {_MODES[made_from['mode']]} by `{sampler}`, as in [How to Train Data-Efficient LLMs]"
        "(https://huggingface.co/papers/2402.09668). All columns of the corpus are here"
        + (f", and `{made_from['score_column']}`, the score." if made_from["score_column"] else "."),
        "## How it was chosen\n\n" + _table(_how(made_from, found)),
        "## What was kept\n\n" + _table(_kept(found), ("", "corpus", "this dataset")),
    ]
    if found.quantiles[0]:
        unit = found.scores.get("unit", "score")
        rows = {f"{at:.0%}": (f"{a:.6g}", f"{b:.6g}") for at, a, b in zip(QUANTILES, *found.quantiles, strict=True)}
        sections.append(f"Scores ({unit}) by quantile:\n\n" + _table(rows, ("", "corpus", "this dataset")))
    about = json.dumps(found.scores, indent=2, sort_keys=True)
    sections += [
        f"What made the scores:\n\n```json\n{about}\n```",
        f"## Again\n\n```bash\n{command}\n```\n\nwinnow-llm {__version__}. `selection.safetensors` says of every "
        "document of the corpus whether it is here (`pipeline_steps.Selection.load`); `winnow.json` holds the numbers "
        "above.",
        "## Limits\n\nA score is one model's or one statistic's view. Nothing was checked for licences, personal data "
        "or harm: what holds for the corpus holds for this dataset, its licence too.",
        f"## Cite\n\n```bibtex\n{_PAPER}\n```",
    ]
    return "\n\n".join(sections) + "\n"


def _front(
    made_from: Mapping[str, Any],
    found: Facts,
    sampler: str,
    pattern: str,
    columns: tuple[pa.Schema, Collection[str]] | None,
) -> dict[str, Any]:
    front: dict[str, Any] = {
        "pretty_name": _title(made_from, sampler),
        "size_categories": [size_category(found.documents[1])],
        "task_categories": ["text-generation"],
        "tags": ["winnow", "data-selection", "datatrove", sampler, "arxiv:2402.09668"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": pattern}]}],
    }
    if hub := re.match(r"hf://datasets/([^/@]+/[^/@]+)", made_from["corpus"]):
        front["source_datasets"] = [hub[1]]
    if columns is not None:
        schema, mixed = columns
        front["dataset_info"] = {
            "features": [
                {"name": field.name, "dtype": "json"}
                if field.name in mixed or _is_only_json(field.type)
                else features(field.name, field.type)
                for field in schema
            ]
        }
    return front


def size_category(documents: int) -> str:
    """As the Hub names it."""
    return next((name for most, name in (*_SIZES, *_LARGER) if documents < most), "100B<n<1T")


def features(name: str, kind: pa.DataType) -> dict[str, Any]:
    """A column of JSON lines as the Hub's cards name it."""
    return {"name": name, **_feature(kind)}


def _is_only_json(kind: pa.DataType) -> bool:
    """Return whether datasets has no type for some part: a null, which may be an empty mapping, or a UUID."""
    inner = [kind.field(number).type for number in range(kind.num_fields)]
    return pa.types.is_null(kind) or isinstance(kind, pa.BaseExtensionType) or any(map(_is_only_json, inner))


def _feature(kind: pa.DataType) -> dict[str, Any]:
    if pa.types.is_struct(kind):
        return {"struct": [features(field.name, field.type) for field in kind]}
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        inner = _feature(kind.value_type)
        return {"list": inner.get("dtype") or inner.get("struct") or inner}
    if pa.types.is_temporal(kind) or pa.types.is_decimal(kind):
        return {"dtype": "string"}  # in JSON
    named = {"double": "float64", "float": "float32", "large_string": "string"}
    return {"dtype": named.get(str(kind), str(kind))}


def _title(made_from: Mapping[str, Any], sampler: str) -> str:
    name = made_from["corpus"].rstrip("/").rsplit("/", 1)[-1]
    amounts = {"rate": "{:.4g} % of the documents", "k": "{:,} documents", "token_budget": "{:,} tokens"}
    amount = next(
        text.format(made_from[key] * (100 if key == "rate" else 1))
        for key, text in amounts.items()
        if made_from[key] is not None
    )
    return f"{name}: {amount} by {sampler}"


def _how(made_from: Mapping[str, Any], found: Facts) -> dict[str, tuple[str]]:
    proxy = found.scores.get("proxy") or found.scores.get("model")
    rows: dict[str, Any] = {
        "corpus": made_from["corpus"],
        "corpus, files": made_from["files"],
        "corpus, read up to": made_from["limit"] if made_from["limit"] >= 0 else None,
        "sampler": made_from["sampler"],
        "scorer": found.scores["scorer"],
        **(_model("proxy", proxy) if isinstance(proxy, dict) else {"proxy": proxy}),
        "embedder": made_from["embedder"],
        "target": made_from["target"],
        "cut": f"{made_from['mode']}: {_MODES[made_from['mode']]}",
        **{name: made_from[name] for name in ("rate", "k", "token_budget", "seed")},
        "score threshold": None if found.threshold is None else f"{found.threshold:.9g}",
        "digest of the corpus": found.digests[0],
        "digest of the scores": found.digests[1],
    }
    return {name: (f"`{value}`",) for name, value in rows.items() if value is not None}


def _model(name: str, identity: dict[str, Any]) -> dict[str, Any]:
    return {name: identity.get("model")} | {f"{name}, {k}": v for k, v in identity.items() if k != "model"}


def _kept(found: Facts) -> dict[str, tuple[str, ...]]:
    rows = {"documents": tuple(f"{count:,}" for count in found.documents)}
    if found.tokens[0]:
        rows["tokens"] = tuple(f"{count:,}" for count in found.tokens)
        rows["tokens a document"] = tuple(
            f"{tokens / documents:,.1f}" for tokens, documents in zip(found.tokens, found.documents, strict=True)
        )
    else:
        rows["tokens"] = ("not counted by this scorer", "")
    return rows


def _table(rows: Mapping[str, tuple[str, ...]], head: tuple[str, ...] = ("", "")) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += [
        "| " + " | ".join((name, *(cell.replace("|", "\\|") for cell in cells))) + " |" for name, cells in rows.items()
    ]
    return "\n".join(lines)


def _quantiles(score_N: np.ndarray) -> list[float]:
    return [float(value) for value in np.quantile(score_N, QUANTILES)]
