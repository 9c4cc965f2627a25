"""A document that holds a question is found, whatever its case and punctuation; one that nearly does is not."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import document
from datatrove.data import Document
from datatrove.pipeline.readers import JsonlReader
from hypothesis import given
from hypothesis import strategies as st

from pipeline_steps import ContaminationScorer, EvaluationIndex, ScoreStore, TopKFilter
from pipeline_steps.errors import CorpusError, StoreDamaged, StoreIncomplete, StoreMismatch
from pipeline_steps.numerics.word_ngrams import found_in, word_ngrams
from pipeline_steps.scorers.contamination import load_index, normalised_words, overlaps


QUESTION = "Which of these 3 animals, seen near the old mill at night, can turn its head by 270 degrees?"
ANSWER = "the barn owl, whose eyes cannot move in their sockets at all, unlike those of its prey"
SHORT = "Who sleeps under the bridge by day?"
ITEMS = [
    Document(QUESTION, "q0", metadata={"evaluation": "owls", "answer": ANSWER}),
    Document(SHORT, "q1", metadata={"evaluation": "trolls", "answer": "a troll who was paid to guard it for years"}),
    Document("Why?", "q2", metadata={"evaluation": "trolls"}),
    Document("el niño comió una manzana roja y después durmió en la cama", "q3", metadata={"evaluation": "niños"}),
]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("index"))
    assert list(EvaluationIndex(folder).run(iter(ITEMS))) == ITEMS
    return folder


def found(index, text, tmp_path):
    """The columns of one document."""
    scorer = ContaminationScorer(str(tmp_path / "unused"), index)
    return {name: values[0] for name, values in scorer.score([Document(text, "d")]).items()}


PAGE = "Quiz of the week. {} Write to us by post. Last week's winner was a reader from the coast who won a lamp."


@pytest.mark.parametrize(
    ("text", "sets"),
    [
        (QUESTION, "owls"),
        (QUESTION.upper().replace(",", " -- ").replace(" ", "\n"), "owls"),
        ("“" + QUESTION.replace("old mill", "óld mill") + "”", "owls"),
        (QUESTION[QUESTION.index("of") : QUESTION.index("its")], "owls"),  # 13 of its words
        (f"{SHORT} A troll who was paid to guard it", "trolls"),  # too short alone
        ("EL NINO COMIÓ UNA MANZANA ROJA Y DESPUES DURMIÓ EN LA CAMA", "niños"),
        (f"{QUESTION} {SHORT} a troll who was paid to guard it", "owls trolls"),
    ],
)
def test_a_question_is_found(index, tmp_path, text, sets):
    columns = found(index, PAGE.format(text), tmp_path)
    assert columns["evaluations"] == sets
    assert columns["score"] > 0
    assert columns["items"] == len(sets.split())


@pytest.mark.parametrize(
    "text",
    [
        "",
        ANSWER,
        SHORT,
        "Why?",
        QUESTION.replace("mill", "barn").replace("turn", "move"),
        QUESTION.replace("3", "4").replace("head", "neck"),  # numbers are words like others
        " ".join(reversed(QUESTION.split())),
        QUESTION[: QUESTION.index("night")],  # 11 words and no more
    ],
)
def test_what_is_no_question_is_not(index, tmp_path, text):
    columns = found(index, PAGE.format(text), tmp_path)
    assert (columns["score"], columns["items"], columns["evaluations"]) == (0, 0, "")
    words = normalised_words(PAGE.format(text))
    assert (columns["tokens"], columns["ngrams"]) == (len(words), len(words) - 11)


def test_the_score_is_how_many_ngrams_are_found(index, tmp_path):
    words = len(normalised_words(QUESTION))
    assert found(index, PAGE.format(QUESTION), tmp_path)["score"] == words - 11
    twice = PAGE.format(f"{QUESTION} And again? {QUESTION}")
    assert found(index, twice, tmp_path)["score"] == 2 * (words - 11)
    # The answer after the question: every run that begins in the question
    assert found(index, PAGE.format(f"{QUESTION} {ANSWER}"), tmp_path)["score"] == words


def test_the_index_counts_what_can_be_found(index):
    header = load_index(index).header
    assert header == {"words": 12, "evaluations": {"owls": [1, 1], "trolls": [2, 1], "niños": [1, 1]}}


@given(st.lists(st.sampled_from(["a", "bc", "ä", "d d"[:1], "0"]), max_size=12), st.integers(1, 5))
def test_runs_of_words_are_their_hashes(words, n):
    import xxhash

    expected = [xxhash.xxh3_64_intdigest(" ".join(words[i : i + n]).encode()) for i in range(len(words) - n + 1)]
    assert word_ngrams(words, n).tolist() == expected


@given(st.lists(st.integers(0, 20)), st.lists(st.integers(0, 22)))
def test_what_is_found_in_a_sorted_list(there, asked):
    there = np.unique(np.array(there, dtype=np.uint64))
    assert found_in(there, np.array(asked, dtype=np.uint64)).tolist() == [one in there for one in asked]


def test_the_same_documents_as_datatrove_drops(index, tmp_path):
    """datatrove's filter over an index of the same items, in its format: all but its hash, which fails on xxhash 4."""
    from datatrove.pipeline.decont import NGramsDecontFilter
    from datatrove.pipeline.decont.n_grams import NGramsDecontConfig
    from datatrove.utils.hashing import HashConfig, create_hash_func
    from datatrove.utils.text import TextNormConfig, ngrams, simplify_text

    config = NGramsDecontConfig(norm_config=TextNormConfig(norm_numbers=False), hash_config=HashConfig(hash_fc="sha1"))
    hashed, hashes = create_hash_func(config.hash_config), set()
    for item in ITEMS:
        question, answer = (
            simplify_text(text, config.norm_config).split() for text in (item.text, item.metadata.get("answer", ""))
        )
        runs = list(ngrams([*question, *answer], 12))[: len(question)]
        hashes |= {hashed(" ".join(run)) for run in runs}
    (tmp_path / "theirs").mkdir()
    np.array(sorted(hashes), dtype=np.uint64).tofile(tmp_path / "theirs" / "items.index.hashes")
    theirs = NGramsDecontFilter(str(tmp_path / "theirs"), config)
    chance = np.random.default_rng(0)
    pieces = [QUESTION, ANSWER, SHORT, *(item.text for item in ITEMS), *(document(n)["text"] for n in range(5))]
    docs = []
    for number in range(200):
        words = " ".join(chance.choice(pieces, 4)).split()
        start = int(chance.integers(0, len(words) - 8))
        docs.append(Document(" ".join(words[start : start + int(chance.integers(8, 40))]), str(number)))
    ours = ContaminationScorer(str(tmp_path / "unused"), index).score(docs)["score"] > 0
    assert ours.tolist() == [theirs.filter(doc) is not True for doc in docs]
    assert 20 < ours.sum() < 180


