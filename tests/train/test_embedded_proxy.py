"""The embedded proxy is what its card says, and its recipe runs."""

import hashlib
import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_steps import ASK_LLM, EMBEDDED_PROXY
from pipeline_steps.engines.proxies import load_proxy
from pipeline_steps.errors import CorpusError
from train.embedded_proxy import auc, in_fixed_order, make_proxy
from train.embedded_proxy_data import BAD, Pool, example, is_permissive
from train.embedded_proxy_texts import FILES, PublicFile, chat_windows, passages, read_public_texts
from train.tokenizers import TextTokenizer


GOOD = [
    "A glacier is a body of ice that moves slowly under its own weight. It forms where snow falls "
    "faster than it melts, so that the lower layers are pressed into ice. Over thousands of years "
    "glaciers carve valleys into the rock.",
    "Bread rises because yeast turns sugar into carbon dioxide. The gas is caught in the dough by "
    "gluten, a network of proteins that forms when flour is kneaded with water. Heat then sets the "
    "dough, and the bubbles stay as holes.",
    "The printing press spread through Europe in the fifteenth century. Before it, books were copied "
    "by hand, which took months. Within fifty years there were presses in more than two hundred "
    "towns, and the price of books had fallen.",
    "To sort a list, merge sort divides it into two halves, sorts each of them, and merges the two "
    "sorted halves. Since every level of division looks at each element once, the time grows as the "
    "length times its logarithm.",
    "Tides are caused by the gravity of the moon and the sun. As the earth turns, each coast passes "
    "through two bulges of water a day, one on the side of the moon and one on the other side. When "
    "sun and moon line up, tides are highest.",
    "When a court decides a case, it states the facts, the law that applies, and why the law leads "
    "to the decision. Later courts read these reasons, because similar cases should be decided alike "
    "unless there is a good reason not to.",
]
JUNK = [
    "Home | About | Contact | Login | Cart (0)\nHome > Products > Shoes > Sale\nPrev 1 2 3 4 Next\n"
    "Share Tweet Like Print",
    "cheap cheap best price buy now online discount casino bonus free free click here cheap loans best price sale",
    "lol\nfirst!!\nnice pic\nPosted by admin on 3/4/2009\nme too\n+1\ncan u help me plz\nReply Quote Report\nthx",
    "Red Mug $4.99 Add to cart\nBlue Mug $5.99 Add to cart\nMug Set $12.00 In stock\nLid $1.50 Add to cart 3 reviews",
    "bread because the yeast dioxide into. gluten flour holes with caught turns gas a bubbles sugar "
    "stay proteins dough is",
    "We use cookies. Accept all. Privacy policy. Terms. Copyright 2014 All rights reserved. Sign up "
    "for our newsletter!",
]


def test_it_separates_texts_a_reader_would_separate():
    proxy = load_proxy(EMBEDDED_PROXY)
    answers = proxy.answer(proxy.ask(GOOD + JUNK, ASK_LLM, 256))
    assert auc(answers.log_yes[: len(GOOD)], answers.log_yes[len(GOOD) :]) >= 0.9
    assert (np.exp(answers.log_yes) + np.exp(answers.log_no)).min() > 0.8


def test_its_tokenizer_follows_t5():
    encoder = TextTokenizer(EMBEDDED_PROXY)
    assert (encoder.vocab_size, encoder.sentinels, encoder.eos) == (8192, 100, 1)
    proxy = load_proxy(EMBEDDED_PROXY)
    assert proxy._tokenizer.convert_ids_to_tokens(proxy._ids("yes") + proxy._ids("no")) == ["▁yes", "▁no"]
    text = "The  river, in 1492, ran\nnorth."
    assert proxy._tokenizer.decode(encoder.encode([text])[0]) == " ".join(text.split())
    assert len(proxy._ids(ASK_LLM.prefix + ASK_LLM.suffix)) < 60


