"""What documents, ids, file names and stores say is shown on a terminal, and never obeyed by it."""

import io
import json
import re

import pytest
from datatrove.pipeline.readers import JsonlReader
from here import in_this_process
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from word_count import WordCountScorer

from launch.cli import main
from launch.progress import StageProgress
from pipeline_steps.terminal import Terminal, complain, printable


CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\r\x08[/x][bold]:smile:\x00\u202e"


@given(st.text())
def test_no_control_character_is_left(text):
    safe = printable(text)
    assert not CONTROL.search(safe)
    safe.encode()  # no lone surrogate either
    assert printable(safe) == safe
    if not CONTROL.search(text) and text.isascii():
        assert safe == text


@given(st.text(), st.text())
def test_whatever_is_printed(text, other):
    """As text, in a table, a panel, a live display and a progress bar."""
    stream = io.StringIO()
    console = Terminal(file=stream)
    table = Table(text, title=other)
    table.add_row(other)
    console.print(text, table, Text(text), Panel(table, title=Text(other)), style="bold", soft_wrap=True)
    with Live(Text(text), console=console, auto_refresh=False) as live:
        live.update(table, refresh=True)
    with StageProgress(console) as progress:
        progress.update(text, 0.5)
        progress.note(other)
        progress.finish(text, 1.0)
    assert not CONTROL.search(stream.getvalue())


def test_markup_is_text(capsys):
    Terminal().print("[/x] [bold]a[/bold] :smile:")
    assert capsys.readouterr().out == "[/x] [bold]a[/bold] :smile:\n"


@given(st.text())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_complaints(capsys, text):
    complain(text)
    assert not CONTROL.search(capsys.readouterr().err)


class Evil(WordCountScorer):
    """Names itself as an attacker would."""

    def fingerprint(self):
        return super().fingerprint() | {"unit": EVIL}


@pytest.fixture(scope="module")
def evil(tmp_path_factory):
    """A corpus whose names, ids and texts hold control characters, and its store."""
    folder = tmp_path_factory.mktemp("evil")
    (folder / "corpus").mkdir()
    for part in range(2):
        lines = [{"id": f"{EVIL}{i}", "text": f"{EVIL} text {'word ' * i}"} for i in range(20)]
        path = folder / "corpus" / f"{part}\x1b[31m[x].jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    list(Evil(str(folder / "scores")).run(JsonlReader(str(folder / "corpus")).run()))
    return folder


def shown(capsys, *words):
    code = main([str(word) for word in words])
    found = capsys.readouterr()
    assert not CONTROL.search(found.out), found.out
    assert not CONTROL.search(found.err), found.err
    return code, found.out + found.err


def test_inspect(evil, capsys):
    code, out = shown(capsys, "inspect", evil / "scores")
    assert code == 0
    assert "[/x][bold]:smile:" in out
    assert shown(capsys, "inspect", evil / "scores", "--json")[0] == 0


@pytest.mark.slow
def test_select_and_compare(evil, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    base = ["select", "--corpus", evil / "corpus", "--scores", evil / "scores"]
    for name, mode in (("a", "top"), ("b", "bottom")):
        code, out = shown(capsys, *base, "--rate", 0.5, "--mode", mode, "--output", name)
        assert code == 0, out
    code, out = shown(capsys, "compare", "a", "b", "--corpus", evil / "corpus")
    assert code == 0
    assert "\\x1b]0;owned" in out


@pytest.mark.parametrize(
    "words",
    [
        ["inspect", f"nothing{EVIL}".replace("\x00", "")],
        ["status", "no\x1b[2Jstudy.yaml"],
        ["no\x1b[2Jcommand"],
        ["report", "runs", "--scores", "x\x1b[2J", "--output", "r.html"],
        ["select", "--corpus", "c\x1b[2J", "--sampler", "s\x9b31m", "--rate", "0.5", "--output", "o"],
        ["evaluate", "few-shot", "--runs", "a=b\x1b", "--tasks", "no\x1b[2Jtask", "--output", "o.jsonl"],
        ["evaluate", "no\x1b[2Jcommand"],
        ["tokenize", "--corpus", "c\x1b[2J.jsonl", "--tokenizer", "x\x1b[2J", "--output", "o"],
    ],
)
def test_errors_of_real_commands(words, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    shown = "".join(capfd.readouterr())
    assert not CONTROL.search(shown), shown
    assert "Traceback" not in shown


def test_a_damaged_document_in_a_file_with_an_evil_name(tmp_path, monkeypatch, capfd):
    """The error quotes file name and id, through a worker's log."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "\x1b[2J\x07.jsonl").write_text(json.dumps({"id": "\x1b]0;x\x07", "text": ""}) + "\nnot json\x1b[2J\n")
    words = ["score", "--corpus", str(corpus), "--sampler", "ask-llm", "--output", "w", "--workers", "1"]
    monkeypatch.chdir(tmp_path)
    in_this_process(monkeypatch)
    assert main(words) == 2
    shown = "".join(capfd.readouterr())
    assert "row 1" in shown
    assert not CONTROL.search(shown), shown
    assert "Traceback" not in shown
