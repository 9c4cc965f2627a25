"""What a study has to do: shared work once, nothing before what it needs, nothing twice."""

import dataclasses

import pytest
from launch.study.progress import Watched, fingerprints, is_done, marker, task_state, tasks_left
from launch.study.ray import levels
from launch.study.reading import open_study, parse_study
from launch.study.stages import devices_of, splits_of, stages_of, store_of
from launch.study.work import run_of, training_arguments


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


@pytest.mark.parametrize("name", ["paper.yaml", None])
def test_every_stage_comes_after_what_it_needs(name, small):
    study = open_study(name) if name else small
    stages = stages_of(study)
    seen = set()
    for stage in stages.values():
        assert set(stage.needs) <= seen, stage.name
        seen.add(stage.name)
    flat = [stage.name for level in levels(stages) for stage in level]
    assert sorted(flat) == sorted(stages)
    for level in levels(stages):
        together = {stage.name for stage in level}
        assert all(not set(stage.needs) & together for stage in level)


def test_the_papers_study_shares_its_work():
    study = open_study("paper.yaml")
    stages = stages_of(study)
    kinds = [name.partition("/")[0] for name in stages]
    assert kinds.count("runs") == 222
    assert kinds.count("scores") == 21 + 1  # one store for each scorer and proxy, and keys for chance
    assert kinds.count("selections") == 22 * 5
    assert kinds.count("embeddings") == 1
    assert kinds.count("measured") == 222 * (1 + 4 + 1)
    assert len(stages["report"].needs) == kinds.count("measured")
    trained = stages["scores/perplexity-large-20k"].needs
    assert trained == ("runs/t5-large/full-1-seed0",)


def test_stores_are_shared_by_scorer_and_proxy_and_chance_has_its_own(small):
    twice = dataclasses.replace(small.samplers[1], name="dense", mode="top")
    study = dataclasses.replace(small, samplers=(*small.samplers, twice))
    by_name = {sampler.name: store_of(sampler) for sampler in study.samplers}
    assert by_name == {
        "random": "scores/keys",
        "density": "scores/density",
        "mine": store_of(small.samplers[2]),
        "dense": "scores/density",
    }
    assert set(by_name.values()) <= stages_of(study).keys()
    assert by_name["mine"].startswith("scores/perplexity-t5-tiny-4-")
    asked = dataclasses.replace(twice, scorer="ask-llm", model="embedded")
    for change, name in {
        ("embedded", ()): "scores/ask-llm",
        ("google/flan-t5-xl", ()): "scores/ask-llm-xl",
        ("google/flan-t5-xl", (("max_tokens", 9),)): "scores/ask-llm-flan-t5-xl-",
        ("/a/model", ()): "scores/ask-llm-model-",
    }.items():
        model, options = change
        assert store_of(dataclasses.replace(asked, model=model, options=dict(options))).startswith(name)
    one, other = (dataclasses.replace(asked, model=f"/{folder}/model") for folder in "ab")
    assert store_of(one) != store_of(other)


def test_what_is_added_to_a_study_leaves_what_is_done_alone(small):
    before = fingerprints(stages_of(small))
    for change in (
        {"rates": (0.5, 0.1, 0.2)},
        {"samplers": (*small.samplers[::-1], dataclasses.replace(small.samplers[1], name="new", mode="top"))},
        {"samplers": (dataclasses.replace(small.samplers[1], name="new", mode="top"), *small.samplers)},
        {"seeds": (0, 7)},
        {"models": {**small.models, "t5-small": small.references["t5-small"]}, "references": {}},
        {"models": {name: {**given, "micro_batch_size": 2} for name, given in small.models.items()}},
    ):
        after = fingerprints(stages_of(dataclasses.replace(small, **change)))
        assert {name for name in before if after.get(name) != before[name]} <= {"report"}, change


def test_a_limit_is_of_the_whole_corpus():
    """Not of each task, as datatrove's readers take it."""
    text = SMALL.format(output="out").replace(
        "rates", "corpus: c/\nheld_out: {c4: h/}\nlimit: 10\nengine: {tasks: 4}\nrates"
    )
    stages = stages_of(parse_study("s.yaml", text))
    assert {name for name, stage in stages.items() if stage.tasks > 1} == {"density/sketch"}  # reads embeddings


