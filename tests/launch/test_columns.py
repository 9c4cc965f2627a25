"""Rows as columns: what Arrow or Parquet cannot read back is refused by document, before it is written."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from launch.datasets.columns import Row, infer, unify
from launch.datasets.parts import Form, write_parts
from pipeline_steps.errors import CorpusError


def nested(depth, in_list):
    value = 1
    for _ in range(depth):
        value = [value] if in_list else {"a": value}
    return value


def rows(value):
    return rows_of({"id": "plain", "v": None}, {"id": "odd", "v": value})


def rows_of(*values):
    return [Row(one, "f") for one in values]


def read_back(schema, value):
    """What Parquet, and then datasets' cache of Arrow streams, make of a value."""
    table, sink = pa.Table.from_pylist([{"v": value}], schema=pa.schema([schema.field("v")])), io.BytesIO()
    pq.write_table(table, sink)
    read, stream = pq.read_table(io.BytesIO(sink.getvalue())), io.BytesIO()
    with pa.ipc.new_stream(stream, read.schema) as writer:
        writer.write_table(read)
    return pa.ipc.open_stream(stream.getvalue()).read_all().to_pylist()[0]["v"]


@pytest.mark.parametrize(("in_list", "deepest"), [(True, 49), (False, 62)])
def test_as_deep_as_is_read_back(in_list, deepest):
    schema, mixed = infer(rows(nested(deepest, in_list)))
    assert mixed == {}
    assert read_back(schema, nested(deepest, in_list)) == nested(deepest, in_list)
    for depth in (deepest + 1, 100, 900):
        schema, mixed = infer(rows(nested(depth, in_list)))
        assert mixed["v"].startswith(f"f, document odd: column 'v' holds values nested {depth} deep")
        assert pa.types.is_null(schema.field("v").type)


def test_one_level_more_is_not_read_back():
    """The limits are those of the installed Arrow."""
    for value in (nested(50, True), nested(64, False)):
        schema = pa.schema([("v", pa.array([value]).type)])
        with pytest.raises((OSError, pa.ArrowInvalid)):
            read_back(schema, value)


def test_a_value_that_is_of_no_one_type_itself():
    _, mixed = infer(rows([1, {"a": 2}]))
    assert mixed["v"] == "f, document odd: column 'v' holds [1, {'a': 2}], whose own parts are of several types"


def test_json_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(CorpusError, match="f, document x holds values nested 401 deep"):
        write_parts(rows_of({"id": "x", "text": "t", "v": nested(400, True)}), tmp_path, "p", Form())


@pytest.mark.parametrize("row", [{"a\0b": 1}, {"v": {"\0": 1}}, {"v": [{"a": {"b\0": "x"}}]}])
def test_a_name_that_others_would_cut_short(row):
    with pytest.raises(CorpusError, match="f, document odd: column .* has a name with a zero byte"):
        infer(rows_of({"id": "plain"}, {"id": "odd"} | row))


def test_parts_whose_first_rows_are_named_alike_keep_all_columns():
    where = "a.jsonl, document None"
    schemas = [(where, pa.schema([("id", pa.null()), ("extra", pa.int64())])), (where, pa.schema([("id", pa.null())]))]
    assert unify(schemas)[0].names == ["id", "extra"]


def test_json_lines_do_not_turn_numbers_that_are_none_into_null(tmp_path):
    for value in (float("nan"), [1.0, {"a": float("inf")}]):
        with pytest.raises(CorpusError, match="document 7 holds NaN or an infinite number"):
            write_parts([Row({"id": 7, "text": "t", "v": value}, "a.parquet")], tmp_path, "p", Form())
    (part,) = write_parts([Row({"id": 7, "text": "t", "v": None}, "a.parquet")], tmp_path, "p", Form())
    assert part.rows == 1
