"""Every figure can be read: named axes, no text on text or beyond the edge, series that differ in grey."""

import itertools
import re
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from synthetic_study import EVERY_SAMPLER, amounts, costs, factor, rows

from evaluate_suite.exhibits import EXHIBITS, LARGER, SMALLER
from evaluate_suite.report import style
from evaluate_suite.report.figures_corpus import cost, distributions, oriented, rank_changes, tau_heat_map
from evaluate_suite.report.figures_runs import (
    alive_curve,
    efficiency,
    groups,
    mean_curve,
    overview,
    quantity_quality,
    repetitions,
    saved,
)
from evaluate_suite.report.figures_schematic import coverage_and_quality, epochs, judge, places
from evaluate_suite.report.gallery import SECTIONS, study_figures
from evaluate_suite.report.outcomes import outcomes
from evaluate_suite.report.points import measurements_of, measures
from pipeline_steps.samplers import FAMILIES, families


SMALL = ("random", "ask-llm-xl")
HOURS = {"ask-llm-xxl": 49.0, "ask-llm-xl": 10.0, "ask-llm-large": 1.7, "ask-llm-base": 0.76, "ask-llm-small": 0.24}


@pytest.fixture(scope="module", params=[SMALL, tuple(EVERY_SAMPLER)], ids=["small", "22 samplers"])
def study(request):
    tasks = ("c4", "squad", "gsm8k", "svamp", "asdiv", "strategyqa")
    models = ("t5-small", "t5-large") if request.param == SMALL else ("t5-small",)  # half the time
    made = rows(request.param, models=models, tasks=tasks, steps=(250_000, 500_000, 750_000, 1_000_000))
    return measurements_of([*made, *costs(HOURS, {"t5-small": 9.3, "t5-large": 24.0})])


def scores(names, n=2000):
    rng = np.random.default_rng(0)
    shared = rng.normal(size=n)
    return {name: (np.cos(i) * shared + rng.normal(size=n)).astype(np.float32) for i, name in enumerate(names)}


