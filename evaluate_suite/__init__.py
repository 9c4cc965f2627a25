"""Measure what a selection was worth.

    checkpoints + held-out token stores -> perplexity (same masks for every model) -> results.jsonl -> report.html

The paper's 111 tasks are data in `tasks/`, read by `registry`; `formats` makes texts of their rows and `metrics`
numbers of answers; `encoder_decoder_lm` puts a T5 into lm-eval; `averages`, `normalised`, `agreement` compare what
came out.

`winnow evaluate --help` for the command line.
"""