@pytest.fixture
def crawl(corpus):
    """The corpus of four files, with questions in seven of its hundred documents."""
    for name in ("a", "d"):
        file = corpus / f"{name}.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        for row in rows[::9]:
            row["text"] = f"{row['text']} {QUESTION} {row['text']}"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return corpus


def score(crawl, scores, index, tasks=1):
    for rank in range(tasks):
        scorer = ContaminationScorer(str(scores), index, window_size=8)
        list(scorer.run(JsonlReader(str(crawl)).run(None, rank, tasks), rank, tasks))
    return ScoreStore.open(str(scores))


def contents(folder):
    return {file.name: file.read_bytes() for file in (Path(folder) / "parts").iterdir()}


def test_the_same_bytes_for_any_number_of_tasks(crawl, tmp_path, index):
    whole = score(crawl, tmp_path / "1", index)
    assert (whole.scores > 0).sum() == 7
    assert whole.lower_is_better
    for tasks in (3, 7):
        score(crawl, tmp_path / str(tasks), index, tasks)
        assert contents(tmp_path / str(tasks)) == contents(tmp_path / "1")


def test_a_killed_task_goes_on(crawl, tmp_path, index):
    code = (
        "import sys, time\n"
        "from datatrove.pipeline.readers import JsonlReader\n"
        "from pipeline_steps import ContaminationScorer\n"
        "step = ContaminationScorer(sys.argv[2], sys.argv[3], window_size=8)\n"
        "for number, _ in enumerate(step.run(JsonlReader(sys.argv[1]).run())):\n"
        "    if number == 70:\n"
        "        print('here', flush=True); time.sleep(100)\n"
    )
    words = [sys.executable, "-c", code, str(crawl), str(tmp_path / "killed"), index]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout.readline() == "here\n"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert list((tmp_path / "killed" / "windows").iterdir())
    score(crawl, tmp_path / "killed", index, tasks=3)
    score(crawl, tmp_path / "whole", index)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_which_documents_overlap_which_sets(crawl, tmp_path, index):
    store = score(crawl, tmp_path / "scores", index)
    found = overlaps(store)
    assert found.some.tolist() == (store.scores > 0).tolist()
    assert {name: int(mask.sum()) for name, mask in found.by_set.items()} == {"owls": 7, "trolls": 0, "niños": 0}
    assert found.items == {"owls": (1, 1), "trolls": (2, 1), "niños": (1, 1)}
    assert found.words == 12
    frame = store.to_arrow().to_pandas()
    assert set(frame["evaluations"]) == {"", "owls"}


