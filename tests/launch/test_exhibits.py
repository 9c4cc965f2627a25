"""Every table and figure of the paper has what it needs in the paper's study, and what others lack is said."""

import json

import pytest
import yaml

from evaluate_suite.exhibits import EXHIBITS
from launch.cli import main
from launch.exhibits import exhibits_of
from launch.plan import Plan
from launch.study_file import open_study, parse_study, study_text
from pipeline_steps.samplers import SAMPLERS


def fed(text):
    return {one.exhibit: one for one in exhibits_of(Plan.of(parse_study("s.yaml", text)))}


def without(*keys, **change):
    """Return the paper's study without what some keys lead to, and with changes at the top."""
    values = yaml.safe_load(study_text("paper.yaml")) | change
    inner = values
    for key in keys[:-1]:
        inner = inner[key]
    if keys:
        del inner[keys[-1]]
    return yaml.safe_dump(values)


@pytest.fixture(scope="module")
def paper():
    return fed(study_text("paper.yaml"))


def test_no_table_or_figure_of_the_paper_is_empty(paper):
    assert list(paper) == ["Fig. 1", "Fig. 2", "Fig. 3", "Fig. 4", "Table 1", *(f"Fig. {n}" for n in range(5, 31)),
                           "App. E", "Ext. Table 1", "Ext. Table 2"]  # fmt: skip
    for one in paper.values():
        assert one.lacks == (), one.exhibit
        assert one.stages, one.exhibit
        assert all(one.stages.values()), one.exhibit


def test_what_feeds_an_exhibit_by_hand(paper):
    compared = 8 * 5 + 1  # eight samplers at five rates, and everything
    assert paper["Fig. 4"].stages == {"runs": 2 * compared + 2, "measured": 6 * (2 * compared + 2)}
    assert paper["Fig. 5"].stages == {"runs": 2 * (10 * 5 + 1), "measured": 3 * 2 * (10 * 5 + 1)}
    assert paper["Fig. 7"].stages == paper["Fig. 9"].stages == {"scores": 18}
    assert paper["Fig. 2"].stages == {"scores": 1, "selections": 8 * 5, "clusters": 1}
    assert paper["Fig. 16"].stages == {"runs": 5 * 5 + 1 + 1, "measured": 6 * (5 * 5 + 1 + 1)}
    assert paper["Ext. Table 1"].stages["runs"] == 8 * 5 + 4


def test_exhibits_name_samplers_that_there_are():
    for one in EXHIBITS:
        assert {*one.samplers, *one.scores, *one.kept} <= SAMPLERS.keys(), one.name


@pytest.mark.parametrize(
    ("text", "lacking", "said"),
    [
        (without("references"), "Fig. 4", "references: a model on everything that is larger than t5-large"),
        (without("references", "t5-xl"), "Fig. 11", "references: a model on everything that is larger than t5-large"),
        (without("references"), "Ext. Table 1", "references: 3 sizes on everything"),
        (without("evaluation", "every"), "Fig. 5", "evaluation: every, for several checkpoints of glue, superglue"),
        (without("evaluation", "every"), "Fig. 30", "evaluation: every, for several checkpoints of glue, superglue"),
        (without("held_out", "high_quality"), "Fig. 1", "evaluation: hq_perplexity"),
        (without("evaluation", "few_shot"), "Table 1", "evaluation: mmlu, bbh, reasoning and 1 more"),
        (without(models={"t5-small": {"config": "t5-small-paper.yaml"}}, samplers=["random"]), "Fig. 18", "a second"),
        (
            without(samplers=["random", "density", "ask-llm-xl"]),
            "Fig. 7",
            "ask-llm-small, ask-llm-base, ask-llm-large and",
        ),
        (
            without(samplers=["random", "density", "ask-llm-xl"]),
            "Fig. 2",
            "clusters, on which semdedup and prototypes",
        ),
        (without(rates=[0.2]), "Fig. 24", "2 rates"),
    ],
)
def test_what_a_study_lacks_is_said(text, lacking, said):
    found = fed(text)[lacking]
    assert any(said in one for one in found.lacks), found.lacks


