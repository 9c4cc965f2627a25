"""The command line itself: mistakes in one line, a light start, results apart from progress, and whose modules run."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from here import in_this_process

from launch.cli import app, main
from launch.commands import select, studies
from launch.study_file import open_study, parse_study, shipped
from launch.study_sections import EngineSettings
from pipeline_steps import EMBEDDED_PROXY, __version__
from pipeline_steps.numerics.priority import MODES


ROOT = Path(__file__).parent.parent.parent
COMMANDS = sorted(name for name in app if not name.startswith("-"))
START = "import sys; from launch.cli import main; sys.exit(main(sys.argv[1:]))"  # as the script `winnow` does


def winnow(*words, folder=ROOT, **environment):
    """Run `winnow` as its script does, whose own folder and not the working directory is on the import path."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path, **environment}
    command = [sys.executable, "-P", "-c", START, *map(str, words)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    lines = [json.dumps({"id": str(i), "text": f"document number {i} " * 9}) for i in range(40)]
    (folder / "a.jsonl").write_text("\n".join(lines))
    return folder


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("selcet",), 'there is no command "selcet". Did you mean select?'),
        (("zzz",), 'there is no command "zzz". There are quickstart, run, status'),
        (("help", "inspekt"), 'there is no command "inspekt". Did you mean inspect?'),
        (("inspect", "x", "--jsn"), "inspect has no flag --jsn. Did you mean --json?"),
        (("run", "x.yaml", "--executor", "slrum"), 'Choose from: "local", "slurm", "ray". Did you mean "slurm"?'),
        (
            ("score", "--corpus", "c", "--sampler", "random", "--outptu", "o"),
            "Did you mean --output instead of --outptu",
        ),
        (("score", "--corpus", ".", "--sampler", "ask-lm", "--output", "o"), "did you mean ask-llm"),
        (("completion", "zhs"), 'Did you mean "zsh"?'),
        (("pretrain", "--tokesn", "t"), "unrecognized arguments: --tokesn. Did you mean --tokens?"),
        (("plan", "tiny-cpu.yaml", "--bach-size", "8"), "Did you mean --batch-size?"),
        (("select", "--k"), "--k needs a value (see winnow select --help)"),
        (("inspect",), "inspect needs PATH"),
        (("inspect", "x", "y"), "inspect takes no y"),
        (("inspect", ""), "PATH: the path is empty"),
        (("coverage", "--clusters", "c", "--embeddings", "e", "--density", "d"), "coverage needs a SELECTION"),
        (("report", "--output", "o"), "report needs RUNS"),
        (("status", "s.yaml", "--watch", "--json"), "give --watch or --json, not both"),
        (("select", "--corpus", "c", "--output", "o", "--sampler", "random"), "select needs one of them"),
        (
            ("select", "--corpus", "c", "--output", "o", "--sampler", "random", "--k", "1", "--rate", "0.1"),
            "give one of --rate, --k and --token-budget: not --rate and --k",
        ),
    ],
)
def test_a_mistake_is_one_line_with_what_is_nearest(capsys, words, said):
    assert main(list(words)) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("winnow")
    assert said in shown.err
    assert len(shown.err.splitlines()) == 1


def test_choices_that_are_written_twice_are_the_same():
    assert get_args(select.Mode) == MODES
    assert get_args(studies.Engine) == get_args(EngineSettings.model_fields["kind"].annotation)
    assert ", ".join(shipped()) in studies.run.__doc__


def test_quickstart_has_the_defaults_of_its_study():
    from launch.small_studies import quickstart_values

    packaged, made = open_study("quickstart.yaml"), quickstart_values("o", studies.QuickstartFlags())
    own = {"output", "engine"}
    assert parse_study("s.yaml", json.dumps(made)).model_dump(exclude=own) == packaged.model_dump(exclude=own)


def test_version_and_help(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"winnow {__version__}\n"
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(re.search(rf"^│ {name} ", shown, flags=re.MULTILINE) for name in COMMANDS)
    assert all(f"\n  {code} " in shown for code in (0, 1, 2, 3, 75, 130))
    assert main(["help", "select"]) == main(["select", "--help"]) == 0
    first, second = re.findall("Usage: winnow select .*?(?=Usage|\\Z)", capsys.readouterr().out, flags=re.DOTALL)
    assert first == second
    assert "  winnow select --corpus crawl/" in first
    assert main(["help"]) == 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell, capsys):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(name in script for name in COMMANDS)
    assert "token-budget" in script


