"""A token store must hold the tokens of every document once, for any number of tasks, kills and literal `</s>`."""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from damage import damages, flip, refusal, warnings_of
from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from transformers import AutoTokenizer

from pipeline_steps.errors import CorpusError, ModelError, StoreDamaged, StoreIncomplete, StoreMismatch
from pipeline_steps.numerics.keys import document_key, keys_digest
from pipeline_steps.stores.artefact import Artefact, part_name
from train import token_store_writer
from train.token_store import TokenStore
from train.token_store_writer import TokenStoreWriter
from train.tokenizers import TextTokenizer


def tree(path):
    """Bytes of every file under a folder, hidden ones too, without those that name a run."""
    files = (file.relative_to(path) for file in Path(path).rglob("*") if file.is_file())
    kept = [file for file in files if file.parts[0] not in ("announced", "runs", "manifest.json")]
    return {str(file): (Path(path) / file).read_bytes() for file in kept}


def ids_of(store):
    ids = np.empty(store.tokens, dtype=np.int32)
    store.copy(0, ids)
    return ids


def write(path, tokenizer, docs, rank=0, world_size=1):
    writer = TokenStoreWriter(str(path), str(tokenizer))
    writer.corpus = "the corpus" if world_size > 1 else None  # any name: what the tasks agree on
    return list(writer.run(iter(docs), rank, world_size))


def write_corpus(folder, names, count=5, start=0):
    """JSONL files of `count` documents each."""
    folder.mkdir(exist_ok=True)
    for name in names:
        rows = [{"id": f"{name}-{i}", "text": f"ban gar {name} " * (i + 1)} for i in range(start, start + count)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def tokenize(corpus, path, tokenizer, rank=0, world_size=1, **settings):
    """Run one task over a corpus, as datatrove would."""
    writer = TokenStoreWriter(str(path), str(tokenizer), **settings)
    return list(writer.run(JsonlReader(str(corpus)).run(rank=rank, world_size=world_size), rank, world_size))


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
    files = sorted(store.path.glob("parts/*/tokens.npy"))
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
    assert any(path.name.startswith(".") for path in (tmp_path / "parts").iterdir())
    with pytest.raises(StoreIncomplete, match="no task has finished"):
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
    encoder = TextTokenizer(str(tokenizer_folder))
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
    with pytest.raises(StoreMismatch, match="tokenizer_sha256: .* there, .* now"):
        write(tmp_path / "store", other, corpus_documents[:30])


def test_a_tokenizer_with_other_conventions_is_refused(tokenizer_folder, tmp_path):
    for file in tokenizer_folder.iterdir():
        swapped = file.read_text().replace("<extra_id_0>", "<extra_id_x>")
        (tmp_path / file.name).write_text(swapped.replace("<extra_id_1>", "<extra_id_0>"))
    with pytest.raises(ModelError, match="does not follow T5's conventions"):
        TextTokenizer(str(tmp_path))


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
        TextTokenizer(str(tmp_path))


def test_a_source_in_two_runs_is_refused(corpus_documents, tokenizer_folder, tmp_path):
    docs = corpus_documents[:20] + corpus_documents[40:50] + corpus_documents[20:30]
    with pytest.raises(
        CorpusError, match="document b-20 of in/b.jsonl says no file that it comes from, or one that other"
    ):
        write(tmp_path, tokenizer_folder, docs)


def test_a_document_without_source_is_refused(tokenizer_folder, tmp_path):
    with pytest.raises(CorpusError, match="document x says no file that it comes from"):
        write(tmp_path, tokenizer_folder, [Document(text="ban", id="x")])


@pytest.mark.parametrize(
    "pattern",
    ["parts/*b.jsonl-*/tokens.npy", "parts/*b.jsonl-*/offsets.npy", "parts/*b.jsonl-*/keys.npy"]
    + ["parts/*b.jsonl-*/meta.json", "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"]
    + ["tokenizer/meta.json", "artefact.json", "manifest.json", "announced/000001.json", "runs/*/1/00000.json"],
)
def test_every_flip_and_truncation_is_found_by_name(corpus_documents, tokenizer_folder, tmp_path, pattern):
    write(tmp_path, tokenizer_folder, corpus_documents[:40])
    (file,), whole = tmp_path.glob(pattern), tree(tmp_path)
    original, untouched = file.read_bytes(), ids_of(TokenStore.open(str(tmp_path)))
    # What the manifest says can be derived from the records, which are not read while it is intact
    harmless = file.name == "manifest.json" or "runs" in file.parts
    for _ in damages(file):
        said = refusal(lambda: np.testing.assert_array_equal(ids_of(TokenStore.open(str(tmp_path))), untouched))
        if said is None:
            assert harmless or json.loads(file.read_bytes()) == json.loads(original)  # the same but for spaces
        else:
            assert str(file) in said
    assert tree(tmp_path) == whole


@pytest.mark.parametrize("name", ["tokens.npy", "offsets.npy", "keys.npy", "meta.json"])
@pytest.mark.parametrize("damage", ["flipped", "missing"])
def test_a_damaged_part_is_named_and_only_it_is_written_again(
    corpus_documents, tokenizer_folder, tmp_path, name, damage
):
    docs = [doc for doc in corpus_documents if doc.metadata["file_path"] != "out/a.jsonl"]
    write(tmp_path, tokenizer_folder, docs)
    whole = tree(tmp_path)
    file = tmp_path / "parts" / part_name("in/b.jsonl") / name
    if damage == "flipped":
        flip(file, np.random.default_rng(0))
    else:
        file.unlink()
    with pytest.raises(StoreDamaged, match=str(file)):
        TokenStore.open(str(tmp_path))
    others = {path: path.stat().st_mtime_ns for path in tmp_path.glob("parts/*[!b].jsonl-*/*")}
    assert str(file) in warnings_of(lambda: write(tmp_path, tokenizer_folder, docs))
    assert tree(tmp_path) == whole
    assert TokenStore.open(str(tmp_path)).documents == len(docs)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("parts/*[!b].jsonl-*/*")} == others