def test_the_plan_lists_them_where_none_is_empty_or_if_it_is_asked_to(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["plan", "paper.yaml"]) == 0
    shown = capsys.readouterr().out
    listed = shown[shown.index("the paper's tables and figures") :]
    assert all(one.name in listed for one in EXHIBITS)
    assert "lacks" not in listed
    assert main(["plan", "micro.yaml", "--documents", "1000"]) == 0
    shown = capsys.readouterr().out
    assert "Fig. 30" not in shown
    assert f"of the paper's {len(EXHIBITS)} tables and figures can be drawn: --paper lists all" in shown
    assert main(["plan", "micro.yaml", "--documents", "1000", "--paper"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Fig. 30" in shown
    assert "a second model that is trained on" in shown
    assert main(["plan", "micro.yaml", "--documents", "1000", "--json"]) == 0
    found = {one["exhibit"]: one for one in json.loads(capsys.readouterr().out)["exhibits"]}
    assert found["Fig. 7"] == {
        "exhibit": "Fig. 7", "about": "Kendall's tau of scorers", "stages": {"scores": 18}, "lacks": []
    }  # fmt: skip
    assert found["Fig. 17"]["lacks"]


def test_a_training_feeds_nothing_by_itself(capsys):
    assert main(["plan", "t5-small-paper.yaml", "--paper"]) == 2
    assert "t5-small-paper.yaml is a training" in capsys.readouterr().err


def test_a_plan_without_anything_for_the_paper_says_nothing_of_it(tmp_path, capsys):
    (tmp_path / "s.yaml").write_text(f"output: {tmp_path}/o\ncorpus: {tmp_path}/c.jsonl\nsamplers: [random]\n")
    (tmp_path / "c.jsonl").write_text('{"text": "a b c"}\n' * 3)
    assert main(["plan", str(tmp_path / "s.yaml")]) == 0
    assert "the paper's" not in capsys.readouterr().out


def test_scores_from_outside_the_study_are_shown_as_well():
    """Such a store has the name of its sampler, whatever the sampler's model, options or scorer."""
    given = [
        {"ask-llm-small": {"scores": "s", "options": {"max_tokens": 100}}},
        {"ask-llm-base": {"scores": "s", "scorer": "density"}},
        {"density": {"scores": "s", "mode": "ips", "foundations": {"density": {"rows": 10}}}},
    ]
    for one in given:
        (name,) = one
        found = fed(yaml.safe_dump({"output": "o", "corpus": "c.jsonl", "samplers": [one]}))
        assert found["Fig. 9"].stages == {"scores": 1}, name


def test_the_papers_checkpoints_are_those_of_its_figures():
    stages = Plan.of(open_study("paper.yaml")).stages
    glue = stages["measured/t5-large/density-0.2-seed0/glue"]
    assert glue.steps == (200_000, 400_000, 600_000, 800_000, 1_000_000)  # 105B tokens apart: Fig. 5's axis
    assert glue.tasks == 5
    assert stages["measured/t5-large/density-0.2-seed0/squad"].steps == ()
    assert stages["measured/t5-xl/full-1-seed0/glue"].steps == ()  # of a reference, the last


def test_the_miniature_can_fill_every_table_and_figure():
    """With a second model, a reference and the suites, in place of hours on this machine."""
    values = yaml.safe_load(study_text("micro.yaml"))
    training = values["models"]["t5-tiny"]
    values["models"] = {"t5-tiny": training, "t5-mini": training}
    values["references"] = {"t5-small": training}
    suites, asked = ["glue", "superglue", "cnn_dailymail", "squad"], ["mmlu", "bbh", "reasoning", "qa"]
    values["evaluation"] = {
        "suites": suites,
        "few_shot": asked,
        "budget": "smoke",
        "every": {"glue": 1, "superglue": 1},
    }
    assert {name: one.lacks for name, one in fed(yaml.safe_dump(values)).items() if one.lacks} == {}
