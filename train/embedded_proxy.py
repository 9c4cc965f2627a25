"""Make the embedded Ask-LLM proxy and its tokenizer: a small T5 that answers the paper's question with yes or no.

    python -m train.embedded_proxy --output pipeline_steps/resources/askllm-proxy --public-texts downloads

Trained on the documentation strings of the standard library and of packages under permissive licences and, with
--public-texts, on public texts of 10 MB that are downloaded once, see `train.embedded_proxy_texts`. The examples are
made by `train.embedded_proxy_data`.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from pipeline_steps.engines.models import load_tokenizer
from pipeline_steps.engines.proxies import ASK_LLM
from pipeline_steps.readers.installed_docs import InstalledDocsReader
from train.embedded_proxy_data import Pool, example, good, is_permissive, sentences
from train.embedded_proxy_texts import FILES, KINDS, read_public_texts


if TYPE_CHECKING:
    import torch
    from transformers import T5ForConditionalGeneration

VOCABULARY = 8192  # small enough for an 8 MB proxy and for a tiny model's softmax
SENTINELS = 100  # T5's
MAX_TOKENS = 512  # of prompt and document, as AskLLMScorer reads by default
BATCH = 16
GROUPS = 2  # a batch is computed in groups of texts of similar length, which halves what is spent on padding
HELD_OUT = 7  # one distribution in seven is only tested on
TEST_EXAMPLES = 2048
TOKENIZER_TEXTS = 3000  # of prose, and as many examples
LEARNING_RATE = 1e-3
EMBEDDING_RATE = 1e-2  # entries of T5's embeddings have a standard deviation of 1, ten times other weights'


def read_documents() -> dict[str, tuple[list[str], list[str]]]:
    """Return (prose, parameter dumps) of every distribution whose licence is permissive.

    Prose has three words in five in whole sentences, a dump fewer than one in five.
    """
    found: dict[str, tuple[list[str], list[str]]] = {}
    for doc in InstalledDocsReader(min_words=40).run():
        if not is_permissive(doc.metadata["license"]):
            continue
        prose, dumps = found.setdefault(doc.metadata["distribution"], ([], []))
        words = len(doc.text.split())
        whole = [s for s in sentences(doc.text) if s[:1].isupper() and s[-1:] in ".!?" and 5 <= len(s.split()) <= 40]
        share = sum(len(sentence.split()) for sentence in whole) / words
        if share > 0.6:
            prose.append(doc.text)
        elif share < 0.2:
            dumps.append(doc.text)
    return dict(sorted(found.items()))


def train_tokenizer(texts: Iterable[str], folder: Path) -> None:
    """Train a Unigram tokenizer as T5's: <pad> 0, </s> 1, <unk> 2, sentinels on top; yes and no are one piece each."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.Unigram())
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), spaces, normalizers.Strip()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=VOCABULARY - SENTINELS,
        special_tokens=["<pad>", "</s>", "<unk>"],
        unk_token="<unk>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    state = json.loads(tokenizer.to_str())
    pieces = state["model"]["vocab"]
    pieces[3:] = in_fixed_order(pieces[3:])
    known = {piece for piece, _ in pieces}
    wanted = [f"▁{word}" for word in dict.fromkeys(["yes", "no", *(ASK_LLM.prefix + ASK_LLM.suffix).split()])]
    for place, piece in enumerate(piece for piece in wanted if piece not in known):
        # The rarest pieces make room: the fixed prompt gets a token a word, and the answers must not be split
        pieces[-1 - place] = [piece, -1.0 if piece in ("▁yes", "▁no") else -10.0]
    sentinels = [f"<extra_id_{i}>" for i in reversed(range(SENTINELS))]
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.add_special_tokens(sentinels)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, extra_special_tokens=sentinels, **names).save_pretrained(
        folder
    )


