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
