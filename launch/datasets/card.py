"""The card of a dataset: how its documents were chosen, in numbers and words. No time, no machine."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Collection, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from pipeline_steps import __version__
from pipeline_steps.engines.models import EMBEDDED_PROXY, model_identity
from pipeline_steps.filters.cut_settings import Cut
from pipeline_steps.readers.reading import Reading
from pipeline_steps.samplers import of_scorer
from pipeline_steps.stores.score_store import ScoreStore
from pipeline_steps.stores.selection import Selection


Record = Mapping[str, Any]
"""What winnow.json says."""
Columns = tuple[pa.Schema, Collection[str]]
"""The schema of JSON lines, and the columns that have no one type."""

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_SIZES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")
_PAPER = """\
@article{sachdeva2024train,
  title   = {How to Train Data-Efficient LLMs},
  author  = {Sachdeva, Noveen and Coleman, Benjamin and Kang, Wang-Cheng and Ni, Jianmo and Hong, Lichan and Chi, Ed H.
             and Caverlee, James and McAuley, Julian and Cheng, Derek Zhiyuan},
  journal = {arXiv preprint arXiv:2402.09668},
  year    = {2024}
}"""
_EMBEDDED = (
    "The proxy is the one that ships with winnow-llm: a T5 of 1.1 million parameters that was trained to prefer long, "
    "informative prose over damaged prose, advertising, chat and the furniture of pages. It knows neither facts nor "
    "harm."
)
_MODES = {
    "top": "the highest scores",
    "bottom": "the lowest scores",
    "pareto": "the highest of noisy probabilities",
    "random": "drawn by chance",
    "ips": "drawn without replacement, each in proportion to exp(-score)",
    "direct": "drawn without replacement, each in proportion to exp(score)",
    "poisson": "each by itself, with probability min(1, c exp(-score))",
}
_BOTH = ("", "corpus", "this dataset")


def facts(store: ScoreStore, selection: Selection, cut: Cut) -> dict[str, Any]:
    """Return the numbers of a selection, for the record: pairs are of the corpus and of the dataset.

    Tokens are 0 where the scorer counts none; like quantiles, they count copies. There are no quantiles where chance
    chose, and only "top" and "bottom" of a whole corpus have a threshold: the score of the last document kept.
    """
    score_N, token_N, count_N = store.scores, store.tokens, selection.counts
    row, threshold = of_scorer(store.made.get("scorer")), {"top": np.min, "bottom": np.max}.get(cut.mode)
    if cut.mixture is not None or cut.copies is not None:
        threshold = None
    by_chance, kept = row is not None and row.cut == "random", np.repeat(score_N, count_N)
    return {
        "documents": [count_N.size, selection.documents],
        **({} if cut.is_plain else {"copies": selection.copies}),
        "tokens": [int(token_N.sum(dtype=np.int64)), int(np.repeat(token_N, count_N).sum(dtype=np.int64))],
        "quantiles": [] if by_chance else [np.quantile(one, QUANTILES).tolist() for one in (score_N, kept)],
        "threshold": None if threshold is None else float(threshold(kept)),
        "corpus_digest": selection.corpus_digest,
        "scores_fingerprint": store.fingerprint,
        "scores": store.made,
    }


def write_card(record: Record, command: str, pattern: str, columns: Columns | None) -> str:
    """Return README.md of the dataset that a command makes; columns are those of JSON lines, None for Parquet."""
    made, (before, after) = record["made_from"], record["documents"]
    sampler = made["sampler"] or record["scores"]["scorer"]
    title = _title(made, sampler)
    front = yaml.safe_dump(_front(record, title, pattern, columns), sort_keys=False, allow_unicode=True)
    column = (
        made["score_column"]
        and f", and `{made['score_column']}`, the score, and `{made['score_column']}_rank`, its rank"
    )
    copies = f", {record['copies']:,} copies in all" if "copies" in record else ""
    sections = [
        f"---\n{front}---\n\n# {title}",
        f"{after:,} of {before:,} documents ({after / before:.2%}){copies} of `{made['corpus']}`, in the corpus's "
        f"order: {_chosen(made)} by `{sampler}`, as in [How to Train Data-Efficient LLMs]"
        f"(https://huggingface.co/papers/2402.09668). All columns of the corpus are here{column or ''}.",
        *_counted(record),
        "## How it was chosen\n\n" + _table(_how(record)),
        "## What was kept\n\n" + _table(_kept(record), _BOTH),
    ]
    if record["quantiles"]:
        unit = record["scores"].get("unit", "score")
        found = zip(QUANTILES, *record["quantiles"], strict=True)
        rows = {f"{at:.0%}": (f"{there:.6g}", f"{here:.6g}") for at, there, here in found}
        sections.append(f"Scores ({unit}) by quantile:\n\n" + _table(rows, _BOTH))
    if _asks_embedded_proxy(record):
        sections.append(_EMBEDDED)
    again = f"```bash\n{command}\n```" if command else "A study file says how: `winnow run` writes this dataset."
    sections += [
        f"What made the scores:\n\n```json\n{json.dumps(record['scores'], indent=2, sort_keys=True)}\n```",
        f"## Again\n\n{again}\n\nwinnow-llm {__version__}. `selection.safetensors` says of every "
        "document of the corpus whether it is here (`pipeline_steps.Selection.load`); `winnow.json` holds the numbers "
        "above.",
        "## Limits\n\nA score is one model's or one statistic's view. Nothing was checked for licences, personal data "
        "or harm: what holds for the corpus holds for this dataset, its licence too.",
        f"## Cite\n\n```bibtex\n{_PAPER}\n```",
    ]
    return "\n\n".join(sections) + "\n"


def _asks_embedded_proxy(record: Record) -> bool:
    proxy = record["scores"].get("proxy")
    return isinstance(proxy, dict) and proxy.get("digest") == model_identity(EMBEDDED_PROXY)["digest"]


def _front(record: Record, title: str, pattern: str, columns: Columns | None) -> dict[str, Any]:
    made = record["made_from"]
    sampler = made["sampler"] or record["scores"]["scorer"]
    front: dict[str, Any] = {
        "pretty_name": title,
        "size_categories": [size_category(record["copies"] if made.get("repeat") else record["documents"][1])],
        "task_categories": ["text-generation"],
        "tags": ["winnow", "data-selection", "datatrove", sampler, "arxiv:2402.09668"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": pattern}]}],
    }
    if hub := re.match(r"hf://datasets/([^/@?]+/[^/@?]+)", made["corpus"]):
        front["source_datasets"] = [hub[1]]
    if columns is not None:
        schema, mixed = columns
        as_json = {field.name for field in schema if field.name in mixed or _is_only_json(field.type)}
        features = [
            {"name": field.name, **({"dtype": "json"} if field.name in as_json else _feature(field.type))}
            for field in schema
        ]
        front["dataset_info"] = {"features": features}
    return front


def size_category(documents: int) -> str:
    """Return what the Hub calls a dataset of so many rows."""
    names = ["n<1K", *(f"{least}<n<{most}" for least, most in pairwise(_SIZES)), "n>1T"]
    return names[bisect_right([10**power for power in range(3, 13)], documents)]


def _is_only_json(kind: pa.DataType) -> bool:
    """Return whether datasets has no type for some part: a null, which may be an empty mapping, or a UUID."""
    inner = [kind.field(number).type for number in range(kind.num_fields)]
    return pa.types.is_null(kind) or isinstance(kind, pa.BaseExtensionType) or any(map(_is_only_json, inner))


def _feature(kind: pa.DataType) -> dict[str, Any]:
    """Return the type of a column of JSON lines as the Hub's cards state it."""
    if pa.types.is_struct(kind):
        return {"struct": [{"name": field.name, **_feature(field.type)} for field in kind]}
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        inner = _feature(kind.value_type)
        return {"list": inner.get("dtype") or inner.get("struct") or inner}
    if pa.types.is_temporal(kind) or pa.types.is_decimal(kind):
        return {"dtype": "string"}  # in JSON
    named = {"double": "float64", "float": "float32", "large_string": "string"}
    return {"dtype": named.get(str(kind), str(kind))}


