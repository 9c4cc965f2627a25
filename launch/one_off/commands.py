"""The arguments of `winnow score`, `winnow select` and `winnow compare`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from launch.progress import StageProgress
from pipeline_steps.command_line import new_place, place
from pipeline_steps.errors import WinnowError
from pipeline_steps.numerics.priority import MODES
from pipeline_steps.terminal import Terminal, wide


Commands = argparse._SubParsersAction
_SCORE = """
examples:
  winnow score --corpus crawl/ --sampler ask-llm --proxy google/flan-t5-large --output work
  winnow score --corpus crawl/ --sampler density --output work
  winnow score --corpus s3://bucket/crawl --sampler dsir --target wiki/ --output work --workers 16

samplers: a scorer (ask-llm, perplexity, density, semdedup, prototypes, dsir, quality-classifier), random, or
one of the paper's with its proxy (ask-llm-{small,base,large,xl,xxl,gemma-7b}, perplexity-{small,base,large,xl,xxl}).

Kill it at any time; the same command goes on where it was. Several samplers of one corpus may share --output, and with
it embeddings, clusters and n-grams.
"""
_SELECT = """
examples:
  winnow select --corpus crawl/ --sampler ask-llm --proxy google/flan-t5-large --rate 0.2 --output kept
  winnow select --corpus crawl/ --sampler density --k 100000 --seed 1 --output s3://bucket/kept
  winnow select --corpus crawl/ --scores work/scores/ask-llm --token-budget 1000000000 --output kept --format jsonl
  winnow select --corpus hf://datasets/allenai/c4/en/c4-train.00000-of-01024.json.gz --sampler random --rate 0.1 \\
      --output hf://datasets/USER/c4-tenth --private

then
  datasets.load_dataset("kept")

The dataset is complete once its README.md is there, which is written last; a folder on this disk appears as a whole.
Kill it at any time; the same command goes on where it was, and the files are the same to the byte for any --workers.
Credentials come from the environment (AWS_..., HF_TOKEN or `hf auth login`), never from a path.
"""
_COMPARE = """
examples:
  winnow compare kept-ask-llm kept-density --corpus crawl/
  winnow compare work/scores/ask-llm work/scores/perplexity --rate 0.1 --json
  winnow compare selections/a.safetensors selections/b.safetensors

A score store stands for its best documents: as many as the other side keeps, or --rate of them. Best is what the paper
prefers: low perplexity, SemDeDup similarity and density, high scores else.
"""


def add_one_off_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add them all."""
    _add_score(commands)
    _add_select(commands)
    _add_compare(commands)


