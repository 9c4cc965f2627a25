"""What was measured stays; results take rows in, from anybody."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from evaluate_suite.results import ResultRow, read_results
from evaluate_suite.units import add_results, once


def row(task, value, sampler="random"):
    return ResultRow(sampler, 0.5, "t5", 0, 9, 1, 1.0, task, "accuracy", value, 1.0, 0.0, 1.0, 5, 0, "h")


def test_once(tmp_path):
    file, found = tmp_path / "a" / "task.json", {"accuracy": (1 / 3, 0.1, 6)}
    assert once(file, {"weights": "w"}, lambda: found) == found
    assert once(file, {"weights": "w"}, lambda: pytest.fail("measured again")) == found
    assert once(file, {"weights": "v"}, lambda: {"accuracy": (0.5, 0.1, 6)}) == {"accuracy": (0.5, 0.1, 6)}


def test_rows_are_added_and_replaced(tmp_path):
    path = str(tmp_path / "new" / "results.jsonl")
    add_results(path, [row("b", 1.0), row("a", 2.0)])
    add_results(path, [row("b", 3.0), row("b", 4.0, "full")])
    assert sorted(read_results(path)) == sorted([row("a", 2.0), row("b", 3.0), row("b", 4.0, "full")])
    before = (tmp_path / "new" / "results.jsonl").read_bytes()
    add_results(path, [row("a", 2.0)])
    assert (tmp_path / "new" / "results.jsonl").read_bytes() == before


def test_writers_at_the_same_time_lose_nothing(tmp_path):
    path = str(tmp_path / "results.jsonl")
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: add_results(path, [row(f"task-{n}", float(n))]), range(40)))
    assert len(read_results(path)) == 40
