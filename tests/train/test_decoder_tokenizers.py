"""What a decoder reads must come back as it was, and a prompt must not end in the end of a document."""

import json
import random
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer, processors
from training_runs import BATCH, LENGTH, flags, main
from transformers import AutoTokenizer

from pipeline_steps import EMBEDDED_BPE
from train.checkpoints import load_checkpoint
from train.embedded_bpe import train_tokenizer
from train.token_store import TokenStore
from train.token_store_writer import TokenStoreWriter
from train.tokenizers import TextTokenizer, add_no_special_tokens


@pytest.fixture(scope="module")
def bpe():
    return TextTokenizer(EMBEDDED_BPE)


def test_the_embedded_tokenizer_is_one_for_decoders(bpe):
    assert (bpe.vocab_size, bpe.sentinels, bpe.eos) == (8192, 0, 0)
    assert AutoTokenizer.from_pretrained(EMBEDDED_BPE)("a\n\nb").input_ids == bpe.encode(["a\n\nb"])[0].tolist()
    (ids,) = bpe.encode(["The quick brown fox returns a new array of the given shape."])
    assert len(ids) < 20


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_every_text_comes_back(bpe, text):
    (ids,) = bpe.encode([text])
    assert bpe._tokenizer.decode(ids) == text
    assert bpe.eos not in ids


def test_what_a_text_spells_is_no_end(bpe):
    text = "a<|endoftext|>b\r\n\t  c"
    (ids,) = bpe.encode([text])
    assert bpe.eos not in ids
    assert bpe._tokenizer.decode(ids) == text


def test_the_recipe_is_a_function_of_the_text(tmp_path, monkeypatch):
    monkeypatch.setattr("train.embedded_bpe.VOCABULARY", 400)
    texts = ["".join(random.Random(i).choices("abcde \n", k=300)) for i in range(50)]
    for name in ("one", "two"):
        train_tokenizer(texts, tmp_path / name)
    assert (tmp_path / "one" / "tokenizer.json").read_bytes() == (tmp_path / "two" / "tokenizer.json").read_bytes()
    assert json.loads((tmp_path / "one" / "tokenizer.json").read_text())["post_processor"] is None
    assert TextTokenizer(str(tmp_path / "one")).vocab_size == 400


def ends_texts(folder, tokenizer_class):
    """Make a saved T5 tokenizer end texts in EOS, as all of the Hub do."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    said = json.loads((folder / "tokenizer_config.json").read_text()) | {"tokenizer_class": tokenizer_class}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))


@pytest.mark.parametrize("tokenizer_class", ["PreTrainedTokenizerFast", "T5Tokenizer"])
def test_a_tokenizer_that_ends_texts_is_cured(tokenizer_folder, tmp_path, tokenizer_class):
    folder = tmp_path / "tokenizer"
    shutil.copytree(tokenizer_folder, folder)
    ends_texts(folder, tokenizer_class)
    before = AutoTokenizer.from_pretrained(folder)("bananas dear").input_ids
    add_no_special_tokens(folder)
    after = AutoTokenizer.from_pretrained(folder)
    assert (before[-1], after.eos_token_id) == (1, 1)
    assert after("bananas dear").input_ids == before[:-1]


def test_lm_eval_tells_answers_of_a_saved_decoder_apart(tokenizer_folder, corpus_documents, tmp_path):
    """lm-eval's own class on a checkpoint, beside a loop of our own; with EOS behind prompts, all would be equal."""
    folder = tmp_path / "tokenizer"
    shutil.copytree(tokenizer_folder, folder)
    ends_texts(folder, "T5Tokenizer")
    list(TokenStoreWriter(str(tmp_path / "tokens"), str(folder), append_eos=True).run(iter(corpus_documents)))
    store = TokenStore.open(str(tmp_path / "tokens"))
    total = 3 * BATCH * LENGTH
    assert main(*flags(store, tmp_path / "run", preset="llama-tiny", total_tokens=total, optimizer="adamw")) == 0
    checkpoint = tmp_path / "run" / "checkpoints" / "step-00000003"
    prompt, answers = "ban den fin", [" bon", " gan", " lust"]
    requests = [
        Instance(request_type="loglikelihood", doc={}, arguments=(prompt, answer), idx=i)
        for i, answer in enumerate(answers)
    ]
    found = [score for score, _ in HFLM(pretrained=str(checkpoint), device="cpu").loglikelihood(requests)]
    model, tokenizer, _ = load_checkpoint(checkpoint)
    ids = [tokenizer(text, add_special_tokens=False).input_ids for text in (prompt, *[prompt + a for a in answers])]
    begin, expected = len(ids[0]), []
    for row in ids[1:]:
        with torch.no_grad():
            log_p = model(input_ids=torch.tensor([row])).logits[0].log_softmax(-1)
        expected.append(sum(log_p[place - 1, row[place]].item() for place in range(begin, len(row))))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert len({round(score, 4) for score in found}) == len(answers)