def test_held_out_text_is_the_corpus_own_or_given(small):
    assert splits_of(small) == {
        "in_distribution": ["tokens/in_distribution"],
        "high_quality": ["tokens/high_quality"],
    }
    paper = open_study("paper.yaml")
    assert splits_of(paper)["high_quality"] == ["tokens/high_quality/wiki40b", "tokens/high_quality/realnewslike"]
    assert "corpus" not in stages_of(paper)


def test_a_fingerprint_follows_what_decides_and_nothing_else(small):
    before = fingerprints(stages_of(small))
    more_tasks = dataclasses.replace(small, engine=dataclasses.replace(small.engine, tasks=7, workers=3))
    assert fingerprints(stages_of(more_tasks)) == before
    other = dataclasses.replace(small, embedder="some/model")
    after = fingerprints(stages_of(other))
    changed = {name for name in before if before[name] != after[name]}
    assert {"embeddings", "scores/density", "selections/density/0.2", "runs/t5-tiny/density-0.2-seed0"} <= changed
    assert {
        "corpus",
        "tokens/train",
        "runs/t5-tiny/full-1-seed0",
        store_of(small.samplers[2]),
        "selections/random/0.2",
    } & changed == set()


def test_the_precision_of_the_launcher_decides(small):
    name = "runs/t5-tiny/full-1-seed0"
    before = fingerprints(stages_of(small))[name]
    for launch, same in (
        ("--num_processes 2", True),
        ("--mixed_precision no", True),
        ("--mixed_precision=bf16", False),
    ):
        engine = dataclasses.replace(small.engine, launch=launch)
        assert (fingerprints(stages_of(dataclasses.replace(small, engine=engine)))[name] == before) is same


def test_a_task_is_done_once_and_of_this_study_alone(small):
    stages = stages_of(small)
    stage, made = stages["corpus/deal"], fingerprints(stages)["corpus/deal"]
    assert tasks_left(small, stage, made) == list(range(8))
    work = Watched(small, stage, 3, made, "a.log")
    assert task_state(small, stage, 3, made).state == "running"
    work.stop("it failed")
    assert (task_state(small, stage, 3, made).state, tasks_left(small, stage, made)) == ("failed", list(range(8)))
    Watched(small, stage, 3, made, "a.log").done()
    assert task_state(small, stage, 3, made).state == "done"
    assert tasks_left(small, stage, made) == [0, 1, 2, 4, 5, 6, 7]
    assert not is_done(small, stage, 3, "another")
    marker(small, stage, 3).write_text("")  # what a full disk leaves
    assert not is_done(small, stage, 3, made)


def test_commands_of_runs(small):
    stages = stages_of(small)
    full = training_arguments(small, stages["runs/t5-tiny/full-1-seed0"])
    assert full[full.index("--milestones") + 1 :][:2] == ["2", "4"]  # a sampler scores with step 4
    assert not any(word.startswith("--selection") for word in full)
    selected = training_arguments(small, stages["runs/t5-tiny/density-0.5-seed0"])
    assert f"--selection={small.output}/selections/density/0.5.safetensors" in selected
    assert "--preset=t5-tiny" in selected
    assert {run_of(stage) for stage in stages.values() if stage.kind == "training"} == set(small.runs())


def test_devices_that_a_task_runs_on():
    study = parse_study(
        "s.yaml",
        "output: o\nrates: [0.2]\nmodels: {t5-tiny: {total_tokens: 65536}}\n"
        "samplers: [random, {served: {scorer: ask-llm, model: m, options: {vllm: {tensor-parallel-size: 2}}}}, "
        "{asked: {scorer: ask-llm, model: m}}, density]\n"
        "evaluation: {suites: [glue], few_shot: [mmlu], instruction_tune: false}\n"
        "engine: {launch: --multi_gpu --num_processes=4}\n",
    )
    stages, run = stages_of(study), "t5-tiny/random-0.2-seed0"
    served, asked = (store_of(sampler) for sampler in study.samplers[1:3])
    for name, devices in {
        "tokens/train": 0,
        "embeddings": 0,  # hashed n-grams ask no model
        "scores/density": 0,
        asked: 1,
        served: 2,
        f"runs/{run}": 4,
        f"measured/{run}/perplexity": 1,
        f"measured/{run}/few-shot": 1,
        f"measured/{run}/glue": 4,
        "report": 0,
    }.items():
        assert devices_of(study, stages[name]) == devices, name
    tuned = dataclasses.replace(study, evaluation=dataclasses.replace(study.evaluation, instruction_tune=True))
    assert devices_of(tuned, stages_of(tuned)[f"measured/{run}/few-shot"]) == 4
