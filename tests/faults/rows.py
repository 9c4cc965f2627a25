"""Documents that are not what they should be: in JSON lines, in columns of Parquet and Arrow, in CSV and in WARC."""

from __future__ import annotations

import datetime
import decimal
import gzip
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline_steps import EMBEDDED_PROXY

from .cases import Case, good_lines, good_row, reading_command, write


Line = Callable[[random.Random], bytes]


def _json(**changes: Any) -> bytes:
    row = {key: value for key, value in (good_row(7) | changes).items() if value is not ...}
    return json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"


def _raw(**changes: str) -> bytes:
    """A row whose values are spelled out: JSON has more than Python's writer writes."""
    row = {"id": '"doc-7"', "text": '"words to read"'} | changes
    return ("{" + ", ".join(f'"{key}": {value}' for key, value in row.items()) + "}\n").encode(
        "utf-8", "surrogatepass"
    )


def _nested(rng: random.Random, deepest: int = 1200) -> str:
    depth = rng.choice((2, 20, 48, 49, 50, 51, 60, 61, 62, 63, 64, 97, 98, 99, 100, 250, 253, 254, 255, 256, deepest))
    return "[" * depth + "1" + "]" * depth if rng.random() < 0.5 else '{"a": ' * depth + "1" + "}" * depth


_SCALARS = r"""
null true false 0 -1 1.5 1e400 -1e400 1e-400 NaN Infinity -Infinity 18446744073709551615 18446744073709551616 -0.0
99999999999999999999999999999999 -9223372036854775809 "" "\u0020" "\u0000" "\ud800" "\udc00\ud800" "\ud83d\ude00" [] {}
[[]] [{}] [null] {"a":{}} [1,"a"] [1,{"a":2}] [{"a":1},{"a":"b"}] {"a":1,"a":2} [1e400] "2024-13-45" "\u001b[31mred"
[1,[2]] [[1],{"b":2}] {"":1} {"a.b":1} [true,1] [1,null,"x"] 01 1. .5 +1 0x10 1_000 'text' undefined
""".split()
_COLUMNS = "text id n about metadata media file_path token_count zero score key source dump url".split()


def _lines(rng: random.Random) -> dict[str, Line]:
    """Lines that are wrong, by what is wrong."""
    scalar, column = rng.choice(_SCALARS), rng.choice(_COLUMNS)
    bad_counts = ("-1", '"12"', "NaN", "1.5", "4294967296", "null", "true", "[]", "1e30", "-0.0", '"many"', "{}")
    return {
        f"{column} is {scalar}": lambda rng: _raw(**{column: scalar}),
        f"text is {scalar}": lambda rng: _raw(text=scalar),
        f"extra is {scalar}": lambda rng: _raw(extra=scalar) + _raw(extra=rng.choice(_SCALARS)),
        "a value is nested": lambda rng: _raw(v=_nested(rng)),
        "the text is nested": lambda rng: _raw(text=_nested(rng)),
        "metadata are nested": lambda rng: _raw(metadata=_nested(rng)),
        "token_count is no count": lambda rng: _raw(token_count=rng.choice(bad_counts)),
        "there is no text": lambda rng: _json(text=...),
        "there is no id": lambda rng: _json(id=...),
        "keys are twice": lambda rng: b'{"text": "one", "text": "two", "id": 1, "id": "x"}\n',
        "a lone surrogate": lambda rng: _json(text="a \ud800 b"),
        "a lone surrogate as a key": lambda rng: _json(**{"k\udfff": 1}),
        "bytes that are not UTF-8": lambda rng: b'{"id": "a", "text": "\xff\xfe\x80 words"}\n',
        "binary": lambda rng: rng.randbytes(rng.randint(1, 300)) + b"\n",
        "zero bytes": lambda rng: bytes(rng.randint(1, 200)) + b"\n",
        "no object": lambda rng: rng.choice(_SCALARS).encode() + b"\n",
        "a trailing comma": lambda rng: b'{"id": "a", "text": "words",}\n',
        "a comment": lambda rng: b'// {"id": "a", "text": "words"}\n',
        "two objects": lambda rng: b'{"id": "a", "text": "words"} {"id": "b", "text": "words"}\n',
        "cut short": lambda rng: _json()[: rng.randint(1, 60)],
        "no end of line": lambda rng: _json()[:-1],
        "blank lines": lambda rng: b"\n \n\t\n\r\n" * rng.randint(1, 4),
        "CRLF": lambda rng: _json()[:-1] + b"\r\n",
        "a long text": lambda rng: _json(text="word " * rng.choice((100_000, 400_000))),
        "a long word": lambda rng: _json(text="x" * rng.choice((65_537, 1_000_000))),
        "control characters": lambda rng: _json(text="".join(map(chr, range(32))) + "\x7f\x85\u2028\u202e"),
        "an id of another kind": lambda rng: _json(
            id=rng.choice((None, 1.5, [1], {"a": 1}, True, "", "a\nb", 10**30))
        ),
        "a key of another kind": lambda rng: _json(
            **{rng.choice(("", " ", "a.b", "text ", "\x00", "é", "a\nb", "__index_level_0__")): 1}
        ),
        "a metadata column": lambda rng: _json(
            metadata=rng.choice(("x", [1], {"text": 1}, {"id": 2, "file_path": 3}, None, 5, "{"))
        ),
        "a file_path of its own": lambda rng: _json(
            file_path=rng.choice((None, 1, "s3://b/k", "", {"a": 1}, "/etc/passwd"))
        ),
        "the score's column": lambda rng: _json(zero=1, score=2, random=3),
        "types that change": lambda rng: b"".join(
            _json(id=f"t{i}", v=v)
            for i, v in enumerate(rng.sample([1, 2.5, "x", None, [1], {"a": 1}, True, 2**63, -(2**63)], 4))
        ),
        "many columns": lambda rng: _json(**{f"c{i}": i for i in range(rng.choice((500, 3000)))}),
        "many keys of one row": lambda rng: b"".join(_json(id=f"m{i}", **{f"c{i}": {f"d{i}": i}}) for i in range(200)),
        "the same row again": lambda rng: _json() * 3,
    }


