"""The table of samplers: one row says which scorer a sampler runs, what that stands on, and how its scores are cut.

Study files, the command line, plans, reports and docs/samplers.md read this table, so a new sampler is one row and
one scorer class. Importing the table is light: it names scorers, and a row imports its scorer when asked for it.

    python -m pipeline_steps.samplers > docs/samplers.md

A package adds samplers of its own by an entry point of the group `winnow.samplers` (a `Sampler`, or a list of them):

    [project.entry-points."winnow.samplers"]
    mine = "my_package.samplers:MINE"
"""

from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, get_args

from pipeline_steps.errors import WinnowError
from pipeline_steps.paper import MILESTONES


if TYPE_CHECKING:
    from pipeline_steps.numerics.priority import Mode

Cost = Literal["read", "look-up", "n-grams", "words", "classify", "ask-llm", "perplexity"]

FULL = "full"  # the name of no sampler: a run on all documents
EMBEDDED = "embedded"  # names the model that ships with this package, wherever it is installed
EMBEDDED_TOKENIZER = "embedded-bpe"  # names the tokenizer for decoders that ships with this package
GROUP = "winnow.samplers"  # of entry points
FOUNDATIONS: dict[str, tuple[str, ...]] = {
    "": (),
    "density": ("embeddings", "density"),
    "clusters": ("clusters",),
    "similarities": ("clusters",),
    "dsir": ("dsir",),
    "quality-classifier": ("quality",),
    "evaluations": ("index",),
}
"""The folders that a scorer's constructor takes after its own, in order, by what the scorer stands on."""
_STEPS = {
    "embeddings": ("Embedder", 1),
    "density": ("DensitySketch", 2),
    "clusters": ("KMeansFit", 2),
    "ngrams": ("NgramCounts", 1),
    "quality": ("QualityClassifierFit", 3),
}
"""By foundation: the step of `pipeline_steps` that makes it, and how many of its arguments a study does not set."""
_MADE_BY = {
    "density": ("embeddings", "density"),
    "clusters": ("embeddings", "clusters"),
    "similarities": ("embeddings", "clusters"),
    "dsir": ("ngrams",),
    "quality-classifier": ("quality",),
}
"""The keys of `_STEPS`, by what a scorer stands on; nothing else has options."""

_MOST = 6  # lines of one figure: more cannot be told apart


