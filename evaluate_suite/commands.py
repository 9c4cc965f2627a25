"""`winnow evaluate`: its commands, flags and tables."""

from __future__ import annotations

import difflib
import sys
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from pipeline_steps.errors import InvalidCut, WinnowError
from pipeline_steps.readers.reading import USUAL, Reading


if TYPE_CHECKING:  # names here must not stand in the signature of a command, which cyclopts resolves
    from evaluate_suite.registry import EvaluationTask
    from evaluate_suite.results import ResultRow


TunedSuite = Literal["glue", "superglue", "cnn_dailymail", "squad"]
Switch = Annotated[bool, Parameter(show_default=False)]
_MANY = Parameter(consume_multiple=True, show_default=" ".join)
_WITH_HYPHENS = Parameter(allow_leading_hyphen=True, show_default=False)
# Metrics of interest only where they are not what they should be
_USUAL = {"prompts_shortened": 0.0, "prompts_cut": 0.0, "coverage": 1.0, "unknown_per_1000_tokens": 0.0}

app = App(
    name="evaluate",
    help=(
        "Measure models: the paper's 111 tasks, and suites on which small models differ early.\n\n"
        "Runs are folders of `winnow pretrain`; checkpoints, folders and Hub ids of any T5 will do for fine-tune, and "
        "of decoder-only models too for few-shot and bits-per-byte, Hub ids with @REVISION. Rows are added to the "
        "results; what was measured before, of the same weights with the same settings, is not measured again. Data "
        "come from the Hub, or with --data-root from folders laid out as there. Then: winnow report.\n\n"
        "winnow evaluate perplexity --runs full=RUN random=RUN --tokens c4=DIR hq=DIR,DIR --output r.jsonl\n\n"
        "winnow evaluate bits-per-byte --runs full=RUN qwen=Qwen/Qwen3-0.6B-Base --text news=news.jsonl web=web/ "
        "--output r.jsonl\n\n"
        "winnow evaluate fine-tune --runs full=RUN random=RUN --suites glue superglue --output r.jsonl\n\n"
        "winnow evaluate few-shot --runs flan=google/flan-t5-small llama=RUN --tasks mmlu gsm8k --output r.jsonl\n\n"
        "winnow evaluate few-shot --runs full=RUN random=RUN --tasks early_signal --output r.jsonl\n\n"
        "winnow evaluate decide --results r.jsonl"
    ),
    result_action="return_value",
    default_parameter=Parameter(negative=()),
    version_flags=(),
)


@Parameter(name="*")
@dataclass(kw_only=True)
class RunFlags:
    """The flags of every measurement.

    Attributes:
        runs: What to measure, by sampler: NAME=DIR [NAME=DIR ...].
        output: File of results, as JSON lines, that rows are added to.
        cache: Folder of measurements; beside the output if not given.
    """

    runs: Annotated[list[str], _MANY]
    output: str
    cache: str | None = None

    def where(self) -> dict[str, Any]:
        """Return the arguments of `evaluate_suite.measure` that these flags are, checked."""
        _usable("--output", self.output)
        return {"runs": _named("--runs", self.runs, "DIR"), "output": self.output, "cache": self.cache}


@Parameter(name="*")
@dataclass(kw_only=True)
class TuningFlags:
    """The flags of measurements that may fine-tune.

    Attributes:
        data_root: Folder of data sets laid out as on the Hub; if not given, the Hub.
        every_checkpoint: Measure all checkpoints of a run, for curves, not the last alone.
        budget: Budget of fine-tuning: T5's, an hour's, a minute's.
        launch: Arguments of accelerate launch, e.g. "--multi_gpu --num_processes 8".
        tuning: Last on the line: flags of evaluate_suite.fine_tune, e.g. --tuning --steps 1000.
    """

    data_root: str | None = None
    every_checkpoint: Switch = False
    budget: Literal["paper", "small", "smoke"] = "paper"
    launch: Annotated[str | None, _WITH_HYPHENS] = None
    tuning: Annotated[list[str], _MANY, _WITH_HYPHENS] = field(default_factory=list)

    def how(self) -> dict[str, Any]:
        """Return the arguments of `evaluate_suite.measure` that these flags are, checked."""
        from evaluate_suite.fine_tuning_runs import ONE_PROCESS, FineTuning

        if self.data_root is not None:
            _usable("--data-root", self.data_root)
        how = FineTuning(self.launch or ONE_PROCESS, self.tuning, self.data_root, self.budget)
        return {"steps": "all" if self.every_checkpoint else "last", "how": how}