def in_fixed_order(pieces: list[list[Any]]) -> list[list[Any]]:
    """Return (piece, score) in an order that does not differ from run to run, the likeliest piece first.

    The trainer adds up in any order, so scores agree to ten digits and ties come as they will; and the rarest
    characters, which it keeps below all other pieces, get steps of 0.0001 in any order.
    """
    floor = min(score for piece, score in pieces if len(piece) > 1)
    least = min(score for _, score in pieces)
    even = [[piece, round(least if len(piece) == 1 and score < floor else score, 6)] for piece, score in pieces]
    return sorted(even, key=lambda one: (-one[1], one[0]))


def new_model(seed: int) -> T5ForConditionalGeneration:
    """Make a T5 v1.0 of 1.1M parameters: two encoder layers, one decoder layer, tied embeddings."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=96,
        d_kv=32,
        d_ff=384,
        num_heads=3,
        num_layers=2,
        num_decoder_layers=1,
        decoder_start_token_id=0,
        dropout_rate=0.0,  # no example comes twice, and dropout would take a third of the time
    )
    return T5ForConditionalGeneration(config)


class ProxyExamples:
    """Examples as tensors: the exact prompt around a document, and yes or no."""

    def __init__(self, folder: Path, pool: Pool, seed: int) -> None:
        self._encoder: Any = load_tokenizer(str(folder)).backend_tokenizer
        self._pool, self._rng = pool, random.Random(seed)
        self._prefix, self._suffix = self._ids(ASK_LLM.prefix), [*self._ids(ASK_LLM.suffix), 1]
        self.answers = [self._ids(ASK_LLM.no)[0], self._ids(ASK_LLM.yes)[0]]

    def _ids(self, text: str) -> list[int]:
        return list(self._encoder.encode(text, add_special_tokens=False).ids)

    def draw(self) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Draw a batch, in groups of similar length: input_ids [n, T], attention_mask [n, T] and labels [n, 2]."""
        import torch

        texts, labels = zip(*(example(self._rng, self._pool) for _ in range(BATCH)), strict=True)
        room = MAX_TOKENS - len(self._prefix) - len(self._suffix)
        documents = self._encoder.encode_batch(list(texts), add_special_tokens=False)
        rows = sorted(
            zip((document.ids[:room] for document in documents), labels, strict=True), key=lambda r: len(r[0])
        )
        groups = []
        for start in range(0, BATCH, BATCH // GROUPS):
            ids, answers = zip(*rows[start : start + BATCH // GROUPS], strict=True)
            whole = [torch.tensor(self._prefix + list(row) + self._suffix) for row in ids]
            mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in whole], batch_first=True)
            input_ids = torch.nn.utils.rnn.pad_sequence(whole, batch_first=True)
            groups.append((input_ids, mask, torch.tensor([[self.answers[answer], 1] for answer in answers])))
        return groups


def train_model(model: T5ForConditionalGeneration, batches: ProxyExamples, steps: int) -> None:
    """Train with AdamW, linear warm-up over a tenth of the steps, then linear decay."""
    import torch

    others = [p for p in model.parameters() if p is not model.shared.weight]
    parts = [{"params": [model.shared.weight], "lr": EMBEDDING_RATE}, {"params": others, "lr": LEARNING_RATE}]
    optimizer = torch.optim.AdamW(parts, weight_decay=0.01)
    ramp = lambda step: min((step + 1) / (0.1 * steps), (steps - step) / (0.9 * steps))  # noqa: E731
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, ramp)
    model.train()
    start = time.monotonic()
    for step in range(1, steps + 1):
        total = 0.0
        for input_ids, mask, labels in batches.draw():
            loss = model(input_ids=input_ids, attention_mask=mask, labels=labels, use_cache=False).loss / GROUPS
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 50 == 0 or step == steps:
            sys.stderr.write(f"step {step}/{steps}  loss {total:.3f}  {time.monotonic() - start:.0f} s\n")


def auc(good: np.ndarray, bad: np.ndarray) -> float:
    """Return the probability that a good text scores above a bad one; ties count half."""
    order = np.concatenate([good, bad])
    ranks = np.empty(order.size)
    ranks[np.argsort(order, kind="stable")] = np.arange(order.size)
    for value in np.unique(order):
        same = order == value
        ranks[same] = ranks[same].mean()
    return float((ranks[: good.size].mean() - (good.size - 1) / 2) / bad.size)