def shown_texts(figure):
    """Texts that are drawn, with their boxes in pixels."""
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    drawn = [figure._supxlabel] if figure._supxlabel else []
    for legend in figure.legends:
        drawn += legend.get_texts()
    for axes in figure.axes:
        drawn += [axes.title, axes._left_title, axes._right_title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            low, high = sorted(limits)
            drawn += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            drawn += [tick.label2 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    assert all(isinstance(text, Text) for text in drawn)
    return [(t.get_text(), t.get_window_extent()) for t in drawn if t.get_visible() and t.get_text().strip()]


def check(figure):
    texts = shown_texts(figure)
    width, height = figure.bbox.width, figure.bbox.height
    for text, box in texts:
        inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1
        assert inside, f"{text!r} is cut off"
    for (one, a), (other, b) in itertools.combinations(texts, 2):
        across, up = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert across <= 1 or up <= 1, f"{one!r} lies on {other!r}"
    for axes in figure.axes:
        assert axes.get_ylabel()
        assert axes.get_xlabel() or axes.get_label() == "<colorbar>"


def test_every_figure_of_a_study_can_be_read(study):
    found = outcomes(study)
    names = sorted({point.sampler for point in study.checkpoints} - {"full"})
    drawn = list(study_figures(study, found, scores(names), [n for n in names if n.startswith("perplexity")]))
    assert {one.section for one in drawn} | {"ranks", "decide"} == set(SECTIONS)  # "decide" takes seeds
    assert len({one.name for one in drawn}) == len(drawn)
    looked = set()
    for one in drawn:
        if one.wide:  # those of the same kind differ by their numbers only
            kinds = {(one.section, one.name.split("-")[0], len(one.figure.axes))}
        else:  # every measure and every family of samplers are looked at, if not each with each
            measures_shown = tuple(axes.get_ylabel() for axes in one.figure.axes)
            series = tuple(text.get_text() for legend in one.figure.legends for text in legend.get_texts())
            kinds = {(one.section, measures_shown), (one.section, series)}
        if not kinds <= looked:
            looked |= kinds
            check(one.figure)


def test_a_line_a_sampler_and_everything_as_a_horizontal_one(study):
    names = next(iter(families({p.sampler for p in study.checkpoints}).values()))
    figure = quantity_quality(study, outcomes(study), "t5-small", names, ["over_scaling", *measures(study)])
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "Full data" in labels
    assert len(labels) == len(names) + 1
    for axes in figure.axes:
        assert axes.get_xlabel() == "documents kept, %"
        assert len(axes.containers) == len(names)


def test_planted_savings_are_marked():
    steps = tuple(range(10**5, 10**6 + 1, 10**5))
    one, study = (
        measurements_of(rows(("ask-llm-xl",), (0.6,), ("t5-large",), (), ("c4",), steps, seeds, jitter))
        for seeds, jitter in (((0,), 0.0), ((0, 1, 2), 1e-3))
    )
    alone = efficiency(one, outcomes(one), "t5-large", groups(["ask-llm-xl"]), "c4_perplexity")
    assert not [t for t in alone.legends[0].get_texts() if "saved" in t.get_text()]  # another seed may save nothing
    figure = efficiency(study, outcomes(study), "t5-large", groups(["ask-llm-xl"]), "c4_perplexity")
    (said,) = [t.get_text() for t in figure.legends[0].get_texts() if "saved" in t.get_text()]
    # A run is worth size x (step / last)^1.5: it is worth everything where that is 1 / factor
    planted = 1 - factor("ask-llm-xl", 0.6) ** (-1 / 1.5)
    assert abs(float(re.search(r"(\d+)%", said)[1]) / 100 - planted) < 0.02
    check(figure)


def test_saved_is_measured_against_the_end_of_everything():
    everything = [(100, 1.0), (200, 2.0)]
    assert saved([(50, 1.0), (100, 2.0)], everything, "glue") == pytest.approx(0.5)
    assert saved([(100, 1.0), (200, 1.5)], everything, "glue") is None
    assert saved([(100, 3.0), (200, 1.0)], [(100, 4.0), (200, 2.0)], "c4_perplexity") == pytest.approx(0.25)


def test_means_are_over_shared_steps_and_over_what_is_left():
    study = measurements_of(
        rows(("random",), (0.1, 0.8), ("t5-small",), tasks=("c4",), steps=(200_000, 600_000, 1_000_000))
    )
    runs = {}
    for point in study.checkpoints:
        if point.sampler == "random":
            runs.setdefault(point.rate, []).append((point, point.scores["c4_perplexity"].value))
    cut = [runs[0.1], runs[0.8][:2]]
    curve = mean_curve(cut)
    assert len(curve) == 2
    assert curve[0][1] == pytest.approx((runs[0.1][0][1] + runs[0.8][0][1]) / 2)
    assert [n for _, _, n in alive_curve(list(runs.values()), 8)] == [2, 1, 1]
    assert [n for _, _, n in alive_curve(list(runs.values()), 1)] == [1]
    assert alive_curve(list(runs.values()), 0.1) == []


def test_rates_left_are_printed():
    study = measurements_of(rows(("random", "density"), models=("t5-small",), tasks=("c4",)))
    figure = repetitions(study, outcomes(study), "t5-small", ["random", "density"], "c4_perplexity")
    said = [label.get_text() for label in figure.axes[2].get_xticklabels()]
    assert [text.split("n = ")[1] for text in said] == ["4", "3", "3", "2", "1"]  # 5 times at most
    titles = [axes.get_title(loc="left").rpartition(", ")[2] for axes in figure.axes]
    assert titles == [f"{limit} × at most" for limit in (2, 3, 5, 10, 20, 30)]  # Fig. 17 - 23
    few = measurements_of(rows(("random",), (0.6, 0.8), ("t5-small",), tasks=("c4",)))  # 5.3 times at most
    assert len(repetitions(few, outcomes(few), "t5-small", ["random"], "c4_perplexity").axes) == 4
    assert repetitions(study, outcomes(study), "t5-small", ["dsir"], "c4_perplexity") is None
    assert efficiency(study, outcomes(study), "t5-small", groups(["dsir"]), "c4_perplexity", each_rate=True) is None


ONE_OF_EACH_SUITE = ("c4", "high_quality", "cola", "boolq", "cnn_dailymail", "squad", "anatomy", "date_understanding")
ONE_OF_EACH_SUITE += ("gsm8k", "arc_easy")


def drawn_of(samplers, models, references=(), scores_of=()):
    """Names of the figures of a study whose GLUE and SuperGLUE are measured along training."""
    made = rows(samplers, (0.2, 0.4), models, references, ONE_OF_EACH_SUITE, (500_000, 1_000_000),
                along=("glue", "superglue"))  # fmt: skip
    hours = costs(dict.fromkeys(set(scores_of) & set(HOURS), 1.0), dict.fromkeys(models, 24.0))
    study = measurements_of([*made, *hours, *amounts(made)], partial=True)
    placed = ("ask-llm-xl", places({name: np.arange(9) < 3 for name in samplers}, np.arange(9) % 3, np.arange(9.0)))
    return {one.name: one.figure for one in study_figures(study, outcomes(study), scores(scores_of), placed=placed)}


def test_downstream_measures_have_figures_along_training():
    drawn = drawn_of(("random", "ask-llm-small", "ask-llm-xl"), ("t5-small",))
    for measure in ("hq-perplexity", "glue", "superglue"):
        for kind in ("efficiency", "each-rate", "repetitions"):
            check(drawn[f"{kind}-t5-small-{measure}"])
    assert not [name for name in drawn if name.endswith("-squad")]  # which was measured at the end


@pytest.mark.slow
def test_every_figure_of_the_paper_is_drawn():
    """Of each exhibit that is drawn, by the names that `evaluate_suite.exhibits` has for its figures."""
    by_role = {SMALLER: "t5-small", LARGER: "t5-large"}
    shown = {name for one in EXHIBITS for name in one.scores}
    drawn = drawn_of(EVERY_SAMPLER, tuple(by_role.values()), ("t5-base", "t5-xl"), shown)
    for exhibit in EXHIBITS:
        for name in exhibit.drawn:
            for model in exhibit.models or [SMALLER]:
                for measure in exhibit.along or [""]:
                    slug = name.format(model=by_role[model], measure=measure, **by_role).replace("_", "-")
                    assert slug in drawn, (exhibit.name, slug)


def test_samplers_stand_between_coverage_and_quality():
    rng = np.random.default_rng(0)
    cluster_N, quality_N = np.repeat(np.arange(10), 200), rng.normal(size=2000).astype(np.float32)
    even, good = np.tile(np.arange(200) < 20, 10), quality_N > 1
    one = np.where(cluster_N == 3, np.arange(2000) % 200 < 200, False)
    found = places({"density": even, "ask-llm-xl": good, "prototypes": one}, cluster_N, quality_N)
    assert found["density"].coverage == pytest.approx(1)  # as even as it can be
    assert found["prototypes"].coverage == 0  # of one cluster
    assert found["ask-llm-xl"].quality > 90
    assert found["density"].quality == pytest.approx(50, abs=5)  # chance
    check(coverage_and_quality(found, "ask-llm-xl"))
    assert places({"density": even, "dsir": even & False}, cluster_N, quality_N).keys() == {"density"}  # of nothing
    every = {name: rng.random(2000) < 0.2 for name in EVERY_SAMPLER}
    check(coverage_and_quality(places(every, cluster_N, quality_N), "ask-llm-xl"))


def test_the_largest_proxy_judges_unless_the_papers_is_there():
    asked = {name: "AskLLMScorer" for name in ("ask-llm-small", "ask-llm-large")} | {"density": "DensityScorer"}
    assert judge(asked) == "ask-llm-large"
    assert judge(asked | {"ask-llm-xl": "AskLLMScorer", "ask-llm-xxl": "AskLLMScorer"}) == "ask-llm-xl"
    assert judge({"density": "DensityScorer"}) is None


def test_epochs_are_those_of_the_paper():
    """Fig. 8, in raw tokens: the same budget reads a tenth of the corpus ten times as often."""
    made = rows(("random", "density"), models=("t5-small",), tasks=("c4",), steps=(1_000_000,))
    figure = epochs(measurements_of([*made, *amounts(made)]), "t5-small")
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == ["10 %: 18.4B × 31.6", "20 %: 36.8B × 15.8", "40 %: 73.6B × 7.9", "60 %: 110B × 5.27",
                      "80 %: 147B × 3.95", "100 %: 184B × 3.16"]  # fmt: skip
    ends = {}
    for bar in figure.axes[0].patches:
        ends.setdefault(round(bar.get_y(), 3), []).append(bar.get_x() + bar.get_width())
    assert [len(passes) for _, passes in sorted(ends.items())] == [32, 16, 8, 6, 4, 4]
    assert [max(passes) for passes in ends.values()] == pytest.approx([581.6e9] * 6, rel=1e-3)
    check(figure)
    assert epochs(measurements_of(made), "t5-small") is None


def test_samplers_that_keep_other_amounts_read_the_same_budget():
    """At one rate, a sampler of long documents keeps more tokens, and reads them less often."""
    made = rows(("random", "density"), models=("t5-small",), tasks=("c4",), steps=(1_000_000,))
    kept = {row: 4.0 if row.sampler == "density" else 1.0 for row in [*made, *amounts(made)]}
    skewed = [
        replace(row, epoch=row.epoch / times, value=row.value * (times if row.metric == "selected_tokens" else 1))
        for row, times in kept.items()
    ]
    bars = epochs(measurements_of(skewed), "t5-small").axes[0].patches
    ends = {round(bar.get_y(), 3): bar.get_x() + bar.get_width() for bar in bars}
    assert list(ends.values()) == pytest.approx([581.6e9] * 6, rel=1e-3)


def test_lines_of_a_figure_can_be_told_apart():
    assert all(len(groups(names)) <= 7 for names in FAMILIES.values())
    assert len(overview(EVERY_SAMPLER)) <= 7
    looks = [style.series(number) for number in range(7)]
    for name in ("color", "marker"):
        assert len({str(look[name]) for look in looks}) == 7
    assert len({(str(look["linestyle"]), look["marker"]) for look in looks}) == 7


# Machado, Oliveira & Fernandes 2009, severity 1, linear RGB
DEFICIENCIES = {
    "none": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


def lab(rgb, matrix):
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.asarray(matrix) @ linear, 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ seen
    t = xyz / [0.9505, 1.0, 1.089]
    f = np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("kind", DEFICIENCIES)
def test_series_differ_for_every_eye(kind):
    colours = [np.array([int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)]) for c in style.SERIES]
    seen = [lab(colour, DEFICIENCIES[kind]) for colour in colours]
    nearest = min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2))
    assert nearest > 12, nearest  # five times what is just noticeable (2.3: Mahy et al. 1994)


