"""Every format under every compression is read whole; a bad row costs no other; what is cut short is refused."""

import bz2
import csv
import gzip
import io
import json
import lzma
import math

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_steps.errors import CorpusError
from pipeline_steps.readers.bad_rows import read_record
from pipeline_steps.readers.corpus import list_corpus
from pipeline_steps.readers.reading import Reading


ROWS = [{"id": f"d{i}", "text": f'text {i}\r\nwith ümlaut, "quotes"', "n": i} for i in range(2500)]
SKIP = Reading(on_bad_row="skip")


def documents(path, tmp_path, reading=SKIP, limit=-1):
    files = list_corpus(str(path), reading.glob)
    (reader,) = files.reader(str(tmp_path / "files.txt"), limit, reading=reading, bad_rows=str(tmp_path / "bad"))
    return list(reader.run())


def bad_rows(path, tmp_path):
    """Pairs of number and reason."""
    record = read_record(str(tmp_path / "bad"), str(path))
    return [] if record is None else [tuple(row) for row in record["rows"]]


def as_lines(rows):
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def as_csv(rows):
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return b"\xef\xbb\xbf" + file.getvalue().encode()


def as_parquet(rows):
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=700)
    return file.getvalue()


def as_arrow(rows, new=pa.ipc.new_file):
    file, table = io.BytesIO(), pa.Table.from_pylist(rows)
    with new(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=1300)
    return file.getvalue()


def as_stream(rows):
    return as_arrow(rows, pa.ipc.new_stream)


def zstd(blob, long=False):
    """Several frames, as parallel compressors write them; windows of 2 GB, as zstd --long=31 has them."""
    middle = len(blob) // 2
    if not long:
        pack = zstandard.ZstdCompressor().compress
        return pack(blob[:middle]) + pack(b"") + pack(blob[middle:])
    parameters = zstandard.ZstdCompressionParameters(window_log=31, enable_ldm=True)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return packer.compress(blob) + packer.flush()


FORMATS = {"jsonl": as_lines, "json": as_lines, "ndjson": as_lines, "csv": as_csv, "parquet": as_parquet}
FORMATS |= {"arrow": as_arrow, "stream.arrow": as_stream}
PACKERS = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd}


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("format", FORMATS)
def test_every_format_and_compression(tmp_path, format, packer):
    path = tmp_path / f"a.{format}{packer}"
    path.write_bytes(PACKERS[packer](FORMATS[format](ROWS)))
    found = documents(path, tmp_path)
    assert [doc.text for doc in found] == [row["text"] for row in ROWS]
    assert [doc.id for doc in found] == [row["id"] for row in ROWS]
    assert [int(doc.metadata["n"]) for doc in found] == list(range(2500))
    assert {doc.metadata["file_path"] for doc in found} == {str(path)}
    assert bad_rows(path, tmp_path) == []
    path.write_bytes(path.read_bytes()[:-5])
    if not (packer == "" and format in ("jsonl", "json", "ndjson", "csv")):  # there, the last row is another one
        with pytest.raises(CorpusError, match=r"a\..*cannot be read"):
            documents(path, tmp_path)


