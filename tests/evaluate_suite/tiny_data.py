"""The data sets of all tasks in the Hub's layout, a few rows each, written for these tests."""

import json
from functools import cache
from pathlib import Path

from evaluate_suite.few_shot import harness_config
from evaluate_suite.registry import by_suite, extra_suites, training_data


ANIMALS = ["a fox", "an owl", "two mice", "the hare", "some bees", "a trout", "the old goat", "a wren"]
PLACES = [
    "in a barn",
    "by the river",
    "on a hill",
    "under the bridge",
    "near the mill",
    "at sea",
    "in town",
    "at home",
]
ROWS = 6


def sentence(number):
    return f"{ANIMALS[number % 8]} slept {PLACES[(number * 3 + number // 8) % 8]} for {number + 2} hours"


def pair_row(task, number):
    row = {name: f"{sentence(number)} ({name})" for name in task.fields}
    return row | {"label": number % max(len(task.labels), 2), "idx": number}


SPECIAL = {
    "stsb": lambda task, n: {"sentence1": sentence(n), "sentence2": sentence(n + 1), "label": n * 5 / ROWS, "idx": n},
    "multirc": lambda task, n: {
        "paragraph": f"<b>Sent 1: </b>{sentence(n // 2)}.<br>It was cold.",
        "question": "Who slept?",
        "answer": ANIMALS[n % 8],
        "label": n % 2,
        "idx": {"paragraph": n // 4, "question": n // 2, "answer": n},
    },
    "record": lambda task, n: {
        "passage": f"{sentence(n)}.\n@highlight\n{sentence(n + 1)}",
        "query": "@placeholder was not cold.",
        "entities": [ANIMALS[n % 8], ANIMALS[(n + 1) % 8]],
        "answers": [ANIMALS[n % 8]],
        "idx": {"passage": n, "query": n},
    },
    "wic": lambda task, n: {"sentence1": sentence(n), "sentence2": sentence(n + 1), "word": "slept", "label": n % 2},
    "wsc": lambda task, n: {
        "text": f"The {n}th fox saw the owl because it was hungry .",
        "span1_text": "the owl" if n % 2 else f"The {n}th fox",
        "span2_text": "it",
        "span2_index": 7,
        "label": n % 2,
    },
    "summarize": lambda task, n: {"article": f"{sentence(n)} . {sentence(n + 1)} .", "highlights": f"{sentence(n)} ."},
    "squad": lambda task, n: {
        "question": "Who slept?",
        "context": f"{sentence(n)}.",
        "answers": {"text": [ANIMALS[n % 8]], "answer_start": [0]},
    },
    "dpr": lambda task, n: {
        "sentence": f"The fox saw the owl {n} times because it was hungry.",
        "pronoun": "it",
        "candidates": ["The fox", "the owl"],
        "label": n % 2,
    },
    "pair": lambda task, n: {"inputs": f"Say where: {sentence(n)}", "targets": PLACES[n % 8], "task": "places"},
}
FEW_SHOT = {
    "mmlu": lambda n: {
        "question": f"Who slept {n} hours?",
        "choices": ANIMALS[:4],
        "answer": n % 4,
        "subject": "sleep",
    },
    "bbh": lambda n: {"input": f"{sentence(n)}?\nOptions:\n(A) yes\n(B) no", "target": "(A)" if n % 2 else "(B)"},
    "gsm8k": lambda n: {"question": f"{n} foxes and {n} owls?", "answer": f"Add them.\n#### {2 * n}"},
    "svamp": lambda n: {"Body": f"There are {n} foxes", "Question": "How many?", "Answer": f"{n}.0"},
    "asdiv": lambda n: {"body": f"{n} foxes came.", "question": "How many?", "answer": f"{n} (foxes)"},
    "strategyqa": lambda n: {"question": f"Do {n} foxes sleep?", "answer": n % 2 == 0, "facts": ["Foxes sleep."]},
    "qa_boolq": lambda n: {"passage": sentence(n), "question": "did it sleep", "label": n % 2},
}
EARLY = {
    "hellaswag": lambda n: {
        "activity_label": "Sleeping",
        "ctx_a": f"{sentence(n)}.",
        "ctx_b": "then",
        "endings": [f"{animal} woke [step] up." for animal in ANIMALS[:4]],
        "label": str(n % 4),
    },
    "piqa": lambda n: {"goal": f"Sleep {n} hours", "sol1": PLACES[n], "sol2": PLACES[n + 1], "label": n % 2},
    "social_iqa": lambda n: {
        "context": f"{sentence(n)}.",
        "question": "Who was it?",
        **dict(zip(("answerA", "answerB", "answerC"), ANIMALS, strict=False)),
        "label": str(1 + n % 3),
    },
    "openbookqa": lambda n: {
        "question_stem": f"After {n} hours there woke",
        "choices": {"text": ANIMALS[:4], "label": list("ABCD")},
        "answerKey": "ABCD"[n % 4],
    },
    "commonsense_qa_cloze": lambda n: {
        "question": f"Who slept {n} hours?",
        "choices": {"text": [*ANIMALS[:4], ANIMALS[n % 4]], "label": list("ABCDE")},  # one of them twice
        "answerKey": "ABCDE"[n % 5],
    },
    "winogrande": lambda n: {
        "sentence": f"The fox saw the owl {n} times because _ was hungry.",
        "option1": "the fox",
        "option2": "the owl",
        "answer": str(1 + n % 2),
    },
}
CORE = {
    "query": lambda n: {"query": f"{sentence(n)}. Who slept?", "choices": ANIMALS[n % 3 : n % 3 + 4], "gold": n % 4},
    "context_options": lambda n: {
        "context_options": [f"{n} foxes saw owls because {who}" for who in ("foxes", "owls")],
        "continuation": "were hungry.",
        "gold": n % 2,
    },
    "context": lambda n: {"context": f"{ANIMALS[n % 8]} slept ", "continuation": PLACES[n % 8]},
}
ARC = [
    {"question": "Who sleeps?", "choices": {"text": ANIMALS[:k], "label": list("ABCDE"[:k])}, "answerKey": "B"}
    for k in (3, 4, 5)
]


def questions(name):
    """How many questions a task of MMLU has: one of the 57 has more, for tests that look closer."""
    return ROWS if name == "anatomy" else 2


def write_jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_configuration(folder, config, splits):
    """One file a split, and the README's metadata that says so, as `Dataset.push_to_hub` leaves them."""
    for split, rows in splits.items():
        write_jsonl(folder / config / f"{split}-00000-of-00001.jsonl", rows)
    entry = [f"- config_name: {config}", "  data_files:"]
    for split in splits:
        entry += [f"  - split: {split}", f"    path: {config}/{split}-*"]
    readme = folder / "README.md"
    before = readme.read_text().split("---\n")[1] if readme.exists() else "configs:\n"
    readme.write_text("---\n" + before + "\n".join(entry) + "\n---\n# Rows for tests\n")


def write_fine_tuning(root):
    tasks = [task for suite in by_suite().values() for task in suite if task.protocol == "finetune"]
    places = {}
    for task in [*tasks, *training_data("superglue"), *training_data("flan")]:
        make = SPECIAL.get(task.format, pair_row)
        splits = places.setdefault((task.dataset, task.config), {})
        splits[task.split] = [make(task, n) for n in range(ROWS)]
        splits.setdefault("train", [make(task, n) for n in range(ROWS, 3 * ROWS)])
    for (dataset, config), splits in places.items():
        write_configuration(root / dataset, config, splits)


def write_few_shot(root):
    for task in by_suite()["mmlu"]:
        rows = [FEW_SHOT["mmlu"](n) for n in range(questions(task.name) + 5)]
        write_configuration(root / task.dataset, task.config, {"dev": rows[:5], "test": rows[5:]})
    for task in by_suite()["bbh"]:
        for part in task.parts or (task.config,):
            write_jsonl(root / task.dataset / part / "test.jsonl", [FEW_SHOT["bbh"](n) for n in range(3)])
    for task in [*by_suite()["reasoning"], *by_suite()["qa"]]:
        folder = root / task.dataset / task.config
        if task.name == "strategyqa":
            for name in ("train", "dev"):
                folder.mkdir(parents=True, exist_ok=True)
                rows = [FEW_SHOT["strategyqa"](n) for n in range(9)]
                (folder / f"{name}.json").write_text(json.dumps(rows))
        elif task.name == "unifiedqa":
            folder.mkdir(parents=True)
            lines = [f'Who sleeps {n} hours? \\n (A) a "fox" (B) an owl\tan owl' for n in range(3)]
            (folder / "test.tsv").write_text("\n".join(lines) + "\n")
        elif task.name in FEW_SHOT:
            rows = [FEW_SHOT[task.name](n) for n in range(3)]
            if not (root / task.dataset / "README.md").exists():
                write_jsonl(folder / f"{task.split}.jsonl", rows)
        else:
            write_jsonl(folder / f"{task.split}.jsonl", ARC)


def write_further_suites(root):
    for task in extra_suites()["early_signal"]:
        if task.name in EARLY:
            rows = [EARLY[task.name](n) for n in range(ROWS)]
            write_configuration(root / task.dataset, task.config, {task.split: rows})
    for task in extra_suites()["core_v2"]:
        config = harness_config(task, task.config, None)
        kind = {"choices": "query", "context_options": "context_options"}.get(config.get("doc_to_choice"), "context")
        name = config["dataset_kwargs"]["data_files"]["test"].rsplit("/", 1)[1]
        write_jsonl(root / task.dataset / task.config / name, [CORE[kind](n) for n in range(12)])


@cache
def write_tiny_data(root: Path) -> Path:
    """Fill a folder; returns it."""
    write_fine_tuning(root)
    write_few_shot(root)
    write_further_suites(root)
    return root
