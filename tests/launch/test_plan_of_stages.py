"""Stages are values: equal ones are one, defaults decide nothing, and a sampler is a row and a class, nowhere else."""

import json
from dataclasses import field, make_dataclass
from types import SimpleNamespace

import pytest
import yaml
from conftest import document

from launch import study_file
from launch.cost.plan import plan_study
from launch.plan import Plan
from launch.records import tasks_left
from launch.small_studies import score_values
from launch.stages.base import Stage
from launch.stages.corpora import Files, TokenStage
from launch.stages.measurements import Perplexity
from launch.stages.runs import Run, Training
from launch.study_file import open_study, parse_study
from launch.worker import run_task
from pipeline_steps import BaseScorer, ScoreStore, Selection, samplers
from pipeline_steps.errors import InvalidStudy
from pipeline_steps.readers.reading import USUAL
from pipeline_steps.samplers import Sampler


def tokens(**change):
    return TokenStage(**{"text": Files("c/", "train"), "tokenizer": "embedded"} | change)


def test_two_equal_stages_are_one():
    assert tokens() == tokens()
    assert hash(tokens()) == hash(tokens())
    assert tokens() == tokens(tasks=9, devices=1)  # which decide nothing
    for other in (tokens(tokenizer="t5"), tokens(text=Files("c/", "train", 5)), tokens(append_eos=True)):
        assert tokens() != other
        assert tokens().made != other.made
    run = Run("full", 1.0, "t5-tiny", 0)
    training = Training(run=run, tokens=tokens(), arguments={"preset": "t5-tiny"})
    twice = Perplexity(training=training, held_out=(("c4", (tokens(), tokens(tasks=4))),))
    assert twice.inputs == (training, tokens())  # each once, in the order of the fields


def fingerprint(*, part=(), stage=()):
    """Return the fingerprint of a stage that has a part, both with further fields and their defaults."""
    part_class = make_dataclass("Part", [("name", str), *part], frozen=True)
    names = {"kind": "one", "name": "one"}
    own = [("part", object), ("rate", float), *stage]
    stage_class = make_dataclass("One", own, bases=(Stage,), namespace=names, frozen=True, eq=False, kw_only=True)
    return stage_class(part=part_class("a"), rate=0.5).made


def test_a_new_setting_at_its_default_redoes_nothing():
    before = fingerprint()
    for new in (
        ("more", int, field(default=3)),
        ("also", tuple, field(default=())),
        ("options", dict, field(default_factory=dict)),
        ("workers", int, field(default=3, metadata={"decides": False})),
    ):
        assert fingerprint(stage=[new]) == before, new
        assert fingerprint(part=[new]) == before, new
    Changed = make_dataclass("Part", [("name", str), ("more", int, 3)], frozen=True)
    One = make_dataclass(
        "One", [("part", object)], bases=(Stage,), namespace={"kind": "one"}, frozen=True, kw_only=True
    )
    assert One(part=Changed("a")).made != One(part=Changed("a", 4)).made


def test_two_stages_never_share_a_name():
    """The records of one would be those of the other."""
    text = "output: o\ncorpus: c\nrates: [0.5]\n"
    text += "samplers: [{density: {scores: old, mode: top}}, {dense: {scorer: density}}]\n"
    with pytest.raises(InvalidStudy, match="two stages would be called scores/density: give a sampler another name"):
        Plan.of(parse_study("s.yaml", text))
    assert Plan.of(parse_study("s.yaml", text.replace("{density:", "{old:"))).stages


def test_corpora_never_share_a_listing():
    text = "output: o\ncorpus: c\nsamplers: [random]\nrates: [0.5]\nmodels: {t5-tiny: {total_tokens: 65536}}\n"
    text += "held_out: {a: {b-c: x}, a-b: {c: y}}\n"
    sources = {one for stage in Plan.of(parse_study("s.yaml", text)).stages.values() for one in stage.sources}
    assert len({source.listing("o") for source in sources}) == len(sources) == 3
    with pytest.raises(InvalidStudy, match="two corpora would be called domains/d: give a held-out text another name"):
        Plan.of(parse_study("s.yaml", text.replace("a:", "domains: {d: z}, a:") + "evaluation: {domains: {d: y}}\n"))