def _title(made: Mapping[str, Any], sampler: str) -> str:
    if made["rate"] is not None:
        amount = f"{made['rate'] * 100:.4g} % of the documents"
    elif made["k"] is not None:
        amount = f"{made['k']:,} documents"
    else:
        amount = "all copies" if made["token_budget"] is None else f"{made['token_budget']:,} tokens"
    return f"{made['corpus'].rstrip('/').rpartition('/')[2]}: {amount} by {sampler}"


def _how(record: Record) -> dict[str, tuple[str]]:
    made, scores, threshold = record["made_from"], record["scores"], record["threshold"]
    proxy = scores.get("proxy") or scores.get("model")
    if isinstance(proxy, dict):
        proxies = {"proxy": proxy.get("model")} | {f"proxy, {k}": v for k, v in proxy.items() if k != "model"}
    else:
        proxies = {"proxy": proxy}
    rows: dict[str, Any] = {
        "corpus": made["corpus"],
        "corpus, files": made["files"],
        "corpus, read up to": made["limit"] if made["limit"] >= 0 else None,
        **{f"corpus, {name}": value for name, value in Reading.of(made).changed.items()},
        "sampler": made["sampler"],
        "scorer": scores["scorer"],
        **proxies,
        "embedder": made["embedder"],
        "target": made["target"],
        "cut": f"{made['mode']}: {_chosen(made)}",
        **{name: made[name] for name in ("rate", "k", "token_budget", "seed")},
        **{
            name: made.get(name)
            for name in ("temperature", "normalize", "upsample", "copies", "mixture", "fill", "labels", "exclude")
        },
        "score threshold": None if threshold is None else f"{threshold:.9g}",
        "digest of the corpus": record["corpus_digest"],
        "digest of the scores": record["scores_fingerprint"],
    }
    return {name: (f"`{value}`",) for name, value in rows.items() if value is not None}