def test_what_overlaps_is_excluded(crawl, tmp_path, index):
    score(crawl, tmp_path / "scores", index)
    step = TopKFilter(str(tmp_path / "scores"), order="bottom", k=93, exclude=[str(tmp_path / "scores")])
    kept = [doc.text for doc in step.run(JsonlReader(str(crawl)).run())]
    assert len(kept) == 93
    assert not any(QUESTION in text for text in kept)


def test_an_index_that_is_damaged_missing_or_another_is_named(crawl, tmp_path, index):
    with pytest.raises(StoreIncomplete, match="no index of evaluation sets: run EvaluationIndex"):
        score(crawl, tmp_path / "none", str(tmp_path / "nothing"))
    own = str(tmp_path / "own")
    list(EvaluationIndex(own).run(iter(ITEMS)))
    file = tmp_path / "own" / "evaluation-ngrams.safetensors"
    assert file.read_bytes() == (Path(index) / file.name).read_bytes()
    score(crawl, tmp_path / "scores", own)
    list(EvaluationIndex(own, words=8).run(iter(ITEMS)))
    with pytest.raises(StoreMismatch, match=r"words|index"):
        score(crawl, tmp_path / "scores", own)
    blob = bytearray(file.read_bytes())
    blob[-5] ^= 1
    file.write_bytes(blob)
    with pytest.raises(StoreDamaged, match=r"evaluation-ngrams\.safetensors is damaged"):
        score(crawl, tmp_path / "again", own)


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ([], "0 evaluation items"),
        ([Document("Why?", "q")], "none of 1 evaluation items has 12 words"),
        ([Document(QUESTION, "q", metadata={"evaluation": "a b"})], "document q is of the evaluation set 'a b'"),
    ],
)
def test_items_that_make_no_index_are_refused(tmp_path, items, said):
    with pytest.raises(CorpusError, match=said):
        list(EvaluationIndex(str(tmp_path)).run(iter(items)))
    assert not list(tmp_path.iterdir())


def test_an_index_is_made_by_one_task(tmp_path):
    with pytest.raises(ValueError, match="one task"):
        list(EvaluationIndex(str(tmp_path)).run(iter(ITEMS), 0, 2))
    with pytest.raises(ValueError, match="words=0"):
        EvaluationIndex(str(tmp_path), words=0)


def test_scores_of_another_kind_say_nothing_of_evaluations(crawl, tmp_path):
    from word_count import score as count_words

    count_words(crawl, tmp_path / "words")
    with pytest.raises(StoreMismatch, match="say nothing of evaluation sets"):
        overlaps(ScoreStore.open(str(tmp_path / "words")))
