"""Measure models: the paper's 111 tasks.

    winnow evaluate --list
    winnow evaluate perplexity --runs full=RUN random=RUN --tokens c4=DIR high_quality=DIR,DIR --output results.jsonl
    winnow evaluate fine-tune  --runs full=RUN random=RUN --suites glue superglue --output results.jsonl
    winnow evaluate few-shot   --runs full=RUN random=RUN --instruction-tune --output results.jsonl
    winnow evaluate few-shot   --runs flan=google/flan-t5-small --tasks mmlu gsm8k --output results.jsonl

Runs are folders of train.pretrain; checkpoints, folders of any T5 and Hub ids will do for fine-tune and few-shot
too. Rows are added to the results; what was measured before, of the same weights with the same settings, is not
measured again. Data come from the Hub, or with --data-root from folders laid out as there. Then: winnow report.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from evaluate_suite.registry import SUITES, by_suite, registry
from pipeline_steps.command_line import Parser, named_place, place
from pipeline_steps.credentials import refuse_credentials_in_command
from pipeline_steps.errors import InvalidCut, WinnowError
from pipeline_steps.terminal import complain, wide


if TYPE_CHECKING:
    from evaluate_suite.checkpoint import Checkpoint
    from evaluate_suite.fine_tuned import FineTuning
    from evaluate_suite.results import ResultRow


_TUNED = ("glue", "superglue", "cnn_dailymail", "squad")
_FEW_SHOT = ("mmlu", "bbh", "reasoning", "qa")


def main(argv: list[str] | None = None) -> int:
    """Run the command line: 0 done, 2 the input is at fault."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.list:
        return _show_tasks()
    if args.harness:
        sys.stdout.write(f"{files('evaluate_suite').joinpath('harness')}\n")
        return 0
    if not hasattr(args, "measure"):
        parser.error("say --list, or one of perplexity, fine-tune, few-shot and its arguments")
    try:
        refuse_credentials_in_command(sys.argv[1:] if argv is None else argv)
        _check_output(args.output)
        args.measure(args)
    except (WinnowError, OSError) as error:
        complain(error)
        return 2
    return 0


def _perplexity(args: argparse.Namespace) -> None:
    from evaluate_suite.perplexity import HeldOut, evaluate_run

    splits = [HeldOut(task, folder, args.max_windows, args.seed) for task, folder in args.tokens]
    for name, run in args.runs:
        _add(args, evaluate_run(Path(run), name, splits, _cache(args)))
        list(_checkpoints(args, name, run, every=True))


def _fine_tune(args: argparse.Namespace) -> None:
    from evaluate_suite.fine_tuned import fine_tuned_rows

    for name, run in args.runs:
        for checkpoint in _checkpoints(args, name, run, args.every_checkpoint):
            for suite in args.suites:
                _add(args, fine_tuned_rows(checkpoint, suite, _cache(args), _how(args)))


def _few_shot(args: argparse.Namespace) -> None:
    from evaluate_suite.data import find_tasks
    from evaluate_suite.few_shot import FewShot, best_rows, few_shot_rows
    from evaluate_suite.fine_tuned import fine_tune, tuned_checkpoints, tuning_folder

    tasks = find_tasks(args.tasks)
    others = [task for task in tasks if task.protocol != "few_shot"]
    if others:
        command = {"finetune": "fine-tune"}.get(others[0].protocol, "perplexity")
        raise InvalidCut(f"{others[0].name} is not asked with exemplars: winnow evaluate {command} measures it")
    settings = FewShot(args.data_root, args.cot, args.limit, args.max_input, args.score_eos)
    for name, run in args.runs:
        for checkpoint in _checkpoints(args, name, run, args.every_checkpoint):
            if not args.instruction_tune:
                for rows in few_shot_rows(checkpoint, tasks, settings, _cache(args)):
                    _add(args, rows)
                continue
            fine_tune(checkpoint, "flan", _cache(args), _how(args))
            tuned = tuned_checkpoints(checkpoint, tuning_folder(checkpoint, "flan", _cache(args)))
            measured = {
                step: [row for rows in few_shot_rows(one, tasks, settings, _cache(args)) for row in rows]
                for step, one in tuned.items()
            }
            _add(args, best_rows(measured))


def _checkpoints(args: argparse.Namespace, name: str, run: str, every: bool) -> Iterator[Checkpoint]:
    """What is to be measured of a run; what it has cost goes into costs.jsonl, apart from what can be repeated."""
    from evaluate_suite.checkpoint import cost_rows, find_checkpoints
    from evaluate_suite.units import add_results

    for checkpoint in find_checkpoints(name, run, every):
        if rows := cost_rows(checkpoint):
            add_results(str(Path(args.output).with_name("costs.jsonl")), rows)
        yield checkpoint


def _check_output(path: str) -> None:
    """Refuse, before anything is measured, a file that rows cannot be added to."""
    from evaluate_suite.units import add_results

    if "://" in path:
        raise InvalidCut(f"{path} is not a local file: rows are added to it under a lock; copy it afterwards")
    add_results(path, [])


