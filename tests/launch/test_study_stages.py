"""What a study has to do: shared work once, nothing before what it needs, nothing twice."""

import dataclasses

import pytest

from launch.plan import Plan
from launch.records import Watched, is_done, record_file, task_state, tasks_left
from launch.stages.measurements import Perplexity
from launch.stages.runs import Training, _flags
from launch.study_file import open_study, parse_study
from launch.study_samplers import store_of
from pipeline_steps.samplers import find


SMALL = """\
output: {output}
samplers: [random, density, {{mine: {{scorer: perplexity, model: t5-tiny@4}}}}]
rates: [0.2, 0.5]
models:
  t5-tiny: {{total_tokens: 65536, milestones: [2]}}
references:
  t5-small: {{total_tokens: 65536}}
"""


@pytest.fixture
def small(tmp_path):
    return parse_study("s.yaml", SMALL.format(output=tmp_path))


def stages_of(study):
    return Plan.of(study).stages


def fingerprints(study):
    return {name: stage.made for name, stage in stages_of(study).items()}


def store(sampler):
    return f"scores/{store_of(sampler)}"


def changed(sampler, **change):
    """Return the sampler as the study file would have it with another scorer's row."""
    if "scorer" in change:
        row = find(change["scorer"])
        change |= {"row": row.name, "scorer": row.scorer, "stands_on": row.stands_on, "cost": row.cost}
    return dataclasses.replace(sampler, **change)


@pytest.mark.parametrize("name", ["paper.yaml", None])
def test_every_stage_comes_after_what_it_needs(name, small):
    stages = stages_of(open_study(name) if name else small)
    seen = set()
    for key, stage in stages.items():
        assert key == stage.name
        assert {one.name for one in stage.inputs} <= seen, stage.name
        for one in stage.inputs:  # equal stages are one, also for who looks for their tasks
            found = stages[one.name]
            assert (found, found.tasks, found.devices) == (one, one.tasks, one.devices)
        seen.add(stage.name)
    assert len({stage.made for stage in stages.values()}) == len(stages)


def test_the_papers_study_shares_its_work():
    study = open_study("paper.yaml")
    stages = stages_of(study)
    kinds = [name.partition("/")[0] for name in stages]
    assert kinds.count("runs") == 224
    assert kinds.count("scores") == 21 + 1  # one store for each scorer and proxy, and keys for chance
    assert kinds.count("selections") == 22 * 5
    assert kinds.count("embeddings") == 1
    assert kinds.count("measured") == 224 * (1 + 4 + 1)
    assert len([one for one in stages["report"].inputs if one.kind == "measured"]) == kinds.count("measured")
    trained = stages["scores/perplexity-large-20k"].inputs
    assert [stage.name for stage in trained] == ["runs/t5-large/full-1-seed0"]


def test_stores_are_shared_by_scorer_and_proxy_and_chance_has_its_own(small):
    twice = changed(small.samplers[1], name="dense", cut="top")
    study = small.model_copy(update={"samplers": [*small.samplers, twice]})
    by_name = {sampler.name: store(sampler) for sampler in study.samplers}
    assert by_name == {
        "random": "scores/keys",
        "density": "scores/density",
        "mine": store(small.samplers[2]),
        "dense": "scores/density",
    }
    assert set(by_name.values()) <= stages_of(study).keys()
    assert by_name["mine"].startswith("scores/perplexity-t5-tiny-4-")
    asked = changed(twice, scorer="ask-llm", model="embedded")
    for change, name in {
        ("embedded", ()): "scores/ask-llm",
        ("google/flan-t5-xl", ()): "scores/ask-llm-xl",
        ("google/flan-t5-xl", (("max_tokens", 9),)): "scores/ask-llm-flan-t5-xl-",
        ("/a/model", ()): "scores/ask-llm-model-",
    }.items():
        model, options = change
        assert store(dataclasses.replace(asked, model=model, options=dict(options))).startswith(name)
    one, other = (dataclasses.replace(asked, model=f"/{folder}/model") for folder in "ab")
    assert store(one) != store(other)


def test_what_is_added_to_a_study_leaves_what_is_done_alone(small):
    before = fingerprints(small)
    for change in (
        {"rates": [0.5, 0.1, 0.2]},
        {"samplers": [*small.samplers[::-1], changed(small.samplers[1], name="new", cut="top")]},
        {"samplers": [changed(small.samplers[1], name="new", cut="top"), *small.samplers]},
        {"seeds": [0, 7]},
        {"models": {**small.models, "t5-small": small.references["t5-small"]}, "references": {}},
        {"models": {name: {**given, "micro_batch_size": 2} for name, given in small.models.items()}},
    ):
        after = fingerprints(small.model_copy(update=change))
        assert {name for name in before if after.get(name) != before[name]} <= {"report"}, change


def test_a_limit_is_of_the_whole_corpus():
    """Not of each task, as datatrove's readers take it."""
    text = SMALL.format(output="out").replace(
        "rates", "corpus: c/\nheld_out: {c4: h/}\nlimit: 10\nengine: {tasks: 4}\nrates"
    )
    stages = stages_of(parse_study("s.yaml", text))
    assert {name for name, stage in stages.items() if stage.tasks > 1} == {"density/sketch"}  # reads embeddings