def _chosen(made: Record) -> str:
    """Say what the cut keeps."""
    if made.get("copies"):
        return "as often as a table says"
    chosen = _MODES[made["mode"]]
    if "temperature" in made or "normalize" in made:
        unit = " standard deviations" if "normalize" in made else ""
        chosen = chosen.replace("score", f"score / {made.get('temperature', 1):g}{unit}")
    if "upsample" in made:
        chosen += f", each up to {made['upsample']['cap']} times, along a curve"
    return chosen


def _counted(record: Record) -> list[str]:
    """Say how a document that is kept several times is there."""
    if "copies" not in record:
        return []
    if record["made_from"].get("repeat"):
        return ["A document that is kept several times has as many rows, with ids that end in `#2`, `#3` ..."]
    return [
        "Each document has one row, and `count` says how often to train on it. A trainer that knows nothing of counts "
        'needs rows repeated:\n\n```python\nrows = [i for i, count in enumerate(dataset["count"]) for _ in '
        "range(count)]\ndataset = dataset.select(rows)\n```"
    ]


def _kept(record: Record) -> dict[str, tuple[str, ...]]:
    documents, tokens = record["documents"], record["tokens"]
    rows = {"documents": tuple(f"{count:,}" for count in documents)}
    if "copies" in record:
        rows["copies"], documents = (f"{documents[0]:,}", f"{record['copies']:,}"), [documents[0], record["copies"]]
    if not tokens[0]:
        return rows | {"tokens": ("not counted by this scorer", "")}
    mean = tuple(f"{of / by:,.1f}" for of, by in zip(tokens, documents, strict=True))
    return rows | {"tokens": tuple(f"{count:,}" for count in tokens), "tokens a document": mean}


def _table(rows: Mapping[str, tuple[str, ...]], head: tuple[str, ...] = ("", "")) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += [
        "| " + " | ".join((name, *(cell.replace("|", "\\|") for cell in cells))) + " |" for name, cells in rows.items()
    ]
    return "\n".join(lines)