def _parser(commands: Commands[argparse.ArgumentParser], name: str, help: str, description: str, epilog: str) -> Any:
    return commands.add_parser(
        name,
        help=help,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _add_score(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = _parser(
        commands,
        "score",
        "one scorer over a corpus, with all it needs: embeddings, sketch, clusters, n-grams",
        "Score every document of a corpus with one scorer, on all cores of this machine, and leave a score store in "
        "DIR/scores/.",
        _SCORE,
    )
    parser.add_argument("--sampler", required=True, metavar="NAME", help="whose scorer is run: see below")
    _add_scoring(parser)
    parser.add_argument(
        "--output", required=True, type=new_place, metavar="DIR", help="local folder; continued if it exists"
    )
    parser.set_defaults(run=_score)


def _add_scoring(parser: argparse.ArgumentParser) -> None:
    """What `score` and `select` have in common."""
    parser.add_argument(
        "--corpus",
        required=True,
        metavar="PATH",
        help="file, folder or glob of .jsonl, .parquet or .warc files, local, s3:// or hf://datasets/...",
    )
    parser.add_argument(
        "--proxy",
        type=place,
        metavar="MODEL",
        help="Hub id or folder of the model that ask-llm or perplexity asks (ask-llm's default is the embedded one, "
        "which is for trying out)",
    )
    parser.add_argument(
        "--embedder",
        type=place,
        default="hashed-ngrams",
        metavar="MODEL",
        help="of density, semdedup and prototypes: Hub id or folder (default: %(default)s, which needs no weights)",
    )
    parser.add_argument(
        "--target", metavar="PATH", help="corpus of the text that dsir or quality-classifier is to find more of"
    )
    parser.add_argument("--limit", type=int, default=-1, metavar="N", help="the first N documents only (all)")
    parser.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="processes at a time, each with files of its own (%(default)s), and of those that run a model one on "
        "each GPU; changes the speed, nothing else",
    )


def _add_select(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = _parser(
        commands,
        "select",
        "a corpus in, the chosen documents out, as a dataset with a card",
        "Score a corpus, keep exactly so many of its documents, and write them, in their order and with all their "
        "columns, as a dataset that datasets.load_dataset reads.",
        _SELECT,
    )
    parser.add_argument("--sampler", metavar="NAME", help="as of winnow score; says how the score is cut, too")
    _add_scoring(parser)
    amount = parser.add_mutually_exclusive_group(required=True)
    amount.add_argument("--rate", type=float, help="share of the documents to keep")
    amount.add_argument("--k", type=int, metavar="N", help="documents to keep")
    amount.add_argument("--token-budget", type=int, metavar="N", help="tokens to keep, of a scorer that counts them")
    parser.add_argument("--mode", choices=MODES, help="how the score is cut (default: as the paper does)")
    parser.add_argument("--seed", type=int, default=0, help="of random modes, and among equal scores (%(default)s)")
    parser.add_argument(
        "--scores", type=place, metavar="DIR", help="a finished score store of this corpus, instead of scoring"
    )
    parser.add_argument(
        "--output",
        required=True,
        type=new_place,
        metavar="PATH",
        help="a new folder, local, s3://... or of any fsspec protocol, or hf://datasets/USER/NAME",
    )
    parser.add_argument(
        "--format",
        choices=("parquet", "jsonl"),
        help="of its files (parquet, unless PATH ends in jsonl); of dates, "
        "binary and very large numbers only Parquet keeps the types",
    )
    parser.add_argument("--score-column", metavar="NAME", help="where scores go (default: the scorer's, e.g. ask_llm)")
    parser.add_argument(
        "--work",
        type=new_place,
        metavar="DIR",
        help="local folder of scores and of what is not finished (default: PATH.work; of a remote PATH, here)",
    )
    parser.add_argument("--private", action="store_true", help="make the Hub's repository private if it is new")
    parser.set_defaults(run=_select)


def _add_compare(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = _parser(
        commands,
        "compare",
        "two selections, scores or datasets side by side: overlap, rank agreement, documents",
        "Say how much two selections of one corpus have in common, how much they would by chance, how alike two "
        "scores rank it, and which documents only one of them keeps.",
        _COMPARE,
    )
    for name in ("a", "b"):
        parser.add_argument(
            name,
            type=place,
            metavar=name.upper(),
            help="selection (.safetensors), folder of a score store, or dataset of winnow select",
        )
    parser.add_argument("--corpus", metavar="PATH", help="of both: show ids and texts of documents")
    parser.add_argument(
        "--rate", type=float, default=0.2, help="of two score stores, share that counts as kept (%(default)s)"
    )
    parser.add_argument("--documents", type=int, default=5, metavar="N", help="to show of each kind (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    parser.set_defaults(run=_compare)


def _score(args: argparse.Namespace) -> int:
    from launch.one_off.scoring import ScoreSettings, check_settings, find_sampler, score, with_proxy
    from pipeline_steps.stores.score_store import ScoreStore
    from train.folders import locked

    settings = ScoreSettings(
        _corpus(args), with_proxy(find_sampler(args.sampler), args.proxy), args.limit, args.embedder, args.target
    )
    files = check_settings(settings)
    if "://" in args.output:
        raise WinnowError(f"{args.output} is not on this machine's disk: give a local --output, and copy the store")
    with locked(Path(args.output), "winnow score"), StageProgress(Terminal()) as progress:
        store = score(args.output, settings, files, _workers(args), progress)
    documents = ScoreStore.open(store).documents
    Terminal().print(f"{documents:,} documents scored: {store}", highlight=False, soft_wrap=True)
    return 0


def _select(args: argparse.Namespace) -> int:
    from launch.one_off.parts import Format
    from launch.one_off.scoring import find_sampler, with_proxy
    from launch.one_off.select_settings import SelectSettings, usual_mode
    from launch.one_off.selecting import select_dataset
    from pipeline_steps.filters.cuts import Cut

    if args.sampler is None and args.scores is None:
        raise WinnowError("say what chooses: --sampler NAME, or --scores DIR of an existing score store")
    if args.scores and (args.proxy or args.target):
        raise WinnowError("--scores are used as they are: leave --proxy and --target out")
    sampler = find_sampler(args.sampler) if args.sampler else None
    if sampler is not None and not args.scores:
        sampler = with_proxy(sampler, args.proxy)
    mode = args.mode or (sampler.mode if sampler else usual_mode(args.scores))
    cut = Cut(mode, args.k, args.rate, args.token_budget, args.seed)
    format: Format = args.format or (
        "jsonl" if args.output.rstrip("/").removesuffix(".gz").endswith("jsonl") else "parquet"
    )
    settings = SelectSettings(
        _corpus(args),
        sampler,
        cut,
        args.scores,
        args.limit,
        args.embedder,
        args.target,
        format,
        args.score_column,
    )
    start, console = time.monotonic(), Terminal()
    work = args.work or _work(args.output)
    with StageProgress(console) as progress:
        record = select_dataset(settings, args.output, work, _workers(args), args.private, progress)
    before, after = record["documents"]
    console.print(
        f"{after:,} of {before:,} documents, {time.monotonic() - start:,.1f} s: {args.output}\n"
        f"scores   {args.scores or f'{work}/scores'}",
        highlight=False,
        soft_wrap=True,
    )
    return 0


def _corpus(args: argparse.Namespace) -> str:
    """One spelling, which is noted: crawl and crawl/ are the same."""
    return str(args.corpus).rstrip("/") or "/"


def _work(output: str) -> str:
    output = output.rstrip("/")
    return f"{output.rsplit('/', 1)[-1] if '://' in output else output}.work"


def _workers(args: argparse.Namespace) -> int:
    if args.workers < 1:
        raise WinnowError(f"--workers {args.workers} does nothing: give at least 1")
    return int(args.workers)


def _compare(args: argparse.Namespace) -> int:
    from launch.compare import compare, show

    if args.documents < 0:
        raise WinnowError(f"--documents {args.documents} cannot be shown: give 0 or more")
    found = compare(args.a, args.b, args.rate, args.corpus, args.documents)
    if args.json:
        sys.stdout.write(json.dumps(found, indent=2, sort_keys=True) + "\n")
    else:
        show(found, wide())
    return 0
