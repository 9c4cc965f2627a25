"""A study file: the paper's matrix exactly, and every mistake by its line."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.plan import Plan, store_of
from launch.proxies import build_proxy
from launch.stages.runs import Run
from launch.study_file import open_study, parse_study, schema, shipped
from launch.yaml_places import YamlFile
from pipeline_steps import EMBEDDED_PROXY, Prompt
from pipeline_steps.errors import InvalidStudy, ModelError, StoreMismatch
from pipeline_steps.paper import MILESTONES, RATES, TRAIN_TOKENS


SMALL = """\
output: runs/x
samplers:
  - random
  - ask-llm-xl
rates: [0.2]
models:
  t5-tiny: {total_tokens: 65536}
"""


def edited(old, new):
    assert old in SMALL
    return SMALL.replace(old, new)


def test_the_papers_study_is_the_papers():
    study = open_study("paper.yaml")
    runs = study.runs()
    selected = [run for run in runs if run.sampler != "full"]
    assert len(selected) == 22 * 5 * 2 == 220
    assert [run.model for run in runs if run.sampler == "full"] == ["t5-small", "t5-large", "t5-base", "t5-xl"]
    assert len({run.name for run in runs}) == 224
    assert {run.rate for run in selected} == set(RATES)
    assert all(one["total_tokens"] == TRAIN_TOKENS for one in [*study.models.values(), *study.references.values()])
    assert {model["preset"] for model in study.models.values()} == {"t5-small", "t5-large"}
    wanted = {int(s.model.split("@")[1]) for s in study.samplers if (s.model or "").startswith("t5-large@")}
    assert wanted == set(MILESTONES) <= set(study.models["t5-large"]["milestones"])


@pytest.mark.parametrize("name", shipped())
def test_every_study_that_is_shipped_can_be_read(name):
    assert open_study(name).runs()


def test_a_small_study_and_its_defaults():
    study = parse_study("s.yaml", SMALL)
    assert study.runs() == [
        Run("full", 1.0, "t5-tiny", 0),
        Run("random", 0.2, "t5-tiny", 0),
        Run("ask-llm-xl", 0.2, "t5-tiny", 0),
    ]
    assert study.runs()[1].name == "t5-tiny/random-0.2-seed0"
    assert study.corpus is None
    assert study.tokenizer == "embedded"  # wherever this package lies
    assert study.engine.kind == "local"


def test_a_sampler_can_be_changed_or_be_ones_own():
    own = """samplers:
  - ask-llm-xl: {model: some/model}
  - mine: {scorer: perplexity, model: t5-tiny@8, mode: top}"""
    study = parse_study("s.yaml", edited("samplers:\n  - random\n  - ask-llm-xl", own))
    assert [(s.name, s.scorer_name, s.cut, s.model) for s in study.samplers] == [
        ("ask-llm-xl", "AskLLMScorer", "top", "some/model"),
        ("mine", "PerplexityScorer", "top", "t5-tiny@8"),
    ]


MISTAKES = [
    ("rates", "rate", r"line 5, column \d+: no key 'rate': did you mean rates"),
    ("ask-llm-xl", "ask-lm-xl", r"line 4, column \d+: no sampler 'ask-lm-xl': did you mean ask-llm-xl"),
    ("ask-llm-xl", "random", r"line 4, column \d+: two runs would be called random"),
    ("ask-llm-xl", "full: {scorer: density}", r"line 4, column \d+: 'full' cannot be a name"),
    ("ask-llm-xl", "keys: {scorer: density}", r"line 4, column \d+: 'keys' cannot be a name"),
    ("ask-llm-xl", "a/b: {scorer: density}", r"line 4, column \d+: 'a/b' cannot be a name"),
    (
        "ask-llm-xl",
        "mine: {scorer: perplexity, model: t5-tiny@9999}",
        r"line 4, column 5: mine .* but t5-tiny has .* steps",
    ),
    ("\n  - random\n  - ask-llm-xl", " paper", r"line 2, column \d+: perplexity-large-20k .* trains no t5-large"),
    ("[0.2]", "[0.33333333, 0.33333334]", r"line 5, column \d+: two runs would be called 0.333333"),
    ("{total_tokens: 65536}", "{total_tokens: 65536, seed: 1}", r"line 7, column \d+: no key 'seed'"),
    ("ask-llm-xl", "mine: {scorer: ask-llm}", r"line 4, column \d+: mine needs a model"),
    (
        "ask-llm-xl",
        "perplexity-large-20k",
        r"line 4, column \d+: .* this study trains no t5-large: its models are t5-tiny",
    ),
    ("ask-llm-xl", "mine: {scorer: nonsense}", r"line 4, column \d+: no scorer 'nonsense'"),
    ("ask-llm-xl", "mine: {scorer: density, mode: best}", r"line 4, column \d+: no mode 'best'"),
    ("[0.2]", "[0]", r"line 5, column \d+: the rate 0 must be above 0 and below 1"),
    ("[0.2]", "[1.5]", r"line 5, column \d+: the rate 1.5 must be above 0"),
    ("[0.2]", "[0.2, 0.2]", r"line 5, column 14: the rate 0.2 is there twice"),
    ("[0.2]", "[a]", r"line 5, column \d+: rates must be a number, not 'a'"),
    ("[0.2]", "[]", r"line 7, column 3: there are models and no rates"),
    ("[0.2]", "0.2", r"line 5, column \d+: rates must be a list"),
    ("65536", "127", r"line 7, column 3: t5-tiny: 127 tokens are less than one sample of 128 positions"),
    ("t5-tiny", "t5-huge", r"line 7, column \d+: t5-huge: no preset 't5-huge'"),
    ("total_tokens", "total_token", r"line 7, column \d+: no key 'total_token': did you mean total_tokens"),
    ("{total_tokens: 65536}", "{config: nowhere.yaml}", r"line 7, column \d+: nowhere.yaml cannot be read"),
    ("output: runs/x\n", "", r"line 1, column \d+: output is missing"),
    ("output: runs/x", "output: [", r"line \d+: not YAML"),
    ("output: runs/x", "output: a\noutput: b", r"line 2: output is there twice, first in line 1"),
    ("output: runs/x", "output:", r"line 1, column \d+: output must be text, not None"),
    ("output: runs/x", "output: s3://b/x", r"line 1, column \d+: output 's3://b/x' must be a folder of a disk"),
    ("output: runs/x", "output: a\ncorpus: !!binary aGk=", r"line 2: tag:yaml.org,2002:binary is neither"),
    ("output: runs/x", "output: &a {b: *a}", r"line 1: a value cannot be a part of itself"),
    ("output: runs/x", "output: a\n? [b]\n: c", r"line 2: a key must be a name"),
    ("output: runs/x", "output: a\nengine: {training: {1: x}}", r"line 2: a key must be a name, in quotes"),
    (
        "ask-llm-xl",
        "ask-llm-xl: {options: {max_tokens: many}}",
        r"line 4, column 40: max_tokens of ask-llm-xl must be a wh",
    ),
    ("ask-llm-xl", "mine: {scorer: perplexity, model: t5-tiny@\u00b2}", r"line 4, column \d+: mine scores with"),
    (
        "65536",
        "65536, mixed_precision: half",
        r"line 7, column 51: models.t5-tiny.mixed_precision must be 'no' or 'bf16'",
    ),
    ("65536", "65536, learning_rate: high", r"line 7, column \d+: models.t5-tiny.learning_rate must be a number"),
    ("65536", "65536, milestones: 5", r"line 7, column \d+: models.t5-tiny.milestones must be a list"),
]
ADDED = [  # as the second line of the study
    ("seeds: []", r"seeds is empty"),
    ("seeds: [-1]", r"the seed -1 must be 0 or more"),
    ("limit: 0", r"limit is 0"),
    ("held_out: {c4: c/}", r"held_out is given and corpus is not"),
    ("join: {annotations: a/, column: score}", r"join needs a corpus, and goes with neither samplers nor token_store"),
    ("evaluation: {limit: -3}", r"evaluation.limit must be greater than or equal to 0, not -3"),
    ("engine: {ray: {gpus: 1}}", r"no key 'gpus'"),
    ("references: {t5-tiny: {total_tokens: 65536}}", r".* one folder"),
    ("engine: {kind: slrum}", r"engine.kind must be .*, not 'slrum': did you mean slurm"),
    ("evaluation: {suites: [glu]}", r"evaluation.suites must be .*, not 'glu': did you mean glue"),
    ("engine: {workers: 0}", r"engine.workers must be greater than or equal to 1, not 0"),
    ("corpus: ''", r"the path is empty"),
    ("engine: {launch: 2}", r"engine.launch must be text, not 2"),
    ("engine: {slurm: {workers: many}}", r"engine.slurm.workers must be a wh"),
    ("engine: {training: {nodes: [1]}}", r"engine.training.nodes must be"),
    ("engine: {training: {gpus-per-node: x}}", r"engine.training.gpus-per-no"),
    ("proxies: {p: {model_type: 5}}", r"p needs a model_type"),
]


@pytest.mark.parametrize(("old", "new", "said"), MISTAKES)
def test_mistakes_are_named_by_their_line(old, new, said):
    with pytest.raises(InvalidStudy, match=r"s\.yaml, " + said):
        parse_study("s.yaml", edited(old, new))


@pytest.mark.parametrize(("added", "said"), ADDED)
def test_mistakes_in_a_key_are_named_by_line_and_column(added, said):
    with pytest.raises(InvalidStudy, match=r"s\.yaml, line 2, column \d+: " + said):
        parse_study("s.yaml", edited("output: runs/x", f"output: a\n{added}"))


def test_a_corpus_of_ones_own_needs_a_target_for_dsir():
    assert (
        parse_study("s.yaml", SMALL.replace("65536", "65536, mixed_precision: no")).models["t5-tiny"][
            "mixed_precision"
        ]
        == "no"
    )
    text = edited("- random", "- dsir").replace("output: runs/x", "output: runs/x\ncorpus: c/")
    with pytest.raises(InvalidStudy, match="dsir needs a target"):
        parse_study("s.yaml", text)
    assert parse_study("s.yaml", f"{text}target: wiki/\n").target == "wiki/"


def test_files_that_are_not_there_or_empty():
    with pytest.raises(InvalidStudy, match=r"nowhere\.yaml cannot be read .* paper\.yaml"):
        open_study("nowhere.yaml")
    with pytest.raises(InvalidStudy, match="is empty"):
        parse_study("s.yaml", "# nothing\n")


def test_files_in_another_encoding(tmp_path):
    (tmp_path / "s.yaml").write_bytes("output: caf\u00e9".encode("latin-1"))
    with pytest.raises(InvalidStudy, match=r"s\.yaml, line 1, cannot be read \(it is not UTF-8\)"):
        open_study(str(tmp_path / "s.yaml"))


def test_what_is_merged_is_overruled():
    text = (
        SMALL.replace("t5-tiny: {", "t5-tiny: &own {") + "references:\n  t5-mini: {<<: *own, total_tokens: 131072}\n"
    )
    study = parse_study("s.yaml", text)
    assert (study.models["t5-tiny"]["total_tokens"], study.references["t5-mini"]["total_tokens"]) == (65536, 131072)


def test_what_is_quoted_is_text():
    assert YamlFile.read("s", "a: '7e12345'\nb: 2020-01-01\nc: 7e3").plain == {
        "a": "7e12345",
        "b": "2020-01-01",
        "c": 7e3,
    }


@given(st.floats(min_value=1e-9, max_value=1e9, allow_nan=False))
def test_numbers_with_an_exponent_are_numbers(number):
    assert YamlFile.read("s", f"a: {number:.6e}").plain["a"] == pytest.approx(number)


def test_proxies_are_built_from_config_and_scorers_take_options(tmp_path):
    text = edited("ask-llm-xl", "ask-llm-xl: {model: tiny, options: {max_tokens: 99}}")
    study = parse_study("s.yaml", f"{text}proxies: {{tiny: {{model_type: t5, d_model: 8, seed: 1}}}}\n")
    assert study.proxies == {"tiny": {"model_type": "t5", "d_model": 8, "seed": 1}}
    assert study.samplers[1].options == {"max_tokens": 99}
    with pytest.raises(InvalidStudy, match=r"line 8, column \d+: tiny needs a model_type"):
        parse_study("s.yaml", f"{text}proxies: {{tiny: {{d_model: 8}}}}\n")
    with pytest.raises(InvalidStudy, match=r"line 8, column \d+: t5-tiny is among the models"):
        parse_study("s.yaml", f"{text}proxies: {{t5-tiny: {{model_type: t5}}}}\n")
    with pytest.raises(
        InvalidStudy, match=r"line 4, column 41: no option 'max_token' of ask-llm-xl: did you mean max_tokens"
    ):
        parse_study("s.yaml", text.replace("max_tokens", "max_token"))


@pytest.mark.parametrize("config", [{"model_type": "t5", "d_model": 8}, {"model_type": "gemma", "hidden_size": 8}])
def test_a_proxy_is_the_same_whenever_it_is_built(config, tmp_path):
    small = {"num_layers": 1, "num_heads": 2, "d_ff": 8, "d_kv": 4, "num_attention_heads": 2, "num_hidden_layers": 1}
    small |= {"num_key_value_heads": 2, "head_dim": 4, "intermediate_size": 8}
    for name in "ab":
        build_proxy(str(tmp_path / name), EMBEDDED_PROXY, config | small | {"seed": 3})
    a, b = ((tmp_path / name / "model.safetensors").read_bytes() for name in "ab")
    assert a == b
    build_proxy(str(tmp_path / "c"), EMBEDDED_PROXY, config | small | {"seed": 4})
    assert (tmp_path / "c" / "model.safetensors").read_bytes() != a
    with pytest.raises(ModelError, match="no proxy can be built"):
        build_proxy(str(tmp_path / "d"), EMBEDDED_PROXY, {"model_type": "t55"})
    with pytest.raises(StoreMismatch, match="seed: 4 there, 5 now"):
        build_proxy(str(tmp_path / "c"), EMBEDDED_PROXY, config | small | {"seed": 5})


def aliases(depth, width, merge=False):
    """A few lines that write out into billions of values."""
    lines = ["a0: &a0 {k: 1}" if merge else "a0: &a0 [x]"]
    for number in range(1, depth):
        several = ", ".join([f"*a{number - 1}"] * width)
        made = f"{{<<: [{several}], k{number}: 1}}" if merge else f"[{several}]"
        lines.append(f"a{number}: &a{number} {made}")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (aliases(12, 10), r"line 5: 21,111 values once aliases are written out"),
        (aliases(12, 10, merge=True), r"line 5: 23,331 values once aliases are written out"),
        (aliases(31, 2), r"values once aliases are written out"),
        ("a: &a [*a]\n", r"line 1: a value cannot be a part of itself"),
        ("a: &a {b: *a}\n", r"line 1: a value cannot be a part of itself"),
        ("output: " + "[" * 60_000, r"line 1: (not YAML|values are nested more than 32)"),
        ("".join(" " * depth + "a:\n" for depth in range(300)), r"line 33: values are nested more than 32"),
        (SMALL + "limit: " + "9" * 5000, r"line 8: '9{10}.*' is larger than .* 64 bits"),
        (SMALL + "limit: 9223372036854775808\n", r"line 8: '9223372036854775808' is larger than .* 64 bits"),
        (
            SMALL + "engine: {tasks: 1e9}\n",
            r"line 8, column 17: engine.tasks must be a whole number, not 1000000000.0",
        ),
        (
            SMALL + "engine: {tasks: 1000000000}\n",
            r"line 8, column 17: engine.tasks must be less than or equal to 10000",
        ),
        (SMALL + f"seeds: {list(range(6000))}\n", r"line 5, column 8: .* make 12,000 runs, more than the 10,000"),
        ("output: x\n\tcorpus: y\n", r"line 2: not YAML: "),
        (SMALL + "output: y\n", r"line 8: output is there twice, first in line 1"),
        (
            "output: " + "x" * 60_000 + "\nsamplers: [random]\ncorpus: c\n",
            r"line 1, column 9: output '.{10,40}' must be a folder",
        ),
        ("output: a::b\nsamplers: [random]\ncorpus: c\n", r"line 1, column 9: output 'a::b' must be a folder"),
    ],
)
def test_what_would_take_for_ever_is_refused_at_once(text, message):
    start = time.process_time()
    with pytest.raises(InvalidStudy, match=message) as refused:
        parse_study("s.yaml", text)
    assert time.process_time() - start < 2
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize("size", [65_537, 50_000_000])
def test_a_file_that_is_too_large_is_not_read(tmp_path, size):
    (tmp_path / "s.yaml").write_bytes(b"#" * size)
    start = time.process_time()
    with pytest.raises(InvalidStudy, match=r"s\.yaml cannot be read \(it has more than the 65,536 bytes"):
        open_study(str(tmp_path / "s.yaml"))
    assert time.process_time() - start < 1


def test_a_large_study_that_is_none_too_large():
    text = "output: o\ncorpus: c\nsamplers:\n" + "".join(
        f"  - s{i}: {{scorer: ask-llm, model: m}}\n" for i in range(1400)
    )
    start = time.process_time()
    assert len(parse_study("s.yaml", text).samplers) == 1400
    assert time.process_time() - start < 2


def test_the_schema_knows_what_a_study_may_say():
    made = schema()
    properties = made["properties"]
    assert "path" not in properties
    assert properties["output"]["description"] == "Folder of all that the study makes."
    names = properties["samplers"]["anyOf"][1]["items"]["anyOf"][0]["enum"]
    assert {"random", "ask-llm", "ask-llm-xl"} <= set(names)
    assert made["$defs"]["EngineSettings"]["properties"]["kind"]["enum"] == ["local", "slurm", "ray"]


def test_any_option_of_a_scorer_can_be_set():
    text = edited("ask-llm-xl", "ask-llm-xl: {options: {revision: abc, window_size: 64}}")
    assert parse_study("s.yaml", text).samplers[1].options == {"revision": "abc", "window_size": 64}
    asked = "ask-llm-xl: {options: {prompt: {name: mine, prefix: 'Read: ', suffix: 'Useful?'}}}"
    study = parse_study("s.yaml", edited("ask-llm-xl", asked))
    assert study.samplers[1].options["prompt"] == Prompt("mine", "Read: ", "Useful?")
    assert any(name.startswith("scores/ask-llm-flan-t5-xl-") for name in Plan.of(study).stages)
    easy = parse_study("s.yaml", edited("ask-llm-xl", "semdedup: {options: {keep: easy}}"))
    assert Plan.of(easy).stages["clusters/similarities-easy"].keep == "easy"


FOUNDATIONS = """samplers:
  - density
  - paper-density: {scorer: density, foundations: {density: {kernel: p-stable, rows: 200}}}
  - other: {scorer: density, foundations: {embeddings: {model: some/model, max_tokens: 128}}}
  - prototypes: {foundations: {clusters: {n_clusters: 5}, embeddings: {model: some/model, max_tokens: 128}}}
