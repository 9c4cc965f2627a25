"""winnow select of documents that are kept several times, of soft cuts and of mixtures."""

import json
import shlex

import numpy as np
import pytest
import yaml
from conftest import document
from dataset_files import files_of, load, without_output
from datatrove.pipeline.readers import JsonlReader
from here import in_this_process

from launch.cli import main
from launch.plan import Plan
from launch.stages.datasets import Dataset
from launch.study_file import parse_study
from pipeline_steps import (
    Cut,
    LabelStore,
    MetadataLabels,
    MetadataScorer,
    ScoreStore,
    Selection,
    UpsamplingCurve,
    select,
)
from pipeline_steps.errors import InvalidStudy


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A corpus of two files, its scores (quality, and the size of a cluster of duplicates) and its labels."""
    folder = tmp_path_factory.mktemp("counts")
    (folder / "corpus").mkdir()
    for name, numbers in {"a": range(30), "b": range(30, 100)}.items():
        rows = [
            document(n)
            | {
                "quality": n * 37 % 100 / 10,
                "size": n % 5 + 1,
                "kind": "wiki" if n % 4 else "web",
                "token_count": 7 + n,
            }
            for n in numbers
        ]
        (folder / "corpus" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for step in (
        MetadataScorer(str(folder / "quality"), "quality"),
        MetadataScorer(str(folder / "sizes"), "size"),
        MetadataLabels(str(folder / "labels"), "kind"),
    ):
        list(step.run(JsonlReader(str(folder / "corpus")).run()))
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    in_this_process(monkeypatch)


def choose(folder, output, *more, scores="quality"):
    words = ["select", "--corpus", folder / "corpus", "--scores", folder / scores, "--output", output, *more]
    return main([*map(str, words)])


def counts_of(folder, cut, labels=None, scores="quality"):
    return select(ScoreStore.open(str(folder / scores)), cut, labels).counts


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_a_dataset_says_how_often(folder, tmp_path, format, capsys):
    amount = ("--token-budget", 6000, "--upsample", "cap=5", "drop=0.2")
    assert choose(folder, tmp_path / "once", *amount, "--format", format) == 0
    counts = counts_of(folder, Cut("top", token_budget=6000, upsample=UpsamplingCurve(0.2, 5)))
    assert f"{(counts > 0).sum()} of 100 documents in {counts.sum()} copies" in capsys.readouterr().out
    once, ids = load(tmp_path / "once"), [document(n)["id"] for n in range(100)]
    assert dict(zip(once["id"], once["count"], strict=True)) == {ids[n]: counts[n] for n in np.flatnonzero(counts)}
    assert str(once.features["count"].dtype) == "uint8"
    saved = Selection.load(str(tmp_path / "once" / "selection.safetensors"))
    np.testing.assert_array_equal(saved.counts, counts)
    card = (tmp_path / "once" / "README.md").read_text()
    record = json.loads((tmp_path / "once" / "winnow.json").read_text())
    assert (record["copies"], record["tokens"][1]) == (counts.sum(), (counts * (7 + np.arange(100))).sum())
    said = ("`count` says how often", "each up to 5 times", f"| copies | 100 | {counts.sum()} |")
    assert all(part in card for part in said)

    assert choose(folder, tmp_path / "rows", *amount, "--format", format, "--repeat") == 0
    rows = load(tmp_path / "rows")["id"]
    assert rows == [f"{ids[n]}#{j}" if j > 1 else ids[n] for n in range(100) for j in range(1, counts[n] + 1)]
    (command,) = (line for line in card.splitlines() if line.startswith("winnow select"))
    again = shlex.split(command)[1:-1]
    assert main([*again, str(tmp_path / "again")]) == 0
    one, other = (without_output(files_of(tmp_path / name)) for name in ("once", "again"))
    assert one == other


def test_mixtures_duplicates_and_soft_cuts(folder, tmp_path, capsys):
    mixture = ("--labels", folder / "labels", "--mixture", "web=0.75", "wiki=0.25")
    assert choose(folder, tmp_path / "mixed", "--k", 20, *mixture) == 0
    assert load(tmp_path / "mixed")["kind"].count("web") == 15
    assert choose(folder, tmp_path / "more", "--k", 60, *mixture) == 2
    assert "stratum 'web' holds 25 documents, and the cut asks for 45" in " ".join(capsys.readouterr().err.split())
    assert choose(folder, tmp_path / "more", "--k", 60, *mixture, "--fill", "others") == 0
    assert load(tmp_path / "more")["kind"].count("web") == 25
    labels = LabelStore.open(str(folder / "labels"))
    expected = counts_of(folder, Cut("top", k=60, mixture={"web": 0.75, "wiki": 0.25}, fill="others"), labels)
    assert Selection.load(str(tmp_path / "more" / "selection.safetensors")).counts.tolist() == expected.tolist()
    assert choose(folder, tmp_path / "each", "--rate", 0.2, "--labels", folder / "labels") == 0
    assert load(tmp_path / "each")["kind"].count("web") == 5

    assert choose(folder, tmp_path / "again", "--copies", "1=1", "2=3", "5=0", scores="sizes") == 0
    found = load(tmp_path / "again")
    assert set(zip(found["size"], found["count"], strict=True)) == {(1, 1), (2, 3), (3, 3), (4, 3)}
    assert choose(folder, tmp_path / "some", "--copies", "1=1", "2=3", "--k", 50, scores="sizes") == 0
    assert sum(load(tmp_path / "some")["count"]) == 50

    assert choose(folder, tmp_path / "soft", "--k", 20, "--mode", "direct", "--temperature", 2) == 0
    soft = counts_of(folder, Cut("direct", k=20, temperature=2))
    assert load(tmp_path / "soft")["id"] == [document(n)["id"] for n in np.flatnonzero(soft)]
    assert choose(folder, tmp_path / "scaled", "--k", 20, "--mode", "ips", "--temperature", 2, "--normalize") == 0
    scaled = counts_of(folder, Cut("ips", k=20, temperature=2, normalize=True))
    assert load(tmp_path / "scaled")["id"] == [document(n)["id"] for n in np.flatnonzero(scaled)]
    assert "exp(-score / 2 standard deviations)" in (tmp_path / "scaled" / "README.md").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--k", 5, "--mixture", "web=1"), "give --labels"),
        (("--k", 5, "--mixture", "web"), "'web' must be NAME=VALUE"),
        (("--k", 5, "--mixture", "web=most", "--labels", "labels"), "mixture must map labels"),
        (("--k", 5, "--upsample", "slope=2"), "no setting 'slope'"),
        (("--k", 5, "--temperature", 2), "modes ips and direct, not for top"),
        (("--copies", "1=1", "--rate", 0.5, "--k", 5), "not --rate and --k"),
        (("--upsample", "cap=7"), "give one of --rate, --k and --token-budget"),
        (("--token-budget", 10**9, "--upsample", "cap=7"), "above drop=0.4, in up to 7 copies each"),
        (("--k", 5, "--labels", "nothing"), "nothing"),
        (("--rate", 1.5, "--upsample", "cap=7", "--score-column", "count"), "'count' holds counts"),
    ],
)
def test_what_cannot_be_is_refused_by_name(folder, tmp_path, capsys, words, message):
    assert choose(folder, tmp_path / "none", *words) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_config_file_may_say_it(folder, tmp_path):
    flags = {"rate": 1.2, "upsample": ["cap=3"], "repeat": True}
    (tmp_path / "flags.yaml").write_text(yaml.safe_dump(flags))
    assert choose(folder, tmp_path / "kept", "--config", tmp_path / "flags.yaml") == 0
    assert len(load(tmp_path / "kept")) == 120


def test_a_sampler_of_a_study_may_say_it_for_its_runs_and_datasets(folder, tmp_path):
    text = f"""