def test_scores_are_turned_so_that_higher_is_better():
    rng = np.random.default_rng(0)
    good = rng.normal(size=300)
    turned = oriented({"b": -good, "a": good}, ["b"])
    assert list(turned) == ["a", "b"]
    figure = tau_heat_map({"a": good, "b": -good}, ["b"])
    assert [text.get_text() for text in figure.axes[0].texts] == ["1.00", "1.00", "1.00"]
    assert tau_heat_map({"a": good, "b": -good}).axes[0].texts[1].get_text() == "−1.00"


def test_numbers_on_dark_cells_are_light_and_on_light_cells_dark():
    good = np.arange(100.0)
    texts = tau_heat_map({"a": good, "b": -good}).axes[0].texts
    assert [text.get_color() for text in texts] == ["#000000", "#ffffff", "#000000"]


def test_distributions_say_what_they_leave_out():
    one = np.concatenate([np.random.default_rng(0).normal(size=5000), [1e9, -1e9]])
    figure = distributions({"ask-llm-xl": one, "flat": np.zeros(5002)}, units={"ask-llm-xl": "log P(yes), nats"})
    assert "0.1% of the documents" in figure._supxlabel.get_text()
    assert figure.axes[0].get_xlim()[1] < 10
    assert figure.axes[0].get_xlabel() == "log P(yes), nats"
    check(figure)


