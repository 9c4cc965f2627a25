"""Measure what a selection was worth.

    checkpoints ──► perplexity  (the same masks for every model) ─┐
                ├─► fine_tune   (T5's formats and metrics)       ─┼─► units ─► results.jsonl ─► report/
                └─► few_shot    (lm-eval, encoder_decoder_lm)    ─┘

The paper's 111 tasks are data in `tasks/`, read by `registry`; `data` finds their rows, on the Hub or in folders, and
makes texts of them; `metrics` makes numbers of answers; `harness/` has what lm-eval lacks. `averages`,
`normalised`, `noise`, `agreement` and `extrapolation` are pure functions of numbers; `decide` says what the rows of an
experiment can decide; `exhibits` lists the paper's tables and figures and what each needs. `trust/` compares scores
with labels that people gave.

`winnow evaluate --help` and `winnow report --help` for the command line.
"""
