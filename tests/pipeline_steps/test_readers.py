"""Documentation is found where it stands, named once, and read the same by any number of tasks."""

import ast
import sys

import pytest

from pipeline_steps import InstalledDocsReader
from pipeline_steps.readers.installed_docs import Package, documentation, installed_packages


LONG = " ".join(f"word{i}" for i in range(60))
SOURCE = f'''"""Module. {LONG}"""

class Outer:
    """Outer.

    {LONG}
      indented
    """

    def method(self):
        """Method. {LONG}"""

    if True:
        def method(self):
            """Again. {LONG}"""

    class Inner:
        async def run(self):
            """Run. {LONG}"""

def short():
    """Too short."""
'''


def test_every_documentation_string_once_without_indentation(tmp_path):
    (tmp_path / "m.py").write_text(SOURCE)
    found = documentation(tmp_path / "m.py", 50)
    names = ["<module>", "Outer", "Outer.method", "Outer.method#2", "Outer.Inner.run"]
    assert [(name, kind) for name, kind, _, _ in found] == list(
        zip(names, ["module", "class", "function", "function", "function"], strict=True)
    )
    outer = found[1][3]
    assert outer.splitlines()[2] == LONG
    assert outer.splitlines()[3] == "  indented"


def test_against_the_parser_without_short_cuts():
    """On real modules: what `ast` finds, the reader finds."""
    for module in ("argparse", "json", "typing", "statistics", "ipaddress"):
        (package,) = [p for p in installed_packages() if p.name == module]
        for file in package.files():
            tree = ast.parse(file.read_text())
            kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
            docs = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds)]
            expected = sorted(doc for doc in docs if doc and len(doc.split()) >= 50)
            assert sorted(text for *_, text in documentation(file, 50)) == expected


@pytest.mark.parametrize(
    "content", [b"def broken(:\n    '''" + b"word " * 80 + b"'''", b"# coding: nonsense\n", b"\xff" * 40]
)
def test_a_file_that_is_not_python_is_skipped_and_counted(tmp_path, monkeypatch, content):
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "bad.py").write_bytes(content)
    (tmp_path / "p" / "good.py").write_text(SOURCE)
    package = Package("p", tmp_path / "p", "p", "1", "MIT")
    monkeypatch.setattr("pipeline_steps.readers.installed_docs.installed_packages", lambda: [package])
    reader = InstalledDocsReader()
    assert [doc.id for doc in reader.run()][0] == "p/good.py:<module>"
    assert reader.stats["unreadable_files"].total == 1


def test_tasks_share_the_packages_out():
    packages = ["json", "email", "tqdm", "typing", "logging"]
    one = {(doc.id, doc.text) for doc in InstalledDocsReader(packages=packages).run()}
    three = [(d.id, d.text) for rank in range(3) for d in InstalledDocsReader(packages=packages).run(None, rank, 3)]
    assert len(three) == len(set(three)) == len(one)
    assert set(three) == one
    assert len({id for id, _ in one}) == len(one)


def test_documents_say_where_they_are_from():
    doc = next(InstalledDocsReader(packages=["numpy"]).run())
    assert doc.metadata["distribution"] == "numpy"
    assert "BSD" in doc.metadata["license"]
    assert doc.metadata["file_path"].endswith("/numpy")
    standard = next(InstalledDocsReader(packages=["argparse"]).run())
    assert standard.metadata["distribution"] == "python"
    assert standard.metadata["version"].startswith(f"{sys.version_info.major}.")


def test_limit_and_min_words():
    assert len(list(InstalledDocsReader(packages=["numpy"], limit=7).run())) == 7
    long = list(InstalledDocsReader(min_words=200, packages=["tqdm"]).run())
    assert long
    assert all(len(doc.text.split()) >= 200 for doc in long)
