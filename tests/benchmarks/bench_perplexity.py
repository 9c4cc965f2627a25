"""Held-out perplexity against the bare forward pass of training: encoder tokens a second, in one run.

python tests/benchmarks/bench_perplexity.py [--preset t5-small] [--windows 64] [--input-length 512]
"""

import argparse
import gzip
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from datatrove.pipeline.readers import JsonlReader

from evaluate_suite.perplexity import HeldOut, window_losses
from pipeline_steps import EMBEDDED_PROXY
from train.checkpoints import load_checkpoint, save_checkpoint, whole_weights
from train.held_out import HeldOutRows
from train.layers import prepare_for_training
from train.losses import TokenLosses
from train.model import build_model
from train.token_store import TokenStore
from train.token_store_writer import TokenStoreWriter


WORDS = "the river ran past an old mill and on through quiet fields to its harbour by the northern sea".split()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="t5-small")
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--input-length", type=int, default=512)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        split, checkpoint, sha = prepare(Path(folder), args)
        forward = best_of(3, lambda: training_forward(checkpoint, split, args, sha))
        whole = best_of(3, lambda: perplexity(checkpoint, split, args, Path(folder)))
    tokens = args.windows * args.input_length
    print(f"training, forward pass only   {tokens / forward:10,.0f} encoder tokens/s")
    print(f"perplexity, model in memory   {tokens / whole:10,.0f} encoder tokens/s   {forward / whole:.2f} of it")


def prepare(folder, args):
    """A held-out split, and a checkpoint of a model that has not been trained."""
    draw = np.random.default_rng(0)
    texts = [" ".join(draw.choice(WORDS, 600)) for _ in range(args.windows * args.input_length // 400)]
    (folder / "text").mkdir()
    with gzip.open(folder / "text" / "a.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({"id": str(i), "text": text}) + "\n" for i, text in enumerate(texts))
    list(TokenStoreWriter(str(folder / "tokens"), EMBEDDED_PROXY).run(JsonlReader(str(folder / "text")).run()))
    store = TokenStore.open(str(folder / "tokens"))
    model = build_model(args.preset, 32_100, 0)  # the rows of a published T5, of which this tokenizer uses some
    state = {"step": 1, "preset": args.preset, "hashes": {"tokenizer": store.tokenizer_sha256}}
    checkpoint = save_checkpoint(folder / "run", model, (whole_weights(model), {}), store.tokenizer, state)
    return HeldOut("text", str(folder / "tokens"), args.windows), checkpoint, store.tokenizer_sha256


def training_forward(checkpoint, split, args, sha):
    """Seconds of the forward passes of a training step of all windows, rows at hand."""
    model = load_checkpoint(checkpoint)[0]
    prepare_for_training(model, padded=False)
    losses = TokenLosses(model).train()
    held_out = HeldOutRows.open(split.tokens, args.preset, args.input_length, split.max_windows, 0, sha)
    inputs, targets = (torch.from_numpy(array).long() for array in held_out.rows(held_out.window_N))
    start = time.perf_counter()
    for row in range(0, args.windows, 16):
        losses(inputs[row : row + 16], targets[row : row + 16])
    return time.perf_counter() - start


def perplexity(checkpoint, split, args, folder):
    """Seconds of the whole measurement less those of loading the model."""
    start = time.perf_counter()
    load_checkpoint(checkpoint)
    loading = time.perf_counter() - start
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        window_losses(checkpoint, split, args.input_length, Path(cache))
    return time.perf_counter() - start - loading


def best_of(times, run):
    return min(run() for _ in range(times))


if __name__ == "__main__":
    main()