@pytest.fixture
def config(tmp_path):
    def write(text):
        (tmp_path / "flags.yaml").write_text(text)
        return ["--config", str(tmp_path / "flags.yaml")]

    return write


def test_a_file_of_flags_is_overruled_by_flags(config, corpus, tmp_path, capsys, monkeypatch):
    in_this_process(monkeypatch)
    where = config(f"corpus: {corpus}\nsampler: random\ntarget: null\noutput: {tmp_path / 'no'}\n")
    for place in ([*where, "score"], ["score", *where]):
        output = tmp_path / str(len(place[0]))
        assert main([*place, "--output", str(output), "--limit", "30"]) == 0
        assert "30 documents" in capsys.readouterr().out
        assert (output / "scores").exists()
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("corpus: c\nsampelr: random\n", "flags.yaml: select has no key sampelr. Did you mean sampler?"),
        ("[1, 2]", "must hold flags and their values, not list"),
        ("a: {b: c}", "a must be a value or a list of values"),
        ("a: [", "cannot be read as YAML or JSON"),
        ("corpus: s3://key:word@bucket/c", "holds a credential"),
        ("rate: much\ncorpus: c\noutput: o", "Invalid value for rate"),
        ("x: " + "y" * 70_000, "more than 65,536 bytes"),
    ],
)
def test_a_file_of_flags_that_cannot_be_used(config, capsys, text, said):
    assert main([*config(text), "select"]) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert len(shown.splitlines()) == 1


def test_a_file_of_flags_that_is_not_there(tmp_path, capsys):
    assert main(["--config", str(tmp_path / "nope.yaml"), "select"]) == 2
    assert "nope.yaml cannot be used: No such file" in capsys.readouterr().err
    os.mkfifo(tmp_path / "pipe")
    assert main(["--config", str(tmp_path / "pipe"), "select"]) == 2
    assert "is a pipe" in capsys.readouterr().err


