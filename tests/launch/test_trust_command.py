"""winnow trust, as a user gives it: from labels to a verdict, a page and calibrated scores that are cut."""

import json
import random

import numpy as np
import pyarrow.parquet as pq
import pytest
from datatrove.pipeline.readers import JsonlReader
from here import in_this_process

from launch.cli import main
from pipeline_steps import MetadataLabels, MetadataScorer, ScoreStore
from pipeline_steps.scorers.metadata import LabelStore


LABELLED = 400


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    """A corpus of 600 documents in two files, scores, domains, and labels of 400 of them.

    Both domains have good and bad documents alike, "judge" is 3 higher in one of them, and "length" is the length.
    """
    folder, rng = tmp_path_factory.mktemp("web"), random.Random(0)
    (folder / "corpus").mkdir()
    rows, labels = [], []
    for number in range(600):
        domain, good = number % 2, rng.gauss(0, 1)
        words = max(5, round(60 + 20 * rng.gauss(0, 1)))
        row = {"id": f"doc-{number}", "text": " ".join(["word"] * words + [str(number)])}
        rows.append(row | {"judge": good + 3 * domain, "length": -words, "domain": ["web", "wiki"][domain]})
        rows[-1]["token_count"] = words
        labels.append({"id": row["id"], "label": int(good + rng.gauss(0, 0.5) > 0), "domain": rows[-1]["domain"]})
    labels[LABELLED]["label"] = None
    for name, some in {"a": rows[:250], "b": rows[250:]}.items():
        (folder / "corpus" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    (folder / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labels[: LABELLED + 1]))
    steps = [
        MetadataScorer(str(folder / "judge"), "judge"),
        MetadataScorer(str(folder / "length"), "length", lower_is_better=True),
        MetadataLabels(str(folder / "domains"), "domain"),
    ]
    for step in steps:
        for _ in step.run(JsonlReader(str(folder / "corpus")).run()):
            pass
    return folder


def run(*words):
    return main(["--quiet", "trust", *map(str, words)])


def test_a_verdict_with_strata_and_a_page(web, tmp_path, capsys):
    words = (web / "judge", web / "length", "--labels", web / "labels.jsonl", "--stratum", "domain")
    assert run(*words, "--html", tmp_path / "trust.html") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "400 documents have a label and every score" in said
    assert "1 rows have no label" in said
    assert "Length, in tokens" in said
    assert "It agrees with the labels better than length alone" in said
    assert "length: AUC" in said
    assert "The labels do not show that the score agrees" in said
    page = (tmp_path / "trust.html").read_text()
    for words_ in ("Do the scores agree with the labels?", "<svg ", "In each stratum", "wiki", "van Elteren"):
        assert words_ in page
    assert "http" not in page.split("<main>")[1].replace("http://www.w3.org", "")


