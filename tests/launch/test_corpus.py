"""A user's corpus is read whole, or refused in one sentence that names the file and the row."""

import gzip
import json
import lzma
import os

import pytest
import zstandard

from pipeline_steps.errors import CorpusError
from pipeline_steps.readers.corpus import list_corpus, open_corpus
from pipeline_steps.readers.page_text import PageText


ROWS = [{"id": i, "text": f"text {i}", "url": "u"} for i in range(5)]


def read(path, tmp_path, limit=-1):
    data = None
    for step in open_corpus(str(path), str(tmp_path / "files.txt"), limit):
        data = step.run(data)
    return list(data)


def write_jsonl(path, rows=ROWS):
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def test_a_folder_a_glob_and_a_limit(tmp_path):
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    write_jsonl(folder / "b.jsonl")
    write_jsonl(folder / "deep" / "a.jsonl.gz")
    (folder / "README.md").write_text("not a corpus file")
    assert len(read(folder, tmp_path)) == 10
    assert len(read(folder / "*.jsonl", tmp_path)) == 5
    assert len(read(folder, tmp_path, limit=7)) == 7


def test_memory_is_a_file_system_too(tmp_path):
    import fsspec

    with fsspec.open("memory://crawl/a.jsonl", "w") as file:
        file.write('{"text": "from memory"}\n')
    assert [doc.text for doc in read("memory://crawl", tmp_path)] == ["from memory"]


PROSE = "The river runs through the valley and past the old mill, where people once met. "


def write_warc(path, pages):
    from io import BytesIO

    from warcio.statusandheaders import StatusAndHeaders
    from warcio.warcwriter import WARCWriter

    with open(path, "wb") as file:
        writer = WARCWriter(file, gzip=True)
        for body in pages:
            page = f"<html><head><title>t</title></head><body>{body}</body></html>".encode()
            headers = StatusAndHeaders("200 OK", [("Content-Type", "text/html")], protocol="HTTP/1.0")
            record = writer.create_warc_record("http://a.b/", "response", BytesIO(page), http_headers=headers)
            record.rec_headers.add_header("WARC-Identified-Payload-Type", "text/html")
            writer.write_record(record)


def test_warc(tmp_path):
    pytest.importorskip("trafilatura")
    article = "<article>" + f"<p>{PROSE * 8}</p>" * 3 + "</article>"
    write_warc(tmp_path / "a.warc.gz", [article] * 6 + ["<nav></nav>"])
    docs = read(tmp_path / "a.warc.gz", tmp_path)
    assert len(docs) == 6  # a page without text is no document
    assert docs[0].text.startswith("The river runs")
    assert "<p>" not in docs[0].text
    assert {doc.text for doc in docs} == {docs[0].text}  # a text is that of its page, whatever came before


@pytest.mark.parametrize("packer", ["", ".gz", ".zst", ".xz"])
def test_warc_is_whole_or_refused(tmp_path, packer):
    pytest.importorskip("trafilatura")
    write_warc(tmp_path / "a.warc.gz", [f"<p>{PROSE * 4}</p>"] * 3)
    plain = gzip.decompress((tmp_path / "a.warc.gz").read_bytes())
    pack = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress, ".xz": lzma.compress}[packer]
    path = tmp_path / f"b.warc{packer}"
    path.write_bytes(pack(plain))
    assert len(read(path, tmp_path)) == 3
    path.write_bytes(pack(plain)[:-9] if packer else plain[:-40])
    with pytest.raises(CorpusError, match=r"b\.warc.* cannot be read"):
        read(path, tmp_path)


def test_a_page_that_cannot_be_extracted_is_named(tmp_path, monkeypatch):
    pytest.importorskip("trafilatura")
    monkeypatch.setattr(PageText, "_extract", lambda self, text: text and os._exit(1))
    write_warc(tmp_path / "a.warc.gz", [f"<p>{PROSE}</p>"])
    with pytest.raises(CorpusError, match=r"a\.warc\.gz, page <urn:uuid:.*cannot be extracted"):
        read(tmp_path / "a.warc.gz", tmp_path)


def test_what_is_hidden_or_about_the_data_is_no_data(tmp_path):
    folder = tmp_path / "in"
    (folder / ".ipynb_checkpoints").mkdir(parents=True)
    write_jsonl(folder / "a.jsonl")
    write_jsonl(folder / ".ipynb_checkpoints" / "a-checkpoint.jsonl")
    (folder / "dataset_info.json").write_text("{}")
    assert len(read(folder, tmp_path)) == 5


@pytest.mark.parametrize(
    "name", ["a.jsonl.xz", "a.jsonl.zst", "a.parquet", "a.arrow", "a.warc", "a.jsonl", "a.csv.gz"]
)
def test_what_is_not_what_its_name_says_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"\xff\xfe\x00 not what it says")
    with pytest.raises(CorpusError, match=name.replace(".", r"\.")):
        read(tmp_path / name, tmp_path)


def test_nothing_there_and_mixtures_are_refused(tmp_path):
    with pytest.raises(CorpusError, match="does not exist"):
        open_corpus(str(tmp_path / "nowhere"), str(tmp_path / "f"))
    (tmp_path / "x.txt").write_text("text")
    with pytest.raises(CorpusError, match="none of a known format"):
        open_corpus(str(tmp_path), str(tmp_path / "f"))
    write_jsonl(tmp_path / "a.jsonl")
    (tmp_path / "b.parquet").write_text("")
    with pytest.raises(CorpusError, match="jsonl and parquet"):
        open_corpus(str(tmp_path), str(tmp_path / "f"))


def test_folders_that_would_be_passed_over_are_named(tmp_path):
    (tmp_path / "crawl" / "2024").mkdir(parents=True)
    (tmp_path / "crawl" / "a.jsonl").write_text('{"text": "one"}\n')
    (tmp_path / "crawl" / "2024" / "b.jsonl").write_text('{"text": "two"}\n')
    with pytest.raises(CorpusError, match=r"matches folders, such as .*2024: give .*crawl/\*/\*\* to read"):
        list_corpus(f"{tmp_path}/crawl/*")
    assert len(list_corpus(f"{tmp_path}/crawl/**").sizes) == 2
    (tmp_path / "crawl" / "linked").symlink_to(tmp_path / "crawl" / "2024")
    with pytest.raises(CorpusError, match="crawl/linked is a link to a folder, not a file"):
        list_corpus(f"{tmp_path}/crawl")


def test_files_that_would_be_passed_over_are_read_or_named(tmp_path):
    (tmp_path / "a.JSONL").write_text('{"text": "one"}\n')
    (tmp_path / "c.JSONL.GZ").write_bytes(gzip.compress(b'{"text": "two"}\n'))
    steps = open_corpus(str(tmp_path), str(tmp_path / "files.txt"))
    assert [doc.text for doc in steps[0].run()] == ["one", "two"]
    (tmp_path / "b.jsonl.lz4").write_bytes(b"x")
    with pytest.raises(CorpusError, match=r"b\.jsonl\.lz4 is compressed in a way that is not read"):
        list_corpus(str(tmp_path))
    assert list_corpus(str(tmp_path), "*.JSONL").kind == "jsonl"