def _jsonl(number: int) -> Case:
    def make(folder: Path, rng: random.Random) -> Sequence[str]:
        lines = good_lines(rng.randint(0, 5))
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            kinds = _lines(rng)
            lines.insert(rng.randint(0, len(lines)), kinds[rng.choice(list(kinds))](rng))
        content = b"".join(lines)
        form = rng.random()
        if form < 0.04:
            content = b"\xef\xbb\xbf" + content
        elif form < 0.08:
            content = content.decode("utf-8", "replace").encode(rng.choice(("utf-16", "utf-32", "utf-8-sig")))
        elif form < 0.12:
            content = content.replace(b"\n", rng.choice((b"\r\n", b"\r", b"\n\n", b",\n")))
        elif form < 0.14:
            content = b"[" + content.replace(b"\n", b",\n") + b"]"
        write(folder / "corpus" / "b.jsonl", content)
        if rng.random() < 0.3:
            write(folder / "corpus" / "a.jsonl", *good_lines(3))
        return reading_command(rng, "corpus", EMBEDDED_PROXY)

    return Case("rows of JSON lines", f"jsonl {number}", make)


def _csv(number: int) -> Case:
    def make(folder: Path, rng: random.Random) -> Sequence[str]:
        cells = ("a", "words to read", "", '"', '"a\nb"', '"a"b', "\xe9", " ", "\x00", "1", "x" * 200_000, "a,b", "\r")
        header = rng.choice(("id,text,n", "id,text", "text", '"id","text"', "id,id,text", "", "\ufeffid,text", "a,b"))
        rows = [",".join(rng.choices(cells, k=rng.choice((1, 2, 2, 3, 3)))) for _ in range(rng.randint(0, 6))]
        content = rng.choice(("\n", "\r\n", "\r")).join([header, *rows, rng.choice(("", "d,last"))])
        write(
            folder / "corpus" / "b.csv", content.encode(rng.choice(("utf-8", "utf-8", "latin-1", "utf-16")), "replace")
        )
        return reading_command(rng, "corpus", EMBEDDED_PROXY)

    return Case("rows of CSV", f"csv {number}", make)