def test_json_is_the_same_whatever_the_order_of_labels(web, tmp_path, capsys):
    lines = (web / "labels.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "labels.jsonl").write_text("".join(lines[::-1]))
    found = []
    for path in (web / "labels.jsonl", tmp_path / "labels.jsonl"):
        assert run(web / "judge", web / "length", "--labels", path, "--stratum", "domain", "--json") == 0
        found.append(json.loads(capsys.readouterr().out))
        del found[-1]["facts"]
    assert found[0] == found[1]
    one = found[0]["scores"]["judge"]
    # A judge that favours a domain agrees better within domains than across them
    assert one["within_strata"]["low"] > one["overall"]["high"]
    assert one["length_fixed"]["low"] > 0.5
    assert found[0]["scores"]["length"]["length_fixed"]["low"] < 0.5
    assert found[0]["documents"] == LABELLED
    assert found[0]["unmatched"] == {"judge": 0, "length": 0}


def test_calibrated_scores_compare_across_domains_and_are_cut(web, tmp_path, capsys, monkeypatch):
    in_this_process(monkeypatch)
    words = (web / "judge", "--labels", web / "labels.jsonl", "--strata", web / "domains", "--min-labels", 150)
    assert run(*words, "--calibrated", tmp_path / "calibrated", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["calibration"]["fits"]) == {"", "web", "wiki"}
    assert found["scores"]["judge, calibrated"]["overall"]["low"] > found["scores"]["judge"]["overall"]["value"]

    judge, made = (ScoreStore.open(str(folder)) for folder in (web / "judge", tmp_path / "calibrated"))
    judge.check_same_corpus(made)
    assert not made.lower_is_better
    np.testing.assert_array_equal(judge.tokens, made.tokens)
    np.testing.assert_array_equal(judge.column("id"), made.column("id"))
    strata = np.concatenate([LabelStore.open(str(web / "domains")).strata(source) for source in judge.sources])
    for stratum in (0, 1):
        order = np.argsort(judge.scores[strata == stratum])
        assert (np.diff(made.scores[strata == stratum][order]) > 0).all()
    assert abs(made.scores[strata == 0].mean() - made.scores[strata == 1].mean()) < 0.1
    assert made.made["of"] == judge.made
    assert made.inputs["scores"] == [judge.fingerprint, LabelStore.open(str(web / "domains")).fingerprint]
    (part,) = (tmp_path / "calibrated" / "parts").glob("a.jsonl-*.parquet")
    assert pq.read_table(part).num_rows == 250

    files = {path: path.read_bytes() for path in (tmp_path / "calibrated").rglob("*") if path.is_file()}
    part.unlink()
    (tmp_path / "calibrated" / "manifest.json").unlink()
    assert run(*words, "--calibrated", tmp_path / "calibrated") == 0  # as after a kill
    assert {path: path.read_bytes() for path in files} == files
    words = (
        "--scores",
        tmp_path / "calibrated",
        "--corpus",
        web / "corpus",
        "--rate",
        0.2,
        "--output",
        tmp_path / "k",
    )
    assert main(["--quiet", "select", *map(str, words)]) == 0
    assert main(["--quiet", "inspect", str(tmp_path / "calibrated")]) == 0
    assert "calibrate, mean label" in capsys.readouterr().out


def test_the_verdict_names_strata_without_a_label_and_scores_against_the_labels(web, tmp_path, capsys):
    rows = [json.loads(line) for line in (web / "labels.jsonl").read_text().splitlines()]
    turned = [row | {"label": 1 - row["label"], "length": 9} for row in rows if row["label"] is not None]
    some = [row for row in turned if row["domain"] == "web"]
    for name, kept in {"turned": turned, "web": some}.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    words = ("--strata", web / "domains", "--calibrated", tmp_path / "calibrated")
    assert run(web / "judge", "--labels", tmp_path / "web.jsonl", *words) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Strata with too few labels have the fit of all documents: wiki (0)." in said
    assert run(web / "judge", "--labels", tmp_path / "turned.jsonl", "--stratum", "domain", "--length", "length") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Within strata it orders documents against the labels, 0." in said
    assert "All labelled documents have the same length" in said


def test_low_scores_that_are_good_have_high_calibrated_ones(web, tmp_path, capsys):
    store = ScoreStore.open(str(web / "length"))
    middle = np.median(store.tokens)
    rows = [
        {"id": i, "label": int(t > middle)} for i, t in zip(store.column("id"), store.tokens.tolist(), strict=True)
    ]
    (tmp_path / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run(web / "length", "--labels", tmp_path / "long.jsonl", "--calibrated", tmp_path / "calibrated") == 0
    made = ScoreStore.open(str(tmp_path / "calibrated"))
    assert (np.diff(made.scores[np.argsort(store.scores)]) <= 0).all()
    assert made.scores.min() == pytest.approx(0, abs=1e-3)
    assert made.scores.max() == pytest.approx(1, abs=1e-3)


def test_a_calibrated_store_of_other_labels_is_refused(web, tmp_path, capsys):
    words = (web / "judge", "--calibrated", tmp_path / "calibrated", "--labels")
    assert run(*words, web / "labels.jsonl") == 0
    lines = (web / "labels.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "fewer.jsonl").write_text("".join(lines[:300]))
    assert run(*words, tmp_path / "fewer.jsonl") == 2
    assert "was made with other settings (labels: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("{web}/judge",), "trust needs --labels"),
        (("--labels", "{web}/labels.jsonl"), "trust needs SCORES"),
        (("{web}/judge", "--labels", "{web}/nothing.jsonl"), "nothing.jsonl"),
        (("{web}/nothing", "--labels", "{web}/labels.jsonl"), "holds nothing yet"),
        (("{web}/domains", "--labels", "{web}/labels.jsonl"), "holds labels, not scores"),
        (("{web}/judge", "--labels", "{web}/labels.jsonl", "--strata", "{web}/judge"), "holds scores, not labels"),
        (("{web}/judge", "{web}/judge/", "--labels", "{web}/labels.jsonl"), "given twice"),
        (("{web}/judge", "--labels", "{web}/labels.jsonl", "--column", "grade"), "no column 'grade'"),
        (("{web}/judge", "--labels", "{web}/labels.jsonl", "--grades", "good"), "is not LABEL=SCORE"),
        (("{web}/judge", "--labels", "{web}/labels.jsonl", "--grades", "0=nan,1=1"), "with a finite score"),
        (
            ("{web}/judge", "{web}/length", "--labels", "{web}/labels.jsonl", "--calibrated", "{web}/c"),
            "--calibrated is of one score store, and 2 are given",
        ),
        (
            ("{web}/judge", "--labels", "{web}/labels.jsonl", "--stratum", "domain", "--calibrated", "{web}/c"),
            "store the strata of the corpus with MetadataLabels",
        ),
        (
            ("{web}/judge", "--labels", "{web}/labels.jsonl", "--calibrated", "{web}/c", "--min-labels", "500"),
            "400 labelled documents are too few to calibrate",
        ),
    ],
)
def test_mistakes_are_one_sentence(web, words, message, capsys):
    assert run(*(word.format(web=web) for word in words)) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.startswith("winnow: ")
    assert not (web / "c").exists()


def test_a_damaged_store_is_named(web, tmp_path, capsys):
    import shutil

    shutil.copytree(web / "judge", tmp_path / "judge")
    (part,) = (tmp_path / "judge" / "parts").glob("a.jsonl-*")
    blob = bytearray(part.read_bytes())
    blob[len(blob) // 3] ^= 255
    part.write_bytes(bytes(blob))
    assert run(tmp_path / "judge", "--labels", web / "labels.jsonl") == 2
    assert part.name in capsys.readouterr().err
