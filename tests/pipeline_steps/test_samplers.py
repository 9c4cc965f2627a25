"""The table of samplers: the paper's 22 rows, what the table knows of scorers, and rows that others add."""

import dataclasses
import inspect
import subprocess
import sys
import types
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Literal, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pipeline_steps.samplers as samplers
from pipeline_steps import BaseScorer, KeysScorer
from pipeline_steps.errors import WinnowError
from pipeline_steps.numerics.priority import MODES
from pipeline_steps.samplers import FAMILIES, FULL, SAMPLERS, Sampler, families, find, label, ordered, register


ALONE, ASKED, SURPRISED = "Coverage and baselines", "Ask-LLM, by proxy", "Perplexity, by proxy"
TRAINED = "Perplexity, by training of the proxy"
PAPER = [
    ("random", "random", None, "Random", ALONE),
    ("density", "ips", None, "Density", ALONE),
    ("semdedup", "bottom", None, "SemDeDup", ALONE),
    ("prototypes", "top", None, "Prototypes", ALONE),
    ("dsir", "direct", None, "DSIR", ALONE),
    ("quality-classifier", "top", None, "Quality classifier", ALONE),
    ("ask-llm-small", "top", "google/flan-t5-small", "Ask-LLM (Small)", ASKED),
    ("ask-llm-base", "top", "google/flan-t5-base", "Ask-LLM (Base)", ASKED),
    ("ask-llm-large", "top", "google/flan-t5-large", "Ask-LLM (Large)", ASKED),
    ("ask-llm-xl", "top", "google/flan-t5-xl", "Ask-LLM (XL)", ASKED),
    ("ask-llm-xxl", "top", "google/flan-t5-xxl", "Ask-LLM (XXL)", ASKED),
    ("ask-llm-gemma-7b", "top", "google/gemma-7b-it", "Ask-LLM (Gemma 7B)", ASKED),
    ("perplexity-small", "bottom", "google/t5-v1_1-small", "Perplexity (Small)", SURPRISED),
    ("perplexity-base", "bottom", "google/t5-v1_1-base", "Perplexity (Base)", SURPRISED),
    ("perplexity-large", "bottom", "google/t5-v1_1-large", "Perplexity (Large)", SURPRISED),
    ("perplexity-xl", "bottom", "google/t5-v1_1-xl", "Perplexity (XL)", SURPRISED),
    ("perplexity-xxl", "bottom", "google/t5-v1_1-xxl", "Perplexity (XXL)", SURPRISED),
    ("perplexity-large-20k", "bottom", "t5-large@20000", "Perplexity (Large, 20k)", TRAINED),
    ("perplexity-large-100k", "bottom", "t5-large@100000", "Perplexity (Large, 100k)", TRAINED),
    ("perplexity-large-300k", "bottom", "t5-large@300000", "Perplexity (Large, 300k)", TRAINED),
    ("perplexity-large-500k", "bottom", "t5-large@500000", "Perplexity (Large, 500k)", TRAINED),
    ("perplexity-large-700k", "bottom", "t5-large@700000", "Perplexity (Large, 700k)", TRAINED),
]
NAMES = [row[0] for row in PAPER]
DOCS = Path(__file__).parents[2] / "docs" / "samplers.md"


class LengthScorer(BaseScorer):
    """A scorer of a test's own: short documents are good."""

    lower_is_better = True

    def __init__(self, scores: str, clusters: str, unit: Literal["bytes", "words"] = "words", metadata_key="length"):
        super().__init__(scores, metadata_key)
        self.clusters, self.unit = clusters, unit

    def fingerprint(self):
        return {"scorer": "LengthScorer", "unit": self.unit}

    def score(self, docs):
        return [float(len(doc.text)) for doc in docs]


MINE = Sampler(
    "mine", f"{__name__}:LengthScorer", "bottom", "clusters", family=ALONE, label="My own", options={"unit": "bytes"}
)


@pytest.fixture
def own_table(monkeypatch):
    """A table that the test may change, with no entry points loaded yet."""
    monkeypatch.setattr(samplers, "SAMPLERS", dict(SAMPLERS))
    samplers._load_entry_points.cache_clear()
    yield samplers.SAMPLERS
    samplers._load_entry_points.cache_clear()


