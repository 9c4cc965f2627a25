"""Texts must be T5's, to the letter: its paper's Appendix D, and rows that its code makes special."""

import pytest

from evaluate_suite.data import TextExample, read_back, to_text
from evaluate_suite.metrics import TaskAnswers, compute
from evaluate_suite.registry import registry
from pipeline_steps.errors import InvalidCut


def text(name, **row):
    return to_text(registry()[name], row)


def only(name, **row):
    (example,) = text(name, **row)
    return example


def test_appendix_d():
    """Raffel et al. 2020, App. D: one example of each kind."""
    assert only("cola", sentence="John made Bill master of himself.", label=1) == TextExample(
        "cola sentence: John made Bill master of himself.", "acceptable", ("acceptable",)
    )
    rte = only("rte", sentence1="A smaller proportion.", sentence2="12 of them.", label=1)
    assert (rte.input, rte.target) == ("rte sentence1: A smaller proportion. sentence2: 12 of them.", "not_entailment")
    for name in ("mnli_matched", "mnli_mismatched", "ax"):
        mnli = only(name, premise="I am happy.", hypothesis="The St. Louis Cardinals.", label=2)
        assert mnli.input == "mnli hypothesis: The St. Louis Cardinals. premise: I am happy."
        assert mnli.target == "contradiction"
    assert (
        only("mrpc", sentence1="We acted.", sentence2="It acted.", label=1).input
        == "mrpc sentence1: We acted. sentence2: It acted."
    )
    assert (
        only("qnli", question="Where?", sentence="There.", label=0).input == "qnli question: Where? sentence: There."
    )
    qqp = only("qqp", question1="What?", question2="Which?", label=0)
    assert (qqp.input, qqp.target) == ("qqp question1: What? question2: Which?", "not_duplicate")
    assert only("sst2", sentence="it confirms", label=1).target == "positive"
    cb = only("cb", premise="Valence.", hypothesis="It was.", label=2)
    assert (cb.input, cb.target) == ("cb hypothesis: It was. premise: Valence.", "neutral")
    copa = only("copa", choice1="Many.", choice2="Tickets.", premise="Political.", question="effect", label=1)
    assert copa.input == "copa choice1: Many. choice2: Tickets. premise: Political. question: effect"
    assert copa.target == "choice2"
    wic = only("wic", sentence1="It was.", sentence2="They were.", word="kill", label=True)
    assert (wic.input, wic.target) == ("wic sentence1: It was. sentence2: They were. word: kill", "True")
    boolq = only("boolq", passage="Ice.", question="is it", label=0)
    assert (boolq.input, boolq.target) == ("boolq passage: Ice. question: is it", "False")
    assert only("superglue_rte", premise="P.", hypothesis="H.", label=0).input == "rte hypothesis: H. premise: P."
    assert (
        only("cnn_dailymail", article="Marouane is free.", highlights="He is.").input == "summarize: Marouane is free."
    )


@pytest.mark.parametrize(
    ("label", "said"), [(3.25, "3.2"), (0.0, "0.0"), (5.0, "5.0"), (3.8, "3.8"), (1.1, "1.2"), (2.583, "2.6")]
)
def test_similarity_in_steps(label, said):
    example = only("stsb", sentence1="a", sentence2="b", label=label)
    assert (example.input, example.target) == ("stsb sentence1: a sentence2: b", said)
    assert float(example.references[0]) == label  # measured against what people said


def test_no_label():
    assert only("cola", sentence="x", label=-1).target == "<unk>"


def test_multirc():
    example = only(
        "multirc",
        paragraph="<b>Sent 1: </b>One.<br><b>Sent 2: </b>Two.<br>",
        question="Who?",
        answer="<b>Me</b>",
        label=1,
        idx={"paragraph": 3, "question": 7, "answer": 1},
    )
    assert example.input == "multirc question: Who? answer: Me paragraph: Sent 1: One. Sent 2: Two. "
    assert (example.target, example.group) == ("True", "3-7")


