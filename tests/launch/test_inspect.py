"""`winnow inspect` says what a score store holds, finished or not."""

import json

import numpy as np
import pytest
from datatrove.pipeline.readers import JsonlReader
from word_count import WordCountScorer, score

from launch.cli import main
from pipeline_steps import ScoreStore


def test_a_finished_store(corpus, tmp_path, capsys):
    score(corpus, tmp_path / "s")
    assert main(["inspect", str(tmp_path / "s"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    scores = ScoreStore.open(str(tmp_path / "s")).scores
    assert (facts["complete"], facts["documents"], facts["sources"]) == (True, 100, 4)
    assert facts["quantiles"]["0.5"] == np.quantile(scores, 0.5, method="inverted_cdf")
    assert main(["inspect", str(tmp_path / "s")]) == 0
    shown = capsys.readouterr().out
    for words in ("100 in 4 source files", "WordCountScorer", "median", "complete", '"salt": 0'):
        assert words in shown


def test_ids_and_first_words_in_eighty_columns(corpus, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    score(corpus, tmp_path / "s")
    assert main(["inspect", str(tmp_path / "s"), "--corpus", str(corpus)]) == 0
    shown = capsys.readouterr().out
    assert max(len(line) for line in shown.splitlines()) <= 80
    for words in ("doc-", "the crawl holds", "99%", "highest"):
        assert words in shown
    other = tmp_path / "other.jsonl"
    other.write_text('{"id": "doc-0", "text": "changed"}\n')
    assert main(["inspect", str(tmp_path / "s"), "--corpus", str(other)]) == 2
    assert "does not hold document doc-" in capsys.readouterr().err


def test_a_store_that_is_being_written(corpus, tmp_path, capsys):
    docs = WordCountScorer(str(tmp_path / "s"), window_size=8).run(JsonlReader(str(corpus)).run())
    for _ in range(5 + 20):
        next(docs)
    assert main(["inspect", str(tmp_path / "s"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert not facts["complete"]
    assert facts["documents"] == 5
    ((unfinished, windows),) = facts["unfinished_sources"].items()
    assert unfinished.startswith("b.jsonl-")
    assert windows == 3
    assert main(["inspect", str(tmp_path / "s")]) == 0
    assert "half written" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "message"), [("nothing", "holds nothing yet"), ("begun", "no source is finished")])
def test_nothing_to_inspect_is_one_sentence(corpus, tmp_path, capsys, name, message):
    next(WordCountScorer(str(tmp_path / "begun"), window_size=8).run(JsonlReader(str(corpus)).run()))
    assert main(["inspect", str(tmp_path / name)]) == 2
    assert message in capsys.readouterr().err
