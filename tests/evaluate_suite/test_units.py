"""What was measured stays; results take rows in, from anybody; what is damaged is named, never another number."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pandas as pd
import pytest
from damage import damaged

from evaluate_suite.results import ResultRow, read_results, write_results
from evaluate_suite.units import add_results, mend_results, once
from pipeline_steps.errors import StoreDamaged, StoreMismatch, WinnowError


def row(task, value, sampler="random"):
    return ResultRow(sampler, 0.5, "t5", 0, 9, 1, 1.0, task, "accuracy", value, 1.0, 0.0, 1.0, 5, 0, "h")


def test_once(tmp_path):
    file, found = tmp_path / "a" / "task.json", {"accuracy": [1 / 3, 0.1, 6]}
    assert once(file, {"weights": "w"}, lambda: found) == found
    assert once(file, {"weights": "w"}, lambda: pytest.fail("measured again")) == found
    assert once(file, {"weights": "v"}, lambda: {"accuracy": (0.5, 0.1, 6)}) == {"accuracy": [0.5, 0.1, 6]}


def test_numbers_that_json_lacks_are_kept(tmp_path):
    found = {"log": [-float("inf"), "Infinite words"], "perplexity": [float("inf"), float("nan"), 6]}
    for _ in range(2):
        assert repr(once(tmp_path / "unit.json", {"weights": "w"}, lambda: found)) == repr(found)
        assert (tmp_path / "unit.json").exists()


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


def test_a_damaged_unit_is_measured_again(tmp_path):
    file, found = tmp_path / "unit.json", {"nll": [1 / 3, float("nan"), 2e-300]}
    wanted = repr(once(file, {"weights": "w"}, lambda: found))
    assert "nan" in wanted
    whole = file.read_bytes()
    for blob in damaged(whole):
        file.write_bytes(blob)
        assert repr(once(file, {"weights": "w"}, lambda: found)) == wanted
        assert file.read_bytes() == whole


def test_a_damaged_row_is_named_with_its_line(tmp_path):
    path = tmp_path / "results.jsonl"
    rows = [replace(row("a", 1 / 3), stderr=float("nan")), row("b", 2.0), row("c", 3.0)]
    write_results(str(path), rows)
    whole, wanted = path.read_bytes(), repr(read_results(str(path)))
    lines = whole.splitlines(keepends=True)
    # A file that ends between two rows lacks the others, which no digest of a row can know
    shorter = [b"", lines[0], lines[0] + lines[1]]
    said = []
    for blob in damaged(whole):
        path.write_bytes(blob)
        try:
            assert repr(read_results(str(path))) == wanted or blob in shorter
        except WinnowError as error:
            said.append(str(error))
    assert len(said) > 32
    assert all(one.startswith(f"{path}, line ") for one in said)
    path.write_bytes(whole[:-1])
    with pytest.raises(StoreDamaged, match=r"results\.jsonl, line 3, is damaged \(the file ends within it\)"):
        read_results(str(path))
    path.write_bytes(whole.replace(b'"value": 2.0', b'"value": 2.5'))
    with pytest.raises(StoreDamaged, match=r"results\.jsonl, line 2, is damaged \(its digest is not that"):
        read_results(str(path))
    with pytest.raises(StoreDamaged, match="line 2"):
        add_results(str(path), [row("d", 4.0)])  # it must not become a row of its own
    path.write_text(json.dumps({"sampler": "random", "value": 1.0}) + "\n")
    with pytest.raises(StoreMismatch, match=r"line 1, has no digest"):
        read_results(str(path))


def test_damaged_rows_are_taken_out_and_nothing_is_lost(tmp_path, monkeypatch):
    path = tmp_path / "results.jsonl"
    write_results(str(path), [row("a", 1.0), row("b", 2.0)])
    hurt = [path.read_bytes().replace(b"2.0", number) for number in (b"2.5", b"2.6")]
    path.write_bytes(hurt[0])
    with monkeypatch.context() as killed:
        killed.setattr("evaluate_suite.units.write_results", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            mend_results(str(path))
    assert path.read_bytes() == hurt[0]  # the good row is still where it was
    assert mend_results(str(path)) == [f"{path}, line 2, is damaged (its digest is not that of what it holds)"]
    assert read_results(str(path)) == [row("a", 1.0)]
    assert mend_results(str(path)) == []
    path.write_bytes(hurt[1])
    mend_results(str(path))
    kept = [path.with_name(f"results.jsonl.damaged{end}").read_bytes() for end in ("", "-2", "-3")]
    assert kept == [hurt[0], hurt[0], hurt[1]]


def test_other_tools_see_one_more_column(tmp_path):
    path = tmp_path / "results.jsonl"
    write_results(str(path), [row("a", 1.0)])
    assert pd.read_json(path, lines=True).columns[-1] == "xxh3"