def _columns(rng: random.Random) -> dict[str, Callable[[], Any]]:
    """Columns of three rows, by what is odd about them."""
    import numpy as np
    import pyarrow as pa

    def nested(depth: int) -> Any:
        value: Any = 1
        for _ in range(depth):
            value = [value] if rng.random() < 0.3 else {"a": value}
        return pa.array([value] * 3)

    three = lambda value, kind=None: pa.array([value] * 3, kind)  # noqa: E731
    return {
        "map": lambda: three([("k", 1)], pa.map_(pa.string(), pa.int64())),
        "map of maps": lambda: three([(1, [("a", None)])], pa.map_(pa.int8(), pa.map_(pa.string(), pa.int64()))),
        "nested": lambda: nested(rng.choice((5, 30, 40, 47))),
        "decimal": lambda: three(decimal.Decimal("1.10"), pa.decimal128(38, 2)),
        "decimal256": lambda: three(decimal.Decimal("1.10"), pa.decimal256(70, 2)),
        "timestamp": lambda: pa.array(np.array([-(2**62), 2**62, 0]), pa.int64()).cast(
            pa.timestamp(rng.choice(("ns", "us")), "UTC"), safe=False
        ),
        "no such date": lambda: pa.array([2**30, -(2**30), 0], pa.int32()).cast(pa.date32()),
        "date64": lambda: pa.array([0, 1, 2], pa.date64()),
        "time": lambda: three(datetime.time(1, 2, 3, 4), pa.time64("ns")),
        "duration": lambda: pa.array([2**62, -5, None], pa.int64()).cast(pa.duration(rng.choice(("ns", "s")))),
        "NaN": lambda: pa.array([float("nan"), float("inf"), None], rng.choice((pa.float32(), pa.float64()))),
        "float16": lambda: pa.array(np.array([1, np.nan, np.inf], np.float16)),
        "uint64": lambda: pa.array([2**64 - 1, 0, None], pa.uint64()),
        "binary": lambda: pa.array([b"\xff\x00", b"", None], rng.choice((pa.binary(), pa.large_binary()))),
        "fixed binary": lambda: pa.array([b"abcd"] * 3, pa.binary(4)),
        "dictionary": lambda: pa.array(["a", "b", "a"]).dictionary_encode(),
        "null": lambda: pa.nulls(3),
        "fixed list": lambda: three([1, 2, 3], pa.list_(pa.int8(), 3)),
        "large list": lambda: three([1, None], pa.large_list(pa.int8())),
        "struct of null": lambda: three({"a": None, "b": {"c": None}}),
        "uuid": lambda: (
            pa.array([b"0123456789abcdef"] * 3, pa.binary(16)).cast(pa.uuid()) if hasattr(pa, "uuid") else pa.nulls(3)
        ),
        "list of structs": lambda: pa.array([[{"a": 1}], [], None]),
        "strings that are large": lambda: three("x", pa.large_string()),
        "lists of text": lambda: three(["a"], pa.list_(pa.string())),
        "numbers": lambda: pa.array([1, 2, 3]),
        "counts": lambda: rng.choice(
            (
                pa.array([-1, 2, 3]),
                pa.array([1.0, None, 2.5]),
                pa.array(["1", "2", "3"]),
                pa.array([1, None, 2**32]),
                pa.array([1, 2, 3], pa.uint8()),
            )
        ),
    }