@Parameter(name="*")
@dataclass(kw_only=True)
class AskingFlags:
    """The flags that say how few-shot tasks are asked.

    Attributes:
        cot: Let the exemplars of BBH reason too.
        limit: Questions of each task; 0 is all.
        max_input: Tokens of a prompt.
        score_eos: Count the end of a ranked answer as part of it.
        metrics: Further metrics of ranked answers, e.g. margin acc_norm; nothing is measured again for them.
    """

    cot: Switch = False
    limit: int = 0
    max_input: int = 2048
    score_eos: Switch = False
    metrics: Annotated[list[str], Parameter(consume_multiple=True, show_default=False)] = field(default_factory=list)


@Parameter(name="*")
@dataclass(kw_only=True)
class DomainFlags:
    """The flags that say which documents are measured, and how they are cut.

    Attributes:
        by: Column that names the domain of each document: DOMAIN/VALUE.
        max_documents: Documents of each domain at most, evenly spaced; 0 is all.
        window: Tokens of an input; if not given, as in training or, of other models, as many as they have positions
            for, at most 4,096.
        overlap: Let half of each further window of a causal model be context only, which takes twice as long.
        seed: Seed of a T5's masks.
        every_checkpoint: Measure all checkpoints of a run, not the last alone.
    """

    by: str | None = None
    max_documents: int = 1000
    window: int | None = None
    overlap: Switch = False
    seed: int = 0
    every_checkpoint: Switch = False

    def how(self, reading: Reading) -> dict[str, Any]:
        """Return the arguments of `evaluate_suite.measure` that these flags are."""
        from evaluate_suite.bits_per_byte import Windows
        from evaluate_suite.domains import DomainReading

        return {
            "how": DomainReading(self.by, self.max_documents, reading),
            "windows": Windows(self.window, self.overlap, self.seed),
            "steps": "all" if self.every_checkpoint else "last",
        }


@app.default
def evaluate(
    *words: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    list_: Annotated[
        Switch, Parameter(name="--list", help="Print the paper's 111 tasks and the further suites.")
    ] = False,
    harness: Annotated[Switch, Parameter(help="Print the folder of our lm-eval tasks.")] = False,
) -> None:
    """Print what a flag alone asks for, and refuse words that are no command."""
    if words or not (list_ or harness):
        known = ["list", "harness", "perplexity", "bits-per-byte", "fine-tune", "few-shot", "decide"]
        known += ["--list", "--harness"]
        near = difflib.get_close_matches(words[0], known, n=1) if words else []
        said = f"there is no {words[0]!r}" if words else "a command is missing"
        hint = f"did you mean {near[0]}?" if near else f"give one of {', '.join(known[:7])}"
        raise InvalidCut(f"{said}: {hint} (see winnow evaluate --help)")
    (show_tasks if list_ else show_harness)()


@app.command(name="harness")
def show_harness() -> None:
    """Print the folder of our lm-eval tasks, for lm-eval's --include_path."""
    sys.stdout.write(f"{files('evaluate_suite').joinpath('harness')}\n")


@app.command(name="list")
def show_tasks() -> None:
    """Print the paper's 111 tasks and how each is measured, a table for each suite, then the further suites."""
    from rich.table import Table

    from evaluate_suite.registry import EXTRA_SUITES, SUITES, by_suite, extra_suites, registry
    from pipeline_steps.terminal import wide

    console = wide()
    columns = ("task", "protocol", "shots", "metrics", "chance", "dataset")

    def show(title: str, tasks: list[EvaluationTask]) -> None:
        table = Table(*columns, title=title, title_justify="left")
        for task in tasks:
            name = task.name if task.scored else f"{task.name} (not scored: {task.note})"
            shots = f"{task.shots} {task.mode}" if task.mode else ""
            chance = "" if task.chance is None else f"{task.chance:g}"
            where = f"{task.dataset} {'' if task.parts else task.config} {task.split}"
            table.add_row(name, task.protocol, shots, ", ".join(task.metrics), chance, where)
        console.print(table)

    for suite, tasks in by_suite().items():
        show(SUITES[suite], tasks)
    scored = sum(task.scored for task in registry().values())
    console.print(f"{len(registry())} tasks, {scored} of them scored", highlight=False)
    for suite, tasks in extra_suites().items():
        show(f"{EXTRA_SUITES[suite]} (--tasks {suite}; not of the paper)", tasks)