def _add(args: argparse.Namespace, rows: list[ResultRow]) -> None:
    from evaluate_suite.units import add_results

    add_results(args.output, rows)


def _cache(args: argparse.Namespace) -> Path:
    return Path(args.cache or Path(args.output).parent / "evaluation")


def _how(args: argparse.Namespace) -> FineTuning:
    from evaluate_suite.fine_tuned import FineTuning

    given = {"flags": args.tuning, "data_root": args.data_root, "budget": args.budget}
    return FineTuning(args.launch, **given) if args.launch else FineTuning(**given)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="winnow evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="print the paper's 111 tasks and how each is measured")
    parser.add_argument(
        "--harness", action="store_true", help="print the folder of our lm-eval tasks, for --include_path"
    )
    commands = parser.add_subparsers(metavar="COMMAND")
    ppl = commands.add_parser(
        "perplexity", help="of the training objective on held-out text, with confidence intervals"
    )
    ppl.add_argument(
        "--tokens",
        nargs="+",
        type=_named_stores,
        required=True,
        metavar="TASK=DIR[,DIR...]",
        help="held-out token stores; several of a task are its sources, in equal shares",
    )
    ppl.add_argument("--max-windows", type=int, default=256, help="windows of each split, evenly spaced (%(default)s)")
    ppl.add_argument("--seed", type=int, default=0, help="of the masks (%(default)s)")
    ppl.set_defaults(measure=_perplexity)
    tune = commands.add_parser(
        "fine-tune", help="GLUE, SuperGLUE, CNN/DailyMail, SQuAD: fine-tuned as T5, best step of each task"
    )
    tune.add_argument("--suites", nargs="+", choices=_TUNED, default=list(_TUNED), metavar="SUITE", help="%(default)s")
    tune.set_defaults(measure=_fine_tune)
    shots = commands.add_parser("few-shot", help="MMLU, BBH, reasoning, question answering: through lm-eval")
    shots.add_argument(
        "--tasks", nargs="+", default=list(_FEW_SHOT), metavar="TASK", help="tasks or suites (%(default)s)"
    )
    shots.add_argument("--cot", action="store_true", help="let the exemplars of BBH reason too")
    shots.add_argument(
        "--limit", type=int, default=0, metavar="N", help="questions of each task; 0: all (%(default)s)"
    )
    shots.add_argument("--max-input", type=int, default=2048, help="tokens of a prompt (%(default)s)")
    shots.add_argument("--score-eos", action="store_true", help="count the end of a ranked answer as part of it")
    shots.add_argument(
        "--instruction-tune", action="store_true", help="on FLAN first; the best of its checkpoints is reported"
    )
    shots.set_defaults(measure=_few_shot)
    for command in (tune, shots):
        _add_tuning(command)
    for command in (ppl, tune, shots):
        command.add_argument(
            "--runs",
            nargs="+",
            type=partial(named_place, what="DIR"),
            required=True,
            metavar="NAME=DIR",
            help="what to measure, by sampler",
        )
        command.add_argument(
            "--output", required=True, type=place, metavar="FILE", help="results, as JSON lines; rows are added"
        )
        command.add_argument("--cache", metavar="DIR", help="where measurements are kept (default: beside the output)")
    return parser


def _add_tuning(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--data-root", type=place, metavar="DIR", help="data sets laid out as on the Hub; if not given, the Hub"
    )
    command.add_argument(
        "--every-checkpoint", action="store_true", help="measure all of a run's, for curves, not the last alone"
    )
    command.add_argument(
        "--budget",
        choices=("paper", "small", "smoke"),
        default="paper",
        help="of fine-tuning: T5's, an hour's, a minute's",
    )
    command.add_argument("--launch", metavar="ARGS", help='of accelerate launch, e.g. "--multi_gpu --num_processes 8"')
    command.add_argument(
        "--tuning",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="FLAG",
        help="last: flags of evaluate_suite.fine_tune, e.g. --tuning --steps 1000",
    )


def _show_tasks() -> int:
    """Print the registry, a table a suite."""
    from rich.table import Table

    console = wide()
    for suite, tasks in by_suite().items():
        table = Table(
            "task", "protocol", "shots", "metrics", "chance", "dataset", title=SUITES[suite], title_justify="left"
        )
        for task in tasks:
            name = task.name if task.scored else f"{task.name} (not scored: {task.note})"
            shots = f"{task.shots} {task.mode}" if task.mode else ""
            chance = "" if task.chance is None else f"{task.chance:g}"
            where = f"{task.dataset} {task.config} {task.split}"
            table.add_row(name, task.protocol, shots, ", ".join(task.metrics), chance, where)
        console.print(table)
    scored = sum(task.scored for task in registry().values())
    console.print(f"{len(registry())} tasks, {scored} of them scored", highlight=False)
    return 0


def _named_stores(text: str) -> tuple[str, str]:
    name, folders = named_place(text, "DIR[,DIR...]")
    for folder in folders.split(","):
        place(folder)
    return name, folders


if __name__ == "__main__":
    sys.exit(main())
