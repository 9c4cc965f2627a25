"""Write the report that `winnow report` was asked for."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from evaluate_suite.report import ReportSettings, write_report


def write_study_report(args: argparse.Namespace) -> Iterator[str]:
    """Turn the arguments of `launch.report_command` into settings; yields and raises as `write_report`."""
    return write_report(
        ReportSettings(
            runs=args.runs,
            output=args.output,
            format=args.format,
            scores=dict(args.scores),
            selections=dict(args.selections),
            corpus=args.corpus,
            figures=args.figures,
            partial=args.partial,
            scoring_hours=dict(args.scoring_hours),
            command=args.command,
            lower_is_better=args.lower_is_better,
        )
    )
