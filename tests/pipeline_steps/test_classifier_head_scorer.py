"""A head says what the model itself says, one document at a time."""

import numpy as np
import pytest
import torch
from datatrove.data import Document
from datatrove.pipeline.readers import JsonlReader
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast
from word_count import columns_of

from pipeline_steps import ClassifierHeadScorer, ScoreStore
from pipeline_steps.errors import ModelError


WORDS = "the and of to river stone cloud light keep drop".split()
TEXTS = ["", "the river", "stone " * 400, "light of the cloud and the river " * 5, "unknown words here"]


def docs(texts=TEXTS):
    return [Document(text, str(i), metadata={"file_path": "a"}) for i, text in enumerate(texts)]


def save_bert(folder, labels):
    vocabulary = {piece: i for i, piece in enumerate(["[PAD]", "[CLS]", "[SEP]", "[UNK]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [("[CLS]", 1), ("[SEP]", 2)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=special)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(vocabulary), id2label=dict(enumerate(labels)), pad_token_id=0, **shape)
    BertForSequenceClassification(config).save_pretrained(folder)
    return str(folder)


def logits_one_by_one(folder, max_tokens):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    model = BertForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        return torch.cat(
            [
                model(**tokenizer(text, truncation=True, max_length=max_tokens, return_tensors="pt")).logits.double()
                for text in TEXTS
            ]
        ).numpy()


@pytest.mark.parametrize("max_tokens", [16, 512])
def test_a_regression_head(tmp_path, max_tokens):
    folder = save_bert(tmp_path, ["score"])
    found = columns_of(ClassifierHeadScorer("unused", folder, max_tokens=max_tokens), docs())
    np.testing.assert_allclose(found["score"], logits_one_by_one(folder, max_tokens)[:, 0], atol=1e-5)
    assert found["tokens"].tolist() == [len(text.split()) for text in TEXTS]


def test_a_label_s_log_odds(tmp_path, corpus):
    folder = save_bert(tmp_path / "bert", ["spam", "prose", "code"])
    found = columns_of(ClassifierHeadScorer("unused", folder, label="prose"), docs())["score"]
    chance = torch.softmax(torch.tensor(logits_one_by_one(folder, 512)), -1)[:, 1].numpy()
    np.testing.assert_allclose(found, np.log(chance / (1 - chance)), atol=1e-5)
    list(ClassifierHeadScorer(str(tmp_path / "s"), folder, label="code").run(JsonlReader(str(corpus)).run()))
    assert len(ScoreStore.open(str(tmp_path / "s")).scores) == 100
    for label in (None, "poetry"):
        with pytest.raises(ModelError, match="labels spam, prose, code"):
            columns_of(ClassifierHeadScorer("unused", folder, label=label), docs())
