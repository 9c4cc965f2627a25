"""Held-out text is drawn by content: copies stay together, and the rule knows prose when it sees it."""

import random

import pytest
from prose import NOUNS, sentence

from pipeline_steps.readers.splits import SPLITS, is_written_prose, split_of


def prose(rng, sentences=8):
    return " ".join(sentence(rng) for _ in range(sentences))


def test_shares_are_what_the_report_says():
    rng = random.Random(0)
    texts = [prose(rng) for _ in range(4000)]
    counts = {split: sum(split_of(text) == split for text in texts) / 4000 for split in SPLITS}
    assert counts["in_distribution"] == pytest.approx(0.05, abs=4 * (0.05 * 0.95 / 4000) ** 0.5)
    assert counts["high_quality"] == pytest.approx(0.10, abs=4 * (0.1 * 0.9 / 4000) ** 0.5)


def test_what_is_not_prose_is_never_in_the_high_quality_split():
    rng = random.Random(1)
    lists = ["\n".join(f"- {rng.choice(NOUNS)} {rng.randint(0, 99)}" for _ in range(80)) for _ in range(500)]
    assert {split_of(text) for text in lists} == {"train", "in_distribution"}


def test_copies_that_open_alike_stay_together():
    rng = random.Random(2)
    for _ in range(200):
        text = prose(rng)
        assert split_of(text) == split_of(text.replace(",", " ,").upper().lower() + " And one sentence more.")


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        (prose(random.Random(3)), True),
        ("Too short to say anything of the world.", False),
        ("Parameters\n" + "x : int\n    The value of the parameter to be used with that.\n" * 20, False),
        ("buy cheap shoes online " * 40, False),
        ("12 45.3 99 0.1 " * 60, False),
    ],
)
def test_the_rule(text, verdict):
    assert is_written_prose(text) is verdict
