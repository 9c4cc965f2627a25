"""From evaluation sets to a dataset without their questions: commands, study files and the report."""

import json

import pytest
from conftest import document
from dataset_files import load
from here import in_this_process
from synthetic_study import rows as result_rows

from evaluate_suite.report import ReportSettings, write_report
from evaluate_suite.results import write_results
from launch.cli import main
from launch.commands.select import _spelled_exclusion
from launch.plan import Plan
from launch.study_file import parse_study
from pipeline_steps import ScoreStore, Selection
from pipeline_steps.errors import InvalidStudy, StoreMismatch
from pipeline_steps.scorers.contamination import load_index


QUESTION = "Which of these three animals, seen near the old mill at night, can turn its head furthest?"
SECTION = "contamination: {{texts: {{owls: {items}}}, words: 10{more}}}\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A crawl of two files, of whose hundred documents three hold a question; and the question."""
    folder = tmp_path_factory.mktemp("contaminated")
    (folder / "crawl").mkdir()
    documents = [document(number) for number in range(100)]
    for number in (3, 50, 77):
        documents[number]["text"] += f" {QUESTION.upper()} Who knows?"
    for name, some in {"a": documents[:50], "b": documents[50:]}.items():
        (folder / "crawl" / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in some))
    (folder / "items.jsonl").write_text(json.dumps({"text": QUESTION, "answer": "the owl"}) + "\n")
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    in_this_process(monkeypatch)


def score(folder, output, *more):
    words = ["score", "--corpus", folder / "crawl", "--sampler", "contamination", "--output", output, *more]
    return main([*map(str, words)])


def dirty(text):
    return QUESTION.upper() in text


def test_from_a_crawl_to_a_dataset_without_questions(folder, tmp_path, capsys):
    work, output = tmp_path / "work", tmp_path / "kept"
    assert score(folder, work, "--evaluation-texts", f"owls={folder / 'items.jsonl'}") == 0
    said = capsys.readouterr().out
    assert "100 documents scored" in said
    assert "3 hold questions of evaluation sets: owls 3" in said
    assert "1 of 1 questions are long enough to be found\n" in said
    store = ScoreStore.open(str(work / "scores" / "contamination"))
    select = ["select", "--corpus", folder / "crawl", "--scores", store.path, "--mode", "random", "--exclude"]
    assert main([*map(str, [*select, store.path, "--rate", 0.5, "--output", output])]) == 0
    assert "48 of 100 documents" in capsys.readouterr().out  # half of 97, rounded to the nearest
    kept = load(output)
    assert not any(map(dirty, kept["text"]))
    record = Selection.load(str(output / "selection.safetensors")).cut["exclude"]
    assert [(one["scores"], one["threshold"]) for one in record] == [(store.fingerprint, 0.0)]
    assert f"--exclude {store.path}:0 " in (output / "README.md").read_text()
    assert main([*map(str, [*select, f"{store.path}:99", "--k", 100, "--output", tmp_path / "all"])]) == 0
    assert main([*map(str, [*select, f"{store.path}:0", "--k", 98, "--output", tmp_path / "few"])]) == 2
    assert "holds 97 that are not excluded" in capsys.readouterr().err


