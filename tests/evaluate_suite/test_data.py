"""Data must be found in the Hub's layout and in plain folders, and be missed in one sentence."""

import gzip
import json

import pytest
from tiny_data import write_configuration

from evaluate_suite.data import data_digest, dataset_arguments, load_split
from evaluate_suite.registry import by_suite, find_tasks, registry, training_data
from pipeline_steps.errors import CorpusError, InvalidCut


def test_with_and_without_a_readme(data_root):
    with_metadata, without = registry()["mnli_matched"], registry()["gsm8k"]
    assert (data_root / with_metadata.dataset / "README.md").exists()
    assert not (data_root / without.dataset / "README.md").exists()
    assert load_split(with_metadata, "validation_matched", str(data_root))[0]["label"] == 0
    assert load_split(without, "test", str(data_root))[2]["question"] == "2 foxes and 2 owls?"


def test_two_folders_of_one_layout_are_not_taken_for_each_other(tmp_path):
    """`datasets` caches a folder with a README by its README alone; here each root has its own data."""
    task = registry()["cola"]
    for root in ("a", "b", "a"):
        sentence = f"{root} {len(list(tmp_path.rglob('seen-*')))}"
        (tmp_path / f"seen-{sentence}").touch()
        write_configuration(tmp_path / root / task.dataset, "cola", {"train": [{"sentence": sentence, "label": 1}]})
        assert load_split(task, "train", str(tmp_path / root))["sentence"] == [sentence]


@pytest.mark.parametrize("name", ["data", "."])
def test_one_configuration_needs_no_folder_of_its_own(tmp_path, name):
    folder = tmp_path / "ChilleD" / "SVAMP" / name
    folder.mkdir(parents=True, exist_ok=True)
    for part in range(2):
        (folder / f"test-0000{part}-of-00002.jsonl").write_text(json.dumps({"n": part}) + "\n")
    (folder / "train.jsonl").write_text(json.dumps({"n": 7}) + "\n")
    assert load_split(registry()["svamp"], "test", str(tmp_path))["n"] == [0, 1]


def test_without_a_root_it_is_the_hubs():
    task = registry()["cola"]
    assert dataset_arguments(task.dataset, task.config, task.revision, None) == {
        "path": "nyu-mll/glue",
        "name": "cola",
        "revision": "main",
    }


def test_what_is_missing_is_said(data_root, tmp_path):
    task = registry()["cola"]
    with pytest.raises(CorpusError, match=r"hf download nyu-mll/glue --repo-type dataset --local-dir"):
        load_split(task, "train", str(tmp_path))
    with pytest.raises(CorpusError, match=r"cola needs the split test .*train"):
        load_split(task, "test", str(data_root))
    (tmp_path / "nyu-mll" / "glue" / "elsewhere").mkdir(parents=True)
    with pytest.raises(CorpusError, match=r"no cola/ with a file for each split .*: it has elsewhere"):
        load_split(task, "train", str(tmp_path))
    broken = tmp_path / "nyu-mll" / "glue" / "cola" / "train.jsonl"
    broken.parent.mkdir()
    broken.write_text("{not json\n")
    with pytest.raises(CorpusError, match="cola needs the split train"):
        load_split(task, "train", str(tmp_path))


def test_a_digest_follows_the_data_of_its_task_alone(data_root, tmp_path):
    first, other = registry()["anatomy"], registry()["astronomy"]
    assert data_digest(first, None) == "cais/mmlu@main"
    for task in (first, other):
        file = tmp_path / task.dataset / task.config / "test.jsonl"
        file.parent.mkdir(parents=True)
        file.write_text("{}\n")
    before = [data_digest(task, str(tmp_path)) for task in (first, other)]
    (tmp_path / first.dataset / first.config / "test.jsonl").write_text('{"a": 1}\n')
    after = [data_digest(task, str(tmp_path)) for task in (first, other)]
    assert (before[0] != after[0], before[1] == after[1]) == (True, True)


def test_tasks_by_name_and_by_suite():
    assert find_tasks(["qa"]) == by_suite()["qa"]
    assert [task.name for task in find_tasks(["gsm8k", "cola", "cola"])] == ["cola", "gsm8k"]
    with pytest.raises(InvalidCut, match="no task or suite 'gsm8'.*did you mean gsm8k"):
        find_tasks(["gsm8"])
    with pytest.raises(InvalidCut, match="winnow evaluate --list"):
        find_tasks(["zzzzzz"])


def test_compressed_files_and_long_names_and_what_lies_beside(tmp_path):
    """FLAN's files on the Hub: one a collection, each name ending in train."""
    folder = tmp_path / "SirNeural" / "flan_v2"
    folder.mkdir(parents=True)
    for number, name in enumerate(("cot_zs_noopt_train", "dialog-train")):
        with gzip.open(folder / f"{name}.jsonl.gz", "wt") as file:
            file.write(json.dumps({"inputs": str(number), "targets": "x"}) + "\n")
    (folder / "dataset_infos.json").write_text("{}")
    (folder / "README.md").write_text("---\nlicense: apache-2.0 --- of a kind\nconfigs:\n---\n# FLAN\n")
    (task,) = training_data("flan")
    assert load_split(task, "train", str(tmp_path))["inputs"] == ["0", "1"]
    (folder / "README.md").write_text("---\na: [\n---\n")
    with pytest.raises(CorpusError, match=r"README\.md cannot be read"):
        load_split(task, "train", str(tmp_path))