def test_parts_of_other_settings_are_never_mixed_in(tokenizer_folder, tmp_path):
    """The file of settings is lost, and one of two tasks runs with others."""
    corpus, path = write_corpus(tmp_path / "corpus", "ab"), tmp_path / "store"
    tokenize(corpus, path, tokenizer_folder)
    kept = {name: (path / name).read_bytes() for name in ("artefact.json", "manifest.json")}
    (path / "artefact.json").unlink()
    tokenize(corpus, path, tokenizer_folder, 0, 2, append_eos=True)
    for name, blob in kept.items():
        (path / name).write_bytes(blob)
    for announced in sorted((path / "announced").iterdir())[1:]:
        announced.unlink()
    part = path / "parts" / part_name(str(corpus / "a.jsonl"))
    with pytest.raises(StoreDamaged, match=f"{part} was made with other settings"):
        TokenStore.open(str(path))
    (path / "artefact.json").unlink()
    said = warnings_of(lambda: tokenize(corpus, path, tokenizer_folder, append_eos=True))
    assert f"{path / 'parts' / part_name(str(corpus / 'b.jsonl'))} was made with other settings" in said
    store = TokenStore.open(str(path))
    assert (ids_of(store) == store.eos).sum() == 10


def test_other_files_in_a_part_do_no_harm_and_are_never_lost(corpus_documents, tokenizer_folder, tmp_path):
    write(tmp_path, tokenizer_folder, corpus_documents[:40])
    part = tmp_path / "parts" / part_name("in/b.jsonl")
    (part / "README.md").write_text("mine")
    assert TokenStore.open(str(tmp_path)).documents == 40
    assert warnings_of(lambda: write(tmp_path, tokenizer_folder, corpus_documents[:40])) == ""
    (part / "keys.npy").unlink()
    said = warnings_of(lambda: write(tmp_path, tokenizer_folder, corpus_documents[:40]))
    (mine,) = part.parent.rglob("README.md")
    assert mine.read_text() == "mine"
    assert str(mine.parent) in said
    assert TokenStore.open(str(tmp_path)).documents == 40


def test_a_file_added_to_the_tokenizer_is_refused(corpus_documents, tokenizer_folder, tmp_path):
    write(tmp_path, tokenizer_folder, corpus_documents[:40])
    (tmp_path / "tokenizer" / "added_tokens.json").write_text("{}")
    for action in (lambda: TokenStore.open(str(tmp_path)), lambda: write(tmp_path, tokenizer_folder, [])):
        with pytest.raises(StoreMismatch, match=r"tokenizer/added_tokens.json .*: move it elsewhere"):
            action()


def test_a_part_of_another_store_is_named(corpus_documents, tokenizer_folder, tmp_path):
    for name, docs in {"one": corpus_documents[:30], "other": corpus_documents[:29]}.items():
        write(tmp_path / name, tokenizer_folder, docs)
    ours, theirs = (tmp_path / name / "parts" / part_name("in/b.jsonl") for name in ("one", "other"))
    for file in theirs.iterdir():
        (ours / file.name).write_bytes(file.read_bytes())
    with pytest.raises(StoreDamaged, match=f"{ours}/meta.json is not the file that the manifest speaks of"):
        TokenStore.open(str(tmp_path / "one"))


def test_a_store_is_incomplete_while_its_corpus_grows(tokenizer_folder, tmp_path):
    """Two files are added, and one of two tasks has finished: B1 of a review opened with 15 of 20 documents."""
    corpus, path = write_corpus(tmp_path / "corpus", "abcd"), str(tmp_path / "store")
    for rank in range(2):
        tokenize(corpus, path, tokenizer_folder, rank, 2)
    assert TokenStore.open(path).documents == 20
    before = tree(path)
    tokenize(corpus, path, tokenizer_folder, 0, 2)  # finds nothing to do
    write_corpus(corpus, "ef")
    tokenize(corpus, path, tokenizer_folder, 0, 2)
    with pytest.raises(StoreIncomplete, match="1 of 2 tasks have read this input"):
        TokenStore.open(path)
    tokenize(corpus, path, tokenizer_folder, 1, 2)
    assert TokenStore.open(path).documents == 30
    assert before.items() <= tree(path).items()