def test_the_papers_rows():
    rows = [one for one in SAMPLERS.values() if one.paper]
    assert [(one.name, one.cut, one.model, one.label, one.family) for one in rows] == PAPER
    assert all(one.name == name and one.cut in MODES for name, one in SAMPLERS.items())
    assert {
        title: tuple(row[0] for row in PAPER if row[4] == title) for title in (ALONE, ASKED, SURPRISED, TRAINED)
    } == FAMILIES


def test_plain_scorers_are_rows_whose_model_must_be_given():
    assert {name for name, one in SAMPLERS.items() if not one.paper} == {"ask-llm", "perplexity", "contamination"}
    assert find("ask-llm").model == find("perplexity").model == ""
    assert samplers.of_scorer("AskLLMScorer").name == "ask-llm"
    assert samplers.of_scorer("DensityScorer").name == "density"
    assert samplers.of_scorer("WordCountScorer") is samplers.of_scorer(None) is None


def test_importing_the_table_is_light():
    code = "import sys, pipeline_steps.samplers; print({'numpy', 'torch', 'datatrove', 'pyarrow'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=list(SAMPLERS))
def test_a_scorer_takes_what_its_row_says(sampler):
    scorer = sampler.scorer_class()
    assert issubclass(scorer, BaseScorer)
    assert scorer.__name__ == sampler.scorer_name
    options = sampler.options_of()
    assert not {"scores", "model", "metadata_key", "embeddings", "sketch", "clusters"} & options.keys()
    assert not any(isinstance(one.annotation, str) for one in options.values())
    assert sampler.options.keys() <= options.keys()
    model = {} if sampler.model is None else {"model": "some/model"}
    step = scorer("scores", *sampler.folders, **model, **{name: one.default for name, one in options.items()})
    assert step.store == "scores"
    assert [folder for folder in sampler.folders if folder not in vars(step).values()] == []
    if (key := sampler.metadata_key()) is not None:
        assert step.metadata_key == key
    parameters = inspect.signature(scorer.__init__).parameters
    assert len(parameters) == 2 + len(sampler.folders) + len(options) + (key is not None) + len(model)


def test_options_and_keys_of_some_scorers():
    assert find("random").scorer_class() is KeysScorer
    assert find("random").options_of() == {}
    assert find("random").metadata_key() is None
    assert list(find("ask-llm").options_of()) == "revision prompt max_tokens dtype vllm window_size".split()
    assert "float8" in get_args(find("ask-llm").options_of()["dtype"].annotation)
    assert find("ask-llm").options_of()["max_tokens"].default == 512
    assert find("quality-classifier").metadata_key() == "quality"
    assert {one.scorer_name for one in SAMPLERS.values() if one.scorer_class().lower_is_better} == {
        "ContaminationScorer",
        "DensityScorer",
        "PerplexityScorer",
        "SemDeDupScorer",
    }


def test_a_misspelt_name_is_answered_with_the_nearest():
    with pytest.raises(WinnowError, match=r"no sampler 'semdedupe': did you mean semdedup\?"):
        find("semdedupe")
    with pytest.raises(WinnowError, match=r"no sampler 'zzz': there are random, density, .*perplexity-large-700k"):
        find("zzz")


def test_labels_and_groups():
    assert label(FULL) == "Full data"
    assert label("<mine>") == "<mine>"
    assert ordered(["zebra", "ask-llm-xl", FULL, "random", "random"]) == [FULL, "random", "ask-llm-xl", "zebra"]
    assert families([FULL, "ask-llm", "random"]) == {ALONE: ["random"], ASKED: ["ask-llm"]}
    assert families(["mine", "perplexity"]) == {SURPRISED: ["perplexity"], "Others": ["mine"]}
    assert list(families([*FAMILIES[ASKED], "ask-llm"])) == [ASKED, f"{ASKED}, 2"]


@given(st.lists(st.sampled_from([*SAMPLERS, FULL, "own-a", "own-b"]) | st.text(max_size=5)))
def test_every_name_is_ordered_once_and_in_one_group(names):
    there = ordered(names)
    assert sorted(there) == sorted(set(names))
    assert ordered(reversed(names)) == there == ordered(there)
    grouped = families(names)
    assert [name for group in grouped.values() for name in group] == [name for name in there if name != FULL]
    assert all(0 < len(group) <= 6 for group in grouped.values())


