"""What a proxy is asked. A prompt decides the scores, so it is part of every store's fingerprint."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Prompt:
    """A yes/no question around a document.

    Attributes:
        name: for humans.
        prefix: text before the document.
        suffix: text after it.
        yes: the answer whose log-probability is the score; one token of the proxy's tokenizer.
        no: the other answer; one token.
    """

    name: str
    prefix: str
    suffix: str
    yes: str = "yes"
    no: str = "no"


ASK_LLM = Prompt(
    name="ask-llm",
    prefix="###\n",
    suffix=(
        "\n###\n\n"
        "Does the previous paragraph demarcated within ### and ### contain informative signal for pre-training a "
        "large-language model? An informative datapoint should be well-formatted, contain some usable knowledge of "
        "the world, and strictly NOT have any harmful, racist, sexist, etc. content.\n\n"
        "OPTIONS:\n- yes\n- no"
    ),
)
"""The paper's prompt, word for word (Fig. 3)."""

_OPTIONS = "\n\nOPTIONS:\n- yes\n- no"


def _about_the_text(name: str, question: str) -> Prompt:
    return Prompt(name, "###\n", f"\n###\n\n{question}{_OPTIONS}")


EDITOR = _about_the_text(
    "editor",
    "Would a demanding editor keep the text between ### and ### in a reference library? Keep only what is coherent, "
    "complete, informative or instructive, and free of advertising, boilerplate and machine-made filler.",
)
"""A stricter question of our own, after the finding that prompts other than the paper's select better data (DCLM)."""

RUBRIC = (
    _about_the_text(
        "rubric: language", "Is the text between ### and ### written in correct, well-formatted language?"
    ),
    _about_the_text("rubric: knowledge", "Does the text between ### and ### teach usable knowledge of the world?"),
    _about_the_text(
        "rubric: reasoning", "Does the text between ### and ### explain, argue or show how something works?"
    ),
    _about_the_text("rubric: harmless", "Is the text between ### and ### free of harmful, racist or sexist content?"),
)
"""Four questions whose log-probabilities are averaged, which the paper names as future work: four times the cost."""
