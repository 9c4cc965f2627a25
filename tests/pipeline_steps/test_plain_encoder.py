"""Word by word gives the tokenizer's own ids, for every text and every tokenizer."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, BertTokenizerFast, PreTrainedTokenizerFast, T5Tokenizer

from pipeline_steps import EMBEDDED_PROXY, InstalledDocsReader
from pipeline_steps.engines.encoders import PlainEncoder


@pytest.fixture(scope="module")
def prose():
    return [doc.text for doc, _ in zip(InstalledDocsReader(min_words=40).run(), range(300), strict=False)]


@pytest.fixture(scope="module")
def tokenizers(prose):
    """By name: how T5, BERT and GPT-2 split, and a T5 whose spaces are ordinary characters."""
    unigram = trainers.UnigramTrainer(vocab_size=2000, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>")
    pieces = Tokenizer(models.Unigram())
    pieces.pre_tokenizer = pre_tokenizers.Metaspace()
    pieces.train_from_iterator(prose, unigram)
    vocabulary = [tuple(piece) for piece in json.loads(pieces.to_str())["model"]["vocab"]]
    whole = Tokenizer(models.Unigram(vocabulary, 2))
    whole.normalizer = normalizers.Replace(" ", "▁")
    pairs = Tokenizer(models.BPE())
    pairs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pairs.decoder = decoders.ByteLevel()
    pairs.train_from_iterator(prose, trainers.BpeTrainer(vocab_size=800, show_progress=False))
    words = dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(chr, range(33, 127)), "##s", "the"])
    return {
        "embedded": AutoTokenizer.from_pretrained(EMBEDDED_PROXY),
        "t5": T5Tokenizer(vocab=vocabulary),
        "bert": BertTokenizerFast(vocab={word: id for id, word in enumerate(words)}),
        "gpt2": PreTrainedTokenizerFast(tokenizer_object=pairs),
        "no splitting": PreTrainedTokenizerFast(tokenizer_object=whole),
    }


# What a tokenizer normalises: spaces of all kinds, marks that combine, characters that become several or none
characters = st.one_of(
    st.sampled_from("aé .,'-\n\t\r\u00a0\u3000\u200b\u0301\u00b4\u00a8\u2581\ufb01\u00bd\u2026\u00ad\x0b\x85\u1100"),
    st.characters(exclude_categories=["Cs"]),
)


@pytest.mark.parametrize(
    ("name", "by_word"),
    [("embedded", True), ("t5", True), ("bert", False), ("gpt2", False), ("no splitting", False)],
)
@settings(max_examples=100)
@given(texts=st.lists(st.text(characters, max_size=40), max_size=4))
@example(texts=["", " ", "a", " a  b ", "</s> <extra_id_0> </s>", "a \u0301b", "x" * 5000])
def test_every_text_gets_the_tokenizers_own_ids(tokenizers, name, by_word, texts):
    encoder = PlainEncoder(tokenizers[name])
    assert encoder._by_word == by_word
    expected = [encoder.backend.encode(text, add_special_tokens=False).ids for text in texts]
    assert _ids(encoder, texts) == expected
    assert _ids(encoder, texts) == expected  # from memory


def test_real_documents(tokenizers, prose):
    for tokenizer in tokenizers.values():
        encoder = PlainEncoder(tokenizer)
        assert _ids(encoder, prose) == [encoder.encode(text) for text in prose]


def test_threads_do_not_mix_their_texts(tokenizers):
    """Two scorers of one model tokenise ahead at the same time, with the same encoder."""
    texts = [[f"{word}{number}x{batch} the river" for number in range(300)] for batch in range(40) for word in "abcd"]
    encoder, alone = PlainEncoder(tokenizers["t5"]), PlainEncoder(tokenizers["t5"])
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda batch: _ids(encoder, batch), texts))
    finally:
        sys.setswitchinterval(switch)
    assert found == [_ids(alone, batch) for batch in texts]


def test_memory_is_bounded(tokenizers, monkeypatch):
    monkeypatch.setattr("pipeline_steps.engines.encoders._REMEMBERED", 100)
    encoder = PlainEncoder(tokenizers["t5"])
    for number in range(50):
        text = f"word{number} and some others {number}"
        assert _ids(encoder, [text]) == [encoder.encode(text)]
        assert sum(map(len, encoder._known)) < 150


def _ids(encoder, texts):
    return [ids.tolist() for ids in encoder.encode_batch(texts)]