@pytest.mark.parametrize(
    ("held_out", "name"), [("{a-b: x, a: {b: y, c: z}}", "a-b"), ("{macro: x}", "macro"), ("{m: {acro: x}}", "")]
)
def test_held_out_texts_never_share_a_domain(held_out, name):
    """The numbers of one would be taken for the other's, or for the mean over domains."""
    text = "output: o\ncorpus: c\nsamplers: [random]\nrates: [0.5]\nmodels: {t5-tiny: {total_tokens: 65536}}\n"
    text += f"held_out: {held_out}\n"
    assert Plan.of(parse_study("s.yaml", text)).stages
    text += "evaluation: {domains: held_out}\n"
    if not name:
        assert Plan.of(parse_study("s.yaml", text)).stages
        return
    with pytest.raises(InvalidStudy, match=f"two domains would be called {name}: give a held-out text another name"):
        Plan.of(parse_study("s.yaml", text))


PINNED = {
    "decoder.yaml": {
        "scores/perplexity-olmo-150m-155-d327456d": "058dc94c05bda4c731745a1549a6b65c",
        "tokens/decoders/train": "10d6801b11d7a6c7b3c2f4c47c46d4ab",
        "runs/olmo-20m-1xC/density-0.2-seed0": "ed53824045a0cad68743cb19105afd74",
        "measured/olmo-150m/full-1-seed0/few-shot": "4b6014a4dc541ea24351b9fda11995ab",
        "report": "7dcd5e20e1f8e74ee02760f8f7774821",
    },
    "micro-decoder.yaml": {
        "tokens/decoders/train": "27dec29e8dca0a6a7138b272c60e6019",
        "runs/llama-nano-half/dsir-0.3-seed0": "7f9160f395e403225ec166d3151570a6",
        "measured/llama-micro/full-1-seed0/bits-per-byte": "41644c93f0f5d3d59df36ceec9c98f9e",
        "report": "abdd28d89427140a8fb3eaeaa8eab63b",
    },
    "micro.yaml": {
        "proxies/tiny-t5-1": "b0f110b49393f293d9017bd42b1af768",
        "scores/semdedup": "51714ba4f1f290627e36792df83df693",
        "scores/dsir": "2272150e58774522164b546a0d4b4c03",
        "report": "ce1e9d13975045afd405f9b418946640",
    },
    "paper.yaml": {
        "scores/perplexity-large-20k": "5e253e790a06868f540e99df6e903cea",
        "runs/t5-small/density-0.2-seed0": "9974dab34e8541ad46418dc7cd476cbf",
        "runs/t5-xl/full-1-seed0": "14cb5b9119ec838306854839420cb32d",
        "measured/t5-small/full-1-seed0/glue": "9460093e039c798ce5649c27c84a8349",  # at several checkpoints
        "measured/t5-small/full-1-seed0/few-shot": "49339932904cb5a30e5bfed8c99d7a4a",
        "report": "dce26f3255f54640a95e0821366a12c1",
    },
    "quickstart.yaml": {
        "corpus": "b60891709c49e2db45c500024986f7d6",
        "tokens/train": "6b89035888dbed28e9a4de521f213ec1",
        "runs/t5-tiny/ask-llm-0.2-seed0": "39157dae00eab4dcc2de1e796a580cc9",
        "report": "60481ee2d13d4fb385d1693d123d98fc",
    },
}  # a report stands on everything


@pytest.mark.parametrize("study", study_file.shipped())
def test_fingerprints_of_the_packaged_studies_are_those_of_their_first_day(study):
    """Another one does all studies again that somebody has begun: give a new field a default that changes nothing."""
    stages = Plan.of(open_study(study)).stages
    assert {name: stages[name].made for name in PINNED[study]} == PINNED[study]


# ---------------------------------------------------------------------------------------------- a sampler of one's own


class ShoutScorer(BaseScorer):
    """How often a text has a mark."""

    name = "shout"
    lower_is_better = True

    def __init__(self, scores, mark: str = ".", **kwargs):
        super().__init__(scores, "shout", **kwargs)
        self.mark = mark

    def fingerprint(self):
        return {"scorer": "ShoutScorer", "mark": self.mark}

    def score(self, docs):
        return [float(doc.text.count(self.mark)) for doc in docs]


