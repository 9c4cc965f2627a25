"""A run is named by what its reader reads: the same for every task, another as soon as a file changes."""

import os

import pytest
from datatrove.pipeline.filters import LambdaFilter
from datatrove.pipeline.readers import JsonlReader
from word_count import WordCountScorer

from pipeline_steps import InstalledDocsReader, ScoreStore
from pipeline_steps.errors import CorpusError, StoreIncomplete
from pipeline_steps.stores.corpus_listing import CorpusListing


def listed(data):
    return CorpusListing(data).known


def listing(reader, rank=0, tasks=1):
    return listed(reader.run(None, rank, tasks))


def test_every_task_and_every_way_to_the_same_files_say_the_same(corpus, tmp_path):
    known = listing(JsonlReader(str(corpus)))
    assert known["files"] == 4
    assert listing(JsonlReader(str(corpus)), 2, 3) == known
    assert listing(JsonlReader(str(corpus), glob_pattern="*.jsonl")) == known
    (tmp_path / "paths.txt").write_text("".join(f"{name}.jsonl\n" for name in "dbca"))
    assert listing(JsonlReader(str(corpus), paths_file=str(tmp_path / "paths.txt"))) == known
    (tmp_path / "beside").mkdir()  # what stands beside the corpus is of no interest
    assert listing(JsonlReader(str(tmp_path), glob_pattern="corpus/*.jsonl"))["files"] == 4


@pytest.mark.parametrize(
    "change",
    [
        lambda corpus: (corpus / "e.jsonl").write_text('{"id": "e", "text": "new"}\n'),
        lambda corpus: (corpus / "a.jsonl").unlink(),
        lambda corpus: (corpus / "a.jsonl").rename(corpus / "z.jsonl"),
        lambda corpus: (corpus / "a.jsonl").open("a").write("\n"),
        lambda corpus: os.utime(corpus / "a.jsonl", (1, 1)),
    ],
    ids=["added", "removed", "renamed", "longer", "touched"],
)
def test_any_change_is_another_input(corpus, change):
    before = listing(JsonlReader(str(corpus)))
    change(corpus)
    assert listing(JsonlReader(str(corpus))) != before


def test_what_else_decides_the_documents(corpus):
    known = listing(JsonlReader(str(corpus)))
    for options in ({"limit": 5}, {"skip": 1}, {"text_key": "content"}, {"glob_pattern": "a.jsonl"}):
        assert listing(JsonlReader(str(corpus), **options)) != known


def test_the_reader_is_found_behind_other_steps(corpus, tmp_path):
    data = JsonlReader(str(corpus)).run()
    data = LambdaFilter(lambda doc: True).run(data)
    data = WordCountScorer(str(tmp_path / "s")).run(data)
    assert listed(data) == listing(JsonlReader(str(corpus)))


def test_two_readers_are_both_read(corpus):
    data = JsonlReader(str(corpus), glob_pattern="a.jsonl").run()
    both = listed(JsonlReader(str(corpus), glob_pattern="b.jsonl").run(data))
    assert both["files"] == 2


def test_readers_without_files_and_lists_of_documents(corpus):
    assert listing(InstalledDocsReader(limit=3)) != listing(InstalledDocsReader(limit=4))
    docs = list(JsonlReader(str(corpus)).run())
    assert listed(docs) == listed(list(docs)) != listed(docs[1:])
    assert listed(iter(docs)) is None


def test_in_an_object_store(s3, corpus):
    s3.mkdir("listing")
    s3.put(f"{corpus}/", "listing/corpus/", recursive=True)
    known = listing(JsonlReader("s3://listing/corpus"))
    assert known["files"] == 4
    assert listing(JsonlReader("s3://listing/corpus")) == known
    s3.pipe_file("listing/corpus/a.jsonl", s3.cat_file("listing/corpus/a.jsonl").replace(b"crawl", b"CRAWL"))
    assert listing(JsonlReader("s3://listing/corpus")) != known


def test_a_link_is_as_old_as_the_file_it_leads_to(corpus, tmp_path):
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "a.jsonl").symlink_to(corpus / "a.jsonl")
    known = listing(JsonlReader(str(tmp_path / "links")))
    os.utime(corpus / "a.jsonl", (1, 1))
    assert listing(JsonlReader(str(tmp_path / "links"))) != known


def test_an_object_in_a_folder_that_comes_later_is_seen(s3, corpus):
    s3.mkdir("later")
    s3.put(f"{corpus}/a.jsonl", "later/sub/a.jsonl")
    known = listing(JsonlReader("s3://later"))
    fresh = type(s3)(skip_instance_cache=True)
    fresh.pipe_file("later/sub/b.jsonl", b'{"id": "b", "text": "new"}')
    assert listing(JsonlReader("s3://later"))["files"] == known["files"] + 1


def test_a_corpus_that_changes_while_it_is_read_is_not_taken_for_either(corpus, tmp_path):
    """The second task lists the corpus as the first does, but reads it as it is a moment later."""
    first = WordCountScorer(str(tmp_path / "s"), window_size=8)
    list(first.run(JsonlReader(str(corpus)).run(None, 0, 2), 0, 2))
    step = WordCountScorer(str(tmp_path / "s"), window_size=8)
    docs = step.run(JsonlReader(str(corpus)).run(None, 1, 2), 1, 2)
    next(docs)
    (corpus / "aa.jsonl").write_text('{"id": "aa", "text": "between two others"}\n')
    with pytest.raises(CorpusError, match="the corpus has changed while it was read: run this step again"):
        list(docs)
    with pytest.raises(StoreIncomplete):
        ScoreStore.open(str(tmp_path / "s"))


def test_a_name_of_the_corpus_is_the_same_on_every_node(corpus, tmp_path):
    """Copies of a corpus on the nodes' own disks have other times."""
    for rank in range(2):
        os.utime(corpus / "a.jsonl", (rank, rank))
        step = WordCountScorer(str(tmp_path / "s"), window_size=8)
        step.corpus = "crawl of 2024"
        list(step.run(JsonlReader(str(corpus)).run(None, rank, 2), rank, 2))
    assert len(ScoreStore.open(str(tmp_path / "s")).scores) == 100


def test_nodes_that_see_other_times_are_told_what_to_do(corpus, tmp_path):
    for rank in range(2):
        os.utime(corpus / "a.jsonl", (rank, rank))
        step = WordCountScorer(str(tmp_path / "s"), window_size=8)
        list(step.run(JsonlReader(str(corpus)).run(None, rank, 2), rank, 2))
    with pytest.raises(StoreIncomplete, match="2 runs over different input .*other times of the same files.*`corpus`"):
        ScoreStore.open(str(tmp_path / "s"))


def test_what_readers_count_and_later_steps_change_is_no_other_corpus(corpus, tmp_path):
    class CountingReader(InstalledDocsReader):
        read = 0

        def run(self, data=None, rank=0, world_size=1):
            for doc in docs:
                self.read += 1
                yield doc

    docs = list(JsonlReader(str(corpus)).run())
    reader = CountingReader()
    reader.read = 0
    list(WordCountScorer(str(tmp_path / "counted"), window_size=8).run(reader.run()))
    assert len(ScoreStore.open(str(tmp_path / "counted")).scores) == 100
    for doc in WordCountScorer(str(tmp_path / "changed"), window_size=8).run(docs):
        doc.text = doc.text.upper()
    assert len(ScoreStore.open(str(tmp_path / "changed")).scores) == 100
