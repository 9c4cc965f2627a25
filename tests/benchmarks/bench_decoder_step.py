"""A whole training step of a decoder beside transformers' model, loss and torch's fused AdamW: time and peak memory.

    python tests/benchmarks/bench_decoder_step.py [--preset llama-60m] [--tokens 2048] [--lengths 512 1024 2048]

All sides: the same initial weights and the same batches of so many tokens, in rows of each length, float32 on a CPU,
no compilation. A step is forward, loss, backward, AdamW; ours includes the z-loss. `masked` is ours with the documents
of a row apart, some 300 tokens each. `products` are the step's matrix products alone, without attention: what no
side can be faster than. Each side is a process of its own, for its memory, on one thread; CPU seconds, minimum over
rounds, the sides in turns. Prints JSON lines; two to four minutes of an idle core.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time

import torch


WARMUP, ROUNDS = 1, 2
SIDES = ("transformers", "ours", "masked", "products")
DOCUMENT, EOS = 300, 1


def batches(tokens, length):
    """Endless batches of inputs and targets [tokens / length, length], the same for every side."""
    generator = torch.Generator().manual_seed(0)
    while True:
        raw = torch.randint(3, 32_000, (tokens // length, length + 1), generator=generator)
        raw[torch.rand(raw.shape, generator=generator) < 1 / DOCUMENT] = EOS
        raw[:, 0] = EOS
        yield raw[:, :-1].contiguous(), raw[:, 1:].contiguous()


def transformers_step(model):
    """transformers' forward pass and loss, which shifts labels itself, and torch's fused AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def step(number, inputs, targets):
        loss = model(input_ids=inputs, labels=inputs, shift_labels=targets, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return step


def our_step(model, apart):
    """What `train.loop` does."""
    from train.layers import prepare_for_training
    from train.loop import keep_freed_memory
    from train.losses import TokenLosses
    from train.optimizers import OPTIMIZERS

    keep_freed_memory()
    prepare_for_training(model, padded=False, apart=apart)
    losses = TokenLosses(model, eos=EOS if apart else None)
    optimizer = OPTIMIZERS["adamw"](model.named_parameters())

    def step(number, inputs, targets):
        loss, sums = losses(inputs, targets)
        (loss / targets.numel()).backward()
        optimizer.step(number, 1e-4)
        optimizer.zero_grad()
        return sums[0] / targets.numel()

    return step


def products_step(model):
    """The three products of each matrix, forward and backward, that every step makes."""
    weights = [
        weight.detach() for name, weight in model.named_parameters() if weight.ndim == 2 and "embed" not in name
    ]

    def step(number, inputs, targets):
        for weight in weights:
            rows = min(inputs.numel(), 1024)  # as the output layer's; more would need gigabytes for its logits
            x, y = torch.ones(rows, weight.shape[1]), torch.ones(rows, weight.shape[0])
            for _ in range(inputs.numel() // rows):
                x @ weight.t(), y @ weight, y.t() @ x
        return torch.zeros(())

    return step


def side(args):
    """One side: a step for every line on stdin, its seconds to stdout; at the end its peak memory."""
    from train.model import build_model

    model = build_model(args.preset, 32_000, 0, EOS).train()
    make = {"transformers": transformers_step, "products": products_step}.get(args.side)
    step = make(model) if make else our_step(model, args.side == "masked")
    for number, (inputs, targets) in enumerate(batches(args.tokens, args.lengths[0]), 1):
        if not sys.stdin.readline().strip():
            break
        start = time.process_time()
        loss = step(number, inputs, targets).item()
        print(json.dumps({"seconds": time.process_time() - start, "loss": loss}), flush=True)
    print(json.dumps({"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}), flush=True)


def compare(args, length):
    """Print a line for each side."""
    command = [sys.executable, __file__, "--preset", args.preset, "--tokens", str(args.tokens)]
    sides = {
        name: subprocess.Popen(
            [*command, "--lengths", str(length), "--side", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        for name in SIDES
    }
    seconds, losses = {name: [] for name in SIDES}, {}

    def turn(name, line):
        print(line, file=sides[name].stdin, flush=True)
        return json.loads(sides[name].stdout.readline())

    for _ in range(WARMUP + ROUNDS):
        for name in SIDES:
            answer = turn(name, "step")
            seconds[name].append(answer["seconds"])
            losses.setdefault(name, answer["loss"])
    peaks = {name: turn(name, "")["peak"] for name in SIDES}
    best = {name: min(times[WARMUP:]) for name, times in seconds.items()}
    for name in SIDES:
        row = {"preset": args.preset, "length": length, "side": name, "cpu_seconds": round(best[name], 3)}
        row |= {"tokens_per_second": round(args.tokens / best[name]), "peak_gb": round(peaks[name] / 1e9, 2)}
        row |= {"first_loss": round(losses[name], 4)}
        row |= {"times transformers": round(best["transformers"] / best[name], 2)}
        row |= {"cost beside ours": round(best[name] / best["ours"] - 1, 3)}
        print(json.dumps(row), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="llama-60m")
    parser.add_argument("--tokens", type=int, default=2048, help="tokens of a step")
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 1024, 2048], help="tokens of a row")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        side(args)
    else:
        for length in args.lengths:
            compare(args, length)


if __name__ == "__main__":
    main()