def test_break_even_is_marked():
    figure = cost({"ask-llm-xl": 10.0, "ask-llm-xxl": 49.0}, {"t5-large": 24.0})
    circles = [line.get_xdata()[0] for line in figure.axes[0].lines if line.get_fillstyle() == "none"]
    assert circles == pytest.approx([41.67], abs=0.01)


def test_bars_of_ranks():
    check(rank_changes({name: i - 11.0 for i, name in enumerate(EVERY_SAMPLER)}, "t5-small", "t5-large"))
    check(rank_changes({"a": 0.0, "b": 0.0}, "x", "y"))


def test_files_have_the_same_bytes_and_fixed_colours(tmp_path):
    for folder in ("a", "b"):
        files = style.save(cost({"ask-llm-xl": 10.0}, {"t5-large": 24.0}), str(tmp_path / folder / "cost"))
    assert sorted(file.rsplit(".", 1)[1] for file in files) == ["pdf", "png", "svg"]
    for file in files:
        name = file.rsplit("/", 1)[1]
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert "var(--" not in (tmp_path / "a" / "cost.svg").read_text()


def test_figures_of_a_page_take_its_colours_and_share_no_ids():
    texts = [style.svg(cost({"ask-llm-xl": hours}, {"t5-large": 24.0}), f"<{hours}>") for hours in (1.0, 2.0)]
    ids = [set(re.findall(r' id="([^"]+)"', text)) for text in texts]
    assert not ids[0] & ids[1]
    for text in texts:
        assert "var(--series-0)" in text
        assert "currentColor" in text
        assert 'aria-label="&lt;' in text
        used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
        assert used <= set(re.findall(r' id="([^"]+)"', text))


@pytest.mark.parametrize("name", [r"$\frac{$", "$a$", "<b>&amp;</b>", "_hidden", "a\nb", '"'])
def test_a_name_is_shown_as_it_is(name):
    figure, (axes,) = style.panels(1)
    style.say(axes, name, name, name)
    axes.set_xticks([0, 1], [name, name])
    drawn = style.svg(figure, name)
    shown = [text.get_text() for text in figure.findobj(Text) if text.get_text() == name]
    assert len(shown) >= 3
    if "$" in name:
        assert name in drawn
    assert "<b>" not in drawn
