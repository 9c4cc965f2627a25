"""Measure what a selection was worth.

    checkpoints + held-out token stores -> perplexity (same masks for every model) -> results.jsonl -> report.html

`python -m evaluate_suite --help` for the command line.
"""