def test_results_go_to_stdout_and_progress_to_stderr_unless_quiet(corpus, tmp_path, capsys, monkeypatch):
    in_this_process(monkeypatch)
    monkeypatch.setenv("LOGURU_LEVEL", "INFO")  # which --quiet changes
    words = ["score", "--corpus", str(corpus), "--sampler", "random", "--output"]
    assert main([*words, str(tmp_path / "one")]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"40 documents scored: {tmp_path / 'one'}/scores/keys\n"
    assert shown.err.startswith("scores ")
    monkeypatch.setenv("WINNOW_QUIET", "")  # which --quiet sets
    assert main(["-q", *words, str(tmp_path / "two")]) == 0
    quiet = capsys.readouterr()
    assert quiet.err == ""
    assert "40 documents scored" in quiet.out


def test_verbose_shows_the_debug_logs_of_datatrove():
    code = "import sys; from launch.cli import main; main(sys.argv[1:])"
    code += "; from datatrove.utils.logging import logger; logger.debug('seen')"
    environment = {name: value for name, value in os.environ.items() if name != "LOGURU_LEVEL"}
    for flags, seen in ((["-v"], True), ([], False)):
        command = [sys.executable, "-c", code, *flags, "status", "nope.yaml"]
        shown = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert ("seen" in shown.stderr) is seen


def test_colours_are_for_terminals_that_want_them():
    escape = "\x1b["
    assert escape not in winnow("selcet").stderr
    assert escape in winnow("selcet", FORCE_COLOR="1").stderr
    plain = winnow("selcet", FORCE_COLOR="1", NO_COLOR="1").stderr
    assert "31" not in "".join(re.findall(r"\x1b\[([\d;]*)m", plain))  # bold remains, which is no colour
    assert escape not in winnow("--help").stdout


def test_what_is_not_installed_is_named_with_its_extra(capsys, monkeypatch):
    def missing(*words):
        raise ModuleNotFoundError("No module named 'lm_eval'", name="lm_eval.api")

    monkeypatch.setattr("launch.inspect.inspect", missing)
    assert main(["inspect", "somewhere"]) == 2
    assert "pip install 'winnow-llm[eval]'" in capsys.readouterr().err


def test_interrupted(capsys, monkeypatch):
    def interrupted(*words):
        raise KeyboardInterrupt

    monkeypatch.setattr("launch.inspect.inspect", interrupted)
    assert main(["inspect", "somewhere"]) == 130
    assert "interrupted; the same command goes on" in capsys.readouterr().err


@pytest.fixture
def theirs(tmp_path):
    """A folder with modules of a user's that are called as ours, and leave a file behind when they are imported."""
    folder = tmp_path / "theirs"
    for name in ("train.py", "launch/__init__.py", "evaluate_suite/__init__.py", "pipeline_steps.py", "accelerate.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"open({str(tmp_path / 'imported')!r}, 'a').write({name!r})\n")
    return folder


HELP = """
import contextlib, io, sys
from launch.cli import main

heavy = {"numpy", "torch", "datatrove", "pyarrow", "pydantic"}
for words in (["--help"], ["--version"], *([name, "--help"] for name in sys.argv[1:])):
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        code = main(words)
    if len(words) == 2:
        heavy -= {"pyarrow", "pydantic"}
    found = heavy & sys.modules.keys()
    if code or found or len(shown.getvalue().split()) < 2:
        sys.exit(f"{words} ended with {code}, imported {found}, showed {shown.getvalue()}")
"""


def test_help_is_light_and_imports_nothing_of_the_users(theirs, tmp_path):
    """Every command, one after the other in one process: what one of them imports is there afterwards."""
    assert len(COMMANDS) > 15
    command = [sys.executable, "-P", "-c", HELP, *COMMANDS]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    shown = subprocess.run(command, cwd=theirs, env=environment, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("score", "--corpus", "CORPUS", "--sampler", "random", "--output", "OUT"),
        pytest.param(
            ("select", "--corpus", "CORPUS", "--sampler", "random", "--k", "9", "--output", "OUT"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("tokenize", "--corpus", "CORPUS", "--tokenizer", EMBEDDED_PROXY, "--output", "OUT", "--workers", "1"),
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda words: words[0],
)
def test_work_imports_nothing_of_the_users(theirs, corpus, tmp_path, words):
    places = {"CORPUS": corpus, "OUT": tmp_path / "out"}
    shown = winnow(*(places.get(word, word) for word in words), folder=theirs)
    assert shown.returncode == 0, shown.stderr
    assert (tmp_path / "out").is_dir()
    assert not (tmp_path / "imported").exists()


@pytest.mark.slow
def test_a_training_imports_nothing_of_the_users(theirs, corpus, tmp_path):
    words = ["--corpus", corpus, "--tokenizer", EMBEDDED_PROXY, "--output", tmp_path / "tokens", "--workers", "1"]
    assert winnow("tokenize", *words).returncode == 0
    training = ["--tokens", tmp_path / "tokens", "--run-dir", tmp_path / "run", "--preset", "t5-tiny"]
    training += ["--input-length", "32", "--batch-size", "2", "--total-tokens", "128", "--report-to", "none"]
    shown = winnow("pretrain", *training, "--", "--num_processes", "1", "--cpu", folder=theirs)
    assert shown.returncode == 0, shown.stderr
    assert (tmp_path / "run" / "metrics.jsonl").exists()
    assert not (tmp_path / "imported").exists()


def test_another_module_of_our_name_in_pythonpath_is_refused(theirs, tmp_path):
    path = tmp_path / "path"
    path.mkdir()
    (path / "train.py").touch()
    command = [sys.executable, "-P", "-c", f"import sys; sys.path.insert(1, {str(ROOT)!r}); {START}", "--version"]
    shown = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(path)}, capture_output=True, text=True)
    assert shown.returncode == 2
    assert shown.stderr == f"winnow: train is {path}/train.py, not winnow's: take that folder out of PYTHONPATH\n"


def test_python_m_launch_leaves_the_working_directory_out(tmp_path):
    (tmp_path / "train.py").write_text("open('imported', 'w')\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "launch", "schema"]  # which imports train
    shown = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert not (tmp_path / "imported").exists()


def test_pretrain_passes_on_signals_and_exit_codes(tmp_path, monkeypatch):
    seen = {}

    def launched(command, run_dir, environment):
        seen.update(command=command, run_dir=run_dir, safe=environment["PYTHONSAFEPATH"])
        return 75

    monkeypatch.setattr("train.signals.run_launcher", launched)
    words = ["--config", "tiny-cpu.yaml", "--tokens", "t", "--run-dir", str(tmp_path / "r")]
    assert main(["pretrain", *words, "--", "--num_processes", "8"]) == 75
    assert seen["command"][1:] == (
        ["-P", "-m", "accelerate.commands.launch", "--quiet", "--num_processes", "8", "-m", "train.pretrain", *words]
    )
    assert (seen["run_dir"], seen["safe"]) == (tmp_path / "r", "1")