@app.command(name="perplexity")
def perplexity(run: RunFlags, *, tokens: Annotated[list[str], _MANY], max_windows: int = 256, seed: int = 0) -> None:
    """Measure perplexity of the training objective on held-out text, with confidence intervals.

    Args:
        run: The flags of every measurement.
        tokens: Held-out token stores, TASK=DIR[,DIR...]; several of a task are its sources, in equal shares.
        max_windows: Windows of each task at most, evenly spaced.
        seed: Seed of the masks.
    """
    from evaluate_suite import measure

    stores = _named("--tokens", tokens, "DIR[,DIR...]")
    if len(dict(stores)) < len(stores):
        raise InvalidCut("--tokens names a task twice: put commas between the folders of one task")
    _show(measure.perplexity(**run.where(), tokens=dict(stores), max_windows=max_windows, seed=seed), run.output)


@app.command(
    name="bits-per-byte",
    help_epilogue=(
        "winnow evaluate bits-per-byte --runs full=runs/full dsir=runs/dsir --text news=news.jsonl.gz code=code/ "
        "--output results.jsonl\n\n"
        "winnow evaluate bits-per-byte --runs gpt2=openai-community/gpt2 --text paloma='paloma/*.jsonl.gz' "
        "--by subdomain --window 1024 --output results.jsonl"
    ),
)
def bits_per_byte(
    run: RunFlags,
    *,
    text: Annotated[list[str], _MANY],
    domains: DomainFlags = DomainFlags(),  # noqa: B008
    reading: Annotated[Reading, Parameter(name="*")] = USUAL,
) -> None:
    """Measure bits per byte of held-out text by domain, and their mean over domains, with confidence intervals.

    Causal models write the text, T5s the spans that training would mask: two metrics that do not compare. Values of
    different tokenizers do, unless a tokenizer loses some of the text; then the table shows the coverage, and the row
    says "this tokenizer only".

    Args:
        run: The flags of every measurement.
        text: Held-out text, DOMAIN=PATH[,PATH...]: files, folders or globs as winnow score reads them, s3:// and
            hf:// too.
        domains: The flags of domains and windows.
        reading: How rows are read.
    """
    from evaluate_suite import measure

    texts = _named("--text", text, "PATH[,PATH...]")
    if len(dict(texts)) < len(texts):
        raise InvalidCut("--text names a domain twice: put commas between the paths of one domain")
    _show(measure.bits_per_byte(**run.where(), texts=dict(texts), **domains.how(reading)), run.output)


@app.command(name="fine-tune")
def fine_tune(
    run: RunFlags,
    *,
    suites: Annotated[list[TunedSuite], _MANY] = ["glue", "superglue", "cnn_dailymail", "squad"],  # noqa: B006
    tuning: TuningFlags = TuningFlags(),  # noqa: B008  how cyclopts learns that all of its flags may be left out
) -> None:
    """Fine-tune on GLUE, SuperGLUE, CNN/DailyMail and SQuAD as T5 does, and measure each task at its best step.

    Args:
        run: The flags of every measurement.
        suites: Suites to fine-tune on.
        tuning: The flags of fine-tuning.
    """
    from evaluate_suite import measure

    _show(measure.fine_tune(**run.where(), suites=suites, **tuning.how()), run.output)


