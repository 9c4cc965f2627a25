"""InstalledDocsReader: real text that is on every machine, the documentation of the installed Python packages."""

from __future__ import annotations

import ast
import inspect
import re
import sys
import sysconfig
import tokenize
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import Distribution, distributions
from pathlib import Path

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.readers.base import BaseReader
from datatrove.utils.logging import logger

from pipeline_steps.terminal import printable


_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_KINDS = {"Module": "module", "ClassDef": "class", "FunctionDef": "function", "AsyncFunctionDef": "function"}
_TRIPLE_QUOTED = re.compile(r'"""(.*?)"""|\'\'\'(.*?)\'\'\'', re.DOTALL)


@dataclass(frozen=True)
class Package:
    """A top-level package or module, and the distribution that has installed it."""

    name: str  # as imported
    path: Path  # its folder or file
    distribution: str  # e.g. "scikit-learn", or "python" for the standard library
    version: str
    license: str  # as the distribution states it

    def files(self) -> list[Path]:
        """Return Python sources, sorted, without tests: those document nothing, and mostly repeat each other."""
        if self.path.is_file():
            return [self.path]
        found = sorted(self.path.rglob("*.py"), key=lambda file: file.relative_to(self.path).as_posix())
        hidden = {"test", "tests", "idlelib", "lib2to3", "site-packages", "__pycache__"}
        return [file for file in found if not hidden.intersection(file.relative_to(self.path).parts[:-1])]


class InstalledDocsReader(BaseReader):
    """Documentation strings of the standard library and the installed packages; nothing is imported or executed.

    A document is the documentation of one module, class or function, without its indentation. Its id is
    "package/file.py:Qualified.name"; its metadata say `file_path` (the package: what tasks share out), `distribution`,
    `version`, `license`, `kind` and `line`. Repeated texts stay.

    Args:
        min_words: shortest documentation to read.
        packages: top-level names to read; None for all.
        limit: at most this many documents per task; -1 for all.
    """

    name = "📚 Installed docs"

    def __init__(self, min_words: int = 50, packages: list[str] | None = None, limit: int = -1) -> None:
        super().__init__(limit=limit)
        self.min_words = min_words
        self.packages = packages

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Yield the documents of this task's packages, in order of name."""
        if data:
            yield from data
        chosen = [p for p in installed_packages() if self.packages is None or p.name in self.packages]
        read = 0
        for package in chosen[rank::world_size]:
            self.stat_update("packages")
            for doc in self._read_package(package):
                if read == self.limit:
                    return
                read += 1
                self.update_doc_stats(doc)
                yield doc

    def _read_package(self, package: Package) -> Iterator[Document]:
        for file in package.files():
            within = file.relative_to(package.path.parent).as_posix()
            try:
                with self.track_time("file"):
                    found = documentation(file, self.min_words)
            except (SyntaxError, UnicodeDecodeError, ValueError, RecursionError) as error:
                self.stat_update("unreadable_files")
                logger.warning(printable(f"{file} is not Python {sys.version_info.major}: {error}"))
                continue
            for name, kind, line, text in found:
                metadata = {
                    "file_path": str(package.path),
                    "distribution": package.distribution,
                    "version": package.version,
                    "license": package.license,
                    "kind": kind,
                    "line": line,
                }
                yield Document(text=text, id=f"{within}:{name}", metadata=metadata)


def documentation(file: Path, min_words: int) -> list[tuple[str, str, int, str]]:
    """Return (qualified name, kind, line, text) of every documentation string of a file, in order of line.

    A name that is defined more than once gets "#2", "#3" and so on.

    Raises:
        SyntaxError, UnicodeDecodeError, ValueError: the file is not Python source.
    """
    with tokenize.open(file) as source:  # honours the encoding the file declares
        text = source.read()
    longest = max((len((a or b).split()) for a, b in _TRIPLE_QUOTED.findall(text)), default=0)
    if longest < min_words // 2:  # parsing is the cost; half allows for strings the expression cuts short
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's strings
        tree = ast.parse(text)
    seen: dict[str, int] = {}
    found = []
    for name, node in _walk(tree, ""):
        if (doc := ast.get_docstring(node, clean=False)) and len(doc.split()) >= min_words:
            seen[name] = seen.get(name, 0) + 1
            unique = name if seen[name] == 1 else f"{name}#{seen[name]}"
            clean = inspect.cleandoc(doc).encode("utf-8", "replace").decode()  # lone surrogates cannot be stored
            found.append((unique, _KINDS[type(node).__name__], node.body[0].lineno, clean))
    return found


def _walk(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.Module | ast.ClassDef | ast.FunctionDef]]:
    if isinstance(node, ast.Module):
        yield "<module>", node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _DOCUMENTED):
            name = f"{prefix}{child.name}"  # type: ignore[union-attr]
            yield name, child  # type: ignore[misc]
            yield from _walk(child, f"{name}.")
        elif isinstance(child, ast.stmt):
            yield from _walk(child, prefix)


@lru_cache(maxsize=1)
def installed_packages() -> list[Package]:
    """Return the packages and modules of the standard library and of this environment, sorted by name."""
    version = ".".join(map(str, sys.version_info[:3]))
    found: dict[str, Package] = {}
    for path in _top_level(Path(sysconfig.get_path("stdlib"))):
        found[path.stem] = Package(path.stem, path, "python", version, "PSF-2.0")
    for distribution in distributions():
        for path in _files_of(distribution):
            meta = distribution.metadata
            package = Package(path.stem, path, meta["Name"], distribution.version, _license(distribution))
            found.setdefault(package.name, package)
    return [found[name] for name in sorted(found)]


def _top_level(folder: Path) -> list[Path]:
    entries = [
        entry for entry in sorted(folder.iterdir()) if not entry.name.startswith((".", "__py", "test", "site-"))
    ]
    return [e for e in entries if e.suffix == ".py" or (e.is_dir() and any(e.glob("*.py")))]


def _files_of(distribution: Distribution) -> list[Path]:
    """Return the top-level folders and modules that a distribution has installed beside its metadata."""
    names = {Path(str(file)).parts[0] for file in distribution.files or () if str(file).endswith(".py")}
    root = Path(str(distribution.locate_file("")))
    paths = [root / name for name in sorted(names) if name not in ("..", "tests", "test")]
    return [path for path in paths if path.exists()]


def _license(distribution: Distribution) -> str:
    def field(name: str) -> list[str]:
        return distribution.metadata.get_all(name) or []

    classified = [line.rsplit(" :: ", 1)[-1] for line in field("Classifier") if line.startswith("License")]
    said = [*field("License-Expression"), " / ".join(classified), *field("License")]
    return next((text.strip().splitlines()[0] for text in said if text.strip()), "unknown")