def test_record_has_an_example_an_answer():
    examples = text(
        "record",
        passage='He said "so."\n@highlight\nFirst\n@highlight\nSecond',
        query="A @placeholder is a bird.",
        entities=["penguin", "potato", "pigeon"],
        answers=["penguin", "pigeon"],
        idx={"passage": 1, "query": 2},
    )
    assert [example.target for example in examples] == ["penguin", "pigeon"]
    assert {example.input for example in examples} == {
        "record query: A @placeholder is a bird. entities: penguin, potato, pigeon "
        'passage: He said "so." First. Second'
    }
    assert {example.references for example in examples} == {("penguin", "pigeon")}
    found = TaskAnswers(["pigeon"] * 2, [e.references for e in examples], [e.group for e in examples])
    assert compute("answer_exact_match", found) == 100
    assert (
        text("record", passage="p", query="q", entities=[], answers=[], idx={"passage": 1, "query": 2})[0].target
        == "<unk>"
    )


def wsc(label=1, **changes):
    row = {
        "text": "Mitchell asked Tom if he could lend some money.",
        "span1_text": "Tom",
        "span2_text": "he",
        "span2_index": 4,
    }
    return only("wsc", **row | {"label": label} | changes)


def test_wsc_names_the_referent():
    assert wsc().input == "wsc: Mitchell asked Tom if *he* could lend some money."
    assert (wsc().target, wsc().train, wsc(0).train) == ("Tom", True, False)
    moved = wsc(text="They might want to use it , but what", span2_text="it", span2_index=4)
    assert moved.input == "wsc: They might want to use *it* , but what"
    with pytest.raises(InvalidCut, match="does not hold its pronoun"):
        wsc(span2_text="zebra")


@pytest.mark.parametrize(
    ("referent", "prediction", "named"),
    [
        ("the fuzzy bunny", "bunny", "True"),
        ("bunny", "a fuzzy bunny", "True"),
        ("Tom", " tom ", "True"),
        ("Tom", "Mitchell", "False"),
        ("Bob's hat", "Bob", "False"),
        ("Bob's hat", "hat", "False"),
        ("Bob", "Bob's", "False"),
        ("Tom", "the", ""),
        ("Tom", "", ""),
    ],
)
def test_wsc_is_read_back(referent, prediction, named):
    task = registry()["wsc"]
    for label in (0, 1):
        example = wsc(label, span1_text=referent)
        said = read_back(task, prediction, example)
        assert said == named
        right = compute("accuracy", TaskAnswers([said], [example.references], labels=task.labels))
        assert right == 100 * (named == str(bool(label)))


def test_squad_sets_punctuation_apart():
    example = only(
        "squad",
        question="What's the U.S. share?",
        context='It is "5.5%",\n they  said.',
        answers={"text": ["5.5%", "5.5"], "answer_start": [7, 7]},
    )
    assert example.input == 'question: What \' s the U . S . share ? context: It is " 5 . 5 % " , they said .'
    assert (example.target, example.references) == ("5 . 5 %", ("5 . 5 %", "5 . 5"))


def test_a_missing_field_is_named():
    with pytest.raises(InvalidCut, match="a row of cola has no field 'sentence': it has text, label"):
        text("cola", text="x", label=1)


@pytest.mark.parametrize("name", [name for name, task in registry().items() if task.protocol == "finetune"])
def test_every_fine_tuned_task_has_a_format(name):
    task = registry()[name]
    row = dict.fromkeys(task.fields, "words") | {
        "label": 0,
        "idx": {"paragraph": 1, "question": 1, "passage": 1, "query": 1},
    }
    row |= {"passage": "p", "query": "q", "entities": ["e"], "answers": ["a"], "article": "a", "highlights": "h"}
    row |= {"text": "so he said", "span1_text": "Tom", "span2_text": "he", "span2_index": 1}
    if name == "squad":
        row |= {"question": "q", "context": "c", "answers": {"text": ["a"]}}
    for example in to_text(task, row):
        said = read_back(task, example.target, example)
        if name != "wsc":
            assert compute("accuracy", TaskAnswers([said], [[said]])) == 100
            assert said in {*task.labels, *example.references} or name == "stsb"
