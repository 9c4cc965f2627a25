"""Everything that stands on a local disk stands on S3 as well: a real client against a real HTTP server (moto)."""

import pytest
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter
from test_corpus_formats import FORMATS, PACKERS, ROWS
from word_count import WordCountScorer, score

from pipeline_steps import Cut, IPSFilter, ScoreSelector, ScoreStore, Selection, TopKFilter, combine, select
from pipeline_steps.errors import StoreDamaged, StoreIncomplete, StoreMismatch
from pipeline_steps.readers.corpus import open_corpus


@pytest.fixture
def bucket(s3, corpus, request):
    """A bucket that holds the corpus."""
    name = request.node.name.replace("_", "-")
    s3.mkdir(name)
    s3.put(str(corpus), f"{name}/corpus", recursive=True)
    return f"s3://{name}"


def kept(corpus, step, tasks):
    return sorted(
        doc.id for rank in range(tasks) for doc in step.run(JsonlReader(corpus).run(None, rank, tasks), rank, tasks)
    )


def test_score_stop_resume_select_and_filter(bucket, s3, corpus, tmp_path):
    scores = f"{bucket}/scores"
    docs = WordCountScorer(scores, window_size=8).run(JsonlReader(f"{bucket}/corpus").run())
    for _ in range(5 + 20):
        next(docs)
    docs.close()
    with pytest.raises(StoreIncomplete, match="half written"):
        ScoreStore.open(scores)
    before = WordCountScorer.calls
    score(f"{bucket}/corpus", scores, tasks=3)
    assert WordCountScorer.calls - before == 100 - 5 - 24
    score(corpus, tmp_path / "local")
    local = ScoreStore.open(str(tmp_path / "local"))
    store = ScoreStore.open(scores)
    assert store.scores.tolist() == local.scores.tolist()
    assert not s3.glob(f"{scores}/windows/*/*")
    for cut in (Cut("top", k=20), Cut("ips", rate=0.3), Cut("random", k=7)):
        list(ScoreSelector(scores, cut, selection=f"{bucket}/selection.safetensors").run())
        selection = Selection.load(f"{bucket}/selection.safetensors")
        assert selection.mask.tolist() == select(local, cut).mask.tolist()
    here = kept(str(corpus), TopKFilter(str(tmp_path / "local"), k=20), 1)
    assert kept(f"{bucket}/corpus", TopKFilter(scores, k=20), 3) == here
    assert kept(str(corpus), TopKFilter(scores, k=20), 1) == here  # a corpus that has moved since it was scored
    tripled = combine(f"{bucket}/tripled", {scores: 3.0}, "product").scores
    assert tripled.tolist() == (3.0 * local.scores.astype(float)).astype("float32").tolist()


def test_what_is_damaged_or_made_otherwise_is_refused(bucket, s3):
    scores = f"{bucket}/scores"
    score(f"{bucket}/corpus", scores)
    with pytest.raises(StoreMismatch, match="salt: 0 there, 5 now"):
        score(f"{bucket}/corpus", scores, salt=5)
    victim = s3.glob(f"{scores}/parts/b.jsonl*")[0]
    s3.pipe_file(victim, s3.cat_file(victim)[:-10])
    with pytest.raises(StoreDamaged, match=r"parts/b\.jsonl"):
        kept(f"{bucket}/corpus", TopKFilter(scores, k=5), 1)


def test_processes_of_a_real_executor(bucket, tmp_path):
    # spawn: a fork server that an earlier test has started would not know this server's address
    scorer = WordCountScorer(f"{bucket}/scores", window_size=8)
    steps = [JsonlReader(f"{bucket}/corpus"), scorer]
    LocalPipelineExecutor(steps, tasks=3, workers=2, start_method="spawn", logging_dir=str(tmp_path / "a")).run()
    steps = [JsonlReader(f"{bucket}/corpus"), IPSFilter(f"{bucket}/scores", k=33), JsonlWriter(f"{bucket}/kept")]
    stats = LocalPipelineExecutor(
        steps, tasks=4, workers=2, start_method="spawn", logging_dir=str(tmp_path / "b")
    ).run()
    assert stats.stats[1]["forwarded"].total == 33
    assert len(list(JsonlReader(f"{bucket}/kept").run())) == 33


@pytest.mark.parametrize("name", ["a.jsonl.zst", "a.parquet", "a.arrow", "a.csv.xz"])
def test_corpora_of_every_format(s3, tmp_path, name):
    format, _, packer = name.removeprefix("a.").partition(".")
    s3.makedirs("formats", exist_ok=True)
    s3.pipe_file(f"formats/{name}", PACKERS[f".{packer}" if packer else ""](FORMATS[format](ROWS)))
    (reader,) = open_corpus(f"s3://formats/{name}", str(tmp_path / "files.txt"))
    assert [doc.text for doc in reader.run()] == [row["text"] for row in ROWS]
