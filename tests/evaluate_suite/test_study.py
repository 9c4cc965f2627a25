"""A study: rows to checkpoints to the two normalised numbers, with a truth that was planted."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm, spearmanr, t
from synthetic_study import EVERY_SAMPLER, RATES, costs, factor, rows

from evaluate_suite.checkpoint import Checkpoint
from evaluate_suite.model_sizes import parameters
from evaluate_suite.report.outcomes import outcome, outcomes, run_noise
from evaluate_suite.report.points import (
    Point,
    Score,
    StudyResults,
    finals,
    lower_is_better,
    measurements_of,
    measures,
    models,
    read_measurements,
    references,
)
from evaluate_suite.results import write_results
from pipeline_steps.errors import StoreIncomplete, StoreMismatch
from pipeline_steps.samplers import FAMILIES, families, label, ordered


FEW = ("random", "ask-llm-xl", "mine")


@pytest.fixture(scope="module")
def study():
    return measurements_of(rows(FEW, steps=(500_000, 1_000_000)))


def test_the_paper_has_22_samplers_in_four_families():
    assert len(EVERY_SAMPLER) == len(set(EVERY_SAMPLER)) == 22
    assert max(map(len, FAMILIES.values())) <= 6
    assert label("perplexity-large-20k") == "Perplexity (Large, 20k)"
    assert label("ask-llm-xl") == "Ask-LLM (XL)"
    assert label("<mine>") == "<mine>"
    assert ordered(["zebra", "ask-llm-xl", "full", "random", "random"]) == ["full", "random", "ask-llm-xl", "zebra"]
    others = families(["full", *(f"own-{i}" for i in range(8))])
    assert [len(names) for names in others.values()] == [6, 2]


def test_sizes_are_those_of_the_models():
    assert 60e6 < parameters("t5-small") < 61e6  # Raffel et al. 2020: 60 million
    assert 737e6 < parameters("t5-large") < 739e6
    assert parameters("my-model") is None
    assert parameters("t5-v1_1-small") > parameters("t5-small")  # its output layer is not tied


def test_rates_that_are_near_stay_apart_and_seeds_of_one_rate_come_together():
    study = measurements_of(
        rows(FEW[:1], (0.195, 0.2), ("t5-small",), (), tasks=("c4",), steps=(1_000_000,), seeds=(0, 1), jitter=0.5)
    )
    points = finals(study, "t5-small")
    assert {(point.sampler, point.rate) for point in points} == {("random", 0.195), ("random", 0.2), ("full", 1.0)}
    assert {point.scores["c4_perplexity"].seeds for point in points} == {2}


def state(cut, selected=45, corpus=230):
    return {"selected_documents": selected, "corpus_documents": corpus, "seed": 0, "step": 4, "cut": cut}


@pytest.mark.parametrize(
    ("cut", "rate"),
    [
        ({"mode": "top", "rate": 0.195, "k": None, "token_budget": None}, 0.195),
        ({"mode": "top", "rate": None, "k": 45, "token_budget": None}, 45 / 230),
        ({"mode": "top", "rate": None, "k": None, "token_budget": 10_000}, 45 / 230),
        (None, 45 / 230),
    ],
)
def test_rows_carry_the_rate_that_was_asked_for_or_the_share_that_was_kept(cut, rate):
    checkpoint = Checkpoint("random", "run/checkpoints/step-4", "t5-tiny", state(cut), "", "step-4")
    assert checkpoint.row("c4", "perplexity", (1.0, 0.1, 2), 0, "v").rate == rate


def test_every_run_ends_in_one_checkpoint_with_ten_suites(study):
    ends = finals(study)
    assert len(ends) == 2 * len(FEW) * len(RATES) + 4
    assert {point.step for point in ends} == {1_000_000}
    assert models(study) == ["t5-small", "t5-base", "t5-large", "t5-xl"]
    assert list(references(study)) == models(study)
    assert len(measures(study)) == 10
    assert not study.partial
    assert {p.sampler for p in finals(study, "t5-small", 0.4)} == {*FEW, "full"}


def test_planted_effective_sizes_come_out(study):
    found = outcomes(study)
    for point in finals(study, "t5-small"):
        outcome = found[point.model, point.sampler, point.rate, point.step]
        planted = parameters("t5-small") * factor(point.sampler, point.rate)
        assert outcome.effective_size.value == pytest.approx(planted, rel=0.06)
        assert outcome.larger == "t5-base"
    full = found["t5-small", "full", 1.0, 1_000_000]
    assert full.effective_size.value == pytest.approx(parameters("t5-small"))
    assert full.over_scaling.value == 0.0
    largest = found["t5-xl", "full", 1.0, 1_000_000]
    assert largest.over_scaling is None
    assert "larger than t5-xl" in largest.missing["over_scaling"]


def test_normalised_numbers_of_another_architecture_are_not_mixed_in(study):
    other = measurements_of(rows(FEW[:1], (0.4,), ("t5-v1_1-small",), ("t5-xl",), steps=(1_000_000,)))
    found = outcomes(other)["t5-v1_1-small", "random", 0.4, 1_000_000]
    assert found.over_scaling is None
    assert found.effective_size is None


def test_an_incomplete_suite_is_refused_and_partial_ones_average_what_all_have():
    few = [row for row in rows(FEW, (0.4,), steps=(1_000_000,)) if row.task != "mrpc"]
    with pytest.raises(StoreIncomplete, match=r"GLUE: 8 of 9 .*mrpc.*--partial"):
        measurements_of(few)
    few = [row for row in few if not (row.task == "rte" and row.sampler == "random")]
    partial = measurements_of(few, partial=True)
    assert partial.partial == {"glue": (7, 9)}  # mrpc is nowhere, rte not everywhere
    without = measurements_of([row for row in few if row.task != "rte"], partial=True)
    assert [point.scores["glue"].value for point in finals(partial)] == [
        point.scores["glue"].value for point in finals(without)
    ]


def test_suites_that_no_task_of_all_runs_stands_for_are_dropped_and_said():
    few = rows(FEW[:2], (0.4,), tasks=("gsm8k", "svamp", "c4"), steps=(1_000_000,))
    few = [row for row in few if not (row.task == "gsm8k" and row.sampler == "random")]
    few = [row for row in few if not (row.task == "svamp" and row.sampler != "random")]
    partial = measurements_of(few, partial=True)
    assert "reasoning" in partial.dropped
    assert measures(partial) == ["c4_perplexity"]


def test_seeds_are_averaged_and_their_spread_is_known():
    study = measurements_of(rows(FEW, (0.4,), tasks=("c4", "squad"), steps=(1_000_000,), seeds=(0, 1, 2), jitter=0.5))
    for point in finals(study):
        score = point.scores["squad"]
        assert score.seeds == 3
        assert score.value == pytest.approx(np.mean(list(score.by_seed.values())))
        assert score.low < score.value < score.high
    made = [list(p.scores["squad"].by_seed.values()) for p in finals(study, "t5-small")]
    noise = finals(study, "t5-small")[0].scores["squad"].noise
    assert (noise.source, noise.freedom) == ("seeds", 2 * len(made))
    assert noise.sd == pytest.approx(np.sqrt(np.mean(np.var(made, axis=1, ddof=1))))
    student = t.ppf(0.975, noise.freedom) / norm.ppf(0.975)
    assert run_noise(study, "t5-small")["squad"] == pytest.approx(student * noise.sd / np.sqrt(3))


def test_one_seed_has_a_level_or_no_interval_that_holds_trainings():
    one = measurements_of(rows(FEW, (0.4,), tasks=("c4", "squad"), steps=(1_000_000,)))
    scores = finals(one)[0].scores
    assert (scores["squad"].noise.source, scores["squad"].noise.sd) == ("level", 0.343)  # T5's own, ten trainings
    reach = np.hypot(t.ppf(0.975, 9) * 0.343, norm.ppf(0.975) * scores["squad"].stderr)
    assert scores["squad"].high - scores["squad"].value == pytest.approx(reach)
    assert not scores["c4_perplexity"].noise.decides  # and the interval is the windows'
    assert set(run_noise(one, "t5-small")) == {"squad"}
    found = outcomes(one)["t5-small", "random", 0.4, 1_000_000].over_scaling
    assert np.isnan([found.low, found.high]).all()
    assert np.isfinite(found.value)


def test_the_error_of_a_suite_is_that_of_a_mean_of_independent_tasks():
    point = finals(measurements_of(rows(FEW[:1], (0.4,), ("t5-small",), (), steps=(1_000_000,))))[0]
    assert point.scores["mmlu"].stderr == pytest.approx(0.8 / 57**0.5)
    assert point.scores["squad"].stderr == pytest.approx(0.8)  # its two metrics are of the same answers


def test_perplexity_of_unregistered_text_is_a_measure():
    extra = [replace(row, task="in_distribution") for row in rows(FEW, (0.4,), tasks=("c4",))]
    study = measurements_of(extra)
    assert measures(study) == ["in_distribution"]
    assert lower_is_better("in_distribution")
    assert not study.partial


def test_hours_are_those_of_the_last_step():
    paid = costs({"ask-llm-xl": 10.0}, {"t5-large": 24.0})
    early = [replace(row, step=5, value=row.value / 2) for row in paid]
    study = measurements_of(rows(FEW, (0.4,), steps=(1_000_000,)) + paid + early)
    assert study.scoring_hours == {"ask-llm-xl": 10.0}
    assert study.training_hours == {"t5-large": 24.0}


def test_results_are_read_from_files_and_folders_and_said_to_be_missing(tmp_path):
    made = rows(FEW, (0.4,), tasks=("c4",), steps=(1_000_000,))
    for number in range(2):
        (tmp_path / f"run-{number}").mkdir()
        write_results(str(tmp_path / f"run-{number}" / "results.jsonl"), made[number::2])
    study = read_measurements([str(tmp_path)])
    assert study.rows == tuple(sorted(made))
    assert read_measurements([str(tmp_path), str(tmp_path / "run-0" / "results.jsonl")]).rows == study.rows
    (tmp_path / "empty").mkdir()
    for nothing in ("empty", "nowhere"):
        with pytest.raises(StoreIncomplete, match=nothing):
            read_measurements([str(tmp_path / nothing)])
    write_results(str(tmp_path / "other.jsonl"), [replace(made[0], value=1.0)])
    with pytest.raises(StoreMismatch, match=r"other\.jsonl: leave one"):
        read_measurements([str(tmp_path), str(tmp_path / "other.jsonl")])
    for name in ("nan", "same"):
        write_results(str(tmp_path / f"{name}.jsonl"), [replace(made[0], value=float("nan"))])
    assert len(read_measurements([str(tmp_path / "nan.jsonl"), str(tmp_path / "same.jsonl")]).rows) == 1
    (tmp_path / "text.jsonl").write_text("{}\n")
    with pytest.raises(StoreMismatch, match=r"text\.jsonl, line 1, has no digest"):
        read_measurements([str(tmp_path / "text.jsonl")])


# The extended version's table for T5-Large, millions: sizes it reports, and sizes that straight lines in log
# parameters give for the scores that it prints
REPORTED = {
    "full": (800, 800),
    "random": (713, 847),
    "density": (802, 1030),
    "prototypes": (423, 570),
    "perplexity-small": (301, 623),
    "dsir": (476, 676),
    "quality-classifier": (797, 1015),
    "ask-llm-gemma-7b": (1500, 1448),
}


def test_the_papers_sizes_come_back_in_the_papers_order(monkeypatch):
    own = parameters("t5-large")
    worth = {name: lines / 800 for name, (_, lines) in REPORTED.items()}
    monkeypatch.setattr("synthetic_study.factor", lambda sampler, rate: worth[sampler])
    study = measurements_of(rows([n for n in REPORTED if n != "full"], (0.6,), ("t5-large",), steps=(1_000_000,)))
    found = {key[1]: outcome for key, outcome in outcomes(study).items() if key[0] == "t5-large"}
    sizes = {name: outcome.effective_size.value / own * 800 for name, outcome in found.items()}
    assert sizes == pytest.approx({name: lines for name, (_, lines) in REPORTED.items()}, rel=0.03)
    reported = [size for size, _ in REPORTED.values()]
    assert spearmanr([sizes[name] for name in REPORTED], reported).statistic >= 0.9
    assert spearmanr([found[name].over_scaling.value for name in REPORTED], reported).statistic >= 0.9
    assert max(found, key=lambda name: found[name].over_scaling.value) == "ask-llm-gemma-7b"


def test_costs_lie_beside_the_results(tmp_path):
    results, beside = tmp_path / "run" / "results.jsonl", tmp_path / "run" / "costs.jsonl"
    write_results(str(results), rows(["random"], (0.2,), tasks={"c4"}))
    write_results(str(beside), costs({}, {"t5-small": 9.3}))
    for path in (results, results.parent):
        assert read_measurements([str(path)]).training_hours == {"t5-small": 9.3}
    beside.unlink()
    assert read_measurements([str(results)]).training_hours == {}


def test_a_decoders_effective_size_comes_from_bits_of_its_own_token_rule():
    """Bits per byte are planted, an accuracy is flat; other token rules and other kinds are no references."""
    sizes = {"llama-60m": 1.0, "llama-130m": 0.9, "llama-350m": 0.8}
    points = [
        Point("full", 1.0, model, 10, 10**9, 1.0, {"bits_per_byte": exactly(bits), "mmlu": exactly(25.0)})
        for model, bits in sizes.items()
    ]
    chosen = Point("random", 0.5, "llama-60m", 10, 10**9, 2.0, {"bits_per_byte": exactly(0.9), "mmlu": exactly(25.0)})
    study = StudyResults((), (*points, chosen), {}, {}, {}, {})
    found = outcome(study, chosen, {}).effective_size
    assert found.terms == pytest.approx({"bits_per_byte": parameters("llama-130m")})
    assert found.left_out == {"mmlu": "it does not tell the sizes apart"}
    apart = [replace(point, encoder_tokens=40 * 10**9) for point in points[1:]]
    alone = outcome(replace(study, checkpoints=(points[0], *apart, chosen)), chosen, {})
    assert "two sizes on everything by its token rule" in alone.missing["effective_size"]
    other = [replace(point, model=point.model.replace("llama", "t5-v1_1")) for point in points[1:]]
    assert outcome(replace(study, checkpoints=(points[0], *other, chosen)), chosen, {}).effective_size is None


def exactly(value):
    return Score(value, 0.0, value, value, {0: value})
