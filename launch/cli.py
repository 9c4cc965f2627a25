"""`winnow`: the front door. It imports a command's module only to run it or to show its help."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Group, Parameter, UnknownCommandError

from launch.commands.help_page import Filled, teach
from launch.commands.mistakes import sentence
from launch.faults import USERS_FAULT, as_sentence
from launch.safe_path import keep_path_safe
from pipeline_steps import __version__
from pipeline_steps.credentials import refuse_credentials_in_command
from pipeline_steps.errors import StageFailed, WinnowError
from pipeline_steps.terminal import QUIET, Terminal


_EPILOGUE = """Exit codes:
  0    done
  1    a stage died; its log is named
  2    the input is at fault; the message says what to change
  3    winnow status: the study is not done yet
  75   winnow pretrain: stopped by a signal after writing a checkpoint; start it again
  130  interrupted; the same command goes on from there

winnow COMMAND --help shows the flags of a command and examples."""

_STUDIES = Group("Studies", sort_key=1)
_CHOOSE = Group("Choose documents", sort_key=2)
_LOOK = Group("Look", sort_key=3)
_TRAIN = Group("Train and measure", sort_key=4)
_OTHER = Group("Other", sort_key=5)
_GLOBAL = Group("Global options", sort_key=9)


def _shown_default(value: Any) -> str | None:
    """Return a default as help shows it; None for flags that are off and lists that are empty."""
    return None if value is None or value is False or value in ((), []) else str(value)


app = App(
    name="winnow",
    help="Choose the documents a language model is trained on.",
    version=f"winnow {__version__}",
    help_format="plaintext",
    help_formatter=Filled(),
    help_epilogue=_EPILOGUE,
    help_flags=("--help", "-h"),
    default_parameter=Parameter(negative=(), show_default=_shown_default),
    group_commands=_OTHER,
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
app.meta.group_parameters = _GLOBAL
app.meta.suppress_keyboard_interrupt = False
_COMMANDS = {
    _STUDIES: {
        "quickstart": ("studies", "score, select, pre-train, evaluate and report on one machine, in minutes"),
        "run": ("studies", "a study: score, select, train, measure and report, many runs from one file"),
        "status": ("studies", "how far a study is: done, running, failed, waiting, tokens per second, time left"),
        "plan": ("studies", "what a training run or a study takes: tokens, hours, memory; when scores pay"),
        "report": ("look", "figures and tables of many runs, of scores and of selections, in one file"),
        "schema": ("studies", "the JSON schema of study files, for editors"),
    },
    _CHOOSE: {
        "score": ("select", "one scorer over a corpus, with all it needs: embeddings, sketch, clusters, n-grams"),
        "join": ("join", "published annotations (Parquet, the Hub) as the score store of a corpus"),
        "select": ("select", "a corpus in, the chosen documents out, as a dataset with a card"),
    },
    _LOOK: {
        "compare": ("look", "two selections, scores or datasets side by side: overlap, rank agreement, documents"),
        "inspect": ("look", "what a score store holds: counts, quantiles, how it was made, what is missing"),
        "trust": ("trust", "scores beside human labels: agreement, beyond length, in each domain; calibration"),
        "coverage": ("look", "selections side by side: how evenly they cover the corpus, how good they are"),
    },
    _TRAIN: {
        "tokenize": ("training", "a corpus into a token store, once, by all cores of this machine"),
        "materialise": ("training", "write a selection's tokens as files that other trainers read"),
        "pretrain": ("training", "train a model on a selection, on any number of accelerators"),
        "average": ("training", "the mean of a run's last checkpoints, as a model to measure"),
        "verify-resume": ("training", "prove on this machine that a killed training run goes on exactly"),
        "evaluate": ("training", "the paper's 111 tasks (--list): perplexity, fine-tuned suites, few-shot tasks"),
    },
}
_USAGES = {
    "pretrain": "Usage: winnow pretrain [FLAGS OF THE TRAINING] [-- FLAGS OF ACCELERATE]",
    "plan": "Usage: winnow plan [OPTIONS] CONFIG [FLAGS OF THE TRAINING]",
    "verify-resume": "Usage: winnow verify-resume --tokens DIR --output DIR [OPTIONS] [FLAGS OF THE TRAINING]",
}
_FORWARDING: dict[str, dict[str, Any]] = {  # whose unknown flags go to somebody else
    **dict.fromkeys(("plan", "verify-resume", "evaluate"), {"parse_mode": "strict"}),
    "pretrain": {"parse_mode": "strict", "end_of_options_delimiter": ""},
}
for _group, _commands in _COMMANDS.items():
    for _name, (_module, _help) in _commands.items():
        app.command(
            f"launch.commands.{_module}:{_name.replace('-', '_')}",
            name=_name,
            help=_help,
            group=_group,
            usage=_USAGES.get(_name),
            **_FORWARDING.get(_name, {}),
        )


@app.command
def help(command: str | None = None, /) -> int:
    """Show the help of a command, or this page.

    Args:
        command: the command.
    """
    if command is not None and command not in app:
        raise UnknownCommandError(unused_tokens=[command], app=app)
    return _run([*([command] if command else []), "--help"])


@app.command
def completion(shell: Literal["bash", "zsh", "fish"], /) -> int:
    """Print the script that completes winnow's words in a shell.

    Args:
        shell: the shell.

    Examples:
        winnow completion bash > ~/.local/share/bash-completion/completions/winnow
        winnow completion zsh > ~/.zfunc/_winnow          (a folder of your fpath)
        winnow completion fish > ~/.config/fish/completions/winnow.fish
    """
    sys.stdout.write(app.generate_completion(shell=shell))
    return 0


@app.meta.default
def _start(
    *words: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    quiet: Annotated[bool, Parameter(("--quiet", "-q"), help="show no progress")] = False,
    verbose: Annotated[
        int, Parameter(("--verbose", "-v"), count=True, show_default=False, help="show datatrove's debug logs")
    ] = 0,
    config: Annotated[
        str | None, Parameter(metavar="FILE", help="YAML or JSON file of the command's flags; flags overrule it")
    ] = None,
) -> int:
    if quiet:
        os.environ[QUIET] = "1"
    os.environ["LOGURU_LEVEL"] = "DEBUG" if verbose else "WARNING" if quiet else os.environ.get("LOGURU_LEVEL", "INFO")
    if not words:
        raise WinnowError("a command is needed: winnow --help lists them")
    if config is None:
        app.config = ()
    else:
        from cyclopts.config import Dict

        from launch.commands.config_file import read_config

        app.config = (Dict(read_config(config), source=config, use_commands_as_keys=False),)
    return app(words, exit_on_error=False, print_error=False) or 0


def _run(words: Sequence[str]) -> int:
    """Run a command line that is already known to be free of credentials."""
    words = list(words)
    for at, word in enumerate(words):
        if word in app and not word.startswith("-"):
            teach(app[word])
            if word == "evaluate":  # its own words, --help among them
                words.insert(at + 1, "--")
            break
    return app.meta(words, exit_on_error=False, print_error=False) or 0


def main(argv: list[str] | None = None) -> int:
    """Run a command: 0 done, 1 a stage died, 2 the input is at fault, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a name that the terminal's encoding cannot show must not end a command
            stream.reconfigure(errors="backslashreplace")
    errors = Terminal(stderr=True)

    def complain(said: str) -> int:
        errors.print(f"winnow: {said}", style="bold red", highlight=False, soft_wrap=True)
        return USERS_FAULT

    argv = sys.argv[1:] if argv is None else argv
    try:
        keep_path_safe()
        refuse_credentials_in_command(argv)
        return _run(argv)
    except CycloptsError as error:
        return complain(sentence(error))
    except StageFailed as error:
        complain(str(error))
        return 1
    except Exception as error:
        if (said := as_sentence(error)) is None:
            raise
        return complain(said)
    except SystemExit as exit:  # of the argparse of train.pretrain and evaluate_suite
        return exit.code if isinstance(exit.code, int) else int(exit.code is not None)
    except KeyboardInterrupt:
        errors.print("winnow: interrupted; the same command goes on from here", highlight=False)
        return 130


if __name__ == "__main__":
    sys.exit(main())