def test_tasks_of_the_registry_are_read_from_the_data_root(folder, tmp_path, data_root, capsys):
    options = ("--evaluations", "early_signal", "boolq", "--data-root", data_root, "--words", 8)
    assert score(folder, tmp_path, *options) == 0
    header = load_index(str(tmp_path / "evaluations")).header
    assert "and none of " in (said := capsys.readouterr().out)
    assert "mmlu_cloze" in said.rpartition("none of ")[2]
    assert header["words"] == 8
    assert {"boolq", "hellaswag", "arc_easy", "mmlu_cloze"} <= header["evaluations"].keys()
    assert header["evaluations"]["boolq"] == [6, 6]
    assert header["evaluations"]["mmlu_cloze"][1] == 0  # "Who slept 3 hours?" and its answer are too short


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "contamination needs evaluation sets"),
        (["--evaluations", "mmul"], "did you mean mmlu?"),
        (["--evaluations", "c4_perplexity"], "has no scored questions"),
        (["--evaluation-texts", "owls=nowhere.jsonl"], "nowhere.jsonl"),
        (["--evaluation-texts", "owls=a.jsonl", "owls=b.jsonl"], "'owls' is there twice"),
        (["--words", "8"], "give --evaluations or --evaluation-texts"),
        (["--evaluations", "mmlu", "--evaluation-text-key", "q"], "is of --evaluation-texts"),
        (["--evaluations", "mmlu", "--words", "0"], "words"),
        (["--evaluations", "mmlu", "--data-root", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_looked_for_is_refused(folder, tmp_path, capsys, words, said):
    assert score(folder, tmp_path / "new", *words) == 2
    assert said in capsys.readouterr().err


def test_questions_may_stand_in_a_column_of_another_name(folder, tmp_path, capsys):
    (tmp_path / "q.jsonl").write_text(json.dumps({"question": QUESTION}) + "\n")
    texts = ("--evaluation-texts", f"owls={tmp_path / 'q.jsonl'}", "--evaluation-text-key", "question")
    assert score(folder, tmp_path / "work", *texts) == 0
    assert "owls 3" in capsys.readouterr().out


def test_one_exclusion_has_one_spelling(folder):
    for text in ("s", "s/", "s:0", "s/:0.0", "s:-0.0"):
        assert _spelled_exclusion(text) == "s:0"
    assert _spelled_exclusion("s/:0.123456789") == _spelled_exclusion("s:0.123456789") == "s:0.123456789"


def test_other_samplers_look_for_no_questions(folder, tmp_path, capsys):
    words = ["score", "--corpus", folder / "crawl", "--sampler", "random", "--output", tmp_path / "new"]
    assert main([*map(str, words), "--evaluations", "mmlu"]) == 2
    assert "random looks for no questions" in capsys.readouterr().err
    assert main([*map(str, words), "--words", "8"]) == 2
    assert "--words and --evaluation-text-key are of evaluation sets" in capsys.readouterr().err


def study(folder, output, more="", rest=""):
    """The text of a study that looks for the question."""
    section = SECTION.format(items=folder / "items.jsonl", more=more)
    return f"output: {output}\ncorpus: {folder / 'crawl'}\nsamplers: [random]\nrates: [0.5]\n{section}{rest}"


def stages_of(text):
    return Plan.of(parse_study("s.yaml", text)).stages


def run(tmp_path, text):
    (tmp_path / "s.yaml").write_text(text)
    assert main(["run", str(tmp_path / "s.yaml")]) == 0


def test_a_study_counts_or_excludes(folder, tmp_path):
    run(tmp_path, study(folder, tmp_path / "counts"))
    run(tmp_path, study(folder, tmp_path / "excludes", ", exclude: 0"))
    counts, clean = (
        Selection.load(str(tmp_path / name / "selections" / "random" / "0.5.safetensors"))
        for name in ("counts", "excludes")
    )
    store = ScoreStore.open(str(tmp_path / "counts" / "scores" / "contamination"))
    held = store.scores > 0
    assert held.sum() == 3
    assert (counts.documents, clean.documents) == (50, 48)
    assert not (clean.mask & held).any()
    assert "exclude" not in counts.cut


def test_a_study_s_datasets_leave_out_what_it_excludes(folder, tmp_path):
    rest = f"datasets: [{{output: {tmp_path / 'kept'}, k: 97}}]\n"
    text = study(folder, tmp_path / "out", ", exclude: 0", rest)
    run(tmp_path, text)
    parsed = parse_study("s.yaml", text)
    assert Plan.of(parsed).stages == Plan.of(parsed).stages
    texts = load(tmp_path / "kept")["text"]
    assert len(texts) == 97
    assert not any(map(dirty, texts))


def test_a_sampler_or_a_dataset_may_exclude_by_any_store(folder, tmp_path):
    assert score(folder, tmp_path, "--evaluation-texts", f"owls={folder / 'items.jsonl'}") == 0
    store = tmp_path / "scores" / "contamination"
    text = (
        f"output: {tmp_path / 'out'}\ncorpus: {folder / 'crawl'}\nrates: [0.5]\n"
        f"samplers: [random, {{clean: {{scorer: random, exclude: ['{store}:0']}}}}]\n"
        f"datasets: [{{output: {tmp_path / 'kept'}, sampler: clean, k: 97}}]\n"
    )
    run(tmp_path, text)
    clean = Selection.load(str(tmp_path / "out" / "selections" / "clean" / "0.5.safetensors"))
    assert clean.documents == 48
    assert not any(map(dirty, load(tmp_path / "kept")["text"]))


def test_studies_without_it_are_what_they_were(folder, tmp_path):
    text = f"output: {tmp_path}\ncorpus: {folder / 'crawl'}\nsamplers: [random]\nrates: [0.5]\n"
    before = {name: stage.made for name, stage in stages_of(text).items()}
    counted = {name: stage.made for name, stage in stages_of(study(folder, tmp_path)).items()}
    assert before.items() <= counted.items()
    assert counted.keys() - before.keys() == {"evaluations", "scores/contamination"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("contamination: {}", "needs tasks or texts"),
        ("contamination: {tasks: [mmul]}", "did you mean mmlu"),
        ("contamination: {tasks: [ax]}", "no scored questions"),
        ("contamination: {texts: {boolq: a.jsonl}}", "boolq is a task or suite of the registry"),
        ("contamination: {texts: {qa: a.jsonl}}", "qa is a task or suite of the registry"),
        ("contamination: {tasks: [mmlu], words: 0}", "words"),
        ("contamination: {tasks: [mmlu], exclude: -1}", "exclude"),
        ("contamination: {tasks: [mmlu], exclud: 1}", "did you mean exclude"),
        ("samplers: [contamination]", "contamination needs evaluation sets"),
        ("samplers: [{random: {exclude: [':3']}}]", "give FOLDER or FOLDER:THRESHOLD"),
    ],
)
def test_mistakes_in_a_study_are_named(line, said):
    base = "output: out\ncorpus: crawl\n" + ("" if line.startswith("samplers") else "samplers: [random]\n")
    with pytest.raises(InvalidStudy, match=said):
        parse_study("s.yaml", f"{base}{line}\n")


def test_the_report_says_what_selections_hold(folder, tmp_path):
    run(tmp_path, study(folder, tmp_path))
    file = str(tmp_path / "results.jsonl")
    write_results(file, result_rows(("random",), (0.5,), ("t5-small",), ("t5-base",), ("c4",), (1_000,)))
    selection = str(tmp_path / "selections" / "random" / "0.5.safetensors")
    given = {"runs": [file], "selections": {"random": selection}, "format": "markdown", "partial": True}
    contamination = str(tmp_path / "scores" / "contamination")
    list(write_report(ReportSettings(output=str(tmp_path / "a.md"), contamination=contamination, **given)))
    lines = (tmp_path / "a.md").read_text().splitlines()
    (whole,) = (line for line in lines if line.startswith("| All documents"))
    assert [cell.strip() for cell in whole.split("|")[2:-1]] == ["100", "3", "3.000", "3"]
    held = int((Selection.load(selection).mask & (ScoreStore.open(contamination).scores > 0)).sum())
    found = lines[lines.index(whole) + 1]
    assert [cell.strip() for cell in found.split("|")[2:-1]] == ["50", str(held), f"{2 * held:.3f}", str(held)]
    list(write_report(ReportSettings(output=str(tmp_path / "b.md"), **given)))
    lines = (tmp_path / "b.md").read_text().splitlines()
    (whole,) = (line for line in lines if line.startswith("| All documents"))
    assert [cell.strip() for cell in whole.split("|")[2:-1]] == ["100", "–", "–"]
    alone = given | {"selections": {}}
    list(write_report(ReportSettings(output=str(tmp_path / "d.md"), contamination=contamination, **alone)))
    (whole,) = (line for line in (tmp_path / "d.md").read_text().splitlines() if line.startswith("| All documents"))
    assert [cell.strip() for cell in whole.split("|")[2:-1]] == ["100", "3", "3.000", "3"]
    keys = str(tmp_path / "scores" / "keys")
    with pytest.raises(StoreMismatch, match="say nothing of evaluation sets"):
        list(write_report(ReportSettings(output=str(tmp_path / "c.md"), contamination=keys, **given)))