def test_held_out_text_is_the_corpus_own_or_given(small):
    def splits_of(study):
        (held_out, *_) = [one.held_out for one in stages_of(study).values() if isinstance(one, Perplexity)]
        return {task: [one.name for one in tokens] for task, tokens in held_out}

    assert splits_of(small) == {
        "in_distribution": ["tokens/in_distribution"],
        "high_quality": ["tokens/high_quality"],
    }
    paper = open_study("paper.yaml")
    sources = ("wiki40b", "realnewslike", "openwebtext", "lm1b")  # App. C.2
    assert splits_of(paper)["high_quality"] == [f"tokens/high_quality/{source}" for source in sources]
    assert "corpus" not in stages_of(paper)


def test_a_fingerprint_follows_what_decides_and_nothing_else(small):
    before = fingerprints(small)
    engine = small.engine.model_copy(update={"tasks": 7, "workers": 3})
    assert fingerprints(small.model_copy(update={"engine": engine})) == before
    other = small.model_copy(update={"embedder": "some/model"})
    after = fingerprints(other)
    changed = {name for name in before if before[name] != after[name]}
    assert {"embeddings", "scores/density", "selections/density/0.2", "runs/t5-tiny/density-0.2-seed0"} <= changed
    assert {
        "corpus",
        "tokens/train",
        "runs/t5-tiny/full-1-seed0",
        store(small.samplers[2]),
        "selections/random/0.2",
    } & changed == set()


def test_the_precision_of_the_launcher_decides(small):
    name = "runs/t5-tiny/full-1-seed0"
    before = fingerprints(small)[name]
    for launch, same in (
        ("--num_processes 2", True),
        ("--mixed_precision no", True),
        ("--mixed_precision=bf16", False),
    ):
        engine = small.engine.model_copy(update={"launch": launch})
        assert (fingerprints(small.model_copy(update={"engine": engine}))[name] == before) is same


def test_a_task_is_done_once_and_of_this_study_alone(small):
    output, stage = small.output, stages_of(small)["corpus/deal"]
    stage = dataclasses.replace(stage, tasks=8)
    assert tasks_left(output, stage) == list(range(8))
    work = Watched(output, stage, 3, "a.log")
    assert task_state(output, stage, 3).state == "running"
    work.stop("it failed")
    assert (task_state(output, stage, 3).state, tasks_left(output, stage)) == ("failed", list(range(8)))
    Watched(output, stage, 3, "a.log").done()
    assert task_state(output, stage, 3).state == "done"
    assert tasks_left(output, stage) == [0, 1, 2, 4, 5, 6, 7]
    assert not is_done(output, dataclasses.replace(stage, limit=9), 3)  # another study's
    record_file(output, stage, 3).write_text("")  # what a full disk leaves
    assert not is_done(output, stage, 3)


def test_commands_of_runs(small):
    stages = stages_of(small)
    full = _flags(stages["runs/t5-tiny/full-1-seed0"].settings(small.output))
    assert full[full.index("--milestones") + 1 :][:2] == ["2", "4"]  # a sampler scores with step 4
    assert not any(word.startswith("--selection") for word in full)
    selected = _flags(stages["runs/t5-tiny/density-0.5-seed0"].settings(small.output))
    assert f"--selection={small.output}/selections/density/0.5.safetensors" in selected
    assert "--preset=t5-tiny" in selected
    assert {stage.run for stage in stages.values() if isinstance(stage, Training)} == set(small.runs())


def test_devices_that_a_task_runs_on():
    study = parse_study(
        "s.yaml",
        "output: o\nrates: [0.2]\nmodels: {t5-tiny: {total_tokens: 65536}}\n"
        "samplers: [random, {served: {scorer: ask-llm, model: m, options: {vllm: {tensor-parallel-size: 2}}}}, "
        "{asked: {scorer: ask-llm, model: m}}, density]\n"
        "evaluation: {suites: [glue], few_shot: [mmlu], instruction_tune: false, domains: {news: n/}}\n"
        "engine: {launch: --multi_gpu --num_processes=4}\n",
    )
    stages, run = stages_of(study), "t5-tiny/random-0.2-seed0"
    served, asked = (store(sampler) for sampler in study.samplers[1:3])
    for name, devices in {
        "tokens/train": 0,
        "embeddings": 0,  # hashed n-grams ask no model
        "scores/density": 0,
        asked: 1,
        served: 2,
        f"runs/{run}": 4,
        f"measured/{run}/perplexity": 1,
        f"measured/{run}/bits-per-byte": 1,
        f"measured/{run}/few-shot": 1,
        f"measured/{run}/glue": 4,
        "report": 0,
    }.items():
        assert stages[name].devices == devices, name
    evaluation = study.evaluation.model_copy(update={"instruction_tune": True})
    tuned = stages_of(study.model_copy(update={"evaluation": evaluation}))
    assert tuned[f"measured/{run}/few-shot"].devices == 4
