"""Ranking the answers of MMLU's questions: our models for lm-eval beside its own, `hf`, on the same weights.

    python tests/benchmarks/bench_few_shot.py --mmlu DIR [--preset t5-small] [--questions 40] [--batch-sizes 4]
    python tests/benchmarks/bench_few_shot.py --mmlu DIR --preset llama-60m --subjects 2 --batch-sizes 1 4 16 [--cloze]

DIR holds MMLU's CSV files as published (dev/SUBJECT_dev.csv, test/SUBJECT_test.csv). Prompts have five exemplars of
the subject; every question's four letters are scored by both, or with --cloze its four answers, which the prompt does
not list then. The model has the preset's size and random weights, on which times do not depend, and the embedded
tokenizer. All in one process, in turns, minimum of rounds; lm-eval's time is that of its best batch size. A decoder
shares the exemplars of a subject: a sample of few subjects is like the whole, which has 246 questions in each.
Scores must agree to 1e-4 of a nat, EOS not counted. Prints a JSON line; CPU seconds are what a busy machine cannot
change much.
"""

import argparse
import csv
import json
import time
from pathlib import Path

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import AutoTokenizer

from evaluate_suite.causal_lm import CausalLM
from evaluate_suite.encoder_decoder_lm import EncoderDecoderLM
from pipeline_steps import EMBEDDED_PROXY
from train.model import build_model


ROUNDS = 2


def as_text(row, answer, cloze):
    """A question, its choices, and the answer if it is an exemplar; of cloze questions the answer is the text."""
    choices = [] if cloze else [f"{letter}. {choice}" for letter, choice in zip("ABCD", row[1:5], strict=True)]
    right = row["ABCD".index(row[5]) + 1] if cloze else row[5]
    return "\n".join([row[0], *choices, "Answer:"]) + (f" {right}" if answer else "")


def read(file):
    with file.open(newline="", encoding="utf-8") as rows:
        return list(csv.reader(rows))


def requests_of(folder, questions, subjects, cloze):
    """Five exemplars and a question, each with four letters or answers; the subjects in turn."""
    pairs = []
    files = sorted(folder.rglob("*_test.csv"))[:subjects]
    for number in range(questions):
        file = files[number % len(files)]
        dev = next(folder.rglob(file.name.replace("_test", "_dev")))
        subject = file.name.removesuffix("_test.csv").replace("_", " ")
        head = f"The following are multiple choice questions (with answers) about {subject}."
        row = read(file)[number // len(files)]
        exemplars = [as_text(one, True, cloze) for one in read(dev)[:5]]
        prompt = "\n\n".join([head, *exemplars, as_text(row, False, cloze)])
        pairs += [(prompt, f" {answer}") for answer in (row[1:5] if cloze else "ABCD")]
    return [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)]


def models(preset, device, batch_sizes):
    """Our model, and lm-eval's by batch size; it is told not to follow the tokenizer, which ends texts with EOS."""
    tokenizer, model = AutoTokenizer.from_pretrained(EMBEDDED_PROXY), build_model(preset, 32_100, 0).eval().to(device)
    longest = 1 << 14  # so that neither cuts a prompt
    model.config.max_position_embeddings = longest
    ours = EncoderDecoderLM if model.config.is_encoder_decoder else CausalLM
    backend = {"backend": "seq2seq"} if model.config.is_encoder_decoder else {"add_bos_token": False}
    options = {"pretrained": model, "tokenizer": tokenizer, "max_length": longest, "device": device}
    theirs = {f"lm-eval, {size}": HFLM(**options, **backend, batch_size=size) for size in batch_sizes}
    return {"ours": ours(model, tokenizer, max_input=longest, device=device)} | theirs


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mmlu", required=True, type=Path, metavar="DIR")
    parser.add_argument("--preset", default="t5-small")
    parser.add_argument("--questions", type=int, default=40)
    parser.add_argument("--subjects", type=int, default=57)
    parser.add_argument("--cloze", action="store_true")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[4])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    args = parser.parse_args()
    requests = requests_of(args.mmlu, args.questions, args.subjects, args.cloze)
    sides = models(args.preset, args.device, args.batch_sizes)
    clocks = {"seconds": time.perf_counter, "CPU seconds": time.process_time}
    taken, scores = {name: [] for name in sides}, {}
    for _ in range(ROUNDS):
        for name, side in sides.items():
            start = [clock() for clock in clocks.values()]
            scores[name] = [score for score, _ in side.loglikelihood(requests, disable_tqdm=True)]
            taken[name].append([clock() - since for clock, since in zip(clocks.values(), start, strict=True)])
    result = {"preset": args.preset, "questions": args.questions, "cloze": args.cloze}
    for place, clock in enumerate(clocks):
        best = {name: min(times[place] for times in rounds) for name, rounds in taken.items()}
        least = min(time for name, time in best.items() if name != "ours")
        result[clock] = {name: round(time, 2) for name, time in best.items()}
        result[f"times lm-eval, {clock}"] = round(least / best["ours"], 2)
    apart = [abs(one - other) for name in sides for one, other in zip(scores["ours"], scores[name], strict=True)]
    print(json.dumps(result | {"scores apart": max(apart)}))


if __name__ == "__main__":
    main()
