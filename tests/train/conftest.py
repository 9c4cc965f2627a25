"""A tiny T5 tokenizer, made on the spot, and token stores of a small corpus."""

import json
import random

import pytest
from datatrove.data import Document
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from train.token_store import TokenStore
from train.token_store_writer import TokenStoreWriter


WORDS = [first + second + third for first in "bdfgklmnprst" for second in "aeiou" for third in ("n", "r", "st", "")]


def text(rng, words):
    return " ".join(rng.choices(WORDS, k=words)) + "."


def documents(source, count, seed=0):
    """Documents of one source, of 0 to 79 words."""
    rng = random.Random(f"{source}{seed}")
    path = f"{'out' if source == 'a' else 'in'}/{source}.jsonl"  # sorted by path, a comes last; by file name, first
    return [
        Document(text=text(rng, rng.randrange(80)), id=f"{source}-{i}", metadata={"file_path": path})
        for i in range(count)
    ]


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory):
    """A small Unigram tokenizer: <pad> 0, </s> 1, <unk> 2, 100 sentinels on top, descending."""
    rng = random.Random(0)
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=400, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator([text(rng, 60) + " extra id _ < > / s 7" for _ in range(300)], trainer)
    tokenizer.add_special_tokens([f"<extra_id_{i}>" for i in range(99, -1, -1)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    folder = tmp_path_factory.mktemp("tokenizer")
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def plain_tokenizer(tmp_path_factory):
    """A byte-level BPE with one special token, as GPT-2's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text(random.Random(0), 60) for _ in range(300)], trainer)
    folder = tmp_path_factory.mktemp("plain_tokenizer")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def corpus_documents():
    return [doc for source, count in {"b": 30, "a": 120, "c": 1, "d": 60}.items() for doc in documents(source, count)]


@pytest.fixture(scope="session")
def ended_store(plain_tokenizer, corpus_documents, tmp_path_factory):
    """The same documents for decoders: a byte-level BPE, and EOS after each."""
    path = str(tmp_path_factory.mktemp("ended_store"))
    list(TokenStoreWriter(path, str(plain_tokenizer), append_eos=True).run(iter(corpus_documents)))
    return TokenStore.open(path)


@pytest.fixture(scope="session")
def qwen3(tmp_path_factory):
    """The preset of a small decoder of transformers with tied weights, which has a config.json alone."""
    folder = tmp_path_factory.mktemp("qwen3")
    shape = {"model_type": "qwen3", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "head_dim": 24}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True, "vocab_size": 151_936}
    (folder / "config.json").write_text(json.dumps(shape | {"eos_token_id": 151_645, "torch_dtype": "bfloat16"}))
    return f"hf:{folder}"


@pytest.fixture(scope="session")
def store(tokenizer_folder, corpus_documents, tmp_path_factory):
    """211 documents from four sources, written by one task in an order that is not the corpus's."""
    path = str(tmp_path_factory.mktemp("store"))
    assert list(TokenStoreWriter(path, str(tokenizer_folder)).run(iter(corpus_documents))) == corpus_documents
    return TokenStore.open(path)
