"""Arguments: defaults < file < flags, converted alike, and mistakes named."""

from dataclasses import dataclass, field

import pytest

from pipeline_steps.errors import InvalidCut
from train.arguments import parse
from train.training_plan import TokenBudget


@dataclass(frozen=True)
class Example:
    tokens: str = field(metadata={"help": "where"})
    total_tokens: int = field(default=5, metadata={"help": "how many"})
    rate: float = field(default=0.5, metadata={"help": "how fast"})
    selection: str | None = field(default=None, metadata={"help": "which"})
    steps: list[int] = field(default_factory=list, metadata={"help": "when"})
    fast: bool = field(default=False, metadata={"help": "whether"})


def run(*argv):
    return parse(Example, list(argv), "prog", "about")


def test_flags_over_file_over_defaults(tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("tokens: there\ntotal-tokens: 7\nrate: 1e-3\nselection: null\nsteps: [1, 20]\nfast: true\n")
    assert run("--config", str(config), "--total-tokens", "8") == Example("there", 8, 0.001, None, [1, 20], True)
    assert run("--config", str(config), "--steps", "3", "--fast", "false").steps == [3]
    assert run("--tokens", "here") == Example("here")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "tokens: x\ntotal_token: 1\n",
            "no argument 'total_token'; there are tokens, total_tokens, rate, selection, steps, fast",
        ),
        ("tokens: x\ntotal_tokens: 5e3\n", "invalid int value: '5e3'"),
        ("tokens: {a: 2}\n", "tokens must be a value or a list of values"),
        ("- tokens\n", "must hold keys and values, not list"),
        ("rate: 1\n", "the following arguments are required: --tokens"),
        ("tokens: 'x\n", "cannot be read as YAML"),
    ],
)
def test_mistakes_are_named(tmp_path, capsys, text, message):
    config = tmp_path / "c.yaml"
    config.write_text(text)
    with pytest.raises(SystemExit) as caught:
        run("--config", str(config))
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "text", ["tokens: &a [x]\nsteps: [*a, *a]\n", "tokens: " + "[" * 50_000, "#" * 70_000, "\udcff"]
)
def test_files_that_are_no_arguments(tmp_path, capsys, text):
    config = tmp_path / "c.yaml"
    config.write_text(text, errors="surrogateescape")
    with pytest.raises(SystemExit) as caught:
        run("--config", str(config))
    assert caught.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_an_unknown_flag_is_one_line(capsys):
    with pytest.raises(SystemExit) as caught:
        run("--tokens", "x", "--unknown", "1")
    assert caught.value.code == 2
    assert capsys.readouterr().err == "prog: unrecognized arguments: --unknown (see prog --help)\n"


def test_help_says_everything(capsys):
    with pytest.raises(SystemExit) as caught:
        run("--help")
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert all(
        word in shown
        for word in ("where", "how many (default: 5)", "how fast (default: 0.5)", "tiny-cpu.yaml", "which")
    )


def test_the_papers_budget():
    budget = TokenBudget(524_288_000_000, 1024, 512)
    assert budget.steps == 1_000_000  # Sec. 4.1
    assert budget.grid(4) == [250_000, 500_000, 750_000, 1_000_000]


def test_grid_of_few_steps():
    assert TokenBudget(3 * 8, 2, 4).grid(5) == [1, 2, 3]


def test_the_last_batch_may_be_smaller():
    budget = TokenBudget(7 * 4, 3, 4)
    assert (budget.samples, budget.steps) == (7, 3)
    assert [budget.samples_after(step) for step in range(4)] == [0, 3, 6, 7]


@pytest.mark.parametrize(("asked", "total"), [(40_000, 39_936), (39_936, 39_936), (128, 128), (255, 128)])
def test_tokens_are_rounded_down_to_whole_samples(asked, total):
    budget = TokenBudget(asked, 64, 128)
    assert (budget.total_tokens, budget.samples) == (total, total // 128)
    assert bool(budget.rounding) == (asked != total)


def test_rounding_is_said_in_a_sentence():
    said = TokenBudget(40_000, 64, 128).rounding
    assert said == "40,000 tokens are rounded down to whole samples: 39,936 = 312 x 128"


@pytest.mark.parametrize("asked", [127, 1, 0, -5])
def test_less_than_a_sample_is_refused(asked):
    with pytest.raises(InvalidCut, match="ask for at least 128$"):
        TokenBudget(asked, 64, 128)
