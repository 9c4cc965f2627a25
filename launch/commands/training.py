"""The commands around training: tokenize, materialise, pretrain, average, verify-resume, evaluate."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from launch.commands.arguments import CORES, CORPUS, MODEL, NEW_PLACE, PLACE, Forwarded, Rows
from pipeline_steps.readers.reading import USUAL
from pipeline_steps.terminal import Terminal


def tokenize(
    *,
    corpus: Annotated[str, CORPUS],
    tokenizer: Annotated[str, MODEL],
    output: Annotated[str, NEW_PLACE],
    append_eos: bool = False,
    limit: int = -1,
    reading: Rows = USUAL,
    workers: int = CORES,
) -> int:
    """Tokenise every document of a corpus into a memory-mapped store, from which every selection is replayed.

    Killed and started again, it goes on; the store does not depend on the number of workers. On a cluster, put
    train.token_store_writer.TokenStoreWriter into a datatrove pipeline instead.

    Args:
        corpus: file, folder or glob of .jsonl, .csv, .parquet, .arrow or .warc files, local or s3://..., or
            hf://datasets/USER/NAME?config=NAME&split=NAME.
        tokenizer: Hub id or folder, e.g. google-t5/t5-small; embedded is this package's own for T5s, embedded-bpe that
            for decoders.
        output: the store; continued if it exists.
        append_eos: end every document in EOS: for decoders, which need it to end a text and for --mask-documents.
        limit: the first documents only; -1: all.
        workers: processes.

    Examples:
      winnow tokenize --corpus crawl/ --tokenizer google-t5/t5-small --output tokens
      winnow tokenize --corpus crawl/ --tokenizer embedded-bpe --append-eos --output tokens
    """
    from launch.small_studies import SmallStudy, corpus_values, refuse_inside
    from train.token_store import TokenStore

    refuse_inside(corpus, output)
    values = corpus_values(output, corpus, limit, reading)
    values |= {"tokenizer": tokenizer, "token_store": {"append_eos": append_eos}}
    SmallStudy("winnow tokenize", f"{output}/tokenize.yaml", values, workers).run()
    store = TokenStore.open(output)
    Terminal().print(f"{store.documents:,} documents, {store.tokens:,} tokens, checksums verified: {output}")
    if not store.sentinels and not store.append_eos:
        Terminal().print(
            "The documents do not end in EOS: a decoder trained on them never ends a text, and cannot be trained with "
            "--mask-documents. Give --append-eos and another --output for both."
        )
    return 0


def materialise(
    *,
    tokens: Annotated[str, PLACE],
    selection: Annotated[str | None, PLACE] = None,
    output: Annotated[str, NEW_PLACE],
    format: Literal["ds", "megatron", "mds"] = "ds",
    append_eos: Annotated[bool | None, Parameter(negative="--no-append-eos")] = None,
) -> int:
    """Write the tokens of the selected documents as files that other trainers read.

    winnow pretrain needs none: it replays a selection from the store. For trainers that tokenise for themselves, such
    as LLaMA-Factory, Axolotl or TRL, winnow select writes Parquet with the texts. Documents are in corpus order. The
    folder appears once it is complete; killed, give the same command again.

    Args:
        tokens: token store.
        selection: file written by Selection.save; all documents if not given.
        output: a new folder.
        format: ds, for datatrove and nanotron: FILE.ds, .ds.index and .ds.metadata of each source file. megatron, for
            Megatron-LM and NeMo: text_document.bin and .idx, of uint16 if the vocabulary has less than 65,500 ids and
            of int32 otherwise; train with --data-path DIR/text_document. mds, for MosaicML Streaming: shards of 64 MB
            with a column tokens, an array for each document.
        append_eos: end each document in EOS once, where the store's do not; by default for megatron and mds. Trainers
            that read ds expect one, too.

    Examples:
      winnow materialise --tokens tokens --selection kept.safetensors --output ds
      winnow materialise --tokens tokens --selection kept.safetensors --output megatron --format megatron
    """
    from pipeline_steps.stores.selection import Selection
    from train.exports import materialise as write
    from train.token_store import TokenStore

    chosen = Selection.load(selection) if selection else None
    store = TokenStore.open(tokens)
    documents, ids = write(store, chosen, Path(output), format, append_eos)
    appended = (format != "ds" if append_eos is None else append_eos) and not store.append_eos
    said = "EOS appended to each" if appended else "each ends in EOS" if store.append_eos else "none ends in EOS"
    Terminal().print(f"{documents:,} documents ({said}), {ids:,} tokens: {output}")
    return 0


def pretrain(*words: Forwarded, list_flags: bool = False) -> int:
    """Train a model on a selection of a tokenised corpus for a fixed number of tokens.

    Everything before `--` are flags of the training, which --list-flags lists, or --config FILE with those flags:
    --tokens, --run-dir and --total-tokens are needed. Everything after `--` goes to `accelerate launch`; without it,
    accelerate's own configuration and defaults decide. Killed at any time and started again, a training continues and
    ends with the same weights.

    Args:
        list_flags: print every flag of the training instead.

    Examples:
      winnow pretrain --config t5-small-paper.yaml --tokens tokens --run-dir run --selection kept.safetensors
      winnow pretrain --tokens tokens --run-dir run --total-tokens 1048576 -- --num_processes 8 --mixed_precision bf16
    """
    from pipeline_steps.engines.models import require

    for module, extra in (("transformers", "train"), ("accelerate", "train"), ("psutil", "train")):
        require(module, extra)
    from train.arguments import PretrainArguments, parse
    from train.signals import run_launcher

    end = words.index("--") if "--" in words else len(words)
    training, launching = words[:end], words[end + 1 :]
    given = ["--help"] if list_flags else list(training)
    arguments = parse(PretrainArguments, given, "winnow pretrain", str(pretrain.__doc__).split("\n")[0])
    command = [sys.executable, "-P", "-m", "accelerate.commands.launch", "--quiet", *launching]
    environment = os.environ | {"PYTHONSAFEPATH": "1"}
    return run_launcher([*command, "-m", "train.pretrain", *training], Path(arguments.run_dir), environment)


def average(
    run: Annotated[str, PLACE], /, *, last: int, output: Annotated[str, NEW_PLACE], stable: bool = False
) -> int:
    """Average the weights of a run's newest checkpoints into a model that winnow evaluate measures like a run.

    The output is a run directory of one checkpoint, which transformers loads as it lies; its state.json names the
    steps and the digests of what was averaged. It cannot be trained on: there is no optimizer state.

    Args:
        run: run directory of winnow pretrain.
        last: how many checkpoints; train with --checkpoints or --milestones to keep more.
        output: a new folder.
        stable: average the checkpoints of the stable phase of a wsd run only, which imitates a decay.

    Examples:
      winnow average runs/ask-llm --last 5 --output runs/ask-llm-average
    """
    from pipeline_steps.engines.models import require

    require("torch", "train")
    from train.averages import average as write

    Terminal().print(f"the mean of {last} checkpoints: {write(Path(run), last, Path(output), stable)}")
    return 0


def verify_resume(
    *flags: Forwarded,
    tokens: Annotated[str, PLACE],
    output: Annotated[str, NEW_PLACE],
    processes: int = 1,
    seed: int = 0,
) -> int:
    """Train a small model twice, once undisturbed and once killed twice (SIGKILL), and compare both to the bit.

    Compares every loss and weight. Further flags go to the training, e.g. --mixed_precision bf16. On a GPU, sums of
    gradients may be made in any order: only the samples are then sure to be the same.

    Args:
        tokens: token store.
        output: a new folder, for both runs.
        processes: processes of each run.
        seed: of the moments of the kills.

    Examples:
      winnow verify-resume --tokens tokens/ --output proof/ --processes 2
    """
    from train.verify_resume import verify_resume as verify

    verdict = verify(tokens, output, processes, list(flags), seed, Terminal(stderr=True))
    said = f"the same to the bit: {verdict.steps} losses, all weights and optimizer states"
    Terminal().print(said, style="bold green")
    return 0


def evaluate(*words: Forwarded) -> int:
    """Measure models: the paper's 111 tasks."""
    from evaluate_suite.__main__ import run

    run(words)
    return 0