def test_a_registered_sampler_is_seen_everywhere(own_table):
    assert label("mine") == "mine"
    register(MINE)
    register(dataclasses.replace(MINE))  # the same row again
    assert find("mine") is MINE
    assert label("mine") == "My own"
    assert families(["mine", "random"]) == {ALONE: ["random", "mine"]}
    assert ordered(["ask-llm-xl", "mine"]) == ["mine", "ask-llm-xl"]
    assert MINE.folders == ("clusters",)
    assert list(MINE.options_of()) == ["unit"]
    assert MINE.options_of()["unit"].annotation == Literal["bytes", "words"]
    assert MINE.metadata_key() == "length"
    said = samplers.markdown()
    assert "| `mine` | My own | `LengthScorer(unit='bytes')` | bottom | clusters |  | low |" in said
    assert "| `LengthScorer` | `unit = 'words'` |" in said
    with pytest.raises(WinnowError, match="there is a sampler mine already"):
        register(dataclasses.replace(MINE, cut="top"))
    assert find("mine") is MINE


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"name": ""}, "a sampler cannot be called ''"),
        ({"name": FULL}, "a sampler cannot be called 'full'"),
        ({"stands_on": "cluster"}, "sampler mine: there is no foundation 'cluster', did you mean clusters"),
        ({"cost": "dear"}, "sampler mine: there is no cost 'dear'"),
        ({"scorer": "LengthScorer"}, "write it as package.module:Class"),
    ],
)
def test_a_row_that_makes_no_sense_is_refused(wrong, said):
    with pytest.raises(WinnowError, match=said):
        dataclasses.replace(MINE, **wrong)


@pytest.mark.parametrize("scorer", ["no_such_package.scorers:Scorer", "pipeline_steps.scorers.keys:NoScorer"])
def test_a_scorer_that_cannot_be_imported_is_named(scorer):
    with pytest.raises(WinnowError, match=f"sampler mine: its scorer {scorer} cannot be imported"):
        dataclasses.replace(MINE, scorer=scorer).scorer_class()


@pytest.fixture
def entry_point(monkeypatch, own_table):
    """Install a package whose entry point holds what is given; return how often entry points were looked up."""
    looked = []

    def install(held):
        monkeypatch.setitem(sys.modules, "their_package", types.SimpleNamespace(SAMPLERS=held))
        entry = EntryPoint("theirs", "their_package:SAMPLERS", "winnow.samplers")
        monkeypatch.setattr("importlib.metadata.entry_points", lambda group: looked.append(group) or [entry])
        return looked

    return install


def test_entry_points_are_loaded_once_and_when_needed(entry_point, own_table):
    looked = entry_point([MINE, dataclasses.replace(MINE, name="mine-too")])
    assert "mine" not in own_table
    assert find("mine") is MINE
    assert label("mine-too") == "My own"
    assert looked == ["winnow.samplers"]


def test_an_entry_point_may_hold_one_sampler(entry_point):
    entry_point(MINE)
    assert families(["mine"]) == {ALONE: ["mine"]}


@pytest.mark.parametrize(
    ("held", "said"),
    [
        (["mine"], "holds 'mine', which is no Sampler"),
        (7, "cannot be loaded"),
        ([dataclasses.replace(MINE, name="random")], "there is a sampler random already"),
    ],
)
def test_an_entry_point_that_is_no_sampler_is_named(entry_point, held, said):
    entry_point(held)
    for _ in range(2):  # the mistake does not go away by being met once
        with pytest.raises(WinnowError, match=said):
            find("mine")


def test_the_documentation_is_the_table():
    regenerate = "run: python -m pipeline_steps.samplers > docs/samplers.md"
    assert DOCS.read_text() == samplers.markdown(), regenerate
    ran = subprocess.run([sys.executable, "-m", "pipeline_steps.samplers"], capture_output=True, text=True, check=True)
    assert ran.stdout == DOCS.read_text(), regenerate
    assert ran.stderr == ""