output: {tmp_path}/out
corpus: {folder}/corpus
rates: [0.5]
samplers:
  - good: {{scores: {folder}/quality, upsample: {{cap: 3}}, labels: {folder}/labels, mixture: {{web: 0.6, wiki: 0.4}}}}
datasets: [{{output: {tmp_path}/as-it, rate: 1.0}}, {{output: {tmp_path}/own, k: 30, temperature: 2, mode: direct}}]
"""
    plan = Plan.of(parse_study("s.yaml", text))
    (selected,) = (stage for name, stage in plan.stages.items() if name.startswith("selections/"))
    selected.run_task(plan.output, 0)
    kept = Selection.load(selected.file(plan.output))
    assert (kept.copies, kept.cut["upsample"]["cap"], kept.cut["mixture"]) == (50, 3, {"web": 0.6, "wiki": 0.4})
    cuts = {stage.settings.output: stage.settings for stage in plan.stages.values() if isinstance(stage, Dataset)}
    as_it, own = cuts[f"{tmp_path}/as-it"], cuts[f"{tmp_path}/own"]
    assert (as_it.cut.upsample.cap, as_it.labels) == (3, f"{folder}/labels")
    assert (own.cut, own.labels) == (Cut("direct", k=30, temperature=2), None)
    with pytest.raises(InvalidStudy, match="line 6.*modes ips and direct, not for top"):
        parse_study("s.yaml", text.replace("upsample: {cap: 3}", "mode: top, temperature: 3"))


def test_study_files_refuse_it_by_line():
    text = "output: o\ncorpus: c\nsamplers: [random]\ndatasets:\n  - {output: d, k: 5, mixture: {web: 1.0}}\n"
    with pytest.raises(InvalidStudy, match="line 5, column 32: .*add labels"):
        parse_study("s.yaml", text)
    with pytest.raises(InvalidStudy, match="no setting 'slope'"):
        parse_study("s.yaml", text.replace("mixture: {web: 1.0}", "upsample: {slope: 1}"))
    with pytest.raises(InvalidStudy, match="line 5.* the rate 1.5 must be at most 1"):
        parse_study("s.yaml", text.replace("k: 5, mixture: {web: 1.0}", "rate: 1.5"))
    with pytest.raises(InvalidStudy, match="one of rate, k and token_budget"):
        parse_study("s.yaml", text.replace("k: 5, mixture: {web: 1.0}", "upsample: {cap: 7}"))
