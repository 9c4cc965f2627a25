"""A token store must hold the tokens of every document once, for any number of tasks, kills and literal `</s>`."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from datatrove.data import Document
from transformers import AutoTokenizer

from pipeline_steps.errors import CorpusError, ModelError, StoreIncomplete, StoreMismatch
from pipeline_steps.numerics.keys import document_key, keys_digest
from train.token_store import TokenStore
from train.token_store_writer import TokenStoreWriter
from train.tokenizers import TextEncoder


def tree(path):
    """Bytes of every file under a folder, hidden ones too, without what tasks leave."""
    files = (file for file in Path(path).rglob("*") if file.is_file())
    return {str(file.relative_to(path)): file.read_bytes() for file in files if "/tasks/" not in str(file)}


def ids_of(store):
    ids = np.empty(store.tokens, dtype=np.int32)
    store.copy(0, ids)
    return ids


def write(path, tokenizer, docs, rank=0, world_size=1):
    return list(TokenStoreWriter(str(path), str(tokenizer)).run(iter(docs), rank, world_size))


def by_source(docs):
    groups = {}
    for doc in docs:
        groups.setdefault(doc.metadata["file_path"], []).append(doc)
    return groups


def test_holds_what_the_tokenizer_says(store, corpus_documents, tokenizer_folder):
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    ordered = sorted(corpus_documents, key=lambda doc: doc.metadata["file_path"])  # stable: order within a source
    expected = [tokenizer(doc.text, add_special_tokens=False)["input_ids"] for doc in ordered]
    assert store.sources == ("in/b.jsonl", "in/c.jsonl", "in/d.jsonl", "out/a.jsonl")
    assert store.documents == len(ordered)
    assert [n for lengths in store.lengths_by_source() for n in lengths] == [len(ids) for ids in expected]
    assert ids_of(store).tolist() == [id for ids in expected for id in ids]
    keys = np.array([document_key(doc.id, doc.text) for doc in ordered], dtype=np.uint64)
    np.testing.assert_array_equal(store.keys(), keys)
    assert store.corpus_digest == keys_digest(keys)
    store.verify()


def test_copies_across_sources(store):
    everything, rng = ids_of(store), np.random.default_rng(0)
    for length in (1, 50, store.tokens // 2):
        for position in rng.integers(0, store.tokens - length, 20).tolist():
            part = np.empty(length, dtype=np.int32)
            store.copy(position, part)
            np.testing.assert_array_equal(part, everything[position : position + length])


def test_ids_that_fit_are_two_bytes(store):
    files = sorted(store.path.glob("sources/*/tokens.npy"))
    assert len(files) == 4
    assert all(np.load(file, mmap_mode="r").dtype == np.uint16 for file in files)


def test_the_same_for_any_number_of_tasks(store, corpus_documents, tokenizer_folder, tmp_path):
    groups = list(by_source(corpus_documents).values())
    for rank in range(3):
        write(tmp_path, tokenizer_folder, [doc for group in groups[rank::3] for doc in group], rank, 3)
    assert tree(tmp_path) == tree(store.path)


def test_a_killed_task_leaves_nothing_half_done(store, corpus_documents, tokenizer_folder, tmp_path):
    child = os.fork()
    if child == 0:  # dies in the middle of its second source
        for number, _ in enumerate(TokenStoreWriter(str(tmp_path), str(tokenizer_folder)).run(iter(corpus_documents))):
            if number == 100:
                os.kill(os.getpid(), signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert any(path.name.startswith(".") for path in (tmp_path / "sources").iterdir())
    with pytest.raises(StoreIncomplete, match="no task finished"):
        TokenStore.open(str(tmp_path))
    write(tmp_path, tokenizer_folder, corpus_documents)
    assert tree(tmp_path) == tree(store.path)
    assert TokenStore.open(str(tmp_path)).corpus_digest == store.corpus_digest


def test_some_of_the_tasks_are_not_all(corpus_documents, tokenizer_folder, tmp_path):
    write(tmp_path, tokenizer_folder, corpus_documents[:30], rank=0, world_size=2)
    with pytest.raises(StoreIncomplete, match="1 of 2 tasks"):
        TokenStore.open(str(tmp_path))


@pytest.mark.parametrize("literal", ["</s>", "<pad>", "<extra_id_7>", "a</s>b <extra_id_99><pad>"])
def test_control_tokens_in_text_stay_text(tokenizer_folder, literal):
    encoder = TextEncoder(str(tokenizer_folder))
    (ids,) = encoder.encode([f"ban {literal} gar"])
    assert ids.size > 2
    assert not np.isin(ids, [0, 1]).any()
    assert ids.max() <= encoder.vocab_size - 1 - encoder.sentinels


def test_a_changed_document_is_refused(corpus_documents, tokenizer_folder, tmp_path):
    docs = corpus_documents[:30]
    write(tmp_path, tokenizer_folder, docs)
    changed = [*docs[:7], Document(text="other", id=docs[7].id, metadata=docs[7].metadata), *docs[8:]]
    with pytest.raises(StoreMismatch, match="document b-7 is not number 7"):
        write(tmp_path, tokenizer_folder, changed)
    with pytest.raises(StoreMismatch, match="29 documents, but"):
        write(tmp_path, tokenizer_folder, docs[:29])


def test_another_tokenizer_is_refused(corpus_documents, tokenizer_folder, tmp_path):
    write(tmp_path / "store", tokenizer_folder, corpus_documents[:30])
    other = tmp_path / "other"
    other.mkdir()
    for file in tokenizer_folder.iterdir():
        (other / file.name).write_text(file.read_text().replace('"▁ban"', '"▁bam"').replace('"▁gar"', '"▁gax"'))
    assert (other / "tokenizer.json").read_text() != (tokenizer_folder / "tokenizer.json").read_text()
    with pytest.raises(StoreMismatch, match="another tokenizer"):
        write(tmp_path / "store", other, corpus_documents[:30])


def test_a_tokenizer_with_other_conventions_is_refused(tokenizer_folder, tmp_path):
    for file in tokenizer_folder.iterdir():
        swapped = file.read_text().replace("<extra_id_0>", "<extra_id_x>")
        (tmp_path / file.name).write_text(swapped.replace("<extra_id_1>", "<extra_id_0>"))
    with pytest.raises(ModelError, match="does not follow T5's conventions"):
        TextEncoder(str(tmp_path))


def test_a_tokenizer_without_sentinels(corpus_documents, plain_tokenizer, tmp_path):
    docs = [*corpus_documents[:30], Document(text="a<|endoftext|>b", id="x", metadata={"file_path": "x"})]
    list(TokenStoreWriter(str(tmp_path), str(plain_tokenizer), append_eos=True).run(iter(docs)))
    store = TokenStore.open(str(tmp_path))
    tokenizer = AutoTokenizer.from_pretrained(plain_tokenizer)
    assert (store.sentinels, store.eos) == (0, tokenizer.eos_token_id)
    ids = ids_of(store)
    assert (ids == store.eos).sum() == len(docs)  # what a text spells is text
    texts = tokenizer.decode(ids).split("<|endoftext|>")
    assert texts[: len(docs) - 1] == [doc.text for doc in corpus_documents[:30]]


def test_a_tokenizer_without_eos_is_refused(plain_tokenizer, tmp_path):
    for file in plain_tokenizer.iterdir():
        (tmp_path / file.name).write_text(
            file.read_text().replace('"eos_token": "<|endoftext|>"', '"model_max_length": 9')
        )
    with pytest.raises(ModelError, match="has no EOS token"):
        TextEncoder(str(tmp_path))


def test_a_source_in_two_runs_is_refused(corpus_documents, tokenizer_folder, tmp_path):
    docs = corpus_documents[:20] + corpus_documents[40:50] + corpus_documents[20:30]
    with pytest.raises(CorpusError, match="in/b.jsonl reach TokenStoreWriter in more than one run"):
        write(tmp_path, tokenizer_folder, docs)


def test_a_document_without_source_is_refused(tokenizer_folder, tmp_path):
    with pytest.raises(CorpusError, match="document x does not say which file"):
        write(tmp_path, tokenizer_folder, [Document(text="ban", id="x")])


def test_damage_is_found(corpus_documents, tokenizer_folder, tmp_path):
    write(tmp_path, tokenizer_folder, corpus_documents[:30])
    (file,) = tmp_path.glob("sources/*/tokens.npy")
    blob = bytearray(file.read_bytes())
    blob[-1] ^= 1
    file.write_bytes(blob)
    with pytest.raises(StoreMismatch, match="tokens.npy is damaged"):
        TokenStore.open(str(tmp_path)).verify()


def test_a_source_without_tokens(tokenizer_folder, tmp_path):
    write(tmp_path, tokenizer_folder, [Document(text="", id="x", metadata={"file_path": "empty"})])
    store = TokenStore.open(str(tmp_path))
    assert (store.documents, store.tokens, next(store.lengths_by_source()).tolist()) == (1, 0, [0])


def test_not_a_store(tmp_path):
    with pytest.raises(StoreIncomplete, match="has no config.json"):
        TokenStore.open(str(tmp_path))