def _parquet(number: int) -> Case:
    def make(folder: Path, rng: random.Random) -> Sequence[str]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns: dict[str, Any] = {
            "id": pa.array(["a", "b", "c"]),
            "text": pa.array(["one word", "two words", "three of them"]),
        }
        odd = _columns(rng)
        for _ in range(rng.choice((1, 1, 2, 3))):
            name = rng.choice(
                (
                    "text",
                    "id",
                    "v",
                    "v",
                    "v",
                    "w",
                    "token_count",
                    "metadata",
                    "media",
                    "file_path",
                    "zero",
                    "",
                    "a\nb",
                    "a.b",
                )
            )
            columns[name] = odd["counts" if name == "token_count" and rng.random() < 0.7 else rng.choice(list(odd))]()
        table = pa.table(columns)
        form = rng.random()
        if form < 0.06:
            table = table.drop_columns(["text"])
        elif form < 0.12:
            table = table.slice(0, 0)
        elif form < 0.18:
            table = pa.Table.from_arrays(
                [*table.columns, table.column(0)], names=[*table.column_names, rng.choice(table.column_names)]
            )
        elif form < 0.3:
            key = rng.choice((b"pandas", b"huggingface", b"ARROW:schema", b"\xff"))
            table = table.replace_schema_metadata(
                {key: rng.choice((b"{", b"\xff\xfe", b'{"info": 5}', b"null", b"[]"))}
            )
        (folder / "corpus").mkdir()
        if rng.random() < 0.2:
            new = rng.choice((pa.ipc.new_file, pa.ipc.new_stream))
            with new(folder / "corpus" / "b.arrow", table.schema) as file:
                file.write_table(table)
            return reading_command(rng, "corpus", EMBEDDED_PROXY)
        options = {"compression": rng.choice(("none", "snappy", "zstd", "gzip")), "use_dictionary": rng.random() < 0.5}
        pq.write_table(
            table,
            folder / "corpus" / "b.parquet",
            store_schema=rng.random() < 0.7,
            row_group_size=rng.choice((1, 100)),
            **options,
        )
        if rng.random() < 0.4:
            other = {"id": ["x"], "text": ["another file"]} | (
                {"v": [rng.choice((1, "s", [1], None))]} if rng.random() < 0.6 else {}
            )
            pq.write_table(pa.table(other), folder / "corpus" / "a.parquet")
        return reading_command(rng, "corpus", EMBEDDED_PROXY)

    return Case("rows of Parquet", f"parquet {number}", make)


_PAGE = (
    b"<html><body><article>"
    + b"<p>The river runs through the valley and past the old mill.</p>" * 8
    + b"</article></body></html>"
)


def _record(rng: random.Random) -> bytes:
    body = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + _PAGE
    headers = {
        "WARC-Type": "response",
        "WARC-Record-ID": f"<urn:uuid:{rng.getrandbits(64):x}>",
        "WARC-Target-URI": "http://a.b/",
        "WARC-Date": "2024-01-01T00:00:00Z",
        "WARC-Identified-Payload-Type": "text/html",
        "Content-Type": "application/http; msgtype=response",
        "Content-Length": str(len(body)),
    }
    wrong = rng.choice(("header", "header", "value", "length", "body", "http", "nothing", "name"))
    if wrong == "header":
        del headers[rng.choice(list(headers))]
    elif wrong == "value":
        headers[rng.choice(list(headers))] = rng.choice(
            ("", "\xff", "text/plain", "-1", "9" * 30, "conversion", "x\ty", "utf-7")
        )
    elif wrong == "length":
        headers["Content-Length"] = str(rng.choice((0, 1, len(body) - 5, len(body) + 5, 10**12)))
    elif wrong == "body":
        body = rng.choice((b"", b"\xff" * 50, rng.randbytes(200), body[:40], body.replace(b"<p>", b"<p><div><table>")))
        headers["Content-Length"] = str(len(body))
    elif wrong == "http":
        body = body.replace(b"HTTP/1.1 200 OK", rng.choice((b"HTTP/9", b"", b"\x00", b"GET / HTTP/1.1")))
    version = rng.choice((b"WARC/9.9", b"warc", b"", b"\x1f\x8b")) if wrong == "name" else b"WARC/1.0"
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode("latin-1")
    return version + b"\r\n" + head + b"\r\n" + body + b"\r\n\r\n"


def good_warc(rng: random.Random, packed: bool) -> bytes:
    """An archive of pages, most of which nothing is wrong with."""
    records = [_record(rng) for _ in range(3)]
    return b"".join(map(gzip.compress, records)) if packed else b"".join(records)


def _warc(number: int) -> Case:
    def make(folder: Path, rng: random.Random) -> Sequence[str]:
        records = [_record(rng) for _ in range(rng.randint(1, 3))]
        packed = rng.random() < 0.5
        content = b"".join(gzip.compress(record) for record in records) if packed else b"".join(records)
        if rng.random() < 0.2:
            content = content[: rng.randint(1, len(content))]
        write(folder / "corpus" / ("b.warc.gz" if packed or rng.random() < 0.1 else "b.warc"), content)
        return ["score", "--corpus", "corpus", "--sampler", "random", "--output", "out", "--workers", "1"]

    return Case("records of WARC", f"warc {number}", make)


def cases(number: int, rng: random.Random) -> Case:
    """The case of a number."""
    return rng.choices((_jsonl, _parquet, _csv, _warc), (6, 3, 1, 1))[0](number)
