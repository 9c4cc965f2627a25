"""A whole training step of a T5 beside transformers' model and Adafactor: time and peak memory.

    python tests/benchmarks/bench_train_step.py [--preset t5-small] [--rows 8] [--precision no bf16] [--device cpu]

Both sides: the same initial weights, the same batches of 512 inputs and 114 targets, dropout as in the preset, the
same autocast, no compilation (ours with --compile as a third). A step is forward, loss, backward, Adafactor; ours
includes the z-loss. Each side is a process of its own, for its memory; minimum over rounds, the sides in turns. On a
GPU also model FLOPs per second as a share of what a large bfloat16 product reaches in the same run. Prints JSON
lines.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import numpy as np
import torch


WARMUP, ROUNDS = 2, 6
INPUTS, TARGETS = 512, 114


def batches(rows, device):
    """Endless batches, the same for every side."""
    generator = torch.Generator().manual_seed(0)
    while True:
        shapes = ((rows, INPUTS), (rows, TARGETS))
        yield [torch.randint(3, 32_000, shape, generator=generator).to(device) for shape in shapes]


def transformers_step(model, autocast):
    """transformers' forward pass, loss and Adafactor."""
    from transformers.optimization import Adafactor

    optimizer = Adafactor(model.parameters(), lr=0.01, scale_parameter=True, relative_step=False, warmup_init=False)

    def step(number, inputs, targets):
        with autocast():
            loss = model(input_ids=inputs, labels=targets).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return step


def our_step(model, autocast):
    """What `train.loop` does."""
    from train.layers import prepare_for_training
    from train.loop import keep_freed_memory
    from train.losses import TokenLosses
    from train.optimizers import Adafactor

    keep_freed_memory()
    masks = prepare_for_training(model, padded=False)
    losses, optimizer = TokenLosses(model), Adafactor(model.named_parameters())

    def step(number, inputs, targets):
        with autocast(), masks.drawn_for(np.arange(len(inputs)) + number * len(inputs), 0):
            loss, sums = losses(inputs, targets)
        (loss / targets.numel()).backward()
        optimizer.step(number, 0.01)
        optimizer.zero_grad()
        return sums[0] / targets.numel()

    return step


def side(args):
    """One side: a step for every line on stdin, its seconds to stdout; at the end its peak memory."""
    from train.model import build_model

    model = build_model(args.preset, 32_100, 0).to(args.device).train()
    if args.side == "ours, compiled":
        model.encoder.compile()
        model.decoder.compile()

    def autocast():
        return torch.autocast(args.device, torch.bfloat16, enabled=args.precision[0] == "bf16")

    step = (transformers_step if args.side == "transformers" else our_step)(model, autocast)
    for number, (inputs, targets) in enumerate(batches(args.rows, args.device), 1):
        if not sys.stdin.readline().strip():
            break
        start = time.perf_counter()
        loss = step(number, inputs, targets).item()
        print(json.dumps({"seconds": time.perf_counter() - start, "loss": loss}), flush=True)
    on_gpu = args.device == "cuda"
    peak = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"peak": peak}), flush=True)


def matmul_rate(device):
    """bfloat16 operations per second of a large product."""
    a = torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)
    best = 0.0
    for _ in range(10):
        torch.cuda.synchronize()
        start = time.perf_counter()
        a @ a
        torch.cuda.synchronize()
        best = max(best, 2 * 8192**3 / (time.perf_counter() - start))
    return best


def compare(args, precision):
    """Print a line a side."""
    from train.costs import training_flops
    from train.model import model_config

    names = ["transformers", "ours"] + ["ours, compiled"] * args.compile
    command = [sys.executable, __file__, "--preset", args.preset, "--rows", str(args.rows), "--device", args.device]
    sides = {
        name: subprocess.Popen(
            [*command, "--precision", precision, "--side", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in names
    }
    seconds, losses = {name: [] for name in names}, {}

    def turn(name, line):
        print(line, file=sides[name].stdin, flush=True)
        return json.loads(sides[name].stdout.readline())

    for _ in range(WARMUP + ROUNDS):
        for name in names:
            answer = turn(name, "step")
            seconds[name].append(answer["seconds"])
            losses.setdefault(name, answer["loss"])
    peaks = {name: turn(name, "")["peak"] for name in names}
    best = {name: min(times[WARMUP:]) for name, times in seconds.items()}
    flops = args.rows * training_flops(model_config(args.preset, 32_100), INPUTS, TARGETS)
    for name in names:
        row = {"preset": args.preset, "precision": precision, "rows": args.rows, "side": name}
        row |= {"seconds": round(best[name], 4), "tokens_per_second": round(args.rows * INPUTS / best[name])}
        row |= {"peak_gb": round(peaks[name] / 1e9, 3), "first_loss": round(losses[name], 4)}
        row |= {"times transformers": round(best["transformers"] / best[name], 2)}
        row |= {"memory of transformers": round(peaks[name] / peaks["transformers"], 2)}
        if args.device == "cuda":
            row["share of matmul rate"] = round(flops / best[name] / matmul_rate(args.device), 3)
        print(json.dumps(row), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="t5-small")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--precision", nargs="+", default=["no", "bf16"], choices=["no", "bf16"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--compile", action="store_true", help="ours with compiled layers too")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        side(args)
    else:
        for precision in args.precision:
            compare(args, precision)


if __name__ == "__main__":
    main()