"""


def founded(old="", new=""):
    text = FOUNDATIONS.replace(old, new, 1)
    return parse_study("s.yaml", edited("samplers:\n  - random\n  - ask-llm-xl\n", text))


def test_any_option_of_what_a_scorer_stands_on_can_be_set():
    study = founded()
    stages = Plan.of(study).stages
    stores = {one.name: stages[f"scores/{store_of(one)}"] for one in study.samplers}
    plain, paper, other, prototypes = (stores[one.name].stands_on for one in study.samplers)
    assert (plain.name, plain.parts.options, plain.parts.embeddings.name) == ("density/merge", {}, "embeddings")
    assert paper.parts.options == {"kernel": "p-stable", "rows": 200}
    assert paper.parts.embeddings == plain.parts.embeddings  # shared
    folders = [one.folder("o") for one in (plain, paper, other, prototypes)]
    assert len(set(folders)) == 4
    assert paper.parts.folder("o") == folders[1]
    assert other.parts.embeddings == prototypes.centroids.embeddings != plain.parts.embeddings
    assert other.parts.embeddings.embedder == "some/model"
    assert other.parts.embeddings.options == {"max_tokens": 128}
    assert prototypes.centroids.options == {"n_clusters": 5}
    # A default that is spelt out is the default
    assert set(Plan.of(founded("  - density\n", "  - density: {foundations: {density: {seed: 0}}}\n")).stages) == set(
        stages
    )


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("p-stable", "pstable", "line 4, column 70: kernel of the foundation density of density must be 'angular' or"),
        ("kernel: p-stable", "width: 2.0", "line 4, .* the angular kernel has no width"),
        ("rows: 200", "rows: 0", "line 4, .* rows must be above 0, not 0"),
        ("rows: 200", "row: 9", "line 4, column [0-9]+: no option 'row' of .*: did you mean rows"),
        ("{clusters:", "{cluster:", "line 6, .* prototypes stands on embeddings, clusters: there is no 'cluster'"),
        ("- density\n", "- random: {foundations: {density: {}}}\n", "line 3, .* random stands on nothing that has"),
        ("n_clusters: 5", "n_clusters: 0", "line 6, .* n_clusters must be at least 1, not 0"),
        ("n_clusters: 5", "iterations: 0", "line 6, .* iterations must be at least 1, not 0"),
        ("max_tokens: 128", "max_tokens: 0", "line 5, .* max_tokens must be at least 1, not 0"),
        ("- density\n", "- dsir: {foundations: {ngrams: {buckets: 0}}}\n", "line 3, .* 0 buckets: choose 1 to 262144"),
        (
            "- density\n",
            "- quality-classifier: {foundations: {quality: {documents: 9}}}\n",
            "documents must be at lea",
        ),
    ],
)
def test_options_of_foundations_that_cannot_be_are_refused(old, new, said):
    with pytest.raises(InvalidStudy, match=said):
        founded(old, new)


def test_options_of_embeddings_go_with_the_study_s_embedder():
    hashed = "embedder: hashed-ngrams\nsamplers:\n  - density: {foundations: {embeddings: {unit_norm: false}}}\n"
    with pytest.raises(InvalidStudy, match=r"line [0-9]+, .* hashed-ngrams reads whole documents"):
        parse_study("s.yaml", edited("samplers:\n  - random\n  - ask-llm-xl\n", hashed))
    # Who spells the study's embedder out shares its vectors
    same = hashed.replace("unit_norm: false", "model: hashed-ngrams") + "  - prototypes\n"
    stages = Plan.of(parse_study("s.yaml", edited("samplers:\n  - random\n  - ask-llm-xl\n", same))).stages
    assert [name for name in stages if name.startswith("embeddings")] == ["embeddings"]


@pytest.mark.parametrize("name", ["dsir", "quality-classifier"])
def test_scores_from_outside_need_no_target(name):
    with pytest.raises(InvalidStudy, match=f"{name} needs a target"):
        parse_study("s.yaml", f"output: o\ncorpus: c.jsonl\nsamplers: [{name}]\n")
    parse_study("s.yaml", f"output: o\ncorpus: c.jsonl\nsamplers: [{name}: {{scores: s}}]\n")


def test_plain_scorers_are_names_of_samplers():
    text = edited("ask-llm-xl", "ask-llm: {model: embedded}")
    assert parse_study("s.yaml", text).samplers[1].label == "Ask-LLM"
    with pytest.raises(InvalidStudy, match=r"line 4, column 5: ask-llm needs a model"):
        parse_study("s.yaml", edited("ask-llm-xl", "ask-llm"))


MEASURED = """output: o
samplers: [random]
rates: [0.5]
models: {t5-tiny: {total_tokens: 65536, checkpoints: 5}}
references: {t5-mini: {total_tokens: 65536, checkpoints: 5}}
evaluation: {suites: [glue, squad], few_shot: [mmlu], domains: held_out, every: EVERY}
"""


@pytest.mark.parametrize(
    ("every", "steps"),
    [
        ("{}", {}),
        ("2", dict.fromkeys(("glue", "squad", "few-shot", "bits-per-byte"), (6, 19, 32))),
        ("{glue: 2, few_shot: 1}", {"glue": (6, 19, 32), "few-shot": (6, 12, 19, 25, 32)}),
        ("{all: 3, glue: 5}", dict.fromkeys(("squad", "few-shot", "bits-per-byte"), (12, 32))),
        ("99", {}),  # the last alone, as without it
    ],
)
def test_which_checkpoints_are_measured(every, steps):
    stages = Plan.of(parse_study("s.yaml", MEASURED.replace("EVERY", every))).stages
    of_run, of_reference = (
        {name.rpartition("/")[2]: stage for name, stage in stages.items() if name.startswith(f"measured/{run}/")}
        for run in ("t5-tiny/random-0.5-seed0", "t5-mini/full-1-seed0")
    )
    found = {what: stage.steps for what, stage in of_run.items() if what != "perplexity"}  # which is of all
    assert found == {what: steps.get(what, ()) for what in ("glue", "squad", "few-shot", "bits-per-byte")}
    assert all(of_run[what].tasks == max(len(asked), 1) for what, asked in found.items())
    assert not any(stage.steps for what, stage in of_reference.items() if what != "perplexity")
    without = Plan.of(parse_study("s.yaml", MEASURED.replace(", every: EVERY", ""))).stages
    for what, asked in found.items():
        assert (without[of_run[what].name].made == of_run[what].made) is (not asked), what


@pytest.mark.parametrize(
    ("every", "said"),
    [
        ("0", "line 6, column 81: evaluation.every must be greater than or equal to 1, not 0"),
        ("true", "line 6, column 81: evaluation.every must be a whole number"),
        ("{glue: 0.5}", "line 6, column 88: evaluation.every.glue must be a whole number"),
        ("{superglue: 2}", "line 6, column 82: every names superglue, which is not measured: add it to evaluation"),
        ("{glu: 2}", "line 6, column 82: .* did you mean glue"),
    ],
)
def test_checkpoints_that_cannot_be_measured_are_refused(every, said):
    with pytest.raises(InvalidStudy, match=said):
        parse_study("s.yaml", MEASURED.replace("EVERY", every))


def test_perplexity_is_of_each_checkpoint_anyway():
    alone = MEASURED.replace(
        "{suites: [glue, squad], few_shot: [mmlu], domains: held_out, every: EVERY}", "{every: 2}"
    )
    with pytest.raises(InvalidStudy, match="every is given and only perplexity is measured"):
        parse_study("s.yaml", alone)