def test_it_is_small_and_its_card_gives_its_measured_auc():
    folder = Path(EMBEDDED_PROXY)
    assert sum(file.stat().st_size for file in folder.iterdir()) < 8_000_000
    measured = json.loads((folder / "recipe.json").read_text())["held_out_auc"]
    assert f"| {measured:.2f} |" in (folder / "README.md").read_text()
    assert not list(folder.glob("*.bin"))


@pytest.mark.parametrize(
    ("license", "permitted"),
    [
        ("MIT", True),
        ("BSD License", True),
        ("Apache-2.0 AND MIT", True),
        ("GNU General Public License v3 (GPLv3)", False),
        ("LGPL with MIT parts", False),
        ("unknown", False),
        ("MPL-2.0 AND MIT", False),
    ],
)
def test_licences(license, permitted):
    assert is_permissive(license) is permitted


def test_examples_are_a_function_of_the_seed():
    pool = Pool(GOOD, ["x : int\n    The x.\n" * 20])
    draw = lambda seed: [example(rng, pool) for rng in [random.Random(seed)] for _ in range(50)]  # noqa: E731
    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    for make, _ in BAD:
        for seed in range(20):
            text = make(random.Random(seed), pool)
            assert text.strip()
            assert not re.search(r"\{[a-z]+\}", text)  # every slot of a phrase is filled


def test_longer_examples_are_good_more_often():
    """The odds grow in proportion to length, as the recipe says, up to the length of what can be drawn."""
    rng, pool = random.Random(0), Pool(["Here is one more sentence of seven words. " * 100], [])
    drawn = [(len(text.split()), label) for text, label in (example(rng, pool) for _ in range(4000))]
    share = lambda low, high: np.mean([label for words, label in drawn if low <= words < high])  # noqa: E731
    assert share(0, 60) < 0.02
    odds = [share(low, high) / (1 - share(low, high)) for low, high in ((75, 125), (300, 500))]
    assert 2 < odds[1] / odds[0] < 8  # lengths of 100 and 400


def test_pieces_come_in_one_order_whatever_the_trainer_s():
    """Two runs of the trainer: ties swapped, sums rounded otherwise, the rarest characters counted down otherwise."""
    one = [
        ["▁the", -3.0],
        ["ab", -8.5],
        ["cd", -8.5 - 3e-12],
        ["e", -9.0],
        ["ef", -9.5],
        ["é", -13.0],
        ["ß", -13.0001],
    ]
    other = [["▁the", -3.0], ["cd", -8.5], ["ab", -8.5], ["e", -9.0], ["ef", -9.5], ["ß", -13.0], ["é", -13.0001]]
    assert in_fixed_order(one) == in_fixed_order(other)
    assert [piece for piece, _ in in_fixed_order(one)] == ["▁the", "ab", "cd", "e", "ef", "ß", "é"]


def test_auc_against_counting_pairs():
    rng = np.random.default_rng(0)
    good, bad = rng.integers(0, 5, 40).astype(float), rng.integers(-2, 4, 30).astype(float)
    pairs = (good[:, None] > bad).mean() + 0.5 * (good[:, None] == bad).mean()
    assert auc(good, bad) == pytest.approx(pairs)


WIKITEXT = """
 = Tides =

 Tides are the rise and fall of sea levels . They are caused by the Moon @-@ and by the Sun ( mostly ) , says <unk> .

 = = Causes = =

 The Moon pulls 1 @,@ 000 times " as hard " .
 = Bread =

 Bread is food .
"""


def public(kind: str, path: Path, text: str) -> PublicFile:
    path.write_text(text)
    return PublicFile(kind, path.as_uri(), hashlib.sha256(text.encode()).hexdigest(), "none")