def test_zstd_with_the_longest_window_and_cut_at_every_byte(tmp_path):
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(zstd(as_lines(ROWS), long=True))
    assert len(documents(path, tmp_path)) == 2500
    whole = zstd(as_lines(ROWS[:3]))
    frames = {len(zstandard.ZstdCompressor().compress(as_lines(ROWS[:3])[: len(as_lines(ROWS[:3])) // 2]))}
    frames |= {0, *(length + 9 for length in frames)}  # an empty frame has 9 bytes
    for end in set(range(len(whole))) - frames:
        path.write_bytes(whole[:end])
        with pytest.raises(CorpusError, match="cannot be read"):
            documents(path, tmp_path)


GOOD = ['{"text": "good", "n": 1}', '{"text": " é ", "metadata": {"a": 1}}', '{"id": 7, "text": "x", "media": null}']
BAD = {
    '{"text": ""}': "'text' is empty",
    '{"text": " \\n\\u2003"}': "'text' is empty",
    '{"text": null}': "'text' is null",
    '{"content": "x"}': "no key 'text'",
    '{"text": 5}': "'text' is int, not text",
    '{"text": ["a"]}': "'text' is list, not text",
    '["text"]': "not a JSON object",
    '"text"': "not a JSON object",
    "null": "not a JSON object",
    '{"text": "a", "token_count": "many"}': "token_count is no number",
    '{"text": "a", "metadata": {"token_count": [1]}}': "token_count is no number",
    '{"text": "a"': "not JSON",
    '{"text": "a", "n": NaN}': "not JSON",
    '{"text": "\\ud800"}': "not JSON",
    b'{"text": "\xff"}': "not JSON",
    b"\x00": "not JSON",
}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([*GOOD, *BAD, "", "  "]), max_size=60), st.sampled_from(["\n", "\r\n"]))
def test_lines_are_kept_or_counted_one_by_one(tmp_path_factory, lines, end):
    tmp_path = tmp_path_factory.mktemp("lines")
    blobs = [line if isinstance(line, bytes) else line.encode() for line in lines]
    path = tmp_path / "a.jsonl"
    path.write_bytes(end.encode().join(blobs))
    found = documents(path, tmp_path)
    assert [doc.text for doc in found] == [json.loads(line)["text"] for line in lines if line in GOOD]
    places = [number for number, line in enumerate(lines) if line in GOOD]
    default = [f"a.jsonl/{number}" for number in places]
    assert [doc.id for doc in found] == [
        str(json.loads(lines[number]).get("id", usual)) for number, usual in zip(places, default, strict=True)
    ]
    wrong = [(number + 1, BAD[line]) for number, line in enumerate(lines) if line in BAD]
    assert bad_rows(path, tmp_path) == wrong
    if wrong:
        with pytest.raises(CorpusError, match=rf"a\.jsonl, row {wrong[0][0]}: .*--on-bad-row skip"):
            documents(path, tmp_path, Reading())


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_random_damage_to_lines(tmp_path_factory, data):
    """What is kept is what Python's own parser takes."""
    tmp_path = tmp_path_factory.mktemp("damage")
    blob = bytearray(as_lines([{"text": f"words {i}", "token_count": i} for i in range(40)]))
    for _ in range(data.draw(st.integers(1, 6))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "a.jsonl"
    path.write_bytes(blob)
    wanted = []
    for line in bytes(blob).split(b"\n"):
        try:
            row = json.loads(line.decode(), parse_constant=lambda name: 1 / 0)
        except (ValueError, ZeroDivisionError):
            continue
        text = row.get("text") if isinstance(row, dict) else None
        if isinstance(text, str) and text.strip() and isinstance(row.get("token_count", 0), int | float):
            wanted.append(text)
    assert [doc.text for doc in documents(path, tmp_path)] == wanted


def test_rows_of_csv(tmp_path):
    path = tmp_path / "a.csv"
    rows = [b'a,"one, ""two""\r\nthree",7', b"short,x", b"long,x,1,2", b"b,\xff,1", b"", b"c,,1"]
    path.write_bytes(
        b"\xef\xbb\xbfid,text,token_count\r\n" + b"\r\n".join([*rows, b"d,last,many", b"e,last,3"]) + b"\r\n"
    )
    found = documents(path, tmp_path)
    assert [(doc.id, doc.text) for doc in found] == [("a", 'one, "two"\r\nthree'), ("e", "last")]
    assert [doc.metadata["token_count"] for doc in found] == [7, 3]
    cells, reasons = "another number of cells than the header", ["not UTF-8", "'text' is empty"]
    reasons = [cells, cells, *reasons, "token_count is no number"]
    assert bad_rows(path, tmp_path) == list(enumerate(reasons, 2))
    path.write_bytes(b'id,text\na,b\nc,"never closed\nd,e\n')
    with pytest.raises(CorpusError, match=r"a\.csv, row 2, is not CSV \(a quote is opened and never closed"):
        documents(path, tmp_path)
    path.write_bytes(b'id,text\nx,"he said "hi" to\nall, and\n",more\n')
    with pytest.raises(CorpusError, match=r"a\.csv, row 1, is not CSV .*nothing says where the next row begins"):
        documents(path, tmp_path)
    big = "x" * 200_000
    path.write_text(f"text\n{big}\n")
    assert [doc.text for doc in documents(path, tmp_path)] == [big]


@pytest.mark.parametrize("format", ["parquet", "arrow", "stream.arrow"])
def test_rows_of_typed_columns(tmp_path, format):
    table = pa.table(
        {
            "text": pa.array(["a", None, " ", "b", "c", "d"]),
            "day": pa.array([0, 0, 0, 2**30, 0, None], pa.int32()).cast(pa.date32()),  # the fourth is in no calendar
        }
    )
    path, file = tmp_path / f"a.{format}", io.BytesIO()
    if format == "parquet":
        pq.write_table(table, file)
    else:
        with (pa.ipc.new_stream if "stream" in format else pa.ipc.new_file)(file, table.schema) as writer:
            writer.write_table(table)
    path.write_bytes(file.getvalue())
    assert [(doc.text, doc.id) for doc in documents(path, tmp_path)] == [
        ("a", f"a.{format}/0"),
        ("c", f"a.{format}/4"),
        ("d", f"a.{format}/5"),
    ]
    assert bad_rows(path, tmp_path) == [
        (2, "'text' is null"),
        (3, "'text' is empty"),
        (4, "a value that cannot be read"),
    ]


def test_keys_and_the_rows_that_lack_them(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(as_lines([{"url": "u1", "body": "one", "text": 5, "id": 9}, {"body": "two"}]))
    reading = Reading(text_key="body", id_key="url", on_bad_row="skip")
    (doc,) = documents(path, tmp_path, reading)
    assert (doc.id, doc.text) == ("u1", "one")
    assert doc.metadata == {"text": 5, "id": 9, "file_path": str(path)}
    assert bad_rows(path, tmp_path) == [(2, "no key 'url'")]
    with pytest.raises(CorpusError, match=r"row 1: there is no key 'txt'; its keys are url, body, text, id \(--text"):
        documents(path, tmp_path, Reading(text_key="txt"))


@pytest.mark.parametrize(("rows", "bad", "refused"), [(99, 99, False), (100, 10, False), (100, 11, True)])
def test_too_many_bad_rows_are_a_wrong_key(tmp_path, rows, bad, refused):
    path = tmp_path / "a.jsonl"
    path.write_bytes(as_lines([{"txt": "x"}] * bad + [{"text": "x"}] * (rows - bad)))
    if refused:
        with pytest.raises(CorpusError, match=r"11 of its first 100 rows are bad \(11 times: no key 'text'\)"):
            documents(path, tmp_path)
    else:
        assert len(documents(path, tmp_path)) == rows - bad


def test_only_the_first_ten_thousand_rows_decide(tmp_path):
    path, good, bad = tmp_path / "a.jsonl", {"text": "x"}, {"txt": "x"}
    path.write_bytes(as_lines([bad] * 1000 + [good] * 9000 + [bad] * 5000))
    assert len(documents(path, tmp_path)) == 9000
    assert len(bad_rows(path, tmp_path)) == 6000
    path.write_bytes(as_lines([bad] * 1001 + [good] * 90_000))
    with pytest.raises(CorpusError, match=r"1,001 of its first 1,001 rows"):
        documents(path, tmp_path)


def test_a_limit_counts_documents_and_the_bad_rows_before_the_last(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(as_lines([{"text": "1"}, {}, {"text": "2"}, {}, {"text": "3"}]))
    assert len(documents(path, tmp_path, limit=2)) == 2
    assert [row for row, _ in bad_rows(path, tmp_path)] == [2]
    path.write_bytes(as_lines([{"text": "1"}]))
    assert len(documents(path, tmp_path)) == 1
    assert bad_rows(path, tmp_path) == []  # what was mended is forgotten


def test_a_reader_that_was_stopped_leaves_no_record(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(as_lines([{}, *ROWS, {}]))
    (reader,) = list_corpus(str(path)).reader(
        str(tmp_path / "files.txt"), reading=SKIP, bad_rows=str(tmp_path / "bad")
    )
    stopped = reader.run()
    next(stopped)
    stopped.close()
    assert bad_rows(path, tmp_path) == []
    documents(path, tmp_path)
    assert [row for row, _ in bad_rows(path, tmp_path)] == [1, 2502]


def test_folders_of_save_to_disk(tmp_path):
    made = datasets.Dataset.from_list(ROWS)
    made.save_to_disk(tmp_path / "one", num_shards=3)
    (tmp_path / "one" / "cache-1234.arrow").write_bytes(b"left by map")
    found = documents(tmp_path / "one", tmp_path)
    assert [doc.id for doc in found] == [row["id"] for row in ROWS]
    (tmp_path / "one" / "data-00001-of-00003.arrow").unlink()
    with pytest.raises(CorpusError, match=r"lacks data-00001-of-00003\.arrow"):
        list_corpus(str(tmp_path / "one"))
    (tmp_path / "one" / "state.json").write_text("[]")
    with pytest.raises(CorpusError, match=r"one/state\.json cannot be read"):
        list_corpus(str(tmp_path / "one"))
    datasets.DatasetDict({"train": made, "test": made}).save_to_disk(tmp_path / "several")
    with pytest.raises(CorpusError, match="splits train, test: give the folder of one"):
        list_corpus(str(tmp_path / "several"))
    assert len(documents(tmp_path / "several" / "test", tmp_path)) == 2500


def test_globs(tmp_path):
    for name in ("a.jsonl", "deep/b.jsonl", "deep/er/c.jsonl", "deep/d.parquet"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()

    def names(glob):
        return list(list_corpus(str(tmp_path / "in"), glob).sizes)

    assert names("*.jsonl") == ["a.jsonl", "deep/b.jsonl", "deep/er/c.jsonl"]
    assert names("deep/*.jsonl") == ["deep/b.jsonl"]
    assert names("**/[bc].jsonl") == ["deep/b.jsonl", "deep/er/c.jsonl"]
    assert names("d.*") == ["deep/d.parquet"]
    with pytest.raises(
        CorpusError, match=r"4 files, jsonl and parquet, such as a\.jsonl, deep/d\.parquet\): .*--glob"
    ):
        names("")
    with pytest.raises(CorpusError, match=r"4 files, none of a known format is called x\*"):
        names("x*")


def test_numbers_of_tokens_may_be_anything_that_adds_up(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a", "b"], "token_count": [1.5, math.nan]}), path)
    assert len(documents(path, tmp_path)) == 2


@pytest.mark.parametrize("suffix", [".bz2", ".xz"])
def test_a_file_of_several_streams_is_read_or_refused(tmp_path, suffix):
    compress = {".bz2": bz2.compress, ".xz": lzma.compress}[suffix]
    streams = [compress(as_lines([{"text": f"stream {number}"}])) for number in range(3)]
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(streams[0] + (b"\0" * 8 if suffix == ".xz" else b"") + streams[1] + streams[2])
    assert [doc.text for doc in documents(path, tmp_path)] == ["stream 0", "stream 1", "stream 2"]
    for at in (1, len(streams[1]) // 2):
        damaged = bytearray(streams[1])
        damaged[at] ^= 1
        path.write_bytes(streams[0] + damaged + streams[2])
        with pytest.raises(CorpusError, match=r"a\.jsonl\.\w+ cannot be read"):
            documents(path, tmp_path)
    path.write_bytes(b"".join(streams)[:-3])
    with pytest.raises(CorpusError, match="cannot be read"):
        documents(path, tmp_path)


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".bz2", ".xz"])
def test_an_empty_file_is_no_compressed_one(tmp_path, suffix):
    (tmp_path / f"a.jsonl{suffix}").touch()
    with pytest.raises(CorpusError, match="the file is empty, which no compressed file is"):
        documents(tmp_path / f"a.jsonl{suffix}", tmp_path)