def test_a_skipped_rank_is_explained(tokenizer_folder, tmp_path):
    """datatrove skips a rank that was completed before files were added."""
    corpus, path = write_corpus(tmp_path / "corpus", "ac"), str(tmp_path / "store")

    def run(**settings):
        steps = [JsonlReader(str(corpus)), TokenStoreWriter(path, str(tokenizer_folder))]
        LocalPipelineExecutor(steps, tasks=2, workers=1, logging_dir=str(tmp_path / "logs"), **settings).run()

    run(local_tasks=1)  # rank 0 only
    write_corpus(corpus, "ef")
    run()
    with pytest.raises(StoreIncomplete, match=r"1 of 2 tasks .* logging_dir .* skip_completed=False"):
        TokenStore.open(path)
    run(skip_completed=False)
    assert TokenStore.open(path).documents == 20


def test_two_settings_at_once_never_mix(tokenizer_folder, tmp_path):
    """Both see an empty folder; one of them decides."""
    corpus, path = write_corpus(tmp_path / "corpus", "ab"), str(tmp_path / "store")
    start = time.time() + 0.5
    children = []
    for rank, append_eos in enumerate((False, True, False, True)):
        if (child := os.fork()) == 0:
            time.sleep(max(0.0, start - time.time()))
            try:
                tokenize(corpus, path, tokenizer_folder, rank % 2, 2, append_eos=append_eos)
            except StoreMismatch as error:
                os._exit(2 if "append_eos" in str(error) else 3)
            except BaseException:
                os._exit(4)
            os._exit(0)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes in ([0, 2, 0, 2], [2, 0, 2, 0])
    decided = Artefact(path, "").made["append_eos"]
    for rank in range(2):
        tokenize(corpus, path, tokenizer_folder, rank, 2, append_eos=decided)
    store = TokenStore.open(path)
    assert (ids_of(store) == store.eos).sum() == (10 if decided else 0)


def test_a_file_taken_out_is_refused_by_name(tokenizer_folder, tmp_path):
    corpus, path = write_corpus(tmp_path / "corpus", "abc"), str(tmp_path / "store")
    tokenize(corpus, path, tokenizer_folder)
    (corpus / "b.jsonl").unlink()
    tokenize(corpus, path, tokenizer_folder)
    with pytest.raises(StoreMismatch, match=r"1 files that its last finished run did not read, first parts/b.jsonl"):
        TokenStore.open(path)


def test_a_changed_file_is_refused(tokenizer_folder, tmp_path):
    corpus, path = write_corpus(tmp_path / "corpus", "ab"), str(tmp_path / "store")
    tokenize(corpus, path, tokenizer_folder)
    write_corpus(corpus, "b", start=1)
    with pytest.raises(StoreMismatch, match="document b-1 is not number 0"):
        tokenize(corpus, path, tokenizer_folder)


def test_a_second_run_of_one_task_leaves_the_store_as_it_is(corpus_documents, tokenizer_folder, tmp_path):
    write(tmp_path, tokenizer_folder, corpus_documents[:40])
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()}
    write(tmp_path, tokenizer_folder, corpus_documents[:40])
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()} == before


def test_a_tokenizer_that_is_there_is_not_written_again(corpus_documents, tokenizer_folder, tmp_path, monkeypatch):
    for rank in range(2):
        write(tmp_path, tokenizer_folder, [], rank, 2)
        monkeypatch.setattr(token_store_writer, "whole_folder", pytest.fail)  # after the first task
    monkeypatch.undo()
    flip(tmp_path / "tokenizer" / "tokenizer.json", np.random.default_rng(0))
    assert "tokenizer.json is damaged" in warnings_of(lambda: write(tmp_path, tokenizer_folder, corpus_documents[:9]))
    assert TokenStore.open(str(tmp_path)).documents == 9


def test_a_store_of_scores_or_on_s3_is_refused(tmp_path):
    Artefact(str(tmp_path), "").begin("scores", {}, None)
    with pytest.raises(StoreMismatch, match="holds scores, not tokens"):
        TokenStore.open(str(tmp_path))
    with pytest.raises(StoreMismatch, match="memory://tokens is not on a local disk"):
        TokenStore.open("memory://tokens")


def test_a_source_without_tokens(tokenizer_folder, tmp_path):
    write(tmp_path, tokenizer_folder, [Document(text="", id="x", metadata={"file_path": "empty"})])
    store = TokenStore.open(str(tmp_path))
    assert (store.documents, store.tokens, next(store.lengths_by_source()).tolist()) == (1, 0, [0])


def test_not_a_store(tmp_path):
    with pytest.raises(StoreIncomplete, match="holds nothing yet"):
        TokenStore.open(str(tmp_path))