def test_public_texts_are_downloaded_once_and_cut_into_groups(tmp_path):
    long = "\n\n".join(f"Paragraph {i} " + "of a novel\ngoes on " * 30 for i in range(9))
    chat = "\n".join(f"[10:{i:02}] <ann> line {i}\n=== bob [x@y] has joined" for i in range(60))
    files = (
        public("article", tmp_path / "wiki.txt", WIKITEXT.replace("levels .", "levels . " + "It is wet . " * 30)),
        public("novel", tmp_path / "novel.txt", long),
        public("chat", tmp_path / "chat.txt", chat),
    )
    texts = read_public_texts(tmp_path / "downloads", files)
    (tides,) = texts["article"]["article-wiki.txt/0"]
    assert "the Moon-and by the Sun (mostly), says" in tides
    assert 'pulls 1,000 times "as hard".' in tides
    assert "Causes" not in tides
    assert "<unk>" not in tides
    assert texts["article"]["article-wiki.txt/1"] == []  # too short for a passage
    assert sum(len(passage.split()) for passage in texts["novel"]["novel-novel.txt/0"]) == len(long.split())
    said = "\n".join(texts["chat"]["chat-chat.txt/0"])
    assert said == "\n".join(f"<ann> line {i}" for i in range(60))
    for name in ("wiki.txt", "novel.txt", "chat.txt"):
        (tmp_path / name).unlink()
    assert read_public_texts(tmp_path / "downloads", files) == texts


def test_a_public_text_that_is_another_is_refused(tmp_path):
    file = public("novel", tmp_path / "novel.txt", "A novel.")
    (tmp_path / "novel.txt").write_text("Another novel.")
    with pytest.raises(CorpusError, match=r"novel\.txt has SHA-256"):
        read_public_texts(tmp_path / "downloads", (file,))
    (tmp_path / "novel.txt").unlink()
    with pytest.raises(CorpusError, match="by hand"):
        read_public_texts(tmp_path / "downloads", (file,))
    assert not list(tmp_path.glob("downloads/*"))


def test_public_texts_are_pinned():
    assert len({file.name for file in FILES}) == len(FILES)
    for file in FILES:
        assert re.search(r"/[0-9a-f]{40}/", file.url)
        assert re.fullmatch(r"[0-9a-f]{64}", file.sha256)


@given(st.lists(st.lists(st.sampled_from("abcde"), min_size=1, max_size=400), max_size=8))
def test_passages_keep_every_word_but_a_short_rest(paragraphs):
    words = [word for paragraph in paragraphs for word in paragraph]
    kept = [word for passage in passages("\n\n".join(map(" ".join, paragraphs))) for word in passage.split()]
    assert kept == words[: len(kept)]
    assert len(words) - len(kept) < 60


@given(st.integers(0, 300))
def test_windows_of_chat_keep_every_line(count):
    lines = [f"<ann> {i}" for i in range(count)]
    windows = chat_windows("\n".join(lines))
    assert [line for window in windows for line in window.split("\n")] == lines
    assert all(len(window.split("\n")) <= 40 for window in windows)


def test_the_recipe_runs(tmp_path, monkeypatch):
    """A few steps on a few packages give a folder that answers the question."""
    from pipeline_steps.readers.installed_docs import installed_packages

    some = [p for p in installed_packages() if p.name in ("argparse", "click", "typing", "rich", "fsspec")]
    monkeypatch.setattr("pipeline_steps.readers.installed_docs.installed_packages", lambda: some)
    monkeypatch.setattr("train.embedded_proxy.HELD_OUT", 2)
    monkeypatch.setattr("train.embedded_proxy.VOCABULARY", 3000)
    monkeypatch.setattr("train.embedded_proxy.TEST_EXAMPLES", 64)
    monkeypatch.setattr("train.embedded_proxy.TOKENIZER_TEXTS", 200)
    measured = make_proxy(tmp_path / "proxy", steps=3)
    assert 0 <= measured["held_out_auc"] <= 1
    proxy = load_proxy(str(tmp_path / "proxy"))
    answers = proxy.answer(proxy.ask(GOOD, ASK_LLM, 256))
    assert np.isfinite(answers.log_yes).all()
