"""Malformed input is refused in one sentence, or what comes of it can be read back; and the check can fail."""

import pytest

from .isolated import Ended
from .malformed import FAULTS, _verdict, run, table


def wrong(outcomes):
    return [
        f"{one.verdict}: {one.name}: winnow {one.command}\n{one.said}" for one in outcomes if one.verdict in FAULTS
    ]


def test_a_few_of_each_kind():
    outcomes = run(trials=22, seed=39)  # whose first cases are of every kind
    assert wrong(outcomes) == []
    assert len({one.digest for one in outcomes}) > 19
    assert len({one.kind for one in outcomes}) == 11


@pytest.mark.slow
def test_hundreds():
    outcomes = run(trials=300, seed=2)
    assert wrong(outcomes) == [], table(outcomes)


@pytest.mark.parametrize(
    ("status", "error", "fault", "verdict"),
    [
        (2, "winnow: c4.jsonl, row 12: the text is empty\n", "", "refused"),
        (0, "", "", "succeeded"),
        (3, "", "", "succeeded"),
        (None, "", "", "HANG"),
        (1, "Traceback (most recent call last):\n", "", "TRACEBACK"),
        (2, "Traceback (most recent call last):\nwinnow: x\n", "", "TRACEBACK"),
        (2, "", "", "TRACEBACK"),
        (2, "usage: winnow\n\n  a\n  b\nerror\n", "", "TRACEBACK"),
        (1, "winnow: score was killed by signal 11\n", "", "TRACEBACK"),
        (-11, "", "", "TRACEBACK"),
        (0, "", "OSError: too deep", "UNREADABLE"),
    ],
)
def test_verdicts(status, error, fault, verdict):
    assert _verdict(Ended(status, "", error, 0.1, fault, "", ""))[0] == verdict
