"""How many documents a second are embedded with sentence-t5-base's shape, beside sentence-transformers' encode.

    python tests/benchmarks/bench_embedder.py [--documents 200]

Random weights of the right shape (12 layers, d_model 768), documentation strings cut to 256 tokens as sentence-t5's,
tokenising included; the best of three rounds in turn. Prints the smallest cosine between the two's vectors too.
"""

import argparse
import json
import tempfile
import time
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
from transformers import AutoTokenizer, T5Config, T5EncoderModel

from pipeline_steps import EMBEDDED_PROXY, InstalledDocsReader
from pipeline_steps.engines.encoders import load_sentence_encoder


ROUNDS, MAX_TOKENS = 3, 256


def save_model(folder):
    """A T5 encoder, mean pooling, a dense layer, unit length: sentence-t5's modules."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_PROXY)
    shape = {"d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12}
    T5EncoderModel(T5Config(vocab_size=len(tokenizer), **shape)).save_pretrained(folder / "t5")
    tokenizer.save_pretrained(folder / "t5")
    layers = [Transformer(str(folder / "t5")), Pooling(768, pooling_mode="mean"), Dense(768, 768, bias=False)]
    model = SentenceTransformer(modules=[*layers, Normalize()], device="cpu")
    model.max_seq_length = MAX_TOKENS
    model.save(str(folder / "st"))
    return str(folder / "st")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=200)
    args = parser.parse_args()
    texts = [doc.text for doc in islice(InstalledDocsReader(min_words=60).run(), 20 * args.documents)][::20]
    with tempfile.TemporaryDirectory() as folder:
        model = save_model(Path(folder))
        plain = {name: SentenceTransformer(model, model_kwargs={"dtype": name}) for name in ("float32", "bfloat16")}
        ours = {name: load_sentence_encoder(model, None, name, MAX_TOKENS) for name in ("float32", "bfloat16")}
    jobs = {f"encode, {name}": lambda own=own: own.encode(texts) for name, own in plain.items()}
    jobs |= {f"ours, {name}": lambda own=own: own.encode(own.tokenize(texts)) for name, own in ours.items()}
    times, vectors = {name: [] for name in jobs}, {}
    for _ in range(ROUNDS):
        for name, job in jobs.items():
            start = time.perf_counter()
            vectors[name] = np.asarray(job(), dtype=np.float32)
            times[name].append(time.perf_counter() - start)
    for name, values in times.items():
        precision = name.rsplit(", ", 1)[1]
        line = {"engine": name, "docs_per_s": round(len(texts) / min(values), 1)}
        line["x encode"] = round(min(times[f"encode, {precision}"]) / min(values), 2)
        line["smallest cosine"] = round(float((vectors[name] * vectors["encode, float32"]).sum(axis=1).min()), 5)
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
