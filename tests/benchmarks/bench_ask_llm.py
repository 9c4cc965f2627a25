"""Documents per second of the Ask-LLM engine, against the loop that most scoring scripts run.

    python tests/benchmarks/bench_ask_llm.py [--shape small base] [--documents 32] [--device cuda] [--corpus FILE]

Random weights in the shapes of Flan-T5; lognormal document lengths (mean 400 tokens, sigma 1) behind a prompt of 92
tokens, cut at 512. Baseline: transformers' generate(max_new_tokens=1), batches of 8 padded to 512, float32. Also
transformers' forward on length-sorted batches; all in turns in one process; the best of three rounds. `of_gemm` is
the rate of the arithmetic that is done over the rate of this device's matrix product of the same precision (2,048 x
d_model x d_ff, in the same run; on the CPU through oneDNN, the faster library). CTranslate2 and ONNX Runtime (pip
install ctranslate2 onnxruntime onnxscript) are measured where they are installed. Prints JSON lines.
"""

import argparse
import copy
import json
import random
import time
from contextlib import suppress
from functools import partial
from itertools import islice

import numpy as np
import torch
from ask_llm_peers import with_ctranslate2, with_onnxruntime
from datatrove.pipeline.readers import JsonlReader
from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

from pipeline_steps import EMBEDDED_PROXY, InstalledDocsReader
from pipeline_steps.engines.encoders import PlainEncoder
from pipeline_steps.engines.models import batches_by_length
from pipeline_steps.engines.t5 import PackedT5, linear


SHAPES = {  # google/flan-t5-*: d_model, d_kv, heads, d_ff, layers
    "small": (512, 64, 6, 1024, 8),
    "base": (768, 64, 12, 2048, 12),
    "large": (1024, 64, 16, 2816, 24),
    "xl": (2048, 64, 32, 5120, 24),
}
YES_NO = [4273, 150]
ROUNDS = 3


def build(shape, device):
    """A random T5 v1.1 of a Flan-T5's shape."""
    d_model, d_kv, heads, d_ff, layers = SHAPES[shape]
    config = T5Config(
        vocab_size=32_128,
        d_model=d_model,
        d_kv=d_kv,
        num_heads=heads,
        d_ff=d_ff,
        num_layers=layers,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=0,
    )
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(config).eval()
    model.lm_head.weight = torch.nn.Parameter(torch.randn(32_128, d_model) * d_model**-0.5)
    return model.to(device)


def documents(count):
    """Token ids of `count` inputs."""
    rng = np.random.default_rng(0)
    lengths = np.minimum(rng.lognormal(np.log(400) - 0.5, 1, count).astype(int) + 92, 512)
    return [[*rng.integers(3, 32_000, length - 1).tolist(), 1] for length in lengths]


def arithmetic(shape, inputs):
    """Floating-point operations of the engine: encoder, absorbed cross-attention, decoder and head."""
    d_model, d_kv, heads, d_ff, layers = SHAPES[shape]
    tokens, pairs, texts = sum(map(len, inputs)), sum(len(ids) ** 2 for ids in inputs), len(inputs)
    inner = d_kv * heads
    encoder = tokens * (4 * d_model * inner + 3 * d_model * d_ff) + 2 * pairs * inner
    decoder = texts * (6 * d_model * inner + 3 * d_model * d_ff) + tokens * 2 * heads * d_model
    return 2 * (layers * (encoder + decoder) + texts * d_model * 32_128)