@app.command(name="few-shot")
def few_shot(
    run: RunFlags,
    *,
    tasks: Annotated[list[str], _MANY] = ["mmlu", "bbh", "reasoning", "qa"],  # noqa: B006
    asking: AskingFlags = AskingFlags(),  # noqa: B008
    instruction_tune: Switch = False,
    tuning: TuningFlags = TuningFlags(),  # noqa: B008
) -> None:
    """Ask the tasks of MMLU, BBH, reasoning, question answering and the further suites through lm-eval.

    Args:
        run: The flags of every measurement.
        tasks: Tasks or suites.
        asking: The flags that say how tasks are asked.
        instruction_tune: Fine-tune T5s on FLAN first, and report the best of its checkpoints.
        tuning: The flags of fine-tuning.
    """
    from evaluate_suite import measure
    from evaluate_suite.few_shot import FewShot

    settings = FewShot(tuning.data_root, **vars(asking) | {"metrics": tuple(asking.metrics)})
    given = run.where() | tuning.how() | {"settings": settings}
    _show(measure.few_shot(**given, tasks=tasks, instruction_tune=instruction_tune), run.output)


@app.command(name="decide")
def decide(
    *,
    results: Annotated[list[str], _MANY],
    target: str | None = None,
    checkpoints: int = 1,
    extrapolate: Switch = False,
    output: str | None = None,
) -> None:
    """Say which tasks tell recipes apart, and which sizes agree on their order: signal, noise, decision accuracy.

    winnow evaluate decide --results runs/ --target accuracy

    Args:
        results: Files of results, or folders that hold results.jsonl.
        target: Metric of the largest model that smaller ones shall predict; the same metric if not given.
        checkpoints: Last checkpoints of each run to average; 1 after a decay of the learning rate.
        extrapolate: Fit a power law through smaller models too.
        output: File of all numbers, as JSON.
    """
    from evaluate_suite.decide import decisions, records
    from evaluate_suite.report.decision import further_tables, sentences, tables
    from evaluate_suite.report.points import result_files
    from evaluate_suite.report.table_data import to_terminal
    from evaluate_suite.results import read_results
    from pipeline_steps.stores.files import write_json
    from pipeline_steps.terminal import wide

    if checkpoints < 1:
        raise InvalidCut(f"--checkpoints {checkpoints}: give 1 or more")
    rows = [row for path in results for file in result_files(path) for row in read_results(file)]
    found = decisions(rows, checkpoints=checkpoints, target=target, extrapolated=extrapolate)
    console = wide()
    for sentence in sentences(found):
        console.print(sentence, highlight=False, markup=False)
    for table in tables(found) or further_tables(found):
        console.print(to_terminal(table))
    if output is not None:
        write_json(output, records(found))


def _named(flag: str, words: list[str], what: str) -> list[tuple[str, str]]:
    """Return the names and the places of NAME=PLACE words."""
    if not words:
        raise InvalidCut(f"{flag} needs NAME={what}")
    pairs = []
    for word in words:
        name, _, places = word.partition("=")
        if not (name and places):
            raise InvalidCut(f"{flag}: {word!r} is not NAME={what}")
        for place in places.split(",") if "," in what else [places]:
            _usable(flag, place)
        pairs.append((name, places))
    return pairs


def _usable(flag: str, place: str) -> None:
    """Raise InvalidCut, naming the flag, unless a path can be opened: pipes and devices never end."""
    from pipeline_steps.readers.special_files import refuse_special_files

    if not place:
        raise InvalidCut(f"{flag}: the path is empty")
    try:
        refuse_special_files(place)
    except WinnowError as error:
        raise InvalidCut(f"{flag}: {error}") from error


def _show(rows: list[ResultRow], output: str) -> None:
    """Print rows as a table, and where they were written."""
    from rich.table import Table

    from pipeline_steps.terminal import wide

    table = Table("checkpoint", "task", "metric", "value", "95 % interval over examples")
    for row in rows:
        if _USUAL.get(row.metric) == row.value:
            continue
        checkpoint = f"{row.sampler}, {row.model}" + (f", step {row.step:,}" if row.step else "")
        interval = f"{row.ci95_low:.4g} to {row.ci95_high:.4g}" if row.ci95_low < row.ci95_high else ""
        table.add_row(checkpoint, row.task, row.metric, f"{row.value:.5g}", interval)
    console = wide()
    console.print(table)
    costs = Path(output).with_name("costs.jsonl")
    beside = f"; hours of training: {costs}" if costs.exists() else ""
    console.print(f"{len(rows)} rows in {output}{beside}", highlight=False, soft_wrap=True)