@dataclass(frozen=True)
class Sampler:
    """A row of the table: a way of choosing documents.

    Attributes:
        name: unique in the table.
        scorer: "package.module:Class" of the scorer.
        cut: how the scores are cut, as for `pipeline_steps.Cut`.
        stands_on: a key of `FOUNDATIONS`: what must have been computed before the scorer runs.
        model: of a scorer that asks a model, a Hub id, a folder, "embedded", or "<trained model>@<step>"; "" if the
            user must give it; None for a scorer that asks no model.
        family: the group that reports show the sampler in; "" for the group of others.
        label: the name in figures and tables; "" for `name`.
        cost: what scoring takes beside reading the documents.
        options: arguments of the scorer's constructor that this sampler sets.
        paper: whether the sampler is one of the paper's 22 (Sec. 4.1, App. B).
    """

    name: str
    scorer: str
    cut: Mode
    stands_on: str = ""
    model: str | None = None
    family: str = ""
    label: str = ""
    cost: Cost = "read"
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    paper: bool = False

    def __post_init__(self) -> None:
        if not self.name or self.name == FULL:
            raise WinnowError(f"a sampler cannot be called {self.name!r}: give it another name")
        for what, value, known in (("foundation", self.stands_on, FOUNDATIONS), ("cost", self.cost, get_args(Cost))):
            if value not in known:
                raise WinnowError(f"sampler {self.name}: there is no {what} {value!r}, {_nearest(value, known)}")
        if not all(self.scorer.partition(":")):
            raise WinnowError(f"sampler {self.name}: its scorer is {self.scorer!r}; write it as package.module:Class")

    @property
    def scorer_name(self) -> str:
        """The name of the scorer's class, by which a score store calls its scorer."""
        return self.scorer.rpartition(":")[2]

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders that the scorer's constructor takes after its own."""
        return FOUNDATIONS[self.stands_on]

    def scorer_class(self) -> type[Any]:
        """Import the scorer, a subclass of `BaseScorer`. Raises WinnowError if that fails."""
        module, _, name = self.scorer.partition(":")
        try:
            found: type[Any] = getattr(import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise WinnowError(f"sampler {self.name}: its scorer {self.scorer} cannot be imported ({error})") from error
        return found

    def options_of(self) -> dict[str, inspect.Parameter]:
        """Return the parameters of the scorer's constructor that a study may set, with their annotations resolved.

        These are all but the folders, the model, and the metadata key.
        """
        after = _parameters(self.scorer_class())[1 + len(self.folders) :]
        return {one.name: one for one in after if one.name not in ("model", "metadata_key")}

    def foundation_options(self) -> dict[str, dict[str, inspect.Parameter]]:
        """Return the parameters that a study may set of the steps that make what the scorer stands on, by foundation.

        The foundations are in the order in which they are made: embeddings, density, clusters, ngrams, quality.
        """
        return {
            name: {one.name: one for one in _parameters(_step(name))[_STEPS[name][1] :]}
            for name in _MADE_BY.get(self.stands_on, ())
        }

    def metadata_key(self) -> str | None:
        """Return the metadata key that the scorer writes to by default; None if its constructor takes no such key."""
        known = _parameters(self.scorer_class())
        return next((one.default for one in known if one.name == "metadata_key"), None)


def try_step(foundation: str, options: Mapping[str, Any]) -> None:
    """Make the step of a foundation with some options and throw it away. Raises ValueError if they contradict."""
    _step(foundation)(*[""] * _STEPS[foundation][1], **options)


def _step(foundation: str) -> Any:
    """Return the class of the step that makes a foundation."""
    return getattr(import_module("pipeline_steps"), _STEPS[foundation][0])


def _parameters(step: type[Any]) -> list[inspect.Parameter]:
    """List the parameters that a step's constructor names, after `self`."""
    _, *parameters = inspect.signature(step.__init__, eval_str=True).parameters.values()
    return [one for one in parameters if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]


_ALONE = "Coverage and baselines"
_ASKED, _SURPRISED = "Ask-LLM, by proxy", "Perplexity, by proxy"
_KEYS = "pipeline_steps.scorers.keys:KeysScorer"
_DENSITY = "pipeline_steps.scorers.density:DensityScorer"
_SEMDEDUP = "pipeline_steps.scorers.semdedup:SemDeDupScorer"
_PROTOTYPES = "pipeline_steps.scorers.prototypes:PrototypesScorer"
_DSIR = "pipeline_steps.scorers.dsir:DSIRScorer"
_QUALITY = "pipeline_steps.scorers.quality_classifier:QualityClassifierScorer"
_CONTAMINATION = "pipeline_steps.scorers.contamination:ContaminationScorer"
_ASK_LLM = "pipeline_steps.scorers.ask_llm:AskLLMScorer"
_PERPLEXITY = "pipeline_steps.scorers.perplexity:PerplexityScorer"
_SIZES = {"small": "Small", "base": "Base", "large": "Large", "xl": "XL", "xxl": "XXL"}


def _ask_llm(name: str, model: str, label: str, paper: bool = True) -> Sampler:
    return Sampler(name, _ASK_LLM, "top", "", model, _ASKED, label, "ask-llm", paper=paper)


def _perplexity(name: str, model: str, label: str, family: str = _SURPRISED, paper: bool = True) -> Sampler:
    return Sampler(name, _PERPLEXITY, "bottom", "", model, family, label, "perplexity", paper=paper)


def _rows() -> Iterator[Sampler]:
    """Yield the paper's samplers, family by family, and scorers beside them."""
    yield Sampler("random", _KEYS, "random", "", None, _ALONE, "Random", "read", paper=True)
    yield Sampler("density", _DENSITY, "ips", "density", None, _ALONE, "Density", "look-up", paper=True)
    yield Sampler("semdedup", _SEMDEDUP, "bottom", "similarities", None, _ALONE, "SemDeDup", "look-up", paper=True)
    yield Sampler("prototypes", _PROTOTYPES, "top", "clusters", None, _ALONE, "Prototypes", "look-up", paper=True)
    yield Sampler("dsir", _DSIR, "direct", "dsir", None, _ALONE, "DSIR", "n-grams", paper=True)
    quality = "quality-classifier"
    yield Sampler(quality, _QUALITY, "top", quality, None, _ALONE, "Quality classifier", "classify", paper=True)
    yield Sampler("contamination", _CONTAMINATION, "bottom", "evaluations", label="Contamination", cost="words")
    for size, word in _SIZES.items():
        yield _ask_llm(f"ask-llm-{size}", f"google/flan-t5-{size}", f"Ask-LLM ({word})")
    yield _ask_llm("ask-llm-gemma-7b", "google/gemma-7b-it", "Ask-LLM (Gemma 7B)")
    yield _ask_llm("ask-llm", "", "Ask-LLM", paper=False)
    for size, word in _SIZES.items():
        yield _perplexity(f"perplexity-{size}", f"google/t5-v1_1-{size}", f"Perplexity ({word})")
    yield _perplexity("perplexity", "", "Perplexity", paper=False)
    for step in MILESTONES:
        name, label = f"perplexity-large-{step // 1000}k", f"Perplexity (Large, {step // 1000}k)"
        yield _perplexity(name, f"t5-large@{step}", label, "Perplexity, by training of the proxy")


SAMPLERS: dict[str, Sampler] = {one.name: one for one in _rows()}
"""The samplers by name, in the order of reports. `table()` has those of entry points as well."""

FAMILIES: dict[str, tuple[str, ...]] = {
    family: tuple(one.name for one in SAMPLERS.values() if one.paper and one.family == family)
    for family in dict.fromkeys(one.family for one in SAMPLERS.values() if one.paper)
}
"""The names of the paper's 22 samplers by family."""


def table() -> dict[str, Sampler]:
    """Return `SAMPLERS`, to which the rows of installed entry points have been added.

    Raises:
        WinnowError: an entry point cannot be loaded, is no sampler, or has the name of another one.
    """
    _load_entry_points()
    return SAMPLERS


def register(sampler: Sampler) -> None:
    """Add a row to the table. Raises WinnowError if the name belongs to another sampler."""
    if SAMPLERS.setdefault(sampler.name, sampler) != sampler:
        raise WinnowError(f"there is a sampler {sampler.name} already: give the new one another name")


def find(name: str) -> Sampler:
    """Return a row of the table. Raises WinnowError, which suggests the nearest names, if there is none."""
    known = table()
    if name not in known:
        raise WinnowError(f"no sampler {name!r}: {_nearest(name, known)}")
    return known[name]


def score_name(made: Mapping[str, Any]) -> str | None:
    """Return what the scores of a store are called, in metadata and columns; None of keys for a draw by chance.

    Args:
        made: the configuration that the store records.
    """
    row = of_scorer(made.get("scorer"))
    if row is None:
        return str(made.get("key", "score"))  # MetadataScorer's, which the documents have
    return None if row.cut == "random" else row.metadata_key() or "score"


def of_scorer(scorer: str | None) -> Sampler | None:
    """Return the plainest sampler of a scorer; None if there is none.

    The scorer is given as in a row, or by the name of its class, as a score store calls it. The plainest sampler asks
    no model, or one that the user gives.
    """
    rows = [one for one in table().values() if scorer in (one.scorer, one.scorer_name)]
    return next((one for one in rows if not one.model), rows[0] if rows else None)


def label(name: str) -> str:
    """Return the name of a sampler in figures and tables; a sampler that is not in the table keeps its own."""
    if name == FULL:
        return "Full data"
    row = table().get(name)
    return (row and row.label) or name


def ordered(names: Iterable[str]) -> list[str]:
    """Sort names without repetitions: all documents first, then by family and row, then others by name."""
    rows = [row for row in table().values() if row.family]
    of_families = [
        row.name for family in dict.fromkeys(row.family for row in rows) for row in rows if row.family == family
    ]
    place = {name: number for number, name in enumerate([FULL, *of_families])}
    return sorted(set(names), key=lambda name: (place.get(name, len(place)), name))


def families(names: Iterable[str]) -> dict[str, list[str]]:
    """Group names by family, in groups that one figure can show; the run on all documents is in none."""
    known, members = table(), dict[str, list[str]]()
    for name in ordered(names):
        if name != FULL:
            members.setdefault((name in known and known[name].family) or "Others", []).append(name)
    return {
        family + (f", {start // _MOST + 1}" if start else ""): found[start : start + _MOST]
        for family, found in members.items()
        for start in range(0, len(found), _MOST)
    }


def markdown() -> str:
    """Return docs/samplers.md: the table, with what each scorer's class says of itself."""
    rows = table().values()
    samplers = [_cells(row) for row in rows]
    scorers = {row.scorer: (f"`{row.scorer_name}`", _shown(row.options_of())) for row in rows}
    standing = {row.stands_on: row for row in rows if row.stands_on}
    foundations = [
        (stands_on, f"`{name}`", _shown(known))
        for stands_on, row in standing.items()
        for name, known in row.foundation_options().items()
    ]
    return "\n".join(
        [
            _INTRODUCTION,
            *_table(("name", "label", "scorer", "cut", "stands on", "model", "good scores"), samplers),
            _ABOUT_OPTIONS,
            *_table(("scorer", "options and their defaults"), [cells for cells in scorers.values() if cells[1]]),
            _ABOUT_FOUNDATIONS,
            *_table(("stands on", "`foundations`", "options and their defaults"), foundations),
            "",
        ]
    )


_INTRODUCTION = """\
# Samplers

Every name below can be given to `winnow score`, `winnow select` and the `samplers` of a study file. The command
`python -m pipeline_steps.samplers > docs/samplers.md` writes this file; do not edit it by hand.

- *cut*: how the scores choose documents, as for `pipeline_steps.Cut`.
- *stands on*: what is computed once before the scorer runs. Samplers that stand on the same share it.
- *model*: the default, or "to be given". `t5-large@20000` is step 20,000 of the study's own t5-large.
- *good scores*: which end of the scores the scorer calls good. The score store records it.
"""
_ABOUT_OPTIONS = """
## Options

A study may set these arguments of a sampler's scorer: `ask-llm-xl: {options: {max_tokens: 256}}`.
"""
_ABOUT_FOUNDATIONS = """
A study may also set these arguments of the steps that make what the scorer stands on:
`density: {foundations: {density: {kernel: p-stable}, embeddings: {max_tokens: 128}}}`. Samplers that ask for the same
share it. The embeddings' `model` is the study's `embedder` unless it is set here.
"""


def _cells(row: Sampler) -> tuple[str, ...]:
    set_here = ", ".join(f"{name}={value!r}" for name, value in row.options.items())
    return (
        f"`{row.name}`",
        row.label or row.name,
        f"`{row.scorer_name}({set_here})`" if set_here else f"`{row.scorer_name}`",
        row.cut,
        row.stands_on,
        "to be given" if row.model == "" else f"`{row.model}`" if row.model else "",
        "" if row.cut == "random" else "low" if row.scorer_class().lower_is_better else "high",
    )


def _shown(known: Mapping[str, inspect.Parameter]) -> str:
    """Name the options of a step; only a default that is a plain value is shown."""
    shown = [
        f"`{name} = {one.default!r}`" if isinstance(one.default, str | int | float | None) else f"`{name}`"
        for name, one in known.items()
    ]
    return ", ".join(shown)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]


@lru_cache(maxsize=1)
def _load_entry_points() -> None:
    """Register the samplers of installed packages, once."""
    from importlib.metadata import entry_points

    for entry in entry_points(group=GROUP):
        where = f"the entry point {entry.name} = {entry.value} of the group {GROUP}"
        try:
            loaded = entry.load()
            rows = [loaded] if isinstance(loaded, Sampler) else list(loaded)
        except Exception as error:  # whatever the package raises
            raise WinnowError(f"{where} cannot be loaded ({error}): mend or uninstall its package") from error
        for row in rows:
            if not isinstance(row, Sampler):
                raise WinnowError(f"{where} holds {row!r}, which is no Sampler: mend or uninstall its package")
            register(row)


def _nearest(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, n=2)
    return f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(filter(None, known))}"


if __name__ == "__main__":
    # The module by its own name, to which entry points add their rows
    sys.stdout.write(import_module("pipeline_steps.samplers").markdown())