def held_out_auc(model: T5ForConditionalGeneration, batches: ProxyExamples, count: int) -> float:
    """Return the AUC of log P(yes) on examples of distributions that were not trained on."""
    import torch

    model.eval()
    scores, labels = [], []
    with torch.inference_mode():
        for input_ids, mask, answer in (group for _ in range(count // BATCH) for group in batches.draw()):
            start = torch.zeros((len(input_ids), 1), dtype=torch.long)
            logits = model(input_ids=input_ids, attention_mask=mask, decoder_input_ids=start, use_cache=False).logits
            scores.append(torch.log_softmax(logits[:, 0].float(), -1)[:, batches.answers[1]].numpy())
            labels.append((answer[:, 0] == batches.answers[1]).numpy())
    score, label = np.concatenate(scores), np.concatenate(labels)
    return auc(score[label], score[~label])


def read_pools(public_texts: Path | None) -> tuple[dict[str, Pool], dict[str, list[str]]]:
    """Return the pools to train and to test on, and the names of the distributions in each."""
    documents = read_documents()
    public = read_public_texts(public_texts) if public_texts else {}
    pools, names = {}, {}
    for split in ("train", "test"):
        chosen = [name for name in documents if _split(name) == split]
        kinds = {
            kind: {group: texts for group, texts in sorted(groups.items()) if _split(group) == split}
            for kind, groups in public.items()
        }
        pools[split] = Pool(
            [text for name in chosen for text in documents[name][0]],
            [text for name in chosen for text in documents[name][1]],
            *([text for texts in kinds.get(kind, {}).values() for text in texts] for kind in KINDS),
        )
        names[split] = chosen
    return pools, names


def _split(name: str) -> str:
    return "test" if xxhash.xxh3_64_intdigest(name.encode()) % HELD_OUT == 0 else "train"


def make_proxy(output: Path, steps: int, public_texts: Path | None = None, seed: int = 0) -> dict[str, Any]:
    """Train tokenizer and model, write both to `output`, and return what was measured.

    Args:
        output: folder to write to.
        steps: of training, of 16 texts each.
        public_texts: folder of the downloads of `embedded_proxy_texts`; None to train on documentation alone.
        seed: of weights and examples.
    """
    import torch

    pools, names = read_pools(public_texts)
    output.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    sample = [good(rng, pools["train"]) for _ in range(TOKENIZER_TEXTS)]
    mixed = [example(rng, pools["train"])[0] for _ in range(TOKENIZER_TEXTS)]
    train_tokenizer([*sample, *mixed, *[ASK_LLM.prefix + ASK_LLM.suffix + " yes no"] * 200], output)
    model = new_model(seed)
    train_model(model, ProxyExamples(output, pools["train"], seed), steps)
    measured = {
        "passages": {split: pool.sizes() for split, pool in pools.items()},
        "distributions": names,
        "public_texts": [asdict(file) for file in FILES] if public_texts else [],
        "held_out_auc": round(held_out_auc(model, ProxyExamples(output, pools["test"], seed + 1), TEST_EXAMPLES), 4),
        "steps": steps,
        "seed": seed,
    }
    model.to(torch.float16).save_pretrained(output)
    (output / "recipe.json").write_text(json.dumps(measured, indent=2) + "\n")
    return measured


def main() -> None:
    """Run the recipe from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for tokenizer, model and recipe.json")
    parser.add_argument("--steps", type=int, default=400, help="training steps of 16 texts (%(default)s)")
    parser.add_argument(
        "--public-texts",
        type=Path,
        metavar="FOLDER",
        help="train on articles, novels and chat as well; they are downloaded to FOLDER, or read from it",
    )
    args = parser.parse_args()
    measured = make_proxy(args.output, args.steps, args.public_texts)
    sys.stderr.write(json.dumps(measured, indent=2) + "\n")


if __name__ == "__main__":
    main()