class PerplexityScorer(ShoutScorer):
    """A scorer that has the name of one of this package's."""


SHOUT = Sampler("shout", f"{__name__}:ShoutScorer", "bottom", family="Coverage and baselines", label="Shouting")


@pytest.fixture
def own(monkeypatch):
    """The table, with rows of a user's that are gone afterwards."""
    monkeypatch.setattr(samplers, "SAMPLERS", dict(samplers.SAMPLERS))
    samplers.register(SHOUT)
    samplers.register(Sampler("alike", f"{__name__}:PerplexityScorer", "top"))


TEXT = """\
output: {folder}/out
corpus: {folder}/c.jsonl
samplers: [shout, {{loud: {{scorer: shout, mode: top, options: {{mark: "7"}}}}}}, alike, random]
rates: [0.5]
"""


@pytest.fixture
def study(tmp_path, own):
    lines = [json.dumps(document(number)) + "\n" for number in range(20)]
    (tmp_path / "c.jsonl").write_text("".join(lines))
    return parse_study("s.yaml", TEXT.format(folder=tmp_path))


def test_a_sampler_that_nobody_has_registered_is_not_known(tmp_path):
    with pytest.raises(InvalidStudy, match="no sampler 'shout'"):
        parse_study("s.yaml", TEXT.format(folder=tmp_path))


def test_a_study_runs_a_sampler_of_ones_own(study):
    plan = Plan.of(study)
    for name, stage in plan.stages.items():
        assert run_task(plan, name, 0) == 0
        assert not tasks_left(plan.output, stage)
        stage.check_output(plan.output, whole=True)
    stores = {
        name: ScoreStore.open(plan.stages[name].folder(plan.output)) for name in plan.stages if "scores/" in name
    }
    (loud,) = stores.keys() - {"scores/shout", "scores/alike", "scores/keys"}
    assert loud.startswith("scores/shout-")
    assert set(stores["scores/shout"].scores) == {1.0}
    assert stores["scores/shout"].made["scorer"] == stores["scores/alike"].made["scorer"] == "ShoutScorer"
    assert stores["scores/shout"].lower_is_better
    texts = [document(number)["text"] for number in range(20)]
    assert list(stores[loud].scores) == [text.count("7") for text in texts]
    kept = Selection.load(plan.stages["selections/loud/0.5"].file(plan.output))
    scores = stores[loud].scores
    assert kept.documents == 10
    assert scores[kept.mask].min() >= scores[~kept.mask].max()


def test_a_sampler_of_ones_own_is_priced(study):
    costs = {one.stage: one for one in plan_study(study, 1e15).stages}
    assert costs["scores/shout"].hours is not None
    assert costs["scores/shout"].hours < 0.1


def test_commands_know_a_sampler_of_ones_own(own, tmp_path):
    flags = SimpleNamespace(corpus="c/", limit=-1, embedder="hashed-ngrams", target=None, proxy=None, reading=USUAL)
    values = score_values(str(tmp_path), "shout", flags)
    assert values["samplers"] == ["shout"]
    assert list(Plan.of(parse_study("s.yaml", yaml.safe_dump(values))).stages) == ["scores/shout"]


def test_reports_and_documents_know_a_sampler_of_ones_own(own):
    assert samplers.label("shout") == "Shouting"
    assert samplers.families(["shout", "random"]) == {"Coverage and baselines": ["random", "shout"]}
    said = samplers.markdown()
    assert "| `shout` | Shouting | `ShoutScorer` | bottom |  |  | low |" in said
    assert "| `ShoutScorer` | `mark = '.'` |" in said
    (paper, listed) = study_file.schema()["properties"]["samplers"]["anyOf"]
    assert "shout" in listed["items"]["anyOf"][0]["enum"]
    assert paper == {"const": "paper"}


WSD = "total_tokens: 131072, optimizer: adamw, schedule: wsd, warmup_steps: 8"
MIXED = f"""
output: out
samplers: [random]
rates: [0.5]
models:
  nano: {{preset: llama-nano, {WSD}}}
  nano-half: {{branch_from: nano, total_tokens: 65536}}
  t5-tiny: {{total_tokens: 65536}}
evaluation: {{domains: held_out, suites: [glue], few_shot: [mmlu], data_root: data}}
"""


