"""Ranking the answers of MMLU's questions by a T5: ours beside lm-eval's own model for encoder-decoders.

    python tests/benchmarks/bench_few_shot.py --mmlu DIR [--preset t5-small] [--questions 40] [--batch-size 4]

DIR holds MMLU's CSV files as published (dev/SUBJECT_dev.csv, test/SUBJECT_test.csv). Prompts have five exemplars of
the subject; every question's four letters are scored by both, with a model of the preset's size whose weights are
random (times do not depend on them) and the embedded tokenizer, in one process, in turns, minimum of rounds. Scores
must agree to 1e-4 of a nat, EOS not counted. Prints a JSON line.
"""

import argparse
import csv
import json
import time
from pathlib import Path

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import AutoTokenizer

from evaluate_suite.encoder_decoder_lm import EncoderDecoderLM
from pipeline_steps import EMBEDDED_PROXY
from train.model import build_model


ROUNDS = 2


def as_text(row, answer):
    """A question, its choices, and the answer if it is an exemplar."""
    lines = [row[0], *(f"{letter}. {choice}" for letter, choice in zip("ABCD", row[1:5], strict=True)), "Answer:"]
    return "\n".join(lines) + (f" {row[5]}" if answer else "")


def read(file):
    with file.open(newline="", encoding="utf-8") as rows:
        return list(csv.reader(rows))


def requests_of(folder, questions):
    """Five exemplars and a question, each with four letters; the subjects in turn."""
    prompts = []
    subjects = sorted(folder.rglob("*_test.csv"))
    for turn in range(-(-questions // len(subjects))):
        for file in subjects:
            dev = next(folder.rglob(file.name.replace("_test", "_dev")))
            subject = file.name.removesuffix("_test.csv").replace("_", " ")
            head = f"The following are multiple choice questions (with answers) about {subject}."
            prompts.append(
                "\n\n".join([head, *(as_text(row, True) for row in read(dev)[:5]), as_text(read(file)[turn], False)])
            )
    pairs = [(prompt, f" {letter}") for prompt in prompts[:questions] for letter in "ABCD"]
    return [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mmlu", required=True, type=Path, metavar="DIR")
    parser.add_argument("--preset", default="t5-small")
    parser.add_argument("--questions", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    args = parser.parse_args()
    tokenizer, model = AutoTokenizer.from_pretrained(EMBEDDED_PROXY), build_model(args.preset, 32_100, 0).eval()
    requests = requests_of(args.mmlu, args.questions)
    longest = 1 << 14  # so that neither cuts a prompt
    theirs = HFLM(
        pretrained=model.to(args.device),
        tokenizer=tokenizer,
        backend="seq2seq",
        max_length=longest,
        batch_size=args.batch_size,
        device=args.device,
    )
    sides = {"ours": EncoderDecoderLM(model, tokenizer, max_input=longest, device=args.device), "lm-eval": theirs}
    seconds, scores = {name: [] for name in sides}, {}
    for _ in range(ROUNDS):
        for name, side in sides.items():
            start = time.perf_counter()
            scores[name] = [score for score, _ in side.loglikelihood(requests, disable_tqdm=True)]
            seconds[name].append(time.perf_counter() - start)
    best = {name: min(times) for name, times in seconds.items()}
    apart = max(abs(one - other) for one, other in zip(scores["ours"], scores["lm-eval"], strict=True))
    row = {"preset": args.preset, "questions": args.questions, "seconds": {n: round(s, 2) for n, s in best.items()}}
    print(json.dumps(row | {"times lm-eval": round(best["lm-eval"] / best["ours"], 2), "scores apart": apart}))


if __name__ == "__main__":
    main()