def padded(inputs, device, length=None):
    """Token ids and mask of a batch."""
    ids = torch.zeros((len(inputs), length or max(map(len, inputs))), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, tokens in enumerate(inputs):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = 1
    return ids.to(device), mask.to(device)


def generate_loop(model, inputs):
    for start in range(0, len(inputs), 8):
        ids, mask = padded(inputs[start : start + 8], model.device, 512)
        settings = {"max_new_tokens": 1, "output_scores": True, "return_dict_in_generate": True}
        scores = model.generate(input_ids=ids, attention_mask=mask, **settings).scores[0]
        torch.log_softmax(scores, -1)[:, YES_NO].cpu()


def forward_sorted(model, inputs):
    with torch.inference_mode():
        for rows in batches_by_length([len(ids) for ids in inputs], 1024 if model.device.type == "cpu" else 65_536):
            ids, mask = padded([inputs[row] for row in rows], model.device)
            start = torch.zeros((len(rows), 1), dtype=torch.long, device=model.device)
            logits = model(input_ids=ids, attention_mask=mask, decoder_input_ids=start, use_cache=False).logits
            torch.log_softmax(logits[:, 0], -1)[:, YES_NO].cpu()


def seconds(job, device):
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    job()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def gemm_rate(shape, dtype, device):
    """Operations per second of one matrix product."""
    d_model, _, _, d_ff, _ = SHAPES[shape]
    rows = 2_048 if device == "cpu" else 65_536
    x, multiply = (
        torch.randn(rows, d_model, device=device).to(dtype),
        linear(torch.randn(d_ff, d_model, device=device).to(dtype)),
    )
    with torch.inference_mode():
        return 2 * rows * d_model * d_ff / min(seconds(lambda: multiply(x), device) for _ in range(20))


def bench_tokenising(corpus):
    """A window of new documents: one at a time through transformers' call, and as the scorer does."""
    reader = JsonlReader(corpus, limit=20_000) if corpus else InstalledDocsReader(min_words=100)
    texts = [doc.text for doc in islice(reader.run(), 20_000)]
    random.Random(0).shuffle(texts)
    met, new = texts[:-1_000], texts[-1_000:]
    one_by_one = AutoTokenizer.from_pretrained(EMBEDDED_PROXY)
    times = {"one by one": [], "as the scorer": [], "as the scorer, first window": []}
    for _ in range(ROUNDS):
        times["one by one"].append(seconds(lambda: [one_by_one(text).input_ids for text in new], "cpu"))
        encoder = PlainEncoder(AutoTokenizer.from_pretrained(EMBEDDED_PROXY))
        times["as the scorer, first window"].append(seconds(partial(encoder.encode_batch, met[:1_000]), "cpu"))
        for start in range(1_000, len(met), 1_000):
            encoder.encode_batch(met[start : start + 1_000])
        times["as the scorer"].append(seconds(partial(encoder.encode_batch, new), "cpu"))
    rates = {name: round(len(new) / min(values)) for name, values in times.items()}
    ratio = round(rates["as the scorer"] / rates["one by one"], 1)
    print(json.dumps({"tokenising, docs_per_s": rates, "ratio": ratio}), flush=True)


def peers(model, inputs):
    """Other engines, where they are installed, in float32 (neither has bfloat16 on a CPU)."""
    found = {}
    with suppress(ImportError):
        found["CTranslate2 float32"] = with_ctranslate2(model, inputs)
    with suppress(ImportError):
        found["ONNX Runtime float32"] = with_onnxruntime(model, inputs)
    exact = PackedT5(model).log_probabilities(inputs, YES_NO)
    for name, job in found.items():
        difference = np.abs(job()[:, YES_NO] - exact).max()
        print(json.dumps({"engine": name, "largest_difference_to_ours": float(f"{difference:.1e}")}), flush=True)
    return found


def bench(shape, count, device):
    """All engines on one shape."""
    model, inputs = build(shape, device), documents(count)
    exact = PackedT5(model)
    rough = PackedT5(copy.deepcopy(model).bfloat16())
    jobs = {
        "generate, batch 8, padded": lambda: generate_loop(model, inputs),
        "forward, sorted": lambda: forward_sorted(model, inputs),
        "ours float32": lambda: exact.log_probabilities(inputs, YES_NO),
        "ours bfloat16": lambda: rough.log_probabilities(inputs, YES_NO),
    }
    if device == "cpu":
        jobs |= peers(model, inputs)
    else:
        coarse = PackedT5(copy.deepcopy(model).bfloat16(), float8=True)
        jobs["ours float8"] = lambda: coarse.log_probabilities(inputs, YES_NO)
    times = {name: [] for name in jobs}
    for _ in range(ROUNDS):
        for name, job in jobs.items():
            times[name].append(seconds(job, device))
    best = {name: min(values) for name, values in times.items()}
    rates = {"ours float32": torch.float32, "ours bfloat16": torch.bfloat16}
    for name, value in best.items():
        line = {"shape": shape, "engine": name, "docs_per_s": round(count / value, 2)}
        line["times_generate"] = round(best["generate, batch 8, padded"] / value, 2)
        if name in rates:
            line["of_gemm"] = round(arithmetic(shape, inputs) / value / gemm_rate(shape, rates[name], device), 2)
        print(json.dumps(line), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="*", choices=SHAPES, default=["small", "base"])
    parser.add_argument("--documents", type=int, default=32)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--corpus", help="JSONL to tokenise; by default the docstrings of the installed packages")
    args = parser.parse_args()
    bench_tokenising(args.corpus)
    for shape in args.shape:
        bench(shape, args.documents, args.device)


if __name__ == "__main__":
    main()