def test_t5s_and_decoders_stand_in_one_study_each_with_its_own_tokens():
    stages = Plan.of(parse_study("s.yaml", MIXED)).stages
    t5, decoder = stages["tokens/train"], stages["tokens/decoders/train"]
    assert (t5.tokenizer, t5.append_eos, decoder.tokenizer, decoder.append_eos) == (
        "embedded",
        False,
        "embedded-bpe",
        True,
    )
    assert stages["runs/nano/random-0.5-seed0"].tokens == decoder
    assert stages["runs/t5-tiny/random-0.5-seed0"].tokens == t5
    held_out = stages["measured/nano/full-1-seed0/perplexity"].held_out
    assert {one.name for _, stores in held_out for one in stores} == {
        "tokens/decoders/in_distribution",
        "tokens/decoders/high_quality",
    }
    measured = {name.rpartition("/")[2] for name in stages if name.startswith("measured/nano/")}
    assert measured == {"perplexity", "bits-per-byte", "few-shot"}  # T5's fine-tuning is not for decoders
    assert not stages["measured/nano/full-1-seed0/few-shot"].instruction_tune
    assert stages["measured/t5-tiny/full-1-seed0/few-shot"].instruction_tune


def test_a_smaller_budget_is_a_branch_of_the_same_run():
    stages = Plan.of(parse_study("s.yaml", MIXED)).stages
    trunk, branch = stages["runs/nano/random-0.5-seed0"], stages["runs/nano-half/random-0.5-seed0"]
    assert trunk in branch.inputs
    assert trunk.milestones == (28,)  # 32 steps, of which the last tenth decays
    settings = branch.settings("out")
    assert settings["branch_from"] == trunk.folder("out")
    assert settings["model_name"] == "nano-half"
    assert {name: settings[name] for name in ("preset", "optimizer", "schedule", "warmup_steps", "total_tokens")} == {
        "preset": "llama-nano",
        "optimizer": "adamw",
        "schedule": "wsd",
        "warmup_steps": 8,
        "total_tokens": 65536,
    }


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("{branch_from: nano, total_tokens: 65536, batch_size: 8}", "nano-half has batch_size from nano"),
        ("{branch_from: nan, total_tokens: 65536}", "nano-half cannot branch from nan: did you mean nano"),
        ("{branch_from: nano-half, total_tokens: 65536}", "nano-half cannot branch from nano-half"),
        ("{branch_from: nano, config: TMP/other.yaml}", "nano-half has learning_rate from nano"),
        ("{branch_from: t5-tiny}", "branch_from is a setting of the schedule wsd"),
    ],
)
def test_a_branch_that_cannot_be_is_refused(given, said, tmp_path):
    (tmp_path / "other.yaml").write_text("learning_rate: 1.0e-3\n")
    text = MIXED.replace("{branch_from: nano, total_tokens: 65536}", given.replace("TMP", str(tmp_path)))
    with pytest.raises(InvalidStudy, match=said):
        parse_study("s.yaml", text)


@pytest.mark.parametrize(
    ("model", "objective", "said"),
    [
        ("nano@28", "causal", ""),
        ("nano-half@30", "causal", ""),
        ("t5-tiny@16", "prefix_lm", ""),
        ("nano-half@28", "causal", "nano-half branches from nano after step 28: give nano@28"),
        ("nano@28", "span_corruption", "nano is a decoder: add options: {objective: causal}"),
        ("t5-tiny@16", "causal", "t5-tiny is a T5: leave out options: {objective: causal}"),
    ],
)
def test_a_checkpoint_scores_as_what_it_is(model, objective, said):
    """Or the study would only find out once the model is trained."""
    sampler = f"{{late: {{scorer: perplexity, model: {model}, options: {{objective: {objective}}}}}}}"
    text = MIXED.replace("[random]", f"[{sampler}]")
    if not said:
        assert Plan.of(parse_study("s.yaml", text)).stages
        return
    with pytest.raises(InvalidStudy, match=said):
        parse_study("s.yaml", text)
