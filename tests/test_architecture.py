"""Who may import whom, what is public, and what an import costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pipeline_steps


ROOT = Path(__file__).parent.parent
PACKAGES = ("pipeline_steps", "train", "evaluate_suite", "launch")
MAY_IMPORT = {
    "pipeline_steps": set(),
    "train": {"pipeline_steps"},
    "evaluate_suite": {"pipeline_steps", "train"},
    "launch": {"pipeline_steps", "train", "evaluate_suite"},
}
NUMERICS_MAY_IMPORT = {"__future__", "collections", "concurrent", "dataclasses", "functools", "hashlib", "itertools"}
NUMERICS_MAY_IMPORT |= {"fractions", "math", "operator", "typing"}
NUMERICS_MAY_IMPORT |= {"numba", "numpy", "regex", "xxhash"}
OURS_FOR_NUMERICS = ("pipeline_steps.numerics", "pipeline_steps.errors", "pipeline_steps.paper")


def imported(file):
    """Modules a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def strangers(file, package):
    """Packages of ours that a file of `package` imports and may not."""
    ours = {name.split(".")[0] for name in imported(file)} & set(PACKAGES)
    return ours - MAY_IMPORT[package] - {package}


@pytest.mark.parametrize("package", PACKAGES)
def test_arrows_between_packages(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    assert {str(file): names for file in files if (names := strangers(file, package))} == {}


def test_the_arrow_test_can_fail(tmp_path):
    (tmp_path / "bad.py").write_text("def f():\n    from train.replay import Replay\n")
    assert strangers(tmp_path / "bad.py", "pipeline_steps") == {"train"}


def imported_at_once(file):
    """Modules that a file imports when it is imported: not in functions, nor for types alone."""
    todo = list(ast.parse(file.read_text()).body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo += node.orelse
        elif isinstance(node, ast.If | ast.Try | ast.With):
            todo += node.body


def circle(graph):
    """A circle in a graph of names, or None."""
    done = set()
    for start in graph:
        path, todo = [], [(start, 0)]
        while todo:
            name, depth = todo.pop()
            del path[depth:]
            if name in path:
                return [*path[path.index(name) :], name]
            if name not in done:
                path.append(name)
                todo += [(one, depth + 1) for one in graph[name]]
        done.add(start)
    return None


def test_no_circles():
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    names = {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}
    graph = {name: sorted(set(imported_at_once(file)) & names.keys() - {name}) for name, file in names.items()}
    assert circle({"a": ["b"], "b": ["c"], "c": ["b"]}) == ["b", "c", "b"]
    assert circle(graph) is None


def test_numerics_know_numbers_only():
    for file in (ROOT / "pipeline_steps" / "numerics").glob("*.py"):
        for name in imported(file):
            assert name.split(".")[0] in NUMERICS_MAY_IMPORT or name.startswith(OURS_FOR_NUMERICS), (file, name)


def test_public_names_are_listed_documented_and_there():
    assert set(pipeline_steps.__all__) == set(pipeline_steps._HOME)
    for name in pipeline_steps.__all__:
        public = getattr(pipeline_steps, name)
        assert isinstance(public, str) or public.__doc__, name


def heavy_modules(code, *modules):
    """Which of some modules a program has imported."""
    code = f"import sys, {', '.join(PACKAGES)}\n{code}\nprint(sorted({set(modules)} & sys.modules.keys()))"
    return ast.literal_eval(subprocess.check_output([sys.executable, "-c", code], text=True))


def test_importing_is_light():
    """A login node builds pipelines: no torch, no transformers."""
    assert heavy_modules("", "torch", "transformers", "datatrove", "matplotlib") == []
    assert heavy_modules("import json", "json") == ["json"]


def test_building_steps_needs_no_torch():
    steps = ("AskLLMScorer", "PerplexityScorer", "TopKFilter", "DensitySketch", "Embedder")
    assert heavy_modules("\n".join(f"pipeline_steps.{step}" for step in steps), "torch") == []


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_explains_itself(package):
    shown = subprocess.run([sys.executable, "-m", package, "--help"], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert len(shown.stdout.split()) > 20


def test_files_and_folders_stay_small():
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            assert len(file.read_text().splitlines()) <= 400, file
            assert len(file.relative_to(ROOT).parts) <= 3, file
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.FunctionDef):
                    assert node.end_lineno - node.lineno < 60, f"{file}:{node.lineno} {node.name}"
                    arguments = [a for a in [*node.args.args, *node.args.kwonlyargs] if a.arg not in ("self", "cls")]
                    most = 10 if node.name == "__init__" else 8  # a step's settings, as datatrove's have them
                    assert len(arguments) <= most, f"{file}:{node.lineno} {node.name}"


def test_changelog_and_version_agree():
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert f"## {pipeline_steps.__version__}" in changelog
    assert f"version: {pipeline_steps.__version__}" in (ROOT / "CITATION.cff").read_text()
