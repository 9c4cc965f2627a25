"""The commands of `winnow` that stand around training: tokenize, materialise, plan, verify-resume."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from launch.plan import add_plan
from pipeline_steps.command_line import new_place, place
from pipeline_steps.terminal import Terminal


Commands = argparse._SubParsersAction


def add_training_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add them all."""
    _add_tokenize(commands)
    _add_materialise(commands)
    add_plan(commands)
    _add_verify_resume(commands)


def _add_tokenize(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "tokenize",
        help="a corpus into a token store, once, by all cores of this machine",
        description="Tokenise every document of a corpus into a memory-mapped store, from which every selection of "
        "the corpus is replayed. Killed and started again, it goes on; the store does not depend on the number of "
        "workers. On a cluster, put train.token_store_writer.TokenStoreWriter into a datatrove pipeline instead.",
    )
    parser.add_argument(
        "--corpus", required=True, metavar="PATH", help="file, folder or glob of .jsonl, .parquet or .warc files"
    )
    parser.add_argument(
        "--tokenizer", required=True, type=place, metavar="MODEL", help="Hub id or folder, e.g. google-t5/t5-small"
    )
    parser.add_argument(
        "--output", required=True, type=new_place, metavar="DIR", help="the store; continued if it exists"
    )
    parser.add_argument("--append-eos", action="store_true", help="end every document in EOS, for causal models")
    parser.add_argument(
        "--limit", type=int, default=-1, metavar="N", help="read at most N documents of each file (all)"
    )
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (%(default)s)"
    )
    parser.set_defaults(run=_tokenize)


def _tokenize(args: argparse.Namespace) -> int:
    from launch.tokenize import TokenizeSettings, tokenize

    settings = TokenizeSettings(args.corpus, args.tokenizer, args.append_eos, args.limit)
    store = tokenize(args.output, settings, args.workers)
    console = Terminal()
    console.print(f"{store.documents:,} documents, {store.tokens:,} tokens, checksums verified: {args.output}")
    return 0


def _add_materialise(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "materialise",
        help="write a selection's tokens as files that other trainers read",
        description="Write the tokens of the selected documents as datatrove's .ds files, one per source file. "
        "train.pretrain needs none: it replays a selection from the store.",
    )
    parser.add_argument("--tokens", required=True, type=place, metavar="DIR", help="token store")
    parser.add_argument(
        "--selection", type=place, metavar="FILE", help="written by Selection.save (default: all documents)"
    )
    parser.add_argument("--output", required=True, type=new_place, metavar="DIR", help="a new folder")
    parser.set_defaults(run=_materialise)


def _materialise(args: argparse.Namespace) -> int:
    from pipeline_steps.stores.selection import Selection
    from train.token_store import TokenStore, materialise

    selection = Selection.load(args.selection) if args.selection else None
    store = TokenStore.open(args.tokens)
    documents, tokens = materialise(store, selection, Path(args.output))
    Terminal().print(f"{documents:,} documents, {tokens:,} tokens: {args.output}")
    return 0


def _add_verify_resume(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "verify-resume",
        help="prove on this machine that a killed training run goes on exactly",
        description="Train a small model twice, once undisturbed and once killed twice (SIGKILL), and compare every "
        "loss and weight to the bit. Further arguments go to train.pretrain, e.g. --mixed_precision bf16. "
        "On a GPU, sums of gradients may be made in any order: only the samples are then sure to be the same.",
    )
    parser.add_argument("--tokens", required=True, type=place, metavar="DIR", help="token store")
    parser.add_argument("--output", required=True, type=new_place, metavar="DIR", help="a new folder, for both runs")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="of each run (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills (%(default)s)")
    parser.set_defaults(run=_verify_resume, further=True)


def _verify_resume(args: argparse.Namespace) -> int:
    from train.verify_resume import verify_resume

    console = Terminal()
    verdict = verify_resume(args.tokens, args.output, args.processes, args.further, args.seed, console)
    console.print(f"the same to the bit: {verdict.steps} losses, all weights and optimizer states", style="bold green")
    return 0
