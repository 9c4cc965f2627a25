"""Make the embedded tokenizer of decoders: a byte-level BPE that gives every text back, line breaks and all.

    python -m train.embedded_bpe --output pipeline_steps/resources/bpe-tokenizer

Needs the installed packages and nothing else; some three minutes on one core. Trained on the documentation strings of
the standard library and of packages under permissive licences, as the embedded proxy is.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline_steps.readers.installed_docs import InstalledDocsReader
from train.embedded_proxy_data import is_permissive


VOCABULARY = 8192  # 64 rows of 128; as many as the embedded T5 tokenizer has, for a small model's softmax
EOS = "<|endoftext|>"  # GPT-2's and GPT-NeoX's, and as there the only special token


def train_tokenizer(texts: Iterable[str], folder: Path) -> None:
    """Train a tokenizer as GPT-2's (Radford et al. 2019), and save it.

    There is no normaliser, so that nothing is lost, and no post-processor: a tokenizer that ends every text in EOS
    takes the last token of a prompt for the end of a document.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[EOS], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=EOS, bos_token=EOS, clean_up_tokenization_spaces=False
    ).save_pretrained(folder)
    file = folder / "tokenizer.json"
    said = json.loads(file.read_bytes()) | {"post_processor": None}  # transformers has put one there that does nothing
    file.write_text(json.dumps(said, separators=(",", ":"), ensure_ascii=False) + "\n", encoding="utf-8")


def make_tokenizer(output: Path) -> dict[str, Any]:
    """Train on all permissive documentation, write to `output`, and return what it was made of."""
    texts: dict[str, list[str]] = {}
    for doc in InstalledDocsReader(min_words=40).run():
        if is_permissive(doc.metadata["license"]):
            texts.setdefault(doc.metadata["distribution"], []).append(doc.text)
    output.mkdir(parents=True, exist_ok=True)
    train_tokenizer((text for name in sorted(texts) for text in texts[name]), output)
    made = {"documents": sum(map(len, texts.values())), "vocabulary": VOCABULARY, "distributions": sorted(texts)}
    (output / "recipe.json").write_text(json.dumps(made, indent=2) + "\n")
    return made


def main() -> None:
    """Run the recipe from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for the tokenizer and recipe.json")
    sys.stderr.write(json.dumps(make_tokenizer(parser.parse_args().output), indent=2) + "\n")


if __name__ == "__main__":
    main()
